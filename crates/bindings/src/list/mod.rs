//! `_core.ListBase`: the items of a `ShareableList`, and the functions around it.
//!
//! Guarantees: the list holds its own reference to the mapped memory, so nothing
//! that happens to the `SharedMemory` object can take the memory away. No Python
//! code runs while the list is looked at, so nobody can replace it meanwhile: values
//! are copied out first and become Python objects afterwards. Everything is checked
//! before anything is changed.
//!
//! What is dropped in a slot stays until PyO3 is next asked for something (`gil.rs`), so no
//! slot drops anything of Python's but in `gil::counted`: a loop over a list would otherwise
//! grow with each of its ends.
//!
//! Item access is far too hot for a method call with its argument parsing, so the
//! type is made from slots (`mp_subscript` and its kin), which a Python subclass
//! inherits as they are. Instances of subclasses are freed by CPython's
//! `subtype_dealloc`, which calls [`dealloc`]: who then gives back the reference to
//! the subclass changed in 3.8 (see there).

#![allow(unsafe_code)]

mod access;
mod functions;
mod key;
mod value;

pub(crate) use self::value::{item_of, object_of};

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pyo3::exceptions::{PySystemError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use shared_numpy_core::list::List;

use access::{assign_subscript, sq_item, subscript};

use crate::gil;

/// The layout of instances. `list` comes from `Arc::into_raw`; null before
/// `list_open` or `list_fill`.
#[repr(C)]
struct ListObject {
    ob_base: ffi::PyObject,
    list: *const List,
}

/// The type object; null before [`register`]. Written with the GIL held.
static TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// Whether `tp_dealloc` of a heap type gives back the type of each instance, also
/// of a subclass's: so since 3.8.
static DEALLOC_OWNS_SUBTYPE: AtomicBool = AtomicBool::new(true);

/// The list of an instance.
///
/// # Safety
///
/// - `object` is an instance of our type or a subclass.
/// - The result is dropped before any Python code may run.
#[inline]
unsafe fn list_of<'a>(object: *mut ffi::PyObject) -> Option<&'a List> {
    // SAFETY: instances have this layout.
    let list = unsafe { (*object.cast::<ListObject>()).list };
    // SAFETY: null, or from `Arc::into_raw` with a count that the instance holds
    // until Python code replaces it.
    unsafe { list.as_ref() }
}

#[cold]
fn no_list() -> PyErr {
    PyValueError::new_err("the ShareableList was not initialised")
}

/// Runs `work`; an error or a panic becomes the pending exception and `failed`.
///
/// What `work` itself drops of Python's it drops in `gil::counted`.
///
/// # Safety
///
/// - The GIL is held.
#[inline]
unsafe fn guarded<R>(failed: R, work: impl FnOnce() -> Result<R, PyErr>) -> R {
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(result)) => return result,
        Ok(Err(error)) => error,
        Err(_) => PySystemError::new_err("a bug in shared_numpy: the list code panicked"),
    };
    // SAFETY: the caller holds the GIL. That PyO3 does not know of it does not matter: all
    // that is done with this is to tell it.
    gil::raise(unsafe { Python::assume_attached() }, error);
    failed
}

/// # Safety
///
/// - Called by CPython only, with an instance and the GIL held.
unsafe extern "C" fn length(object: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    // SAFETY: an instance; no Python code runs below.
    match unsafe { list_of(object) } {
        Some(list) => list.len() as ffi::Py_ssize_t,
        None => {
            // SAFETY: the GIL is held; as in `guarded`.
            gil::raise(unsafe { Python::assume_attached() }, no_list());
            -1
        }
    }
}

/// # Safety
///
/// - Called by CPython only, with our type or a subclass and the GIL held.
unsafe extern "C" fn new(
    ty: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a live type; GenericAlloc zeroes, so `list` is null, and counts the
    // type on every version.
    unsafe { ffi::PyType_GenericAlloc(ty, 0) }
}

/// # Safety
///
/// - Called by CPython only, once, with an instance that nobody refers to: for one
///   of our own type as its `tp_dealloc`, for one of a subclass from
///   `subtype_dealloc`, which then no longer touches it.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: a live object's type may be read.
    let ty = unsafe { ffi::Py_TYPE(object) };
    // SAFETY: instances have this layout.
    let list = unsafe { (*object.cast::<ListObject>()).list };
    if !list.is_null() {
        // SAFETY: gives back the count that the instance held; nobody can reach it.
        drop(unsafe { Arc::from_raw(list) });
    }
    // A subclass has the garbage collector's way of freeing, ours the plain one.
    // SAFETY: the type of an instance is always a heap type, which is all that
    // `PyType_GetSlot` accepts before 3.10.
    let free = unsafe { ffi::PyType_GetSlot(ty, ffi::Py_tp_free) };
    if !free.is_null() {
        // SAFETY: the slot holds a function of this type.
        let free: ffi::freefunc = unsafe { std::mem::transmute(free) };
        // SAFETY: the matching counterpart of the allocation.
        unsafe { free(object.cast()) };
    }
    // GenericAlloc counted the type. Before 3.8 `subtype_dealloc` gives the count of
    // a subclass back itself; since then it leaves that to a base that is a heap type.
    if DEALLOC_OWNS_SUBTYPE.load(Ordering::Relaxed) || ty == TYPE.load(Ordering::Relaxed) {
        // SAFETY: as explained.
        unsafe { ffi::Py_DECREF(ty.cast()) };
    }
}

/// The instance behind `object`, checked.
fn instance(object: &Bound<'_, PyAny>) -> PyResult<*mut ListObject> {
    let ty = TYPE.load(Ordering::Relaxed);
    // SAFETY: both are live.
    if ty.is_null() || unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), ty) } == 0 {
        return Err(PyTypeError::new_err("a ListBase is needed"));
    }
    Ok(object.as_ptr().cast())
}

/// Gives `object` another list; the old one goes.
fn put(object: &Bound<'_, PyAny>, list: List) -> PyResult<()> {
    let at = instance(object)?;
    let new = Arc::into_raw(Arc::new(list));
    // SAFETY: an instance, as checked; the GIL is held, so nobody else looks.
    let old = unsafe { std::mem::replace(&mut (*at).list, new) };
    if !old.is_null() {
        // SAFETY: gives back the count that the instance held.
        drop(unsafe { Arc::from_raw(old) });
    }
    Ok(())
}

/// A count of its own of the list of `object`.
fn shared(object: &Bound<'_, PyAny>) -> PyResult<Arc<List>> {
    let at = instance(object)?;
    // SAFETY: an instance, as checked.
    let list = unsafe { (*at).list };
    if list.is_null() {
        return Err(no_list());
    }
    // SAFETY: from `Arc::into_raw`, with a count that the instance holds.
    unsafe { Arc::increment_strong_count(list) };
    // SAFETY: takes over the count added above.
    Ok(unsafe { Arc::from_raw(list) })
}

fn slot(number: c_int, value: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot {
        slot: number,
        pfunc: value,
    }
}

/// Python has ended, and all objects with it.
pub(crate) fn forget() {
    TYPE.store(ptr::null_mut(), Ordering::Relaxed);
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    let made = TYPE.load(Ordering::Relaxed).cast();
    // SAFETY: null, or the type that is never given back.
    if let Some(ty) = unsafe { Bound::from_borrowed_ptr_or_opt(py, made) } {
        m.add("ListBase", ty)?; // imported again: there are objects of this type
        return functions::register(m);
    }
    let mut slots = [
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_new, new as *mut c_void),
        slot(ffi::Py_sq_length, length as *mut c_void),
        slot(ffi::Py_sq_item, sq_item as *mut c_void),
        slot(ffi::Py_tp_iter, ffi::PySeqIter_New as *mut c_void),
        slot(ffi::Py_mp_subscript, subscript as *mut c_void),
        slot(ffi::Py_mp_ass_subscript, assign_subscript as *mut c_void),
        slot(
            ffi::Py_tp_doc,
            c"The items of a ShareableList; see list_fill and list_open."
                .as_ptr()
                .cast_mut()
                .cast(),
        ),
        slot(0, ptr::null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"shared_numpy._core.ListBase".as_ptr(),
        basicsize: size_of::<ListObject>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE) as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec and its slots are well formed and end with slot 0; CPython
    // copies what it needs, except the name, which is static.
    let ty = unsafe { ffi::PyType_FromSpec(&raw mut spec) };
    if ty.is_null() {
        return Err(PyErr::fetch(py));
    }
    DEALLOC_OWNS_SUBTYPE.store(py.version_info() >= (3, 8), Ordering::Relaxed);
    // Never given back: instances are compared with it until the end.
    TYPE.store(ty.cast(), Ordering::Relaxed);
    // SAFETY: a borrowed look at the reference kept above.
    m.add("ListBase", unsafe { Bound::from_borrowed_ptr(py, ty) })?;
    functions::register(m)
}
