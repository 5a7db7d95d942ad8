//! One Python interpreter per process.
//!
//! Guarantee: the statics of this crate (types made in C, PyO3's own) only ever hold
//! objects of one interpreter. Another one cannot import the module: with two, each
//! import would take the types away from the objects of the other. In the same
//! interpreter the module can be imported again, and finds the types that the objects
//! of the first import have. After `Py_Finalize` everything begins anew.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::{exporter, list, maker, ndarray, numpy, queue};

/// The dictionary of modules of the interpreter that has this module; null before.
///
/// It stands for the interpreter: every version can tell it (interpreters have had
/// numbers since 3.7 only), and since it is never given back, none will be made at
/// its address. Written with the GIL held; Relaxed because the GIL orders the rest.
static MODULES: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// Makes the running interpreter the one of this process.
///
/// # Errors
///
/// `ImportError` when it is another.
pub(crate) fn claim(_py: Python<'_>) -> PyResult<()> {
    // SAFETY: the GIL is held, as `_py` proves; the reference is borrowed.
    let modules = unsafe { ffi::PyImport_GetModuleDict() };
    let owner = MODULES.load(Ordering::Relaxed);
    if owner == modules {
        return Ok(());
    }
    if !owner.is_null() {
        return Err(PyImportError::new_err(
            "shared_numpy is in use in another interpreter of this process, \
             and can only be used in one",
        ));
    }
    // SAFETY: a live object, as every interpreter that imports has one.
    unsafe { ffi::Py_INCREF(modules) };
    MODULES.store(modules, Ordering::Relaxed);
    // Should its table be full, a second life of Python is refused as another interpreter.
    // SAFETY: the GIL is held, and the function is there as long as the process is.
    unsafe { ffi::Py_AtExit(Some(forget)) };
    Ok(())
}

/// Called when `Py_Finalize` has ended every interpreter: no object is left.
extern "C" fn forget() {
    exporter::forget();
    list::forget();
    maker::forget();
    ndarray::forget();
    numpy::forget();
    queue::forget();
    MODULES.store(ptr::null_mut(), Ordering::Relaxed);
}
