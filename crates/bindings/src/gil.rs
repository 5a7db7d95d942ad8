//! Letting other Python threads run: during long work, and while Python code runs
//! that we call.
//!
//! Guarantee: a thread that wants the interpreter back while it is shutting down
//! is parked for ever instead of being torn apart. CPython before 3.14 ends such
//! a thread with `pthread_exit`, whose unwinding must not run through Rust frames
//! that do not expect it; here it meets a guard that never returns.
//!
//! Any Python code may give the interpreter up, so that calls which run a user's
//! code (`__index__`, a generator, finalisers) end in the same way. Those that this
//! crate makes knowingly are here; PyO3's own (the conversion of arguments, garbage
//! collection when it makes an object) are out of reach.
//!
//! PyO3 keeps a count for each thread of how often it was attached, which only its own ways
//! of attaching change, and which decides what becomes of a `Py<T>` or a `PyErr` that is
//! dropped:
//!
//! - In a function that CPython called by a slot or method of ours the lock is held and the
//!   count may be zero. What is dropped then stays until PyO3 is next asked for something,
//!   which may be never. So errors are made, raised and dropped in [`counted`].
//! - In [`detached`] below a function of PyO3's the lock is not held and the count is not
//!   zero. What was dropped then would be given back at once, beside other threads. So
//!   nothing of Python's is dropped, or owned, by what runs there, but in
//!   [`Detached::attached`].

#![allow(unsafe_code)]

use std::ffi::{c_double, c_int};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

// PyO3 declares these as `extern "C"`, through which nothing may unwind.
unsafe extern "C-unwind" {
    fn PyEval_SaveThread() -> *mut ffi::PyThreadState;
    fn PyEval_RestoreThread(state: *mut ffi::PyThreadState);
    fn PyErr_CheckSignals() -> c_int;
    fn PyObject_IsTrue(object: *mut ffi::PyObject) -> c_int;
    fn PyFloat_AsDouble(object: *mut ffi::PyObject) -> c_double;
    fn PyNumber_Index(object: *mut ffi::PyObject) -> *mut ffi::PyObject;
    fn PySequence_Tuple(object: *mut ffi::PyObject) -> *mut ffi::PyObject;
    fn PyImport_Import(name: *mut ffi::PyObject) -> *mut ffi::PyObject;
    fn PyObject_Call(
        callable: *mut ffi::PyObject,
        args: *mut ffi::PyObject,
        kwargs: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// The functions above that may end the thread.
///
/// To be called through [`the`], as pointers that the compiler cannot see through. PyO3
/// declares them as functions through which nothing unwinds, and of two declarations of a
/// name LLVM keeps one: if that is PyO3's, the guards below are optimised away. Which it
/// is depends on what else the crate calls.
struct Ending {
    restore: unsafe extern "C-unwind" fn(*mut ffi::PyThreadState),
    check_signals: unsafe extern "C-unwind" fn() -> c_int,
    is_true: unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> c_int,
    float: unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> c_double,
    index: unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject,
    tuple: unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject,
    import: unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject,
    call: unsafe extern "C-unwind" fn(
        *mut ffi::PyObject,
        *mut ffi::PyObject,
        *mut ffi::PyObject,
    ) -> *mut ffi::PyObject,
}

static ENDING: Ending = Ending {
    restore: PyEval_RestoreThread,
    check_signals: PyErr_CheckSignals,
    is_true: PyObject_IsTrue,
    float: PyFloat_AsDouble,
    index: PyNumber_Index,
    tuple: PySequence_Tuple,
    import: PyImport_Import,
    call: PyObject_Call,
};

/// A function of [`ENDING`].
#[inline]
fn the<F: Copy>(function: &'static F) -> F {
    // SAFETY: a reference. Volatile, so that nobody concludes what it reads.
    unsafe { ptr::read_volatile(function) }
}

/// Runs `work` where PyO3 knows that this thread is attached; see above.
///
/// Not `Python::attach`, which refuses in an interpreter that is shutting down: the lock is
/// held, and whoever was called then may fail like everybody else.
pub(crate) fn counted<R>(_py: Python<'_>, work: impl for<'py> FnOnce(Python<'py>) -> R) -> R {
    // SAFETY: `_py` proves that there is an interpreter and that this thread is attached to
    // it, so that nothing is waited for.
    unsafe { Python::attach_unchecked(work) }
}

/// Makes `error` the pending exception, in a function that CPython called.
#[cold]
pub(crate) fn raise(py: Python<'_>, error: PyErr) {
    counted(py, |py| error.restore(py));
}

/// The interpreter lock is released while this lives.
pub(crate) struct Detached {
    state: *mut ffi::PyThreadState,
}

/// Runs `work` with the interpreter lock released.
///
/// `work` must not touch Python, nor drop anything of Python's, except through
/// [`Detached::attached`].
pub(crate) fn detached<R>(_py: Python<'_>, work: impl FnOnce(&mut Detached) -> R) -> R {
    // SAFETY: `_py` proves that this thread holds the lock.
    let state = unsafe { PyEval_SaveThread() };
    let mut detached = Detached { state };
    let result = work(&mut detached);
    drop(detached);
    result
}

/// From this size on, letting go of memory takes long enough (the kernel frees it
/// page by page, some milliseconds for a frame) for other threads to run meanwhile.
const SLOW_TO_FREE_BYTES: usize = 1 << 20;

/// Lets go of `memory`, `size_bytes` large, without holding up other Python threads.
///
/// `memory` must not hold Python objects.
pub(crate) fn free<T>(py: Python<'_>, memory: T, size_bytes: usize) {
    if size_bytes < SLOW_TO_FREE_BYTES {
        drop(memory);
    } else {
        detached(py, |_| drop(memory));
    }
}

impl Detached {
    /// Takes the lock back for the time of `work`.
    pub(crate) fn attached<R>(&mut self, work: impl FnOnce(Python<'_>) -> R) -> R {
        /// Gives the lock up again, also when `work` panics: the `Detached` that the
        /// panic then drops must not wait for a lock that its own thread holds.
        struct Attached<'a>(&'a mut Detached);
        impl Drop for Attached<'_> {
            fn drop(&mut self) {
                // SAFETY: made right after `restore`, so this thread holds the lock.
                self.0.state = unsafe { PyEval_SaveThread() };
            }
        }
        restore(self.state);
        let _attached = Attached(self);
        // SAFETY: `restore` has just given this thread the lock, and it is kept
        // until `work` is done. Counted, because `work` may drop an exception.
        counted(unsafe { Python::assume_attached() }, work)
    }

    /// Runs pending signal handlers; whether none has raised anything.
    ///
    /// What one raises takes the place of what another has raised before: here, because an
    /// exception can be let go of only with the lock held.
    pub(crate) fn hear_signals(&mut self, raised: &mut Option<PyErr>) -> bool {
        self.hear_signals_and(raised, &|_| Ok(()))
    }

    /// As [`Detached::hear_signals`], and looks at what Python code may have done meanwhile.
    pub(crate) fn hear_signals_and(
        &mut self,
        raised: &mut Option<PyErr>,
        look: &dyn Fn(Python<'_>) -> PyResult<()>,
    ) -> bool {
        self.attached(|py| match check_signals(py).and_then(|()| look(py)) {
            Ok(()) => true,
            Err(error) => {
                *raised = Some(error);
                false
            }
        })
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        restore(self.state);
    }
}

fn restore(state: *mut ffi::PyThreadState) {
    // SAFETY: `state` came from `PyEval_SaveThread` on this thread and is restored
    // once.
    parking(|| unsafe { the(&ENDING.restore)(state) });
}

/// Runs `call`; should CPython end this thread inside, it is parked here for ever.
///
/// `call` is one call of a function in C and does not panic.
#[inline]
pub(crate) fn parking<R>(call: impl FnOnce() -> R) -> R {
    struct ParkForEver;
    impl Drop for ParkForEver {
        fn drop(&mut self) {
            loop {
                std::thread::park();
            }
        }
    }
    let guard = ParkForEver;
    let result = call();
    std::mem::forget(guard);
    result
}

/// The object that a function in C made: a new reference, or null and an exception.
fn made<'py>(py: Python<'py>, object: *mut ffi::PyObject) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: as said; every caller passes such a function's result on at once.
    unsafe { Bound::from_owned_ptr_or_err(py, object) }
}

/// Runs pending signal handlers (and, since 3.12, the garbage collector).
pub(crate) fn check_signals(py: Python<'_>) -> PyResult<()> {
    // SAFETY: `py` proves that the lock is held.
    match parking(|| unsafe { the(&ENDING.check_signals)() }) {
        0 => Ok(()),
        _ => Err(PyErr::fetch(py)),
    }
}

/// `bool(object)`.
pub(crate) fn is_true(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    // SAFETY: `object` is alive and the lock is held.
    match parking(|| unsafe { the(&ENDING.is_true)(object.as_ptr()) }) {
        -1 => Err(PyErr::fetch(object.py())),
        is_true => Ok(is_true != 0),
    }
}

/// `float(object)`, of numbers only.
pub(crate) fn float(object: &Bound<'_, PyAny>) -> PyResult<f64> {
    // SAFETY: `object` is alive and the lock is held.
    let number = parking(|| unsafe { the(&ENDING.float)(object.as_ptr()) });
    if number == -1.0
        && let Some(error) = PyErr::take(object.py())
    {
        return Err(error);
    }
    Ok(number)
}

/// `operator.index(object)`.
pub(crate) fn index<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: `object` is alive and the lock is held.
    made(
        object.py(),
        parking(|| unsafe { the(&ENDING.index)(object.as_ptr()) }),
    )
}

/// `tuple(object)`.
pub(crate) fn tuple<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    // SAFETY: `object` is alive and the lock is held.
    let tuple = made(
        object.py(),
        parking(|| unsafe { the(&ENDING.tuple)(object.as_ptr()) }),
    )?;
    Ok(tuple.cast_into()?)
}

/// The module of that name, which may have to be run first.
pub(crate) fn import<'py>(name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: `name` is alive and the lock is held.
    made(
        name.py(),
        parking(|| unsafe { the(&ENDING.import)(name.as_ptr()) }),
    )
}

/// `callable(*args, **keywords)`.
///
/// # Safety
///
/// - `args` is a tuple, `keywords` a dictionary or null.
pub(crate) unsafe fn call_with<'py>(
    callable: &Bound<'py, PyAny>,
    args: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, callable) = (callable.py(), callable.as_ptr());
    // SAFETY: alive, as the caller promises of the others, and the lock is held.
    made(
        py,
        parking(|| unsafe { the(&ENDING.call)(callable, args, keywords) }),
    )
}

/// `callable(*args)`.
pub(crate) fn call<'py>(
    callable: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: a tuple, and no keywords.
    unsafe { call_with(callable, args.as_ptr(), ptr::null_mut()) }
}
