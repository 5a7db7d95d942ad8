//! The arguments of functions that make arrays, sorted out without Python code: what is not
//! plain is `None` here, and left to the function in Python.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::numpy::{AXES_MAX, Dtype};

/// The names of the arguments, interned once; null before.
pub(super) static NAMES: [AtomicPtr<ffi::PyObject>; 3] =
    [const { AtomicPtr::new(ptr::null_mut()) }; 3];

/// The arguments by position: shape, dtype, order; null where not given. `None` for those
/// that the function in Python shall refuse.
///
/// # Safety
///
/// - `names` is a tuple of as many names as there are in `with_name`.
#[inline]
pub(super) unsafe fn sort_out(
    given: &[*mut ffi::PyObject],
    with_name: &[*mut ffi::PyObject],
    names: *mut ffi::PyObject,
) -> Option<[*mut ffi::PyObject; 3]> {
    let mut sorted = [ptr::null_mut(); 3];
    sorted.get_mut(..given.len())?.copy_from_slice(given);
    for (at, &value) in with_name.iter().enumerate() {
        // SAFETY: a tuple that has this item.
        let name = unsafe { ffi::PyTuple_GetItem(names, at as ffi::Py_ssize_t) };
        // Names in a program's text are interned; others take the slow way.
        let place = NAMES
            .iter()
            .position(|known| known.load(Ordering::Relaxed) == name)?;
        if !sorted[place].is_null() {
            return None; // given twice
        }
        sorted[place] = value;
    }
    (!sorted[0].is_null()).then_some(sorted)
}

/// The same, from a tuple and a dictionary.
///
/// # Safety
///
/// - `args` is a tuple, `keywords` a dictionary or null.
pub(super) unsafe fn sort_out_36(
    args: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> Option<[*mut ffi::PyObject; 3]> {
    let mut sorted = [ptr::null_mut(); 3];
    // SAFETY: a tuple.
    let given = unsafe { ffi::PyTuple_Size(args) } as usize;
    for (at, slot) in sorted.get_mut(..given)?.iter_mut().enumerate() {
        // SAFETY: a tuple that has this item.
        *slot = unsafe { ffi::PyTuple_GetItem(args, at as ffi::Py_ssize_t) };
    }
    if !keywords.is_null() {
        // SAFETY: a dictionary.
        let mut left = unsafe { ffi::PyDict_Size(keywords) };
        for (slot, name) in sorted.iter_mut().zip(&NAMES) {
            // SAFETY: a dictionary; the names were made with the function that is called.
            let value = unsafe { ffi::PyDict_GetItem(keywords, name.load(Ordering::Relaxed)) };
            if !value.is_null() {
                if !slot.is_null() {
                    return None; // given twice
                }
                *slot = value;
                left -= 1;
            }
        }
        if left != 0 {
            return None;
        }
    }
    (!sorted[0].is_null()).then_some(sorted)
}

/// Whether the axes are to lie in Fortran's order; `None` for what is not plain.
///
/// # Safety
///
/// - `order` is null or a live object.
#[inline]
pub(super) unsafe fn is_fortran(py: Python<'_>, order: *mut ffi::PyObject) -> Option<bool> {
    // SAFETY: the caller's promise.
    let Some(order) = (unsafe { Bound::from_borrowed_ptr_or_opt(py, order) }) else {
        return Some(false);
    };
    if order.is_none() {
        return Some(false);
    }
    if !order.is_exact_instance_of::<PyString>() {
        return None;
    }
    let is = |letter: &CStr| {
        // SAFETY: text, and a C string.
        unsafe { ffi::PyUnicode_CompareWithASCIIString(order.as_ptr(), letter.as_ptr()) == 0 }
    };
    if is(c"C") {
        Some(false)
    } else {
        is(c"F").then_some(true)
    }
}

/// Writes the lengths of the axes, and says how many; `None` for what is not plain.
///
/// # Safety
///
/// - `shape` is a live object, and the GIL is held.
#[inline]
pub(super) unsafe fn lengths_of(
    shape: *mut ffi::PyObject,
    lengths: &mut [ffi::Py_ssize_t; AXES_MAX],
) -> Option<usize> {
    // SAFETY: a live object.
    if unsafe { ffi::PyTuple_CheckExact(shape) } == 0 {
        // SAFETY: as above.
        lengths[0] = unsafe { length_of(shape) }?;
        return Some(1);
    }
    // SAFETY: a tuple.
    let axes = unsafe { ffi::PyTuple_Size(shape) } as usize;
    for (at, length) in lengths.get_mut(..axes)?.iter_mut().enumerate() {
        // SAFETY: a tuple that has this item.
        let item = unsafe { ffi::PyTuple_GetItem(shape, at as ffi::Py_ssize_t) };
        // SAFETY: the tuple keeps it alive.
        *length = unsafe { length_of(item) }?;
    }
    Some(axes)
}

/// # Safety
///
/// - `number` is a live object, and the GIL is held.
#[inline]
unsafe fn length_of(number: *mut ffi::PyObject) -> Option<ffi::Py_ssize_t> {
    // SAFETY: a live object.
    if unsafe { ffi::PyLong_CheckExact(number) } == 0 {
        return None;
    }
    // SAFETY: an int.
    let length = unsafe { ffi::PyLong_AsSsize_t(number) };
    if length < 0 {
        // Negative or too large: the Python function says so. Nothing else was pending.
        // SAFETY: the GIL is held.
        unsafe { ffi::PyErr_Clear() };
        return None;
    }
    Some(length)
}

/// The size of an array; `None` if it cannot be addressed, axes of length 0 aside, as in NumPy.
#[inline]
pub(super) fn nbytes_of(lengths: &[ffi::Py_ssize_t], dtype: Dtype) -> Option<usize> {
    let mut reach = dtype.item_bytes;
    let mut is_empty = false;
    for &length in lengths {
        is_empty |= length == 0;
        reach = reach.checked_mul(length.max(1) as usize)?;
    }
    isize::try_from(reach).ok()?;
    Some(if is_empty { 0 } else { reach })
}
