//! `acquire` and `release` as methods in C, of [`SemLock`] and its subclasses.
//!
//! Guarantee: arguments are looked at before anything is acquired.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_long};
use std::ptr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::lock::{AnyLock, Patience};
use super::semlock::SemLock;
use crate::arguments::{Given, Signature};
use crate::quick::{self, METH_FASTCALL, Method, Object, none};

/// As [`quick::FastCall`], where there are no keywords.
type FastExit = unsafe extern "C" fn(Object, *const Object, ffi::Py_ssize_t) -> Object;

const ACQUIRE: Signature = Signature {
    call: "acquire(block, timeout)",
    names: &[c"block", c"timeout"],
};

/// Runs `work` with the lock of `object`; null with an exception set when it fails.
///
/// # Safety
///
/// - As [`quick::guarded`], of [`SemLock`]. `work` drops no error and no `Py<T>`.
#[inline]
unsafe fn guarded(
    object: Object,
    work: impl FnOnce(Python<'_>, &AnyLock) -> PyResult<Object>,
) -> Object {
    // SAFETY: as promised.
    unsafe { quick::guarded(object, |py, lock: &SemLock| work(py, lock.get()?)) }
}

#[inline]
fn truth(is_so: bool) -> Object {
    // SAFETY: the GIL is held wherever this is called.
    unsafe { ffi::PyBool_FromLong(c_long::from(is_so)) }
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

fn patience_of(given: &Given<'_>) -> PyResult<Patience> {
    Patience::of(given.at(0), given.at(1))
}

/// # Safety
///
/// - As [`release`], with arguments as `METH_FASTCALL | METH_KEYWORDS` has them.
unsafe extern "C" fn acquire(
    object: Object,
    args: *const Object,
    by_position: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    let patience = |py: Python<'_>| {
        if by_position == 0 && names.is_null() {
            return Ok(Patience::ENDLESS);
        }
        let by_position = by_position as usize;
        // SAFETY: as promised.
        patience_of(&unsafe { Given::from_vector(py, &ACQUIRE, args, by_position, names) }?)
    };
    // SAFETY: as promised.
    unsafe {
        guarded(object, |py, lock| {
            lock.acquire(py, patience(py)?).map(truth)
        })
    }
}

/// # Safety
///
/// - As [`release`], with a tuple, and a dictionary or null.
unsafe extern "C" fn acquire_36(object: Object, args: Object, keywords: Object) -> Object {
    let patience = |py: Python<'_>| {
        // SAFETY: a tuple.
        if keywords.is_null() && unsafe { ffi::PyTuple_Size(args) } == 0 {
            return Ok(Patience::ENDLESS);
        }
        // SAFETY: as promised.
        patience_of(&unsafe { Given::from_tuple(py, &ACQUIRE, args, keywords) }?)
    };
    // SAFETY: as promised.
    unsafe {
        guarded(object, |py, lock| {
            lock.acquire(py, patience(py)?).map(truth)
        })
    }
}

/// One without arguments.
fn plain(name: &'static CStr, doc: &'static CStr, call: ffi::PyCFunction) -> Method {
    Method {
        name,
        doc,
        call: ffi::PyMethodDefPointer { PyCFunction: call },
        flags: ffi::METH_NOARGS,
    }
}

fn exiting(is_36: bool) -> Method {
    let method = plain(
        c"__exit__",
        c"__exit__($self, *args)\n--\n\nReleases.",
        release,
    );
    if is_36 {
        // Its second argument, a tuple here, is looked at by nobody.
        return Method {
            flags: ffi::METH_VARARGS,
            ..method
        };
    }
    // SAFETY: nobody calls it as this type: by its flags CPython knows what it is.
    let call = unsafe { std::mem::transmute::<FastExit, ffi::PyCFunction>(exit) };
    Method {
        call: ffi::PyMethodDefPointer { PyCFunction: call },
        flags: METH_FASTCALL,
        ..method
    }
}

/// Gives a subclass of [`SemLock`] its methods.
#[pyfunction]
fn lock_methods(ty: &Bound<'_, PyType>) -> PyResult<()> {
    if !ty.is_subclass_of::<SemLock>()? {
        return Err(PyTypeError::new_err("a subclass of SemLock is needed"));
    }
    let is_36 = ty.py().version_info() < (3, 7);
    let methods = [
        Method::called(
            ty.py(),
            c"acquire",
            c"acquire($self, block=True, timeout=None)\n--\n\nAcquires; whether it could in time.",
            (acquire, acquire_36),
        ),
        plain(c"release", c"release($self)\n--\n\nReleases.", release),
        plain(c"__enter__", c"__enter__($self)\n--\n\nAcquires.", enter),
        exiting(is_36),
    ];
    methods
        .into_iter()
        .try_for_each(|method| method.give_to(ty))
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(lock_methods, m)?)
}
