//! `acquire` and `release` as methods in C, of [`SemLock`] and its subclasses.
//!
//! Guarantees: no panic leaves a function of this file; arguments are looked at before
//! anything is acquired.
//!
//! A method that PyO3 makes costs as much again as all the rest of an acquire. So these
//! are descriptors of our own in PyO3's type.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::Borrowed;
use pyo3::exceptions::{PySystemError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::arguments::Given;
use super::lock::{AnyLock, Patience};
use super::semlock::SemLock;
use crate::fastcall::{FastCall, METH_FASTCALL, Object};
use crate::gil;

/// As [`FastCall`], where there are no keywords.
type FastExit = unsafe extern "C" fn(Object, *const Object, ffi::Py_ssize_t) -> Object;

/// Runs `work` with the lock of `object`; null with an exception set when it fails.
///
/// # Safety
///
/// - `object` is an instance of [`SemLock`], which CPython's method descriptors check, and
///   the GIL is held.
#[inline]
unsafe fn guarded(
    object: Object,
    work: impl FnOnce(Python<'_>, &AnyLock) -> PyResult<Object>,
) -> Object {
    // SAFETY: the caller's promise. PyO3 does not know of it, so what is dropped of Python's
    // would stay for long: nothing is, since `work` hands its error on, and `fail` tells PyO3.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: alive until the call is done.
    let object = unsafe { Borrowed::from_ptr(py, object) };
    // SAFETY: as promised.
    let object = unsafe { object.cast_unchecked::<SemLock>() };
    let work = || work(py, object.get().get()?);
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(made)) => return made,
        Ok(Err(error)) => error,
        Err(_) => PySystemError::new_err("a bug in shared_numpy: a lock panicked"),
    };
    fail(py, error)
}

#[cold]
fn fail(py: Python<'_>, error: PyErr) -> Object {
    gil::raise(py, error);
    ptr::null_mut()
}

#[inline]
fn truth(is_so: bool) -> Object {
    // SAFETY: the GIL is held wherever this is called.
    unsafe { ffi::PyBool_FromLong(c_long::from(is_so)) }
}

#[inline]
fn none() -> Object {
    // SAFETY: always alive.
    let object = unsafe { ffi::Py_None() };
    // SAFETY: the GIL is held wherever this is called.
    unsafe { ffi::Py_INCREF(object) };
    object
}

/// # Safety
///
/// - Called by CPython only, with an instance, and the GIL held. So are all below.
unsafe extern "C" fn release(object: Object, _: Object) -> Object {
    // SAFETY: as promised.
    unsafe { guarded(object, |_, lock| lock.release().map(|()| none())) }
}

/// # Safety
///
/// - As [`release`].
unsafe extern "C" fn enter(object: Object, _: Object) -> Object {
    // SAFETY: as promised.
    unsafe {
        guarded(object, |py, lock| {
            lock.acquire(py, Patience::ENDLESS).map(truth)
        })
    }
}

/// # Safety
///
/// - As [`release`]; the arguments are not looked at.
unsafe extern "C" fn exit(object: Object, _: *const Object, _: ffi::Py_ssize_t) -> Object {
    // SAFETY: as promised.
    unsafe { release(object, ptr::null_mut()) }
}

/// # Safety
///
/// - As [`release`], with arguments as `METH_FASTCALL | METH_KEYWORDS` has them.
unsafe extern "C" fn acquire(
    object: Object,
    args: *const Object,
    by_position: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    let patience = |py: Python<'_>| {
        if by_position == 0 && names.is_null() {
            return Ok(Patience::ENDLESS);
        }
        // SAFETY: as promised.
        unsafe { Given::from_vector(py, args, by_position as usize, names) }?.patience()
    };
    // SAFETY: as promised.
    unsafe {
        guarded(object, |py, lock| {
            lock.acquire(py, patience(py)?).map(truth)
        })
    }
}

/// # Safety
///
/// - As [`release`], with a tuple, and a dictionary or null.
unsafe extern "C" fn acquire_36(object: Object, args: Object, keywords: Object) -> Object {
    let patience = |py: Python<'_>| {
        // SAFETY: a tuple.
        if keywords.is_null() && unsafe { ffi::PyTuple_Size(args) } == 0 {
            return Ok(Patience::ENDLESS);
        }
        // SAFETY: as promised.
        unsafe { Given::from_tuple(py, args, keywords) }?.patience()
    };
    // SAFETY: as promised.
    unsafe {
        guarded(object, |py, lock| {
            lock.acquire(py, patience(py)?).map(truth)
        })
    }
}

/// A method, in the form for 3.7 and newer and in that for 3.6.
struct Method {
    name: &'static CStr,
    doc: &'static CStr,
    call: (ffi::PyMethodDefPointer, c_int),
    call_36: (ffi::PyMethodDefPointer, c_int),
}

impl Method {
    /// One without arguments.
    fn plain(name: &'static CStr, doc: &'static CStr, call: ffi::PyCFunction) -> Self {
        let call = (
            ffi::PyMethodDefPointer { PyCFunction: call },
            ffi::METH_NOARGS,
        );
        Method {
            name,
            doc,
            call,
            call_36: call,
        }
    }

    /// `__exit__`.
    fn exiting() -> Self {
        // SAFETY: as in `acquiring`.
        let call = unsafe { std::mem::transmute::<FastExit, ffi::PyCFunction>(exit) };
        Method {
            name: c"__exit__",
            doc: c"__exit__($self, *args)\n--\n\nReleases.",
            call: (ffi::PyMethodDefPointer { PyCFunction: call }, METH_FASTCALL),
            // Its second argument, a tuple here, is looked at by nobody.
            call_36: (
                ffi::PyMethodDefPointer {
                    PyCFunction: release,
                },
                ffi::METH_VARARGS,
            ),
        }
    }

    /// One that takes the arguments of `acquire`.
    fn acquiring(
        name: &'static CStr,
        doc: &'static CStr,
        call: FastCall,
        call_36: ffi::PyCFunctionWithKeywords,
    ) -> Self {
        // SAFETY: nobody calls it as this type: by its flags CPython knows what it is.
        let call = unsafe { std::mem::transmute::<FastCall, ffi::PyCFunction>(call) };
        let call = ffi::PyMethodDefPointer { PyCFunction: call };
        let call_36 = ffi::PyMethodDefPointer {
            PyCFunctionWithKeywords: call_36,
        };
        Method {
            name,
            doc,
            call: (call, METH_FASTCALL | ffi::METH_KEYWORDS),
            call_36: (call_36, ffi::METH_VARARGS | ffi::METH_KEYWORDS),
        }
    }
}

fn methods() -> [Method; 4] {
    [
        Method::acquiring(
            c"acquire",
            c"acquire($self, block=True, timeout=None)\n--\n\nAcquires; whether it could in time.",
            acquire,
            acquire_36,
        ),
        Method::plain(c"release", c"release($self)\n--\n\nReleases.", release),
        Method::plain(c"__enter__", c"__enter__($self)\n--\n\nAcquires.", enter),
        Method::exiting(),
    ]
}

/// Gives a subclass of [`SemLock`] its methods.
///
/// Each of them has its own, since CPython 3.11 and newer call a method quickly only on
/// objects of exactly the type that the descriptor names.
#[pyfunction]
fn lock_methods(ty: &Bound<'_, PyType>) -> PyResult<()> {
    let py = ty.py();
    if !ty.is_subclass_of::<SemLock>()? {
        return Err(PyTypeError::new_err("a subclass of SemLock is needed"));
    }
    for method in methods() {
        let (ml_meth, ml_flags) = if py.version_info() < (3, 7) {
            method.call_36
        } else {
            method.call
        };
        // The descriptor keeps a pointer to its definition: it lives as long as the process.
        let definition = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: method.name.as_ptr(),
            ml_meth,
            ml_flags,
            ml_doc: method.doc.as_ptr(),
        }));
        // SAFETY: a live type, and a well formed definition that lives.
        let made = unsafe { ffi::PyDescr_NewMethod(ty.as_type_ptr(), definition) };
        // SAFETY: a new reference, or null with an exception set.
        let made = unsafe { Bound::from_owned_ptr_or_err(py, made) }?;
        ty.setattr(method.name, made)?;
    }
    Ok(())
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(lock_methods, m)?)
}
