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

mod arguments;

use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PySystemError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::block;
use crate::gil;
use crate::ndarray;
use crate::numpy::{self, AXES_MAX};
use crate::quick::{FastCall, METH_FASTCALL};
use arguments::{NAMES, is_fortran, lengths_of, nbytes_of, sort_out, sort_out_36};

/// A function that makes arrays.
struct Maker {
    name: &'static CStr,
    signature: &'static str,
    is_zeroed: bool,
    call: FastCall,
    call_36: ffi::PyCFunctionWithKeywords,
    /// The Python function; null before [`array_maker`]. Written with the GIL held.
    slow: AtomicPtr<ffi::PyObject>,
}

static MAKERS: [Maker; 3] = [
    Maker {
        name: c"empty",
        signature: "(shape, dtype=None, order='C')",
        is_zeroed: false,
        call: make::<0>,
        call_36: make_36::<0>,
        slow: AtomicPtr::new(ptr::null_mut()),
    },
    Maker {
        name: c"zeros",
        signature: "(shape, dtype=None, order='C')",
        is_zeroed: true,
        call: make::<1>,
        call_36: make_36::<1>,
        slow: AtomicPtr::new(ptr::null_mut()),
    },
    Maker {
        name: c"ndarray",
        signature: "(shape, dtype=None, order=None, *, name=None, persist=False, mode=None)",
        is_zeroed: false,
        call: make::<2>,
        call_36: make_36::<2>,
        slow: AtomicPtr::new(ptr::null_mut()),
    },
];

/// # Safety
///
/// - Called by CPython only, as [`FastCall`] says, with the GIL held.
unsafe extern "C" fn make<const WHICH: usize>(
    _module: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    by_position: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let by_keyword = if keywords.is_null() {
        0
    } else {
        // SAFETY: a tuple.
        unsafe { ffi::PyTuple_Size(keywords) as usize }
    };
    let given: &[*mut ffi::PyObject] = if args.is_null() {
        &[]
    } else {
        // SAFETY: so many arguments lie there until this function is done.
        unsafe { std::slice::from_raw_parts(args, by_position as usize + by_keyword) }
    };
    let (given, with_name) = given.split_at(given.len() - by_keyword);
    // SAFETY: live arguments, and a tuple of their names.
    let sorted = unsafe { sort_out(given, with_name, keywords) };
    // SAFETY: CPython calls with the GIL held. PyO3 does not know of it: see `guarded`.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: null or live arguments.
    unsafe {
        guarded::<WHICH>(py, sorted, |slow| {
            as_given(slow, given, with_name, keywords)
        })
    }
}

/// # Safety
///
/// - Called by CPython only, with a tuple, a dictionary or null, and the GIL held.
unsafe extern "C" fn make_36<const WHICH: usize>(
    _module: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a tuple, and a dictionary or null.
    let sorted = unsafe { sort_out_36(args, keywords) };
    // SAFETY: as in `make`.
    let py = unsafe { Python::assume_attached() };
    let slowly = |slow: &Bound<'_, PyAny>| {
        // SAFETY: a tuple, and a dictionary or null.
        unsafe { gil::call_with(slow, args, keywords) }.map(Bound::into_ptr)
    };
    // SAFETY: null or live arguments.
    unsafe { guarded::<WHICH>(py, sorted, slowly) }
}

/// The array that was asked for, made quickly if that can be, else by `slowly`, which calls
/// the function it is given; null with an exception set.
///
/// PyO3 need not know that the thread is attached: nothing of Python's is dropped before it is
/// told, but references that are bound to `py`, which are given back at once in any case.
///
/// # Safety
///
/// - `sorted` are null or live objects.
unsafe fn guarded<const WHICH: usize>(
    py: Python<'_>,
    sorted: Option<[*mut ffi::PyObject; 3]>,
    slowly: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<*mut ffi::PyObject>,
) -> *mut ffi::PyObject {
    let maker = &MAKERS[WHICH];
    let work = || {
        if let Some(sorted) = sorted
            // SAFETY: the caller's promise.
            && let Some(array) = unsafe { quickly(py, sorted, maker.is_zeroed) }?
        {
            return Ok(array);
        }
        let slow = maker.slow.load(Ordering::Relaxed);
        // SAFETY: set before the function that leads here was made, and never given back;
        // null after the interpreter's end, when nobody calls.
        let slow = unsafe { Bound::from_borrowed_ptr_or_opt(py, slow) };
        slowly(&slow.ok_or_else(|| PySystemError::new_err("called after the end"))?)
    };
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(array)) => return array,
        Ok(Err(error)) => error,
        Err(_) => PySystemError::new_err("a bug in shared_numpy: making an array panicked"),
    };
    gil::raise(py, error);
    ptr::null_mut()
}

/// Calls `slow` with arguments as [`FastCall`] has them.
#[cold]
fn as_given(
    slow: &Bound<'_, PyAny>,
    given: &[*mut ffi::PyObject],
    with_name: &[*mut ffi::PyObject],
    names: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    let py = slow.py();
    // SAFETY: the arguments of a call, alive until it is done.
    let alive = |&object: &*mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(py, object) };
    let args = PyTuple::new(py, given.iter().map(alive))?;
    let keywords = PyDict::new(py);
    // SAFETY: null or the tuple of names, alive as well.
    if let Some(names) = unsafe { Bound::from_borrowed_ptr_or_opt(py, names) } {
        for (name, value) in names.cast::<PyTuple>()?.iter().zip(with_name) {
            keywords.set_item(name, alive(value))?;
        }
    }
    // SAFETY: a tuple and a dictionary.
    unsafe { gil::call_with(slow, args.as_ptr(), keywords.as_ptr()) }.map(Bound::into_ptr)
}

/// The array, or `None` for arguments that are not plain.
///
/// # Safety
///
/// - The arguments, shape, dtype and order, are live objects; the last two may be null.
unsafe fn quickly(
    py: Python<'_>,
    [shape, dtype, order]: [*mut ffi::PyObject; 3],
    is_zeroed: bool,
) -> PyResult<Option<*mut ffi::PyObject>> {
    let Some(api) = numpy::api(py) else {
        return Ok(None);
    };
    // SAFETY: the caller's promises, here and below.
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
    let array = unsafe { api.array_over(exporter, start, lengths, dtype, is_fortran) }?.into_ptr();
    // SAFETY: new, of NumPy's own type, and nobody else has seen it.
    unsafe { ndarray::adopt(array) };
    Ok(Some(array))
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
    let (call, flag) = if py.version_info() < (3, 7) {
        (maker.call_36, ffi::METH_VARARGS)
    } else {
        // SAFETY: nobody calls it as this type: by its flag CPython knows what it is.
        let call =
            unsafe { std::mem::transmute::<FastCall, ffi::PyCFunctionWithKeywords>(maker.call) };
        (call, METH_FASTCALL)
    };
    // The function keeps a pointer to its definition: it lives as long as the process.
    let definition: &'static mut ffi::PyMethodDef = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: maker.name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionWithKeywords: call,
        },
        ml_flags: flag | ffi::METH_KEYWORDS,
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
