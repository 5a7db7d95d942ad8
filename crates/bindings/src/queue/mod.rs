//! Queues for Python: `_core.Queue`, from which Python's classes are derived.
//!
//! Guarantees:
//!
//! - Who need not wait keeps the interpreter. Who waits gives it up, runs signal handlers
//!   between slices of sleep, and ends its wait with the exception of one.
//! - Bytes, arrays of numbers, and plain data (dictionaries, lists, tuples, text, numbers)
//!   with such in it take no pickle and no Python code, but for copies of arrays. Everything
//!   else is pickled by the caller's `put`, which raises what that raises, and the queue is as
//!   before.
//! - What is received lies inside what was sent, whatever the bytes say.

mod along;
mod bell;
mod elements;
mod items;
mod pickling;
mod plain;
mod quick;
mod wire;

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple, PyType};
use shared_numpy_core::error::Error;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::participation;
use shared_numpy_core::queue::{Message, Queue, QueueOptions};
use shared_numpy_core::sys::futex;

use crate::block;
use crate::error::exception;
use crate::gil;
use crate::segment;
use crate::sync::timeout_ns;
use crate::waiting::{self, Work};

pub(crate) use self::pickling::forget;

/// Items are put, and got, in batches of so many.
const BATCH: usize = 64;
/// Larger items are copied while other threads run.
const SLOW_TO_COPY_BYTES: usize = 1 << 20;
/// Buffers larger than this are not kept for the next item.
const KEPT_BYTES: usize = 64 << 10;

/// What a queue needs of Python: functions that pickle and unpickle, and exceptions.
#[pyclass(module = "shared_numpy._core", name = "QueueTools", frozen)]
pub(crate) struct Tools {
    /// Of an object its pickle.
    dumps: Py<PyAny>,
    /// `pickle.loads`.
    loads: Py<PyAny>,
    /// A shared array that is a copy of one whose elements lie in pieces.
    copy: Py<PyAny>,
    empty: Py<PyType>,
    full: Py<PyType>,
}

#[pymethods]
impl Tools {
    #[new]
    fn new(
        dumps: Py<PyAny>,
        loads: Py<PyAny>,
        copy: Py<PyAny>,
        empty: Py<PyType>,
        full: Py<PyType>,
    ) -> Self {
        Tools {
            dumps,
            loads,
            copy,
            empty,
            full,
        }
    }
}

impl Tools {
    fn empty(&self, py: Python<'_>) -> PyErr {
        PyErr::from_type(self.empty.bind(py).clone(), ())
    }

    fn full(&self, py: Python<'_>) -> PyErr {
        PyErr::from_type(self.full.bind(py).clone(), ())
    }
}

/// A queue and what it needs of Python.
struct Opened {
    queue: Arc<Queue>,
    tools: Py<Tools>,
}

/// What Python's queues are derived from.
#[pyclass(module = "shared_numpy._core", name = "Queue", subclass, frozen)]
pub(crate) struct PyQueue {
    opened: OnceLock<Opened>,
}

/// The exception for what went wrong in a queue.
fn failure(error: Error) -> PyErr {
    match error {
        Error::NotAllowed(what) => PyValueError::new_err(what),
        Error::WrongSegment(what) => {
            PyRuntimeError::new_err(format!("the handle of another object: {what}"))
        }
        error => exception(error),
    }
}

/// How long a call waits: not at all without `block`.
fn patience(block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    if block {
        timeout_ns(timeout)
    } else {
        Ok(Some(0))
    }
}

/// Does `work` with the interpreter given up; `None` when its time is over. A close in another
/// thread meanwhile has it run again, to be refused.
fn waiting<T>(
    py: Python<'_>,
    queue: &Queue,
    timeout_ns: Option<u64>,
    work: &mut Work<'_, T>,
) -> PyResult<Option<T>> {
    waiting_and(py, queue, timeout_ns, &|_| Ok(()), work)
}

/// As [`waiting`], and asks `look` after each interruption whether `work` may go on.
fn waiting_and<T>(
    py: Python<'_>,
    queue: &Queue,
    timeout_ns: Option<u64>,
    look: &dyn Fn(Python<'_>) -> PyResult<()>,
    work: &mut Work<'_, T>,
) -> PyResult<Option<T>> {
    let was_closed = queue.is_closed();
    let may_go_on = &|| was_closed || !queue.is_closed();
    match waiting::waiting(py, timeout_ns, may_go_on, look, work)? {
        Ok(done) => Ok(Some(done)),
        Err(Stop::TimedOut) => Ok(None),
        Err(Stop::Failed(error)) => Err(failure(error)),
        Err(Stop::Interrupted | Stop::Broken) => {
            Err(PyRuntimeError::new_err("interrupted by nobody"))
        }
    }
}

/// A message whose buffers are used again.
fn with_message<T>(work: impl FnOnce(&mut Message) -> PyResult<T>) -> PyResult<T> {
    thread_local! {
        static KEPT: RefCell<Message> = RefCell::default();
    }
    // Unpickling may lead to another get, which has one of its own.
    let mut message = KEPT.with(|kept| std::mem::take(&mut *kept.borrow_mut()));
    let done = work(&mut message);
    if message.bytes().len() <= KEPT_BYTES {
        message.clear();
        KEPT.with(|kept| kept.replace(message));
    }
    done
}

impl PyQueue {
    fn opened(&self) -> PyResult<&Opened> {
        let opened = self.opened.get();
        opened.ok_or_else(|| PyRuntimeError::new_err("the queue's __init__ was not called"))
    }

    fn over(&self, queue: Queue, tools: Py<Tools>) -> PyResult<()> {
        let opened = Opened {
            queue: Arc::new(queue),
            tools,
        };
        self.opened
            .set(opened)
            .map_err(|_| PyRuntimeError::new_err("the queue's __init__ was called twice"))
    }

    /// As [`quick`] documents it.
    fn put(
        &self,
        py: Python<'_>,
        obj: &Bound<'_, PyAny>,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let opened = self.opened()?;
        let timeout_ns = patience(block, timeout)?;
        match items::put_all(py, opened, std::slice::from_ref(obj), timeout_ns)? {
            0 => Err(opened.tools.get().full(py)),
            _ => Ok(()),
        }
    }

    /// As [`quick`] documents it.
    fn get<'py>(
        &self,
        py: Python<'py>,
        block: bool,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let opened = self.opened()?;
        let timeout_ns = patience(block, timeout)?;
        with_message(|message| {
            let messages = std::slice::from_mut(message);
            if get(py, opened, messages, timeout_ns)? == 0 {
                return Err(opened.tools.get().empty(py));
            }
            items::object_of(py, opened, message)
        })
    }
}

#[pymethods]
impl PyQueue {
    #[new]
    #[pyo3(signature = (*args, **keywords))]
    fn new(args: &Bound<'_, PyTuple>, keywords: Option<&Bound<'_, PyDict>>) -> Self {
        // `__init__` looks at them, which derived classes may have their own of.
        let _ = (args, keywords);
        PyQueue {
            opened: OnceLock::new(),
        }
    }

    /// Makes a new queue of this object.
    fn _create(&self, py: Python<'_>, maxsize: u64, tools: Py<Tools>) -> PyResult<()> {
        let options = QueueOptions {
            maxsize,
            ..QueueOptions::default()
        };
        let queue = segment::interruptible(py, usize::MAX, |keep_going| {
            Queue::create(options, keep_going)
        })?;
        self.over(queue, tools)
    }

    /// Makes this object the queue that a handle leads to.
    fn _open(&self, handle: &Bound<'_, PyAny>, tools: Py<Tools>) -> PyResult<()> {
        let view = block::parse(handle)?;
        let hold = block::receive(handle.py(), &view.handle)?;
        self.over(Queue::open(hold).map_err(failure)?, tools)
    }

    /// In a forked child that was given the queue: its death is noticed from now on, not
    /// only from its first use of the queue. Nothing happens if that is closed here.
    fn _come(&self) -> PyResult<()> {
        match self.opened.get().map(|opened| opened.queue.come()) {
            None | Some(Ok(()) | Err(Error::NotAllowed(_) | Error::Dropped)) => Ok(()),
            Some(Err(error)) => Err(failure(error)),
        }
    }

    /// A handle, which holds the queue until somebody receives it.
    fn _send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        block::send_whole(py, self.opened()?.queue.hold())
    }

    /// How many objects it holds at most; 0: no limit.
    #[getter]
    fn maxsize(&self) -> PyResult<u64> {
        Ok(self.opened()?.queue.maxsize())
    }

    /// As `put` without waiting.
    fn put_nowait(&self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(py, obj, false, None)
    }

    /// Appends objects in this order, which costs less than putting each.
    ///
    /// Parameters
    /// ----------
    /// objects : iterable
    ///     What is to be put.
    /// block : bool
    ///     Whether to wait for room.
    /// timeout : float, optional
    ///     How long to wait at most, in seconds, for all of them.
    ///
    /// Returns
    /// -------
    /// int
    ///     How many were put: fewer than there are when there was no room for the rest in
    ///     time.
    ///
    /// Raises
    /// ------
    /// Full
    ///     There was no room in time for any.
    /// ValueError, PeerDied, Exception
    ///     As `put`. What pickling raises comes before anything of its batch (64 objects) is
    ///     put.
    #[pyo3(signature = (objects, block=true, timeout=None))]
    fn put_many(
        &self,
        py: Python<'_>,
        objects: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = gil::is_true)] block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        let opened = self.opened()?;
        let mut left_ns = patience(block, timeout)?;
        let end_ns = left_ns.and_then(|left_ns| futex::now_ns().checked_add(left_ns));
        let objects = gil::tuple(objects)?;
        let objects: Vec<Bound<'_, PyAny>> = objects.iter().collect();
        let mut count = 0;
        for batch in objects.chunks(BATCH) {
            let put = items::put_all(py, opened, batch, left_ns)?;
            count += put;
            if put < batch.len() {
                break;
            }
            if let (Some(left_ns), Some(end_ns)) = (&mut left_ns, end_ns) {
                *left_ns = end_ns.saturating_sub(futex::now_ns());
            }
        }
        if count == 0 && !objects.is_empty() {
            return Err(opened.tools.get().full(py));
        }
        Ok(count)
    }

    /// As `get` without waiting.
    fn get_nowait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.get(py, false, None)
    }

    /// Removes and returns what there is, the oldest first; waits for one object if need be.
    ///
    /// Parameters
    /// ----------
    /// max_items : int
    ///     How many objects to get at most.
    /// block : bool
    ///     Whether to wait for the first one.
    /// timeout : float, optional
    ///     How long to wait at most, in seconds.
    ///
    /// Returns
    /// -------
    /// list
    ///     At least one object.
    ///
    /// Raises
    /// ------
    /// Empty, ValueError, PeerDied, Exception
    ///     As `get`. When one of several objects cannot be had or unpickled the others that
    ///     this call has got are lost with it.
    #[pyo3(signature = (max_items, block=true, timeout=None))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        max_items: usize,
        #[pyo3(from_py_with = gil::is_true)] block: bool,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.opened()?;
        let timeout_ns = patience(block, timeout)?;
        let objects = PyList::empty(py);
        let mut messages: Vec<Message> = Vec::new();
        while objects.len() < max_items {
            messages.resize_with(BATCH.min(max_items - objects.len()), Message::default);
            let count = if objects.is_empty() {
                get(py, opened, &mut messages, timeout_ns)?
            } else {
                get_more(opened, &mut messages)?
            };
            for message in &mut messages[..count] {
                objects.append(items::object_of(py, opened, message)?)?;
            }
            if count < messages.len() {
                break;
            }
        }
        if objects.is_empty() && max_items > 0 {
            return Err(opened.tools.get().empty(py));
        }
        Ok(objects)
    }

    /// How many objects it holds: exact at the instant of the call.
    fn qsize(&self) -> PyResult<u64> {
        self.opened()?.queue.size().map_err(failure)
    }

    /// Whether it holds nothing.
    ///
    /// Raises
    /// ------
    /// OSError
    ///     The queue is closed in this process, and something was put in it before.
    fn empty(&self) -> PyResult<bool> {
        let queue = &self.opened()?.queue;
        match queue.size() {
            Ok(size) => Ok(size == 0),
            // As multiprocessing's: a close is nothing to a queue that was not used.
            Err(Error::NotAllowed(_)) if !queue.was_used().map_err(failure)? => Ok(true),
            Err(Error::NotAllowed(what)) => Err(PyOSError::new_err(what)),
            Err(error) => Err(failure(error)),
        }
    }

    /// Whether it is closed in this process.
    #[getter]
    fn _closed(&self) -> PyResult<bool> {
        Ok(self.opened()?.queue.is_closed())
    }

    /// Whether it holds `maxsize` objects.
    fn full(&self) -> PyResult<bool> {
        let queue = &self.opened()?.queue;
        let size = queue.size().map_err(failure)?;
        Ok(queue.maxsize() > 0 && size >= queue.maxsize())
    }

    /// Says that this process puts and gets nothing more; again: nothing. Others go on, and
    /// get what is in it.
    fn close(&self) -> PyResult<()> {
        self.opened()?.queue.close().map_err(failure)
    }

    /// Does nothing: what was put is in the queue when `put` returns.
    fn join_thread(&self) {}

    /// Does nothing: there is no thread that an exit would wait for.
    fn cancel_join_thread(&self) {}

    /// How many objects were put and are not done with.
    fn _unfinished(&self) -> PyResult<u64> {
        self.opened()?.queue.unfinished().map_err(failure)
    }

    /// Tells that one object is done with.
    fn _task_done(&self) -> PyResult<()> {
        self.opened()?.queue.task_done().map_err(failure)
    }

    /// Waits until all objects are done with; whether they were in time.
    fn _join(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let queue = &self.opened()?.queue;
        let timeout_ns = timeout_ns(timeout)?;
        let was_closed = queue.is_closed();
        let work = &mut |left_ns: Option<u64>, keep_going: &mut dyn FnMut() -> bool| {
            if !was_closed {
                queue.come()?;
            }
            queue.join(left_ns, keep_going)
        };
        Ok(waiting(py, queue, timeout_ns, work)?.is_some())
    }
}

/// Gets into messages, the first of which is waited for; how many, 0 when the time is over.
fn get(
    py: Python<'_>,
    opened: &Opened,
    messages: &mut [Message],
    timeout_ns: Option<u64>,
) -> PyResult<usize> {
    let queue = &opened.queue;
    match queue.get_many(messages, Some(0), &mut || false) {
        Ok(count) => return Ok(count),
        Err(Stop::TimedOut) if timeout_ns == Some(0) => return Ok(0),
        Err(Stop::Failed(error)) => return Err(failure(error)),
        Err(_) => {}
    }
    let work = &mut |left_ns: Option<u64>, keep_going: &mut dyn FnMut() -> bool| {
        queue.get_many(messages, left_ns, keep_going)
    };
    Ok(waiting(py, queue, timeout_ns, work)?.unwrap_or(0))
}

/// Gets what is at hand, for a call that has got something; how many.
///
/// What ends no object's life is no error: the next call meets it, and has none to lose.
fn get_more(opened: &Opened, messages: &mut [Message]) -> PyResult<usize> {
    match opened.queue.get_many(messages, Some(0), &mut || false) {
        Ok(count) => Ok(count),
        Err(Stop::Failed(Error::NotAllowed(_) | Error::Dropped)) => Ok(0),
        Err(Stop::Failed(error)) => Err(failure(error)),
        Err(Stop::TimedOut | Stop::Interrupted | Stop::Broken) => Ok(0),
    }
}

/// Says that this process is about to end, for the sake of those who wait in its queues.
#[pyfunction]
fn leave_queues() {
    participation::leave_queues();
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Tools>()?;
    m.add_class::<PyQueue>()?;
    m.add_function(wrap_pyfunction!(leave_queues, m)?)?;
    bell::register(m)?;
    quick::register(m)?;
    pickling::register(m)
}
