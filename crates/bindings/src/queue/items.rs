//! Objects as items of a queue, and back.
//!
//! Guarantee: what an item takes along is held until the item is in the queue, and let go of
//! again when it is not.

#![allow(unsafe_code)]

use std::borrow::Cow;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PyTuple};
use shared_numpy_core::error::Error;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::participation::Hold;
use shared_numpy_core::queue::{Item, Message};

use super::along::{self, Collected};
use super::elements::Numbers;
use super::pickling;
use super::plain;
use super::wire::{self, BUFFERS, BYTES, COPY, HELD, HeldHead, PICKLE, PLAIN};
use super::{Opened, SLOW_TO_COPY_BYTES, failure, waiting_and};
use crate::block;
use crate::gil;
use crate::handle;

/// The tails of most items; longer ones are read in a second look.
const TAIL_BYTES: usize = 1024;

/// The length that most tails do not exceed.
const TAIL_OF_MOST_BYTES: usize = 64;

/// An object on its way into a queue.
#[derive(Default)]
struct Outgoing<'py> {
    body: Body<'py>,
    tail: Vec<u8>,
    along: Collected,
}

#[derive(Default)]
enum Body<'py> {
    #[default]
    Nothing,
    Bytes(Bound<'py, PyBytes>),
    Written(Vec<u8>),
    /// An array in one piece: where its elements begin, and their length.
    Array {
        array: Bound<'py, PyAny>,
        start: *const u8,
        nbytes: usize,
    },
}

impl Body<'_> {
    /// Whether an array has its elements still where they were.
    fn is_where_it_was(&self) -> bool {
        let Body::Array {
            array,
            start,
            nbytes,
        } = self
        else {
            return true;
        };
        let now = Numbers::of(array);
        now.is_some_and(|now| now.seen.data.cast_const() == *start && now.nbytes == *nbytes)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Body::Nothing | Body::Array { nbytes: 0, .. } => &[],
            Body::Bytes(bytes) => bytes.as_bytes(),
            Body::Written(bytes) => bytes,
            // SAFETY: the array is kept alive and has so many bytes there, in one piece: no
            // Python code has run in this thread since that was looked at. `put_items` gives
            // the interpreter up when there is much to copy, or no room, and looks again each
            // time that Python code has run in this thread, a signal's handler. Other threads
            // may meanwhile write to the array, as to the argument of any function of NumPy's
            // that gives the interpreter up: the copy has some of both. That they do not take
            // the memory itself away (`resize(refcheck=False)`, `__setstate__`) is the
            // caller's duty, as in those functions; docs/queue.md says so. Whoever does so
            // while there is no room is found out at the next slice of the wait.
            Body::Array { start, nbytes, .. } => unsafe {
                std::slice::from_raw_parts(*start, *nbytes)
            },
        }
    }
}

/// Puts objects, all of which are made items first; how many are in the queue when the time
/// is over.
pub(super) fn put_all(
    py: Python<'_>,
    opened: &Opened,
    objects: &[Bound<'_, PyAny>],
    timeout_ns: Option<u64>,
) -> PyResult<usize> {
    if let [object] = objects {
        let outgoing = outgoing(opened, object)?;
        return put_items(py, opened, &[outgoing], timeout_ns);
    }
    let all = objects
        .iter()
        .map(|object| outgoing(opened, object))
        .collect::<PyResult<Vec<_>>>()?;
    // Pickling one may have moved another.
    look_again(&all)?;
    put_items(py, opened, &all, timeout_ns)
}

/// An error unless all arrays have their elements still where they were.
fn look_again(all: &[Outgoing<'_>]) -> PyResult<()> {
    if all.iter().all(|one| one.body.is_where_it_was()) {
        return Ok(());
    }
    Err(PyValueError::new_err(
        "an array was given other memory while it, or what is put with it, was on its way \
         into the queue",
    ))
}

fn put_items(
    py: Python<'_>,
    opened: &Opened,
    all: &[Outgoing<'_>],
    timeout_ns: Option<u64>,
) -> PyResult<usize> {
    if let [one] = all {
        let holds = &one.along.holds(py);
        let parts = &[one.body.bytes(), &one.tail];
        return put_made(py, opened, all, &[Item { parts, holds }], timeout_ns);
    }
    let holds: Vec<Vec<&Hold>> = all.iter().map(|one| one.along.holds(py)).collect();
    let parts: Vec<[&[u8]; 2]> = all
        .iter()
        .map(|one| [one.body.bytes(), &one.tail])
        .collect();
    let items: Vec<Item<'_>> = parts
        .iter()
        .zip(&holds)
        .map(|(parts, holds)| Item { parts, holds })
        .collect();
    put_made(py, opened, all, &items, timeout_ns)
}

/// Puts the items that were made of `all`.
fn put_made(
    py: Python<'_>,
    opened: &Opened,
    all: &[Outgoing<'_>],
    items: &[Item<'_>],
    timeout_ns: Option<u64>,
) -> PyResult<usize> {
    let queue = &opened.queue;
    let len: usize = items.iter().map(|item| item.parts[0].len()).sum();
    let mut put = 0;
    if len < SLOW_TO_COPY_BYTES {
        let (count, done) = queue.put_at_hand(items);
        put = count;
        match done {
            Ok(()) => return Ok(put),
            Err(Stop::TimedOut) if timeout_ns == Some(0) => return Ok(put),
            Err(Stop::Failed(error)) => return Err(failure(error)),
            Err(_) => {}
        }
    }
    let work = &mut |left_ns: Option<u64>, keep_going: &mut dyn FnMut() -> bool| {
        let (count, done) = queue.put_many(&items[put..], left_ns, keep_going);
        put += count;
        done
    };
    waiting_and(py, queue, timeout_ns, &|_| look_again(all), work)?;
    Ok(put)
}

fn outgoing<'py>(opened: &Opened, object: &Bound<'py, PyAny>) -> PyResult<Outgoing<'py>> {
    if object.is_exact_instance_of::<PyBytes>() {
        return Ok(Outgoing {
            body: Body::Bytes(object.cast::<PyBytes>()?.clone()),
            tail: vec![BYTES],
            ..Outgoing::default()
        });
    }
    if let Some(outgoing) = lone_array(opened, object)? {
        return Ok(outgoing);
    }
    if let Some(plain) = plain::write(opened.tools.get(), object)? {
        let [a, b, c, d] = plain.objects_len.to_le_bytes();
        return Ok(Outgoing {
            body: Body::Written(plain.bytes),
            tail: vec![a, b, c, d, PLAIN],
            along: plain.along,
        });
    }
    pickled(opened, object)
}

/// An array of plain numbers as an item of its own.
fn lone_array<'py>(opened: &Opened, object: &Bound<'py, PyAny>) -> PyResult<Option<Outgoing<'py>>> {
    let Some(numbers) = Numbers::of(object) else {
        return Ok(None);
    };
    let mut outgoing = Outgoing {
        tail: Vec::with_capacity(TAIL_OF_MOST_BYTES),
        ..Outgoing::default()
    };
    if !numbers.is_shared() && numbers.is_in_one_piece() {
        outgoing.body = Body::Array {
            array: object.clone(),
            start: numbers.seen.data,
            nbytes: numbers.nbytes,
        };
        wire::copy_tail(&mut outgoing.tail, numbers.number, &numbers.seen);
        return Ok(Some(outgoing));
    }
    if numbers.is_small() {
        let mut bytes = Vec::new();
        // SAFETY: nothing has run since.
        unsafe { numbers.append_to(&mut bytes) };
        outgoing.body = Body::Written(bytes);
        return Ok(Some(outgoing));
    }
    let (tail, blocks) = (&mut outgoing.tail, &mut outgoing.along);
    Ok(along::hold(opened.tools.get(), object, &numbers, tail, blocks)?.then_some(outgoing))
}

fn pickled<'py>(opened: &Opened, object: &Bound<'py, PyAny>) -> PyResult<Outgoing<'py>> {
    let py = object.py();
    let dumps = opened.tools.get().dumps.bind(py);
    let args = PyTuple::new(py, [object])?;
    let (pickle, along) = pickling::collect(|| gil::call(dumps, &args))?;
    let mut tail = Vec::new();
    if along.buffers.is_empty() {
        tail.push(PICKLE);
    } else {
        for &(hold, len) in &along.buffers {
            handle::put(&mut tail, hold as u64);
            handle::put(&mut tail, len as u64);
        }
        let len = u32::try_from(tail.len()).map_err(|_| too_many_buffers())?;
        tail.extend_from_slice(&len.to_le_bytes());
        tail.push(BUFFERS);
    }
    Ok(Outgoing {
        body: Body::Bytes(pickle.cast_into()?),
        tail,
        along,
    })
}

fn too_many_buffers() -> PyErr {
    PyTypeError::new_err("an object with too many buffers for one item of a queue")
}

/// An item as it came: inline, or in a block.
enum Incoming<'m> {
    Inline(&'m [u8]),
    Block(&'m Hold, usize),
}

impl<'m> Incoming<'m> {
    fn of(message: &'m Message) -> Self {
        match message.payload() {
            Some((hold, len)) => Incoming::Block(hold, len),
            None => Incoming::Inline(message.bytes()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Incoming::Inline(bytes) => bytes.len(),
            Incoming::Block(_, len) => *len,
        }
    }

    /// The last `len` bytes, or all if there are fewer.
    fn last(&self, len: usize) -> PyResult<Cow<'m, [u8]>> {
        let len = len.min(self.len());
        match *self {
            Incoming::Inline(bytes) => Ok(Cow::Borrowed(&bytes[bytes.len() - len..])),
            Incoming::Block(hold, all) => {
                let mut bytes = Vec::new();
                hold.mapping()
                    .append_bytes(hold.offset_bytes() + all - len, len, &mut bytes)
                    .map_err(failure)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// The object that a message brings, which is empty after that.
pub(super) fn object_of<'py>(
    py: Python<'py>,
    opened: &Opened,
    message: &mut Message,
) -> PyResult<Bound<'py, PyAny>> {
    let incoming = Incoming::of(message);
    let tail = incoming.last(TAIL_BYTES)?;
    match tail.last() {
        Some(&BYTES) => Ok(bytes_of(py, &incoming)?.into_any()),
        Some(&COPY) => {
            let (nbytes, head) = wire::split_copy(&tail, incoming.len() - tail.len())?;
            match incoming {
                Incoming::Inline(bytes) => head.array_of(py, &bytes[..nbytes]),
                Incoming::Block(..) => {
                    let (hold, _) = message.take_payload().ok_or_else(wire::damaged)?;
                    head.array_over(block::export(py, hold, nbytes)?, nbytes)
                }
            }
        }
        Some(&HELD) => {
            let head = HeldHead::read(&tail)?;
            let hold = message.take_hold(head.hold).ok_or_else(wire::damaged)?;
            head.array_over(block::export(py, hold, head.len_bytes)?)
        }
        Some(&PLAIN) => {
            let holds = message.take_holds();
            let incoming = Incoming::of(message);
            if incoming.len() > plain::LEN_MAX_BYTES {
                return Err(wire::damaged());
            }
            let bytes = incoming.last(plain::LEN_MAX_BYTES)?;
            let (bytes, end) = bytes.split_last_chunk::<5>().ok_or_else(wire::damaged)?;
            let len = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
            pickling::with_arrived(holds, || plain::read(py, bytes, len as usize))
        }
        Some(&PICKLE) => unpickled(py, opened, message, &[]),
        Some(&BUFFERS) => {
            let buffers = buffers(&incoming)?;
            unpickled(py, opened, message, &buffers)
        }
        _ => Err(wire::damaged()),
    }
}

fn bytes_of<'py>(py: Python<'py>, incoming: &Incoming<'_>) -> PyResult<Bound<'py, PyBytes>> {
    let len = incoming.len() - 1; // it has a tail
    match incoming {
        Incoming::Inline(bytes) => Ok(PyBytes::new(py, &bytes[..len])),
        Incoming::Block(hold, _) => PyBytes::new_with(py, len, |out| {
            let read = hold.mapping().read_bytes(hold.offset_bytes(), out);
            read.map_err(failure)
        }),
    }
}

/// The places of a pickle's buffers: hold and length.
fn buffers(incoming: &Incoming<'_>) -> PyResult<Vec<(usize, usize)>> {
    let end = incoming.last(5)?;
    let (len, _) = end.split_first_chunk::<4>().ok_or_else(wire::damaged)?;
    let len = u32::from_le_bytes(*len) as usize;
    let bytes = incoming.last(len + 5)?;
    let mut rest = bytes.get(..len).ok_or_else(wire::damaged)?;
    let mut places = Vec::new();
    let number = |rest: &mut &[u8]| -> PyResult<usize> {
        let number: Result<u64, Error> = handle::take(rest);
        Ok(number.map_err(|_| wire::damaged())? as usize)
    };
    while !rest.is_empty() {
        places.push((number(&mut rest)?, number(&mut rest)?));
    }
    Ok(places)
}

fn unpickled<'py>(
    py: Python<'py>,
    opened: &Opened,
    message: &mut Message,
    buffers: &[(usize, usize)],
) -> PyResult<Bound<'py, PyAny>> {
    let pickle = match message.take_payload() {
        Some((hold, len)) => PyMemoryView::from(&block::export(py, hold, len)?)?.into_any(),
        None => PyBytes::new(py, message.bytes()).into_any(),
    };
    let loads = opened.tools.get().loads.bind(py);
    pickling::with_arrived(message.take_holds(), || {
        if buffers.is_empty() {
            return gil::call(loads, &PyTuple::new(py, [pickle])?);
        }
        let keywords = PyDict::new(py);
        keywords.set_item("buffers", pickling::buffers(py, buffers)?)?;
        let args = PyTuple::new(py, [pickle])?;
        // SAFETY: a tuple and a dictionary.
        unsafe { gil::call_with(loads, args.as_ptr(), keywords.as_ptr()) }
    })
}
