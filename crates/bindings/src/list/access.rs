//! Items by position and by slice. A key may run Python code, which may replace the list: a
//! position is checked again by the list it is used with. A slice is set as a whole or not
//! at all.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use shared_numpy_core::list::{Buffer, Error};

use super::key::{Key, OUT_OF_RANGE, key_of, positions};
use super::value::{Refusal, exception, item_of, object_of, refused};
use super::{guarded, list_of, no_list};
use crate::gil;

/// # Safety
///
/// - `object` is an instance and the GIL is held.
#[inline]
unsafe fn get_at(object: *mut ffi::PyObject, index: usize) -> Result<*mut ffi::PyObject, PyErr> {
    let mut buffer = Buffer::new();
    // SAFETY: an instance; the reference ends with this statement, before Python
    // objects are made.
    let item = unsafe { list_of(object) }
        .ok_or_else(no_list)?
        .get(index, &mut buffer)
        .map_err(exception)?;
    // SAFETY: the GIL is held.
    let made = unsafe { object_of(item) };
    if made.is_null() {
        // SAFETY: the GIL is held; nothing is dropped here.
        return Err(PyErr::fetch(unsafe { Python::assume_attached() }));
    }
    Ok(made)
}

/// # Safety
///
/// - `object` is an instance, `value` is alive and the GIL is held.
#[inline]
unsafe fn set_at(
    object: *mut ffi::PyObject,
    index: usize,
    value: *mut ffi::PyObject,
    check_only: bool,
) -> Result<(), PyErr> {
    // SAFETY: `value` is alive and outlives the item.
    let outcome = unsafe { item_of(value) }.and_then(|item| {
        // SAFETY: an instance; no Python code runs in the list.
        let list = unsafe { list_of(object) }
            .ok_or(Refusal::List(Error::OutOfRange { index, count: 0 }))?;
        if check_only {
            Ok(list.check(index, &item)?)
        } else {
            Ok(list.set(index, &item)?)
        }
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(refusal) => {
            // SAFETY: the GIL is held, of which PyO3 is told before anything is dropped.
            let py = unsafe { Python::assume_attached() };
            Err(gil::counted(py, |py| {
                // SAFETY: `value` is alive.
                let value = unsafe { Bound::from_borrowed_ptr(py, value) };
                refused(py, refusal, index, &value)
            }))
        }
    }
}

/// # Safety
///
/// - Called by CPython only, with an instance and the GIL held.
pub(super) unsafe extern "C" fn sq_item(
    object: *mut ffi::PyObject,
    index: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    let work = || {
        // SAFETY: an instance; the reference ends here.
        let len = unsafe { list_of(object) }.ok_or_else(no_list)?.len();
        match usize::try_from(index) {
            // SAFETY: the caller's.
            Ok(index) if index < len => unsafe { get_at(object, index) },
            _ => {
                // How every loop over a list ends: not worth an error of PyO3's.
                // SAFETY: the exception type is a static of the running interpreter.
                let kind = unsafe { ffi::PyExc_IndexError };
                // SAFETY: the GIL is held; a C string.
                unsafe { ffi::PyErr_SetString(kind, OUT_OF_RANGE.as_ptr()) };
                Ok(ptr::null_mut())
            }
        }
    };
    // SAFETY: the GIL is held.
    unsafe { guarded(ptr::null_mut(), work) }
}

/// # Safety
///
/// - Called by CPython only, with an instance, a live key and the GIL held.
pub(super) unsafe extern "C" fn subscript(
    object: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let work = || {
        // SAFETY: an instance; the reference ends here.
        let len = unsafe { list_of(object) }.ok_or_else(no_list)?.len();
        // SAFETY: the caller's. It may run Python code and so replace the list; the
        // position is checked again by the one it is used with.
        match unsafe { key_of(key, len, false) }? {
            // SAFETY: the caller's.
            Key::At(index) => unsafe { get_at(object, index) },
            // SAFETY: the caller's.
            Key::Slice => unsafe { get_slice(object, key, len) },
        }
    };
    // SAFETY: the GIL is held.
    unsafe { guarded(ptr::null_mut(), work) }
}

/// # Safety
///
/// - Called by CPython only, with an instance, a live key and the GIL held;
///   `value` is null for a deletion.
pub(super) unsafe extern "C" fn assign_subscript(
    object: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    let work = || {
        if value.is_null() {
            return Err(PyTypeError::new_err(
                "a ShareableList has a fixed length: items cannot be deleted",
            ));
        }
        // SAFETY: an instance; the reference ends here.
        let len = unsafe { list_of(object) }.ok_or_else(no_list)?.len();
        // SAFETY: the caller's; see `subscript`.
        match unsafe { key_of(key, len, true) }? {
            // SAFETY: the caller's.
            Key::At(index) => unsafe { set_at(object, index, value, false) }?,
            // SAFETY: the caller's.
            Key::Slice => unsafe { set_slice(object, key, value, len) }?,
        }
        Ok(0)
    };
    // SAFETY: the GIL is held.
    unsafe { guarded(-1, work) }
}

/// # Safety
///
/// - `object` is an instance, `slice` is a live slice and the GIL is held.
#[cold]
unsafe fn get_slice(
    object: *mut ffi::PyObject,
    slice: *mut ffi::PyObject,
    len: usize,
) -> Result<*mut ffi::PyObject, PyErr> {
    // SAFETY: the GIL is held, of which PyO3 is told before anything is dropped.
    gil::counted(unsafe { Python::assume_attached() }, |py| {
        let mut items = Vec::new();
        // SAFETY: the caller's.
        for index in unsafe { positions(py, slice, len) }? {
            // SAFETY: the caller's.
            let item = unsafe { get_at(object, index) }?;
            // SAFETY: a new reference.
            items.push(unsafe { Bound::from_owned_ptr(py, item) });
        }
        Ok(pyo3::types::PyList::new(py, items)?.into_ptr())
    })
}

/// All or nothing.
///
/// # Safety
///
/// - `object` is an instance, `slice` is a live slice, `values` is alive and the GIL
///   is held.
#[cold]
unsafe fn set_slice(
    object: *mut ffi::PyObject,
    slice: *mut ffi::PyObject,
    values: *mut ffi::PyObject,
    len: usize,
) -> Result<(), PyErr> {
    // SAFETY: the GIL is held, of which PyO3 is told before anything is dropped.
    gil::counted(unsafe { Python::assume_attached() }, |py| {
        // SAFETY: `values` is alive.
        let values = unsafe { Bound::from_borrowed_ptr(py, values) };
        // A tuple of our own: nobody changes it meanwhile.
        let values = gil::tuple(&values)?;
        // SAFETY: the caller's.
        let selected = unsafe { positions(py, slice, len) }?;
        if selected.len() != values.len() {
            return Err(PyValueError::new_err(format!(
                "attempt to assign sequence of size {} to slice of size {}: a ShareableList has a fixed length",
                values.len(),
                selected.len()
            )));
        }
        for check_only in [true, false] {
            for (&index, value) in selected.iter().zip(values.iter()) {
                // SAFETY: the caller's; `value` is alive.
                unsafe { set_at(object, index, value.as_ptr(), check_only) }?;
            }
        }
        Ok(())
    })
}
