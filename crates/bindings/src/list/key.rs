//! What may stand between the brackets of a list.

use std::ffi::CStr;

use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PySlice;

use crate::gil;

/// What is between brackets.
pub(super) enum Key {
    At(usize),
    Slice,
}

/// What an IndexError says.
pub(super) const OUT_OF_RANGE: &CStr = c"index out of range";

#[cold]
fn out_of_range(assigning: bool) -> PyErr {
    PyIndexError::new_err(if assigning {
        "assignment index out of range"
    } else {
        "index out of range"
    })
}

/// # Safety
///
/// - The GIL is held, `key` is alive and `len` is the length of the list.
#[inline]
pub(super) unsafe fn key_of(
    key: *mut ffi::PyObject,
    len: usize,
    assigning: bool,
) -> Result<Key, PyErr> {
    // SAFETY: `key` is alive.
    let position = if unsafe { ffi::PyLong_CheckExact(key) } != 0 {
        // SAFETY: an int, so no Python code runs.
        let position = unsafe { ffi::PyLong_AsSsize_t(key) };
        // SAFETY: the GIL is held.
        if position == -1 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
            // SAFETY: the GIL is held.
            unsafe { ffi::PyErr_Clear() };
            return Err(out_of_range(assigning));
        }
        position
    } else {
        // SAFETY: the caller's.
        match unsafe { unusual_position(key) }? {
            Some(position) => position,
            None => return Ok(Key::Slice),
        }
    };
    let position = if position < 0 {
        position.checked_add_unsigned(len).unwrap_or(-1)
    } else {
        position
    };
    match usize::try_from(position) {
        Ok(position) if position < len => Ok(Key::At(position)),
        _ => Err(out_of_range(assigning)),
    }
}

/// The position that an object with `__index__` stands for; `None` for a slice.
///
/// # Safety
///
/// - The GIL is held and `key` is alive.
#[cold]
unsafe fn unusual_position(key: *mut ffi::PyObject) -> Result<Option<isize>, PyErr> {
    // SAFETY: the GIL is held, of which PyO3 is told before anything is dropped: errors that
    // become others are, and with them the frames that they were raised in.
    gil::counted(unsafe { Python::assume_attached() }, |py| {
        // SAFETY: `key` is alive.
        let key = unsafe { Bound::from_borrowed_ptr(py, key) };
        if key.is_instance_of::<PySlice>() {
            return Ok(None);
        }
        match gil::index(&key) {
            Ok(position) => Ok(Some(position.extract().unwrap_or(isize::MAX))),
            Err(error) if !error.is_instance_of::<PyTypeError>(py) => Err(error),
            Err(_) => Err(PyTypeError::new_err(format!(
                "ShareableList indices must be integers or slices, not {}",
                key.get_type().name()?
            ))),
        }
    })
}

/// The positions that a slice selects.
///
/// # Safety
///
/// - The GIL is held and `slice` is a live slice.
pub(super) unsafe fn positions(
    py: Python<'_>,
    slice: *mut ffi::PyObject,
    len: usize,
) -> Result<Vec<usize>, PyErr> {
    // SAFETY: `slice` is alive.
    let slice = unsafe { Bound::from_borrowed_ptr(py, slice) };
    // The method, because 3.6.0 lacks the functions of the C API.
    let (start, stop, step): (isize, isize, Bound<'_, PyAny>) =
        gil::call(&slice.getattr("indices")?, &(len,).into_pyobject(py)?)?.extract()?;
    let step = match step.extract() {
        Ok(step) => step,
        Err(_) if step.lt(0)? => isize::MIN,
        Err(_) => isize::MAX,
    };
    let mut selected = Vec::new();
    let mut position = start;
    while if step > 0 {
        position < stop
    } else {
        position > stop
    } {
        selected.push(position as usize);
        // A step may be so large that it leads out of all numbers at once.
        position = position.saturating_add(step);
    }
    Ok(selected)
}
