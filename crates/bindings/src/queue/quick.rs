//! `put` and `get` as methods in C, of [`PyQueue`] and of the classes that are derived from it.

#![allow(unsafe_code)]

use std::ffi::CStr;

use pyo3::Borrowed;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::PyQueue;
use crate::arguments::{Given, Signature};
use crate::gil;
use crate::quick::{FastCall, Method, Object, TupleCall, guarded, none};

const PUT_DOC: &CStr = c"put($self, obj, block=True, timeout=None)
--

Appends an object; waits for room if need be.

Parameters
----------
obj : object
    Anything that can be pickled. Shared arrays go by handle, other arrays by value.
block : bool
    Whether to wait for room.
timeout : float, optional
    How long to wait at most, in seconds.

Raises
------
Full
    There was no room in time.
ValueError
    The queue is closed in this process.
PeerDied
    It is full, and nobody is left who could get anything.
Exception
    What pickling raises.";

const GET_DOC: &CStr = c"get($self, block=True, timeout=None)
--

Removes and returns the oldest object; waits for one if need be.

Parameters
----------
block : bool
    Whether to wait.
timeout : float, optional
    How long to wait at most, in seconds.

Raises
------
Empty
    Nothing came in time.
ValueError
    The queue is closed in this process.
PeerDied
    It is empty, and nobody is left who could put anything.
StaleHandle, ForeignHandle, TrackerUnavailable, FileNotFoundError
    The object held an array whose memory, or whose name, cannot be had; the object
    is lost.
Exception
    What unpickling raises; the object is lost.";

const PUT: Signature = Signature {
    call: "put(obj, block, timeout)",
    names: &[c"obj", c"block", c"timeout"],
};

const GET: Signature = Signature {
    call: "get(block, timeout)",
    names: &[c"block", c"timeout"],
};

/// Whether to wait, and how long, as two arguments say.
fn patience<'a, 'py>(
    block: Option<&Bound<'py, PyAny>>,
    timeout: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<(bool, Option<&'a Bound<'py, PyAny>>)> {
    let block = block.map_or(Ok(true), gil::is_true)?;
    Ok((block, timeout.filter(|timeout| !timeout.is_none())))
}

fn put(py: Python<'_>, queue: &PyQueue, given: &Given<'_>) -> PyResult<Object> {
    let obj = given
        .at(0)
        .ok_or_else(|| PyTypeError::new_err("put(obj, block, timeout) needs an obj"))?;
    let (block, timeout) = patience(given.at(1), given.at(2))?;
    queue.put(py, obj, block, timeout).map(|()| none())
}

fn get(py: Python<'_>, queue: &PyQueue, given: &Given<'_>) -> PyResult<Object> {
    let (block, timeout) = patience(given.at(0), given.at(1))?;
    queue.get(py, block, timeout).map(Bound::into_ptr)
}

/// Runs `work` with the queue of `object`, where it may drop what is Python's; null with an
/// exception set when it fails.
///
/// # Safety
///
/// - As [`guarded`], of [`PyQueue`].
#[inline]
unsafe fn with_queue(
    object: Object,
    work: impl FnOnce(Python<'_>, &PyQueue) -> PyResult<Object>,
) -> Object {
    // SAFETY: as promised.
    unsafe { guarded(object, |py, queue| gil::counted(py, |py| work(py, queue))) }
}

/// What one of them does with its arguments.
type Act = fn(Python<'_>, &PyQueue, &Given<'_>) -> PyResult<Object>;

/// # Safety
///
/// - Called by what CPython only calls, with an instance, arguments as
///   `METH_FASTCALL | METH_KEYWORDS` has them, and the GIL held.
unsafe fn fast(
    act: Act,
    signature: &'static Signature,
    object: Object,
    (args, by_position, names): (*const Object, ffi::Py_ssize_t, Object),
) -> Object {
    let work = |py: Python<'_>, queue: &PyQueue| {
        // SAFETY: as promised.
        let given =
            unsafe { Given::from_vector(py, signature, args, by_position as usize, names) }?;
        act(py, queue, &given)
    };
    // SAFETY: as promised.
    unsafe { with_queue(object, work) }
}

/// # Safety
///
/// - As [`fast`], with a tuple, and a dictionary or null.
unsafe fn from_tuple(
    act: Act,
    signature: &'static Signature,
    (object, args, keywords): (Object, Object, Object),
) -> Object {
    let work = |py: Python<'_>, queue: &PyQueue| {
        // SAFETY: as promised.
        let given = unsafe { Given::from_tuple(py, signature, args, keywords) }?;
        act(py, queue, &given)
    };
    // SAFETY: as promised.
    unsafe { with_queue(object, work) }
}

/// # Safety
///
/// - As [`fast`].
unsafe extern "C" fn put_fast(
    object: Object,
    args: *const Object,
    by_position: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    if by_position != 1 || !names.is_null() {
        // SAFETY: as promised.
        return unsafe { fast(put, &PUT, object, (args, by_position, names)) };
    }
    // The usual call.
    // SAFETY: there is one argument.
    let obj = unsafe { *args };
    let work = |py: Python<'_>, queue: &PyQueue| {
        // SAFETY: alive until the call is done.
        let obj = unsafe { Borrowed::from_ptr(py, obj) };
        queue.put(py, &obj, true, None).map(|()| none())
    };
    // SAFETY: as promised.
    unsafe { with_queue(object, work) }
}

/// # Safety
///
/// - As [`fast`].
unsafe extern "C" fn get_fast(
    object: Object,
    args: *const Object,
    by_position: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    if by_position != 0 || !names.is_null() {
        // SAFETY: as promised.
        return unsafe { fast(get, &GET, object, (args, by_position, names)) };
    }
    // The usual call.
    let work = |py: Python<'_>, queue: &PyQueue| queue.get(py, true, None).map(Bound::into_ptr);
    // SAFETY: as promised.
    unsafe { with_queue(object, work) }
}

/// # Safety
///
/// - As [`from_tuple`].
unsafe extern "C" fn put_36(object: Object, args: Object, keywords: Object) -> Object {
    // SAFETY: as promised.
    unsafe { from_tuple(put, &PUT, (object, args, keywords)) }
}

/// # Safety
///
/// - As [`from_tuple`].
unsafe extern "C" fn get_36(object: Object, args: Object, keywords: Object) -> Object {
    // SAFETY: as promised.
    unsafe { from_tuple(get, &GET, (object, args, keywords)) }
}

/// Gives a class derived from [`PyQueue`] its methods.
#[pyfunction]
fn queue_methods(ty: &Bound<'_, PyType>) -> PyResult<()> {
    if !ty.is_subclass_of::<PyQueue>()? {
        return Err(PyTypeError::new_err("a subclass of Queue is needed"));
    }
    give_methods(ty)
}

fn give_methods(ty: &Bound<'_, PyType>) -> PyResult<()> {
    let calls: [(_, _, (FastCall, TupleCall)); 2] = [
        (c"put", PUT_DOC, (put_fast, put_36)),
        (c"get", GET_DOC, (get_fast, get_36)),
    ];
    for (name, doc, calls) in calls {
        Method::called(ty.py(), name, doc, calls).give_to(ty)?;
    }
    Ok(())
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    give_methods(&m.py().get_type::<PyQueue>())?;
    m.add_function(wrap_pyfunction!(queue_methods, m)?)
}
