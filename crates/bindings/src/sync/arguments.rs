//! The arguments of `acquire`, as CPython hands them to a function in C.
//!
//! Guarantee: Python code that they run (`__bool__`, `__float__`) runs by way of [`gil`].

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;

use pyo3::Borrowed;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::lock::Patience;
use super::timeout_ns;
use crate::fastcall::Object;
use crate::gil;

/// The arguments of `acquire`.
#[derive(Default)]
pub(super) struct Given<'a, 'py> {
    block: Option<Borrowed<'a, 'py, PyAny>>,
    timeout: Option<Borrowed<'a, 'py, PyAny>>,
}

impl<'a, 'py> Given<'a, 'py> {
    /// # Safety
    ///
    /// - So many live arguments by position, and then one for each of the `names`, a tuple
    ///   or null; `args` is null only when there are none.
    #[inline]
    pub(super) unsafe fn from_vector(
        py: Python<'py>,
        args: *const Object,
        by_position: usize,
        names: Object,
    ) -> PyResult<Self> {
        let by_keyword = if names.is_null() {
            0
        } else {
            // SAFETY: a tuple.
            unsafe { ffi::PyTuple_Size(names) as usize }
        };
        let args = if args.is_null() {
            &[]
        } else {
            // SAFETY: so many arguments lie there until the call is done.
            unsafe { std::slice::from_raw_parts(args, by_position + by_keyword) }
        };
        // SAFETY: live arguments.
        let alive = |&object: &Object| unsafe { Borrowed::from_ptr(py, object) };
        let (args, with_name) = args.split_at(by_position);
        let mut given = Given::default();
        for (at, value) in args.iter().enumerate() {
            given.put(Self::at(at)?, alive(value))?;
        }
        for (at, value) in with_name.iter().enumerate() {
            // SAFETY: a tuple that has this item.
            let name = unsafe { ffi::PyTuple_GetItem(names, at as ffi::Py_ssize_t) };
            // SAFETY: the tuple keeps it.
            let name = unsafe { Borrowed::from_ptr(py, name) };
            given.put(Self::named(&name)?, alive(value))?;
        }
        Ok(given)
    }

    /// # Safety
    ///
    /// - A tuple, and a dictionary or null, which live as long as this.
    pub(super) unsafe fn from_tuple(
        py: Python<'py>,
        args: Object,
        keywords: Object,
    ) -> PyResult<Self> {
        let mut given = Given::default();
        // SAFETY: a tuple.
        let by_position = unsafe { ffi::PyTuple_Size(args) } as usize;
        for at in 0..by_position {
            // SAFETY: a tuple that has this item.
            let value = unsafe { ffi::PyTuple_GetItem(args, at as ffi::Py_ssize_t) };
            // SAFETY: the tuple keeps it.
            given.put(Self::at(at)?, unsafe { Borrowed::from_ptr(py, value) })?;
        }
        if keywords.is_null() {
            return Ok(given);
        }
        let (mut at, mut name, mut value) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: a dictionary, which nobody changes meanwhile.
        while unsafe { ffi::PyDict_Next(keywords, &raw mut at, &raw mut name, &raw mut value) } != 0
        {
            // SAFETY: the dictionary keeps it.
            let name = unsafe { Borrowed::from_ptr(py, name) };
            // SAFETY: as above.
            given.put(Self::named(&name)?, unsafe {
                Borrowed::from_ptr(py, value)
            })?;
        }
        Ok(given)
    }

    fn at(position: usize) -> PyResult<Argument> {
        match position {
            0 => Ok(Argument::Block),
            1 => Ok(Argument::Timeout),
            _ => Err(PyTypeError::new_err("acquire() takes at most 2 arguments")),
        }
    }

    fn named(name: &Bound<'_, PyAny>) -> PyResult<Argument> {
        // Before 3.9 CPython does not look at the names it hands to a function in C.
        let name = name
            .cast::<PyString>()
            .map_err(|_| PyTypeError::new_err("keywords must be strings"))?;
        let is = |known: &CStr| {
            // SAFETY: text, as was just checked; a C string.
            unsafe { ffi::PyUnicode_CompareWithASCIIString(name.as_ptr(), known.as_ptr()) == 0 }
        };
        if is(c"block") {
            Ok(Argument::Block)
        } else if is(c"timeout") {
            Ok(Argument::Timeout)
        } else {
            // Counted: text that is no Unicode makes an error inside, which is dropped.
            Err(gil::counted(name.py(), |_| {
                let name = name.to_string_lossy();
                PyTypeError::new_err(format!(
                    "acquire() has no argument {name:?}: they are block and timeout"
                ))
            }))
        }
    }

    fn put(&mut self, argument: Argument, value: Borrowed<'a, 'py, PyAny>) -> PyResult<()> {
        let place = match argument {
            Argument::Block => &mut self.block,
            Argument::Timeout => &mut self.timeout,
        };
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(PyTypeError::new_err(
                "acquire() was given an argument twice",
            )),
        }
    }

    /// What they say.
    pub(super) fn patience(&self) -> PyResult<Patience> {
        patience(self.block.as_deref(), self.timeout.as_deref())
    }
}

/// What the arguments of `acquire` say; `None` where not given.
pub(super) fn patience(
    block: Option<&Bound<'_, PyAny>>,
    timeout: Option<&Bound<'_, PyAny>>,
) -> PyResult<Patience> {
    let block = block.map_or(Ok(true), gil::is_true)?;
    let timeout_ns = timeout_ns(timeout.filter(|timeout| !timeout.is_none()))?;
    Ok(if block {
        Patience { timeout_ns }
    } else {
        Patience::NONE
    })
}

#[derive(Clone, Copy)]
enum Argument {
    Block,
    Timeout,
}
