//! Letting other Python threads run during long work.
//!
//! Guarantee: a thread that wants the interpreter back while it is shutting down
//! is parked for ever instead of being torn apart. CPython before 3.14 ends such
//! a thread with `pthread_exit`, whose unwinding must not run through Rust frames
//! that do not expect it; here it meets a guard that never returns.

#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;

// PyO3 declares these as `extern "C"`, through which nothing may unwind.
unsafe extern "C-unwind" {
    fn PyEval_SaveThread() -> *mut ffi::PyThreadState;
    fn PyEval_RestoreThread(state: *mut ffi::PyThreadState);
}

/// The interpreter lock is released while this lives.
pub(crate) struct Detached {
    state: *mut ffi::PyThreadState,
}

/// Runs `work` with the interpreter lock released.
///
/// `work` must not touch Python, except through [`Detached::attached`].
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
        restore(self.state);
        // SAFETY: `restore` has just given this thread the lock, and it is kept
        // until `work` is done.
        let result = work(unsafe { Python::assume_attached() });
        // SAFETY: this thread holds the lock, as said above.
        self.state = unsafe { PyEval_SaveThread() };
        result
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        restore(self.state);
    }
}

fn restore(state: *mut ffi::PyThreadState) {
    struct ParkForEver;
    impl Drop for ParkForEver {
        fn drop(&mut self) {
            loop {
                std::thread::park();
            }
        }
    }
    let guard = ParkForEver;
    // SAFETY: `state` came from `PyEval_SaveThread` on this thread and is restored
    // once. If the interpreter is finalising, the call unwinds and meets `guard`.
    unsafe { PyEval_RestoreThread(state) };
    std::mem::forget(guard);
}
