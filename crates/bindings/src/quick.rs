//! Methods in C: functions that CPython calls without packing their arguments.
//!
//! Guarantees: no panic leaves such a function; each class has its own descriptors, since
//! CPython 3.11 and newer call a method quickly only on objects of exactly the type that the
//! descriptor names.
//!
//! A method that PyO3 makes takes a tuple before Python 3.10, whose stable ABI we keep to:
//! that costs as much as all the rest of an acquire.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::Borrowed;
use pyo3::PyClass;
use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::PyType;

use crate::gil;

pub(crate) type Object = *mut ffi::PyObject;

/// A function that is given its arguments one after the other, those by keyword last, how
/// many there are by position, and the keywords as a tuple or null.
///
/// The stable ABI names this form from 3.10 on only; it has not changed since 3.7. 3.6 has
/// another, and is given tuples and dictionaries.
pub(crate) type FastCall =
    unsafe extern "C" fn(Object, *const Object, ffi::Py_ssize_t, Object) -> Object;

/// A function that is given a tuple, and a dictionary or null.
pub(crate) type TupleCall = ffi::PyCFunctionWithKeywords;

/// By this flag (with `METH_KEYWORDS`) CPython knows a [`FastCall`].
pub(crate) const METH_FASTCALL: c_int = 0x0080;

/// Runs `work` with what is inside `object`; null with an exception set when it fails.
///
/// PyO3 does not know that the interpreter is ours: see [`gil`].
///
/// # Safety
///
/// - `object` is an instance of `T`, which CPython's method descriptors check, and the GIL is
///   held.
#[inline]
pub(crate) unsafe fn guarded<T: PyClass<Frozen = True> + Sync>(
    object: Object,
    work: impl FnOnce(Python<'_>, &T) -> PyResult<Object>,
) -> Object {
    // SAFETY: the caller's promise.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: alive until the call is done.
    let object = unsafe { Borrowed::from_ptr(py, object) };
    // SAFETY: as promised.
    let object = unsafe { object.cast_unchecked::<T>() };
    let work = || work(py, object.get());
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(made)) => return made,
        Ok(Err(error)) => error,
        Err(_) => PySystemError::new_err("a bug in shared_numpy: a method panicked"),
    };
    fail(py, error)
}

#[cold]
fn fail(py: Python<'_>, error: PyErr) -> Object {
    gil::raise(py, error);
    ptr::null_mut()
}

#[inline]
pub(crate) fn none() -> Object {
    // SAFETY: always alive.
    let object = unsafe { ffi::Py_None() };
    // SAFETY: the GIL is held wherever this is called.
    unsafe { ffi::Py_INCREF(object) };
    object
}

/// A method.
pub(crate) struct Method {
    pub(crate) name: &'static CStr,
    /// Signature and text, as CPython wants them in one.
    pub(crate) doc: &'static CStr,
    pub(crate) call: ffi::PyMethodDefPointer,
    pub(crate) flags: c_int,
}

impl Method {
    /// One with arguments, in the form that this interpreter has.
    pub(crate) fn called(
        py: Python<'_>,
        name: &'static CStr,
        doc: &'static CStr,
        (fast, of_36): (FastCall, TupleCall),
    ) -> Self {
        let (call, form) = if py.version_info() < (3, 7) {
            let call = ffi::PyMethodDefPointer {
                PyCFunctionWithKeywords: of_36,
            };
            (call, ffi::METH_VARARGS)
        } else {
            // SAFETY: nobody calls it as this type: by its flags CPython knows what it is.
            let call = unsafe { std::mem::transmute::<FastCall, ffi::PyCFunction>(fast) };
            (ffi::PyMethodDefPointer { PyCFunction: call }, METH_FASTCALL)
        };
        Method {
            name,
            doc,
            call,
            flags: form | ffi::METH_KEYWORDS,
        }
    }

    /// Gives it to a class, whose instances have what it works with.
    pub(crate) fn give_to(self, ty: &Bound<'_, PyType>) -> PyResult<()> {
        // The descriptor keeps a pointer to its definition: it lives as long as the process.
        let definition = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: self.name.as_ptr(),
            ml_meth: self.call,
            ml_flags: self.flags,
            ml_doc: self.doc.as_ptr(),
        }));
        // SAFETY: a live type, and a well formed definition that lives.
        let made = unsafe { ffi::PyDescr_NewMethod(ty.as_type_ptr(), definition) };
        // SAFETY: a new reference, or null with an exception set.
        let made = unsafe { Bound::from_owned_ptr_or_err(ty.py(), made) }?;
        ty.setattr(self.name, made)
    }
}
