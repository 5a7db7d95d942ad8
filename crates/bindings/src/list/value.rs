//! Python objects as items and items as Python objects, and the refusals.
//!
//! Guarantees: making an item of an object runs no Python code, so neither the object
//! nor the list can change on the way.

use std::ffi::{c_char, c_int, c_long};
use std::ptr;

use pyo3::exceptions::{
    PyIndexError, PyOverflowError, PyTypeError, PyUnicodeEncodeError, PyValueError,
};
use pyo3::ffi;
use pyo3::prelude::*;
use shared_numpy_core::list::{Error, Item};

use crate::error;

unsafe extern "C" {
    // In every CPython since 3.3; in the stable ABI since 3.10.
    fn PyUnicode_AsUTF8AndSize(
        text: *mut ffi::PyObject,
        size: *mut ffi::Py_ssize_t,
    ) -> *const c_char;
}

/// The exception for `error`.
pub(super) fn exception(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Memory(error) => error::exception(error),
        Error::OutOfRange { .. } => PyIndexError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}

/// Why a Python object is no item.
pub(crate) enum Refusal {
    /// An int of more than 64 bits.
    Overflow,
    /// Of no type that a list can hold.
    Unsupported,
    /// Python has set an exception.
    Raised,
    /// The list refused it.
    List(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::List(error)
    }
}

/// The exception for a refusal of `value` at `index`.
#[cold]
pub(super) fn refused(
    py: Python<'_>,
    refusal: Refusal,
    index: usize,
    value: &Bound<'_, PyAny>,
) -> PyErr {
    match refusal {
        Refusal::Overflow => {
            PyOverflowError::new_err(format!("item {index}: int does not fit in 64 bits"))
        }
        Refusal::Unsupported => {
            let kind = value.get_type();
            let kind = kind
                .name()
                .map_or_else(|_| "?".to_owned(), |it| it.to_string());
            PyTypeError::new_err(format!(
                "item {index}: a ShareableList holds int, float, bool, str, bytes and None, not {kind}"
            ))
        }
        Refusal::Raised => {
            let error = PyErr::fetch(py);
            if error.is_instance_of::<PyUnicodeEncodeError>(py) {
                let inner = error.value(py);
                let told = inner
                    .getattr("reason")
                    .and_then(|reason| inner.setattr("reason", format!("{reason} (item {index})")));
                if let Err(error) = told {
                    return error;
                }
            }
            error
        }
        Refusal::List(error) => exception(error),
    }
}

/// The item that `value` stands for; it borrows the text of `value`.
///
/// Runs no Python code.
///
/// # Safety
///
/// - The GIL is held and `value` is alive for `'a`.
#[inline]
pub(crate) unsafe fn item_of<'a>(value: *mut ffi::PyObject) -> Result<Item<'a>, Refusal> {
    // SAFETY: `value` is alive. Exact types first, which most values are.
    if unsafe { ffi::PyLong_CheckExact(value) } != 0 {
        // SAFETY: it is an int.
        return unsafe { int_of(value) };
    }
    // SAFETY: as above; so is `value` an instance of what is asked, below.
    if unsafe { ffi::PyUnicode_Check(value) } != 0 {
        let mut len: ffi::Py_ssize_t = 0;
        // SAFETY: it is a str; the UTF-8 is kept in it as long as it lives.
        let text = unsafe { PyUnicode_AsUTF8AndSize(value, &raw mut len) };
        if text.is_null() {
            return Err(Refusal::Raised);
        }
        // SAFETY: so many bytes, unchanged while `value` lives.
        let text = unsafe { std::slice::from_raw_parts(text.cast(), len as usize) };
        return Ok(Item::Str(text));
    }
    // SAFETY: as above.
    if unsafe { ffi::PyFloat_Check(value) } != 0 {
        // SAFETY: it is a float, so no method of it is called and nothing fails.
        return Ok(Item::Float(unsafe { ffi::PyFloat_AsDouble(value) }));
    }
    // SAFETY: as above.
    if unsafe { ffi::PyBytes_Check(value) } != 0 {
        // SAFETY: it is a bytes object.
        let bytes = unsafe { ffi::PyBytes_AsString(value) };
        // SAFETY: it is a bytes object.
        let len = unsafe { ffi::PyBytes_Size(value) };
        // SAFETY: so many bytes, unchanged while `value` lives.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast(), len as usize) };
        return Ok(Item::Bytes(bytes));
    }
    // SAFETY: as above, here and below.
    if unsafe { ffi::Py_IsNone(value) } != 0 {
        return Ok(Item::None);
    }
    // SAFETY: as above.
    if unsafe { ffi::Py_IsTrue(value) } != 0 {
        return Ok(Item::Bool(true));
    }
    // SAFETY: as above.
    if unsafe { ffi::Py_IsFalse(value) } != 0 {
        return Ok(Item::Bool(false));
    }
    // SAFETY: as above.
    if unsafe { ffi::PyLong_Check(value) } != 0 {
        // SAFETY: it is an int.
        return unsafe { int_of(value) };
    }
    Err(Refusal::Unsupported)
}

/// # Safety
///
/// - The GIL is held and `value` is an int.
#[inline]
unsafe fn int_of<'a>(value: *mut ffi::PyObject) -> Result<Item<'a>, Refusal> {
    let mut overflow: c_int = 0;
    // SAFETY: it is an int, so no method of it is called.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value, &raw mut overflow) };
    if overflow == 0 {
        Ok(Item::Int(number))
    } else {
        Err(Refusal::Overflow)
    }
}

/// A new object for `item`; null with an exception set.
///
/// # Safety
///
/// - The GIL is held.
#[inline]
pub(crate) unsafe fn object_of(item: Item<'_>) -> *mut ffi::PyObject {
    match item {
        // SAFETY: the GIL is held, here and below.
        Item::Int(value) => unsafe { ffi::PyLong_FromLongLong(value) },
        // SAFETY: as above.
        Item::Float(value) => unsafe { ffi::PyFloat_FromDouble(value) },
        // SAFETY: as above.
        Item::Bool(value) => unsafe { ffi::PyBool_FromLong(c_long::from(value)) },
        Item::None => {
            // SAFETY: as above.
            let none = unsafe { ffi::Py_None() };
            // SAFETY: None is alive.
            unsafe { ffi::Py_INCREF(none) };
            none
        }
        // SAFETY: the pointer is valid for the length, which is at most `isize::MAX`.
        Item::Str(text) => unsafe {
            ffi::PyUnicode_DecodeUTF8(
                text.as_ptr().cast(),
                text.len() as ffi::Py_ssize_t,
                ptr::null(),
            )
        },
        // SAFETY: as above.
        Item::Bytes(bytes) => unsafe {
            ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t)
        },
    }
}
