//! `put` and `get` as methods in C, of the classes that are derived from [`PyQueue`], for 3.7
//! and newer.
//!
//! Guarantee: they do what the methods that PyO3 made do, which they are documented as.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::PyQueue;
use crate::arguments::{Given, Signature};
use crate::gil;
use crate::quick::{FastCall, Method, Object, guarded, none};

const PUT: Signature = Signature {
    call: "put(obj, block, timeout)",
    names: &[c"obj", c"block", c"timeout"],
};

const GET: Signature = Signature {
    call: "get(block, timeout)",
    names: &[c"block", c"timeout"],
};

/// Whether to wait, and how long, as two arguments say.
fn patience<'a, 'py>(
    block: Option<&Bound<'py, PyAny>>,
    timeout: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<(bool, Option<&'a Bound<'py, PyAny>>)> {
    let block = block.map_or(Ok(true), gil::is_true)?;
    Ok((block, timeout.filter(|timeout| !timeout.is_none())))
}

/// # Safety
///
/// - Called by CPython only, with an instance, arguments as `METH_FASTCALL | METH_KEYWORDS`
///   has them, and the GIL held. So is [`get`].
unsafe extern "C" fn put(
    object: Object,
    args: *const Object,
    by_position: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    let work = |py: Python<'_>, queue: &PyQueue| {
        let by_position = by_position as usize;
        // SAFETY: as promised.
        let given = unsafe { Given::from_vector(py, &PUT, args, by_position, names) }?;
        let obj = given
            .at(0)
            .ok_or_else(|| PyTypeError::new_err("put(obj, block, timeout) needs an obj"))?;
        let (block, timeout) = patience(given.at(1), given.at(2))?;
        queue.put(py, obj, block, timeout).map(|()| none())
    };
    // SAFETY: as promised.
    unsafe { guarded(object, |py, queue| gil::counted(py, |py| work(py, queue))) }
}

/// # Safety
///
/// - As [`put`].
unsafe extern "C" fn get(
    object: Object,
    args: *const Object,
    by_position: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    let work = |py: Python<'_>, queue: &PyQueue| {
        let by_position = by_position as usize;
        // SAFETY: as promised.
        let given = unsafe { Given::from_vector(py, &GET, args, by_position, names) }?;
        let (block, timeout) = patience(given.at(0), given.at(1))?;
        queue.get(py, block, timeout).map(Bound::into_ptr)
    };
    // SAFETY: as promised.
    unsafe { guarded(object, |py, queue| gil::counted(py, |py| work(py, queue))) }
}

/// Gives a class derived from [`PyQueue`] its methods.
#[pyfunction]
fn queue_methods(ty: &Bound<'_, PyType>) -> PyResult<()> {
    let py = ty.py();
    if !ty.is_subclass_of::<PyQueue>()? {
        return Err(PyTypeError::new_err("a subclass of Queue is needed"));
    }
    if py.version_info() < (3, 7) {
        return Ok(()); // what it has is as quick there
    }
    let calls: [(&CStr, &str, FastCall); 2] = [(c"put", "put", put), (c"get", "get", get)];
    for (name, text_name, call) in calls {
        let method = py.get_type::<PyQueue>().getattr(text_name)?;
        let (signature, text) = (
            method.getattr("__text_signature__")?,
            method.getattr("__doc__")?,
        );
        let doc = format!("{text_name}{signature}\n--\n\n{text}");
        let doc = CString::new(doc).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        // As long as the class, as its name and code.
        Method::fast(name, Box::leak(doc.into_boxed_c_str()), call).give_to(ty)?;
    }
    Ok(())
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(queue_methods, m)?)
}
