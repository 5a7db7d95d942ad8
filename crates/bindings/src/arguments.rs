//! The arguments of a method, as CPython hands them to a function in C.
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

use crate::gil;
use crate::quick::Object;

/// How many arguments a method has at most.
const ARGUMENTS_MAX: usize = 3;

/// What a method takes.
pub(crate) struct Signature {
    /// How it is called, for who reads an error.
    pub(crate) call: &'static str,
    pub(crate) names: &'static [&'static CStr],
}

/// The arguments of a call. They are kept: before 3.8 CPython may hand over the very dictionary
/// that a caller unpacks, and code that an argument runs may take the others out of it.
pub(crate) struct Given<'py> {
    signature: &'static Signature,
    values: [Option<Bound<'py, PyAny>>; ARGUMENTS_MAX],
}

impl<'py> Given<'py> {
    fn nothing(signature: &'static Signature) -> Self {
        Given {
            signature,
            values: [const { None }; ARGUMENTS_MAX],
        }
    }

    /// # Safety
    ///
    /// - So many live arguments by position, and then one for each of the `names`, a tuple
    ///   or null; `args` is null only when there are none.
    #[inline]
    pub(crate) unsafe fn from_vector(
        py: Python<'py>,
        signature: &'static Signature,
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
        let mut given = Given::nothing(signature);
        for (at, value) in args.iter().enumerate() {
            given.put(at, alive(value))?;
        }
        for (at, value) in with_name.iter().enumerate() {
            // SAFETY: a tuple that has this item.
            let name = unsafe { ffi::PyTuple_GetItem(names, at as ffi::Py_ssize_t) };
            // SAFETY: the tuple keeps it.
            let name = unsafe { Borrowed::from_ptr(py, name) };
            given.put(given.named(&name)?, alive(value))?;
        }
        Ok(given)
    }

    /// # Safety
    ///
    /// - A tuple, and a dictionary or null.
    pub(crate) unsafe fn from_tuple(
        py: Python<'py>,
        signature: &'static Signature,
        args: Object,
        keywords: Object,
    ) -> PyResult<Self> {
        let mut given = Given::nothing(signature);
        // SAFETY: a tuple.
        let by_position = unsafe { ffi::PyTuple_Size(args) } as usize;
        for at in 0..by_position {
            // SAFETY: a tuple that has this item.
            let value = unsafe { ffi::PyTuple_GetItem(args, at as ffi::Py_ssize_t) };
            // SAFETY: the tuple keeps it.
            given.put(at, unsafe { Borrowed::from_ptr(py, value) })?;
        }
        if keywords.is_null() {
            return Ok(given);
        }
        let (mut at, mut name, mut value) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: a dictionary, which nobody changes meanwhile.
        while unsafe { ffi::PyDict_Next(keywords, &raw mut at, &raw mut name, &raw mut value) } != 0
        {
            // SAFETY: the dictionary keeps it, as long as no Python code runs.
            let name = unsafe { Borrowed::from_ptr(py, name) };
            // SAFETY: as above.
            given.put(given.named(&name)?, unsafe {
                Borrowed::from_ptr(py, value)
            })?;
        }
        Ok(given)
    }

    /// The argument at this place; `None` where it was not given.
    pub(crate) fn at(&self, place: usize) -> Option<&Bound<'py, PyAny>> {
        self.values[place].as_ref()
    }

    fn named(&self, name: &Bound<'_, PyAny>) -> PyResult<usize> {
        // Before 3.9 CPython does not look at the names it hands to a function in C.
        let name = name
            .cast::<PyString>()
            .map_err(|_| PyTypeError::new_err("keywords must be strings"))?;
        let is = |known: &&CStr| {
            // SAFETY: text, as was just checked; a C string.
            unsafe { ffi::PyUnicode_CompareWithASCIIString(name.as_ptr(), known.as_ptr()) == 0 }
        };
        let Signature { call, names } = self.signature;
        names.iter().position(is).ok_or_else(|| {
            // Counted: text that is no Unicode makes an error inside, which is dropped.
            gil::counted(name.py(), |_| {
                let name = name.to_string_lossy();
                PyTypeError::new_err(format!("{call} has no argument {name}"))
            })
        })
    }

    fn put(&mut self, at: usize, value: Borrowed<'_, 'py, PyAny>) -> PyResult<()> {
        let Signature { call, names } = self.signature;
        let problem = match self.values.get_mut(at) {
            Some(place) if at < names.len() => match place.replace(value.to_owned()) {
                None => return Ok(()),
                Some(_) => "was given an argument twice",
            },
            _ => "was given too many arguments",
        };
        Err(PyTypeError::new_err(format!("{call} {problem}")))
    }
}
