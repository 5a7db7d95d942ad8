//! The quickest form in which CPython hands arguments over, which the stable ABI names from
//! 3.10 on only.
//!
//! Its form has not changed since 3.7; 3.6 has another, and is given tuples and dictionaries.

use std::ffi::c_int;

use pyo3::ffi;

pub(crate) type Object = *mut ffi::PyObject;

/// A function that is given its arguments one after the other, those by keyword last, how
/// many there are by position, and the keywords as a tuple or null.
pub(crate) type FastCall =
    unsafe extern "C" fn(Object, *const Object, ffi::Py_ssize_t, Object) -> Object;

/// By this flag (with `METH_KEYWORDS`) CPython knows a [`FastCall`].
pub(crate) const METH_FASTCALL: c_int = 0x0080;
