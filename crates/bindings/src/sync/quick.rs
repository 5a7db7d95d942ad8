//! `acquire` and `release` as methods in C, of [`SemLock`] and its subclasses.
//!
//! Guarantees: no panic leaves a function of this file; arguments are looked at before
//! anything is acquired; Python code that they run (`__bool__`, `__float__`) runs by way of
//! [`gil`].
//!
//! A method that PyO3 makes costs as much again as all the rest of an acquire. So these
//! are descriptors of our own in PyO3's type. Arguments come as CPython has them at hand
//! (`METH_FASTCALL`, whose form has not changed since 3.7), on 3.6 as a tuple and a
//! dictionary.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::Borrowed;
use pyo3::exceptions::{PySystemError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use super::lock::{AnyLock, Patience};
use super::seconds_ns;
use super::semlock::SemLock;
use crate::gil;

type Object = *mut ffi::PyObject;
/// What acquires: with or without an exception for what a dead process had.
type Acquire = fn(&AnyLock, Python<'_>, Patience) -> PyResult<bool>;

/// Arguments one after the other, those by keyword last; how many there are by position; the
/// keywords as a tuple or null.
type FastCall = unsafe extern "C" fn(Object, *const Object, ffi::Py_ssize_t, Object) -> Object;
/// The same where there are no keywords.
type FastExit = unsafe extern "C" fn(Object, *const Object, ffi::Py_ssize_t) -> Object;

const METH_FASTCALL: c_int = 0x0080;

/// Runs `work` with the lock of `object`; null with an exception set when it fails.
///
/// # Safety
///
/// - `object` is an instance of [`SemLock`], which CPython's method descriptors check, and
///   the GIL is held.
#[inline]
unsafe fn guarded(
    object: Object,
    work: impl FnOnce(Python<'_>, &AnyLock) -> PyResult<Object>,
) -> Object {
    // SAFETY: the caller's promise, here and below.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: alive until the call is done.
    let object = unsafe { Borrowed::from_ptr(py, object) };
    // SAFETY: as promised.
    let object = unsafe { object.cast_unchecked::<SemLock>() };
    let work = || work(py, object.get().get()?);
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(made)) => return made,
        Ok(Err(error)) => error,
        Err(_) => PySystemError::new_err("a bug in shared_numpy: a lock panicked"),
    };
    fail(py, error)
}

#[cold]
fn fail(py: Python<'_>, error: PyErr) -> Object {
    error.restore(py);
    ptr::null_mut()
}

#[inline]
fn truth(is_so: bool) -> Object {
    // SAFETY: the GIL is held wherever this is called; both are always alive.
    let object = unsafe {
        if is_so {
            ffi::Py_True()
        } else {
            ffi::Py_False()
        }
    };
    // SAFETY: as above.
    unsafe { ffi::Py_INCREF(object) };
    object
}

#[inline]
fn none() -> Object {
    // SAFETY: always alive.
    let object = unsafe { ffi::Py_None() };
    // SAFETY: the GIL is held wherever this is called.
    unsafe { ffi::Py_INCREF(object) };
    object
}

/// # Safety
///
/// - Called by CPython only, with an instance, and the GIL held. So are all below.
unsafe extern "C" fn release(object: Object, _: Object) -> Object {
    // SAFETY: as promised.
    unsafe { guarded(object, |_, lock| lock.release().map(|()| none())) }
}

/// # Safety
///
/// - As [`release`].
unsafe extern "C" fn enter(object: Object, _: Object) -> Object {
    // SAFETY: as promised.
    unsafe {
        guarded(object, |py, lock| {
            lock.acquire(py, Patience::ENDLESS).map(truth)
        })
    }
}

/// # Safety
///
/// - As [`release`]; the arguments are not looked at.
unsafe extern "C" fn exit(object: Object, _: *const Object, _: ffi::Py_ssize_t) -> Object {
    // SAFETY: as promised.
    unsafe { release(object, ptr::null_mut()) }
}

/// # Safety
///
/// - As [`release`], with arguments as `METH_FASTCALL | METH_KEYWORDS` has them.
unsafe extern "C" fn acquire<const IS_ABANDONED_FINE: bool>(
    object: Object,
    args: *const Object,
    by_position: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    let work: Acquire = acquirer::<IS_ABANDONED_FINE>();
    let patience = |py: Python<'_>| {
        if by_position == 0 && names.is_null() {
            return Ok(Patience::ENDLESS);
        }
        // SAFETY: as promised.
        unsafe { Given::from_vector(py, args, by_position as usize, names) }?.patience()
    };
    // SAFETY: as promised.
    unsafe { guarded(object, |py, lock| work(lock, py, patience(py)?).map(truth)) }
}

/// # Safety
///
/// - As [`release`], with a tuple, and a dictionary or null.
unsafe extern "C" fn acquire_36<const IS_ABANDONED_FINE: bool>(
    object: Object,
    args: Object,
    keywords: Object,
) -> Object {
    let work: Acquire = acquirer::<IS_ABANDONED_FINE>();
    let patience = |py: Python<'_>| {
        // SAFETY: a tuple.
        if keywords.is_null() && unsafe { ffi::PyTuple_Size(args) } == 0 {
            return Ok(Patience::ENDLESS);
        }
        // SAFETY: as promised.
        unsafe { Given::from_tuple(py, args, keywords) }?.patience()
    };
    // SAFETY: as promised.
    unsafe { guarded(object, |py, lock| work(lock, py, patience(py)?).map(truth)) }
}

#[inline]
const fn acquirer<const IS_ABANDONED_FINE: bool>() -> Acquire {
    if IS_ABANDONED_FINE {
        AnyLock::acquire_abandoned
    } else {
        AnyLock::acquire
    }
}

/// The arguments of `acquire`.
#[derive(Default)]
struct Given<'a, 'py> {
    block: Option<Borrowed<'a, 'py, PyAny>>,
    timeout: Option<Borrowed<'a, 'py, PyAny>>,
}

impl<'a, 'py> Given<'a, 'py> {
    /// # Safety
    ///
    /// - So many live arguments by position, and then one for each of the `names`, a tuple
    ///   or null.
    #[inline]
    unsafe fn from_vector(
        py: Python<'py>,
        args: *const Object,
        by_position: usize,
        names: Object,
    ) -> PyResult<Self> {
        let mut given = Given::default();
        for at in 0..by_position {
            // SAFETY: the caller's promise, here and below.
            let value = unsafe { Borrowed::from_ptr(py, *args.add(at)) };
            given.put(Self::at(at)?, value)?;
        }
        if names.is_null() {
            return Ok(given);
        }
        // SAFETY: a tuple.
        let by_keyword = unsafe { ffi::PyTuple_Size(names) } as usize;
        for at in 0..by_keyword {
            // SAFETY: a tuple that has this item.
            let name = unsafe { ffi::PyTuple_GetItem(names, at as ffi::Py_ssize_t) };
            // SAFETY: the tuple keeps it.
            let name = unsafe { Borrowed::from_ptr(py, name) };
            // SAFETY: as above.
            let value = unsafe { Borrowed::from_ptr(py, *args.add(by_position + at)) };
            given.put(Self::named(&name)?, value)?;
        }
        Ok(given)
    }

    /// # Safety
    ///
    /// - A tuple, and a dictionary or null, which live as long as this.
    unsafe fn from_tuple(py: Python<'py>, args: Object, keywords: Object) -> PyResult<Self> {
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
        let is = |known: &CStr| {
            // SAFETY: names are text; a C string.
            unsafe { ffi::PyUnicode_CompareWithASCIIString(name.as_ptr(), known.as_ptr()) == 0 }
        };
        if is(c"block") {
            Ok(Argument::Block)
        } else if is(c"timeout") {
            Ok(Argument::Timeout)
        } else {
            let name = name.cast::<PyString>()?.to_string_lossy().into_owned();
            Err(PyTypeError::new_err(format!(
                "acquire() has no argument {name:?}: they are block and timeout"
            )))
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

    fn patience(&self) -> PyResult<Patience> {
        let block = self.block.map_or(Ok(true), |block| gil::is_true(&block))?;
        let timeout = self.timeout.filter(|timeout| !timeout.is_none());
        let timeout_ns = match timeout {
            Some(timeout) => seconds_ns(gil::float(&timeout)?),
            None => None,
        };
        Ok(if block {
            Patience { timeout_ns }
        } else {
            Patience::NONE
        })
    }
}

#[derive(Clone, Copy)]
enum Argument {
    Block,
    Timeout,
}

/// A method, in the form for 3.7 and newer and in that for 3.6.
struct Method {
    name: &'static CStr,
    doc: &'static CStr,
    call: (ffi::PyMethodDefPointer, c_int),
    call_36: (ffi::PyMethodDefPointer, c_int),
}

impl Method {
    /// One without arguments.
    fn plain(name: &'static CStr, doc: &'static CStr, call: ffi::PyCFunction) -> Self {
        let call = (
            ffi::PyMethodDefPointer { PyCFunction: call },
            ffi::METH_NOARGS,
        );
        Method {
            name,
            doc,
            call,
            call_36: call,
        }
    }

    /// `__exit__`.
    fn exiting() -> Self {
        // SAFETY: as in `acquiring`.
        let call = unsafe { std::mem::transmute::<FastExit, ffi::PyCFunction>(exit) };
        Method {
            name: c"__exit__",
            doc: c"__exit__($self, *args)\n--\n\nReleases.",
            call: (ffi::PyMethodDefPointer { PyCFunction: call }, METH_FASTCALL),
            // Its second argument, a tuple here, is looked at by nobody.
            call_36: (
                ffi::PyMethodDefPointer {
                    PyCFunction: release,
                },
                ffi::METH_VARARGS,
            ),
        }
    }

    /// One that takes the arguments of `acquire`.
    fn acquiring(
        name: &'static CStr,
        doc: &'static CStr,
        call: FastCall,
        call_36: ffi::PyCFunctionWithKeywords,
    ) -> Self {
        // SAFETY: nobody calls it as this type: by its flags CPython knows what it is.
        let call = unsafe { std::mem::transmute::<FastCall, ffi::PyCFunction>(call) };
        let call = ffi::PyMethodDefPointer { PyCFunction: call };
        let call_36 = ffi::PyMethodDefPointer {
            PyCFunctionWithKeywords: call_36,
        };
        Method {
            name,
            doc,
            call: (call, METH_FASTCALL | ffi::METH_KEYWORDS),
            call_36: (call_36, ffi::METH_VARARGS | ffi::METH_KEYWORDS),
        }
    }
}

fn methods() -> [Method; 5] {
    [
        Method::acquiring(
            c"acquire",
            c"acquire($self, block=True, timeout=None)\n--\n\nAcquires; whether it could in time.",
            acquire::<false>,
            acquire_36::<false>,
        ),
        Method::acquiring(
            c"_acquire_abandoned",
            c"_acquire_abandoned($self, block=True, timeout=None)\n--\n\n\
              As `acquire`, without an exception for what a dead process had.",
            acquire::<true>,
            acquire_36::<true>,
        ),
        Method::plain(c"release", c"release($self)\n--\n\nReleases.", release),
        Method::plain(c"__enter__", c"__enter__($self)\n--\n\nAcquires.", enter),
        Method::exiting(),
    ]
}

/// Gives a subclass of [`SemLock`] its methods.
///
/// Each of them has its own, since CPython 3.11 and newer call a method quickly only on
/// objects of exactly the type that the descriptor names.
#[pyfunction]
fn lock_methods(ty: &Bound<'_, PyType>) -> PyResult<()> {
    let py = ty.py();
    if !ty.is_subclass_of::<SemLock>()? {
        return Err(PyTypeError::new_err("a subclass of SemLock is needed"));
    }
    for method in methods() {
        let (ml_meth, ml_flags) = if py.version_info() < (3, 7) {
            method.call_36
        } else {
            method.call
        };
        // The descriptor keeps a pointer to its definition: it lives as long as the process.
        let definition = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: method.name.as_ptr(),
            ml_meth,
            ml_flags,
            ml_doc: method.doc.as_ptr(),
        }));
        // SAFETY: a live type, and a well formed definition that lives.
        let made = unsafe { ffi::PyDescr_NewMethod(ty.as_type_ptr(), definition) };
        // SAFETY: a new reference, or null with an exception set.
        let made = unsafe { Bound::from_owned_ptr_or_err(py, made) }?;
        ty.setattr(method.name, made)?;
    }
    Ok(())
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(lock_methods, m)?)
}
