//! Making arrays quickly: `empty`, `zeros` and `ndarray` as functions in C.
//!
//! Guarantees: a function made here gives what the Python function gives that it
//! stands for; plain arguments (a length or a tuple of lengths, a builtin dtype of
//! numbers, 'C' or 'F') take no Python code, everything else is handed to that
//! function with its arguments untouched, so that errors are NumPy's and its own.
//!
//! An array is made as an ordinary one over a block's exporter and then becomes a
//! `SharedNDArray` ([`ndarray::adopt`]): NumPy calls no hook for it.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PySystemError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::block;
use crate::gil;
use crate::ndarray;
use crate::numpy::{self, AXES_MAX, Dtype};

/// A function that makes arrays.
struct Maker {
    name: &'static CStr,
    signature: &'static str,
    is_zeroed: bool,
    call: ffi::PyCFunctionWithKeywords,
    /// The Python function; null before [`array_maker`]. Written with the GIL held.
    slow: AtomicPtr<ffi::PyObject>,
}

static MAKERS: [Maker; 3] = [
    Maker {
        name: c"empty",
        signature: "(shape, dtype=None, order='C')",
        is_zeroed: false,
        call: make::<0>,
        slow: AtomicPtr::new(ptr::null_mut()),
    },
    Maker {
        name: c"zeros",
        signature: "(shape, dtype=None, order='C')",
        is_zeroed: true,
        call: make::<1>,
        slow: AtomicPtr::new(ptr::null_mut()),
    },
    Maker {
        name: c"ndarray",
        signature: "(shape, dtype=None, order=None)",
        is_zeroed: false,
        call: make::<2>,
        slow: AtomicPtr::new(ptr::null_mut()),
    },
];

/// The names of the arguments, interned once; null before.
static NAMES: [AtomicPtr<ffi::PyObject>; 3] = [const { AtomicPtr::new(ptr::null_mut()) }; 3];

/// # Safety
///
/// - Called by CPython only, with a tuple, a dictionary or null, and the GIL held.
unsafe extern "C" fn make<const WHICH: usize>(
    _module: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let maker = &MAKERS[WHICH];
    // SAFETY: CPython calls with the GIL held.
    let py = unsafe { Python::assume_attached() };
    let work = || {
        // SAFETY: the caller's promises.
        match unsafe { quickly(py, args, keywords, maker.is_zeroed) }? {
            Some(array) => Ok(array),
            // SAFETY: the caller's promises.
            None => unsafe { slowly(py, maker, args, keywords) },
        }
    };
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(array)) => return array,
        Ok(Err(error)) => error,
        Err(_) => PySystemError::new_err("a bug in shared_numpy: making an array panicked"),
    };
    error.restore(py);
    ptr::null_mut()
}

/// # Safety
///
/// - As for [`make`].
#[cold]
unsafe fn slowly(
    py: Python<'_>,
    maker: &Maker,
    args: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    let slow = maker.slow.load(Ordering::Relaxed);
    // SAFETY: set before the function that leads here was made, and never given back;
    // null after the interpreter's end, when nobody calls.
    let slow = unsafe { Bound::from_borrowed_ptr_or_opt(py, slow) };
    let slow = slow.ok_or_else(|| PySystemError::new_err("called after the end"))?;
    // SAFETY: the caller's promises.
    unsafe { gil::call_with(&slow, args, keywords) }.map(Bound::into_ptr)
}

/// The array, or `None` for arguments that are not plain.
///
/// # Safety
///
/// - As for [`make`].
unsafe fn quickly(
    py: Python<'_>,
    args: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
    is_zeroed: bool,
) -> PyResult<Option<*mut ffi::PyObject>> {
    let Some(api) = numpy::api(py) else {
        return Ok(None);
    };
    // SAFETY: the caller's promises.
    let Some([shape, dtype, order]) = (unsafe { sort_out(args, keywords) }) else {
        return Ok(None);
    };
    // SAFETY: null, or kept alive by `args` and `keywords`; so below.
    let Some(is_fortran) = (unsafe { is_fortran(py, order) }) else {
        return Ok(None);
    };
    let mut lengths = [0; AXES_MAX];
    // SAFETY: as above.
    let Some(axes) = (unsafe { lengths_of(shape, &mut lengths) }) else {
        return Ok(None);
    };
    let dtype = if dtype.is_null() {
        api.double()
    } else {
        // SAFETY: as above.
        match unsafe { api.dtype(py, dtype) }? {
            Some(dtype) => dtype,
            None => return Ok(None),
        }
    };
    let lengths = &lengths[..axes];
    let Some(nbytes) = nbytes_of(lengths, dtype) else {
        return Ok(None);
    };
    let hold = block::allocate(py, nbytes, is_zeroed)?;
    let start = hold.start().as_ptr();
    let exporter = block::export(py, hold, nbytes)?;
    // SAFETY: the block has so many bytes from there, and blocks begin at multiples of 64.
    let array = unsafe { api.array_over(exporter, start, lengths, dtype, is_fortran) }?;
    // SAFETY: new, of NumPy's own type, and nobody else has seen it.
    unsafe { ndarray::adopt(array) };
    Ok(Some(array))
}

/// The arguments by position: shape, dtype, order; null where not given.
///
/// # Safety
///
/// - As for [`make`].
#[inline]
unsafe fn sort_out(
    args: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> Option<[*mut ffi::PyObject; 3]> {
    let mut sorted = [ptr::null_mut(); 3];
    // SAFETY: a tuple.
    let given = unsafe { ffi::PyTuple_Size(args) } as usize;
    if given > sorted.len() {
        return None;
    }
    for (at, slot) in sorted.iter_mut().take(given).enumerate() {
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
unsafe fn is_fortran(py: Python<'_>, order: *mut ffi::PyObject) -> Option<bool> {
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
unsafe fn lengths_of(
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
fn nbytes_of(lengths: &[ffi::Py_ssize_t], dtype: Dtype) -> Option<usize> {
    let mut reach = dtype.item_bytes;
    let mut is_empty = false;
    for &length in lengths {
        is_empty |= length == 0;
        reach = reach.checked_mul(length.max(1) as usize)?;
    }
    isize::try_from(reach).ok()?;
    Some(if is_empty { 0 } else { reach })
}

/// The function in C that stands for `slow`, one of the functions that make arrays.
#[pyfunction]
fn array_maker<'py>(slow: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = slow.py();
    let name: String = slow.getattr("__name__")?.extract()?;
    let maker = MAKERS
        .iter()
        .find(|maker| maker.name.to_bytes() == name.as_bytes())
        .ok_or_else(|| PyValueError::new_err(format!("no function in C makes {name:?}")))?;
    let doc = slow.getattr("__doc__")?.extract::<Option<String>>()?;
    // From the first line `help` and `inspect` learn the signature.
    let doc = format!(
        "{name}{}\n--\n\n{}",
        maker.signature,
        doc.unwrap_or_default()
    );
    for (slot, name) in NAMES.iter().zip(["shape", "dtype", "order"]) {
        slot.store(PyString::intern(py, name).into_ptr(), Ordering::Relaxed);
    }
    maker.slow.store(slow.clone().into_ptr(), Ordering::Relaxed);
    // The function keeps a pointer to its definition: it lives as long as the process.
    let definition: &'static mut ffi::PyMethodDef = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: maker.name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionWithKeywords: maker.call,
        },
        ml_flags: ffi::METH_VARARGS | ffi::METH_KEYWORDS,
        ml_doc: CString::new(doc)?.into_raw(),
    }));
    let module = slow.getattr("__module__")?;
    // SAFETY: the definition is well formed and lives; no self; the function takes a
    // reference to the module's name of its own.
    let function = unsafe { ffi::PyCFunction_NewEx(definition, ptr::null_mut(), module.as_ptr()) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, function) }
}

/// Python has ended, and all objects with it.
pub(crate) fn forget() {
    let slow = MAKERS.iter().map(|maker| &maker.slow);
    for pointer in slow.chain(&NAMES) {
        pointer.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(array_maker, m)?)
}
