//! Arrays inside other objects: what a queue's pickler and unpickler call.
//!
//! While an object is pickled for a queue its arrays are collected: those in shared memory
//! as the blocks they lie in, large others as a block they are copied into, once; small
//! ones go into the pickle. While it is unpickled the holds that came with it are at hand.
//!
//! Guarantee: nothing is collected, or at hand, beyond the call of `put` or `get` that it is
//! for, also when pickling leads to another put.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyMemoryView, PyTuple};
use shared_numpy_core::participation::Hold;
use shared_numpy_core::view;

use super::along::{self, Collected};
use super::elements::Numbers;
use super::wire::{self, ANY_DTYPE, COPY, HELD, HeldHead};
use crate::block;
use crate::exporter;
use crate::gil;
use crate::names::names;
use crate::ndarray::{self, Seen};

/// A hold that came with an item.
enum Arrived {
    Hold(Hold),
    /// Shown to Python already.
    Shown(Py<PyAny>),
    /// Being shown.
    Moving,
}

thread_local! {
    /// What is being pickled in this thread, the innermost last.
    static COLLECTING: RefCell<Vec<Collected>> = const { RefCell::new(Vec::new()) };
    /// What is being unpickled.
    static ARRIVED: RefCell<Vec<Vec<Arrived>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `pickle`, and gives what it has collected.
pub(super) fn collect<T>(pickle: impl FnOnce() -> PyResult<T>) -> PyResult<(T, Collected)> {
    /// Takes it away also when `pickle` panics.
    struct Open;
    impl Drop for Open {
        fn drop(&mut self) {
            drop(pop());
        }
    }
    fn pop() -> Option<Collected> {
        COLLECTING.with(|it| it.borrow_mut().pop())
    }
    COLLECTING.with(|it| it.borrow_mut().push(Collected::default()));
    let open = Open;
    let pickled = pickle()?;
    std::mem::forget(open);
    Ok((pickled, pop().unwrap_or_default()))
}

/// Runs `unpickle` with `holds` at hand.
pub(super) fn with_arrived<T>(
    holds: Vec<Hold>,
    unpickle: impl FnOnce() -> PyResult<T>,
) -> PyResult<T> {
    struct Open;
    impl Drop for Open {
        fn drop(&mut self) {
            // Dropped after the cell is free again: letting go may run anything.
            drop(ARRIVED.with(|it| it.borrow_mut().pop()));
        }
    }
    let arrived = holds.into_iter().map(Arrived::Hold).collect();
    ARRIVED.with(|it| it.borrow_mut().push(arrived));
    let _open = Open;
    unpickle()
}

/// An exporter of a hold that arrived, which shows `len` bytes of it.
pub(super) fn arrived(py: Python<'_>, index: usize, len: usize) -> PyResult<Bound<'_, PyAny>> {
    let taken = ARRIVED.with(|it| {
        let mut all = it.borrow_mut();
        let one = all.last_mut()?.get_mut(index)?;
        match one {
            Arrived::Shown(exporter) => Some(Arrived::Shown(exporter.clone_ref(py))),
            _ => Some(std::mem::replace(one, Arrived::Moving)),
        }
    });
    match taken {
        Some(Arrived::Shown(exporter)) => Ok(exporter.into_bound(py)),
        Some(Arrived::Hold(hold)) => {
            let exporter = block::export(py, hold, len)?;
            let shown = Arrived::Shown(exporter.clone().unbind());
            ARRIVED.with(|it| {
                if let Some(one) = it.borrow_mut().last_mut().and_then(|it| it.get_mut(index)) {
                    *one = shown;
                }
            });
            Ok(exporter)
        }
        Some(Arrived::Moving) | None => Err(wire::damaged()),
    }
}

fn add(exporter: &Bound<'_, PyAny>) -> PyResult<usize> {
    COLLECTING.with(|it| match it.borrow_mut().last_mut() {
        Some(collected) => Ok(collected.add(exporter)),
        None => Err(PyRuntimeError::new_err(
            "this pickler belongs to a queue's put, which is not under way",
        )),
    })
}

/// `_core.queue_array`; null before [`register`].
static OPENER: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// Python has ended, and all objects with it.
pub(crate) fn forget() {
    OPENER.store(ptr::null_mut(), Ordering::Relaxed);
}

/// What stands for `array` in the pickle, if it is of the usual sort.
fn plainly<'py>(array: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let Some(numbers) = Numbers::of(array) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    if numbers.is_small() {
        // SAFETY: nothing has run since.
        unsafe { numbers.append_to(&mut bytes) };
    } else if !numbers.is_shared() || !along::tell(array, &numbers, &mut bytes, add)? {
        return Ok(None);
    }
    Ok(Some(PyBytes::new(array.py(), &bytes)))
}

/// What a pickler of a queue makes of an array of exactly NumPy's type or ours: the function
/// that opens it, and that function's arguments.
#[pyfunction]
fn queue_reduce<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    if let Some(bytes) = plainly(array)? {
        let opener = OPENER.load(Ordering::Relaxed);
        // SAFETY: kept for ever by `register`; null after the interpreter's end only.
        if let Some(opener) = unsafe { Bound::from_borrowed_ptr_or_opt(py, opener) } {
            let args = PyTuple::new(py, [bytes])?;
            return Ok(PyTuple::new(py, [opener, args.into_any()])?.into_any());
        }
    }
    let module = gil::import(names(py).reduction.bind(py))?;
    let slowly = module.getattr(&names(py).reduce_in_queue)?;
    gil::call(&slowly, &PyTuple::new(py, [array])?)
}

/// The array that `queue_reduce` made these bytes of.
#[pyfunction]
fn queue_array<'py>(py: Python<'py>, place: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    array_at(py, place)
}

/// The array of which `wire` says these bytes, whose holds are at hand.
pub(super) fn array_at<'py>(py: Python<'py>, place: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match place.last() {
        Some(&COPY) => {
            let (len, head) = wire::split_copy(place, 0)?;
            head.array_of(py, &place[..len])
        }
        Some(&HELD) => {
            let head = HeldHead::read(place)?;
            head.array_over(arrived(py, head.hold, head.len_bytes)?)
        }
        _ => Err(wire::damaged()),
    }
}

/// What stands for a shared array of whatever dtype or class, whose dtype the caller tells;
/// None when it lies in no block.
#[pyfunction]
fn queue_place<'py>(array: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let py = array.py();
    let Some((exporter, layout)) = ndarray::exporter_and_layout(array)? else {
        return Ok(None);
    };
    let Some((hold, len)) = exporter::block_of(&exporter) else {
        return Ok(None);
    };
    let start = hold.start().as_ptr() as usize;
    let offset = view::offset(start, layout.address, &layout.axes);
    let item_bytes: i64 = array.getattr(&names(py).itemsize)?.extract()?;
    view::check(len as u64, offset, &layout.axes, item_bytes).map_err(wire::outside)?;
    let (lengths, strides): (Vec<_>, Vec<_>) = layout
        .axes
        .iter()
        .map(|&(length, stride)| (length as ffi::Py_ssize_t, stride as ffi::Py_ssize_t))
        .unzip();
    let seen = Seen::of_axes(&lengths, &strides);
    let mut bytes = Vec::new();
    let hold = add(&exporter)?;
    wire::held(&mut bytes, ANY_DTYPE, &seen, &exporter, hold, len, offset);
    Ok(Some(PyBytes::new(py, &bytes)))
}

/// What `queue_place` made these bytes of, for items of so many bytes.
#[pyfunction]
fn queue_open_place<'py>(
    py: Python<'py>,
    place: &[u8],
    itemsize: i64,
) -> PyResult<block::Opened<'py>> {
    if place.last() != Some(&HELD) {
        return Err(wire::damaged());
    }
    let head = HeldHead::read(place)?;
    head.check(itemsize)?;
    let exporter = arrived(py, head.hold, head.len_bytes)?;
    if exporter::block_of(&exporter).is_none_or(|(_, len)| head.len_bytes > len) {
        return Err(wire::damaged());
    }
    head.protect(&exporter);
    block::opened(exporter, head.offset, &head.axes)
}

/// Takes the block of a lock, a queue or the like along, to which a handle leads that was just
/// made; what stands for it in the pickle.
#[pyfunction]
fn queue_keep<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = handle.py();
    let hold = block::receive(py, &block::parse(handle)?.handle)?;
    let len = hold.size_bytes();
    let exporter = block::export(py, hold, len)?;
    let mut bytes = Vec::new();
    let (seen, hold) = (Seen::of_axes(&[], &[]), add(&exporter)?);
    wire::held(&mut bytes, ANY_DTYPE, &seen, &exporter, hold, len, 0);
    Ok(PyBytes::new(py, &bytes))
}

/// A handle of what `queue_keep` made these bytes of, good for as long as it is unpickled.
#[pyfunction]
fn queue_handle<'py>(py: Python<'py>, place: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    if place.last() != Some(&HELD) {
        return Err(wire::damaged());
    }
    let head = HeldHead::read(place)?;
    let exporter = arrived(py, head.hold, head.len_bytes)?;
    let (hold, _) = exporter::block_of(&exporter).ok_or_else(wire::damaged)?;
    block::name_whole(py, hold)
}

/// Takes a block along as the next out-of-band buffer of the pickle: its first `nbytes` bytes.
#[pyfunction]
fn queue_add_buffer(exporter: &Bound<'_, PyAny>, nbytes: usize) -> PyResult<()> {
    if exporter::block_of(exporter).is_none_or(|(_, len)| nbytes > len) {
        return Err(PyTypeError::new_err("not the memory of a block"));
    }
    let index = add(exporter)?;
    COLLECTING.with(|it| {
        if let Some(collected) = it.borrow_mut().last_mut() {
            collected.buffers.push((index, nbytes));
        }
    });
    Ok(())
}

/// The out-of-band buffers of a pickle, which are these holds.
pub(super) fn buffers<'py>(
    py: Python<'py>,
    places: &[(usize, usize)],
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for &(index, len) in places {
        list.append(PyMemoryView::from(&arrived(py, index, len)?)?)?;
    }
    Ok(list)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(queue_reduce, m)?)?;
    m.add_function(wrap_pyfunction!(queue_place, m)?)?;
    m.add_function(wrap_pyfunction!(queue_open_place, m)?)?;
    m.add_function(wrap_pyfunction!(queue_keep, m)?)?;
    m.add_function(wrap_pyfunction!(queue_handle, m)?)?;
    m.add_function(wrap_pyfunction!(queue_add_buffer, m)?)?;
    let opener = wrap_pyfunction!(queue_array, m)?;
    // Never given back: pickles are made until the end.
    OPENER.store(opener.clone().into_ptr(), Ordering::Relaxed);
    m.add_function(opener)?;
    Ok(())
}
