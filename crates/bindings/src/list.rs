//! `_core.ListBase`: the items of a `ShareableList`, and the functions around it.
//!
//! Guarantees: the list holds its own reference to the mapped memory, so nothing
//! that happens to the `SharedMemory` object can take the memory away. No Python
//! code runs while the list is looked at, so nobody can replace it meanwhile: values
//! are copied out first and become Python objects afterwards. Everything is checked
//! before anything is changed.
//!
//! Item access is far too hot for a method call with its argument parsing, so the
//! type is made from slots (`mp_subscript` and its kin), which a Python subclass
//! inherits as they are. Instances of subclasses are freed by CPython's
//! `subtype_dealloc`, which calls [`dealloc`]: who then gives back the reference to
//! the subclass changed in 3.8 (see there).

#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pyo3::exceptions::{
    PyIndexError, PyOverflowError, PySystemError, PyTypeError, PyUnicodeEncodeError, PyValueError,
};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PySlice, PyTuple};
use shared_numpy_core::list::{Buffer, Error, Item, List, Plan};

use crate::error;
use crate::exporter;

unsafe extern "C" {
    // In every CPython since 3.3; in the stable ABI since 3.10.
    fn PyUnicode_AsUTF8AndSize(
        text: *mut ffi::PyObject,
        size: *mut ffi::Py_ssize_t,
    ) -> *const std::ffi::c_char;
}

/// The layout of instances. `list` comes from `Arc::into_raw`; null before
/// [`list_open`] or [`list_fill`].
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

/// The exception for `error`.
fn exception(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Memory(error) => error::exception(error),
        Error::OutOfRange { .. } => PyIndexError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}

/// Why a Python object is no item.
enum Refusal {
    /// An int of more than 64 bits.
    Overflow,
    /// Of no type that a list can hold.
    Unsupported,
    /// Python has set an exception.
    Raised,
    /// The list refused it.
    List(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::List(error)
    }
}

/// The exception for a refusal of `value` at `index`.
#[cold]
fn refused(py: Python<'_>, refusal: Refusal, index: usize, value: &Bound<'_, PyAny>) -> PyErr {
    match refusal {
        Refusal::Overflow => {
            PyOverflowError::new_err(format!("item {index}: int does not fit in 64 bits"))
        }
        Refusal::Unsupported => {
            let kind = value.get_type();
            let kind = kind
                .name()
                .map_or_else(|_| "?".to_owned(), |it| it.to_string());
            PyTypeError::new_err(format!(
                "item {index}: a ShareableList holds int, float, bool, str, bytes and None, not {kind}"
            ))
        }
        Refusal::Raised => {
            let error = PyErr::fetch(py);
            if error.is_instance_of::<PyUnicodeEncodeError>(py) {
                let inner = error.value(py);
                let told = inner
                    .getattr("reason")
                    .and_then(|reason| inner.setattr("reason", format!("{reason} (item {index})")));
                if let Err(error) = told {
                    return error;
                }
            }
            error
        }
        Refusal::List(error) => exception(error),
    }
}

/// The item that `value` stands for; it borrows the text of `value`.
///
/// Runs no Python code.
///
/// # Safety
///
/// - The GIL is held and `value` is alive for `'a`.
#[inline]
unsafe fn item_of<'a>(value: *mut ffi::PyObject) -> Result<Item<'a>, Refusal> {
    // SAFETY: `value` is alive. Exact types first, which most values are.
    if unsafe { ffi::PyLong_CheckExact(value) } != 0 {
        // SAFETY: it is an int.
        return unsafe { int_of(value) };
    }
    // SAFETY: as above; so is `value` an instance of what is asked, below.
    if unsafe { ffi::PyUnicode_Check(value) } != 0 {
        let mut len: ffi::Py_ssize_t = 0;
        // SAFETY: it is a str; the UTF-8 is kept in it as long as it lives.
        let text = unsafe { PyUnicode_AsUTF8AndSize(value, &raw mut len) };
        if text.is_null() {
            return Err(Refusal::Raised);
        }
        // SAFETY: so many bytes, unchanged while `value` lives.
        let text = unsafe { std::slice::from_raw_parts(text.cast(), len as usize) };
        return Ok(Item::Str(text));
    }
    // SAFETY: as above.
    if unsafe { ffi::PyFloat_Check(value) } != 0 {
        // SAFETY: it is a float, so no method of it is called and nothing fails.
        return Ok(Item::Float(unsafe { ffi::PyFloat_AsDouble(value) }));
    }
    // SAFETY: as above.
    if unsafe { ffi::PyBytes_Check(value) } != 0 {
        // SAFETY: it is a bytes object.
        let bytes = unsafe { ffi::PyBytes_AsString(value) };
        // SAFETY: it is a bytes object.
        let len = unsafe { ffi::PyBytes_Size(value) };
        // SAFETY: so many bytes, unchanged while `value` lives.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast(), len as usize) };
        return Ok(Item::Bytes(bytes));
    }
    // SAFETY: as above, here and below.
    if unsafe { ffi::Py_IsNone(value) } != 0 {
        return Ok(Item::None);
    }
    // SAFETY: as above.
    if unsafe { ffi::Py_IsTrue(value) } != 0 {
        return Ok(Item::Bool(true));
    }
    // SAFETY: as above.
    if unsafe { ffi::Py_IsFalse(value) } != 0 {
        return Ok(Item::Bool(false));
    }
    // SAFETY: as above.
    if unsafe { ffi::PyLong_Check(value) } != 0 {
        // SAFETY: it is an int.
        return unsafe { int_of(value) };
    }
    Err(Refusal::Unsupported)
}

/// # Safety
///
/// - The GIL is held and `value` is an int.
#[inline]
unsafe fn int_of<'a>(value: *mut ffi::PyObject) -> Result<Item<'a>, Refusal> {
    let mut overflow: c_int = 0;
    // SAFETY: it is an int, so no method of it is called.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value, &raw mut overflow) };
    if overflow == 0 {
        Ok(Item::Int(number))
    } else {
        Err(Refusal::Overflow)
    }
}

/// A new object for `item`; null with an exception set.
///
/// # Safety
///
/// - The GIL is held.
#[inline]
unsafe fn object_of(item: Item<'_>) -> *mut ffi::PyObject {
    match item {
        // SAFETY: the GIL is held, here and below.
        Item::Int(value) => unsafe { ffi::PyLong_FromLongLong(value) },
        // SAFETY: as above.
        Item::Float(value) => unsafe { ffi::PyFloat_FromDouble(value) },
        // SAFETY: as above.
        Item::Bool(value) => unsafe { ffi::PyBool_FromLong(c_long::from(value)) },
        Item::None => {
            // SAFETY: as above.
            let none = unsafe { ffi::Py_None() };
            // SAFETY: None is alive.
            unsafe { ffi::Py_INCREF(none) };
            none
        }
        // SAFETY: the pointer is valid for the length, which is at most `isize::MAX`.
        Item::Str(text) => unsafe {
            ffi::PyUnicode_DecodeUTF8(
                text.as_ptr().cast(),
                text.len() as ffi::Py_ssize_t,
                ptr::null(),
            )
        },
        // SAFETY: as above.
        Item::Bytes(bytes) => unsafe {
            ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t)
        },
    }
}

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
    // SAFETY: the caller holds the GIL.
    error.restore(unsafe { Python::assume_attached() });
    failed
}

/// What is between brackets.
enum Key {
    At(usize),
    Slice,
}

#[cold]
fn out_of_range(assigning: bool) -> PyErr {
    PyIndexError::new_err(if assigning {
        "assignment index out of range"
    } else {
        "index out of range"
    })
}

/// # Safety
///
/// - The GIL is held, `key` is alive and `len` is the length of the list.
#[inline]
unsafe fn key_of(key: *mut ffi::PyObject, len: usize, assigning: bool) -> Result<Key, PyErr> {
    // SAFETY: `key` is alive.
    let position = if unsafe { ffi::PyLong_CheckExact(key) } != 0 {
        // SAFETY: an int, so no Python code runs.
        let position = unsafe { ffi::PyLong_AsSsize_t(key) };
        // SAFETY: the GIL is held.
        if position == -1 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
            // SAFETY: the GIL is held.
            unsafe { ffi::PyErr_Clear() };
            return Err(out_of_range(assigning));
        }
        position
    } else {
        // SAFETY: the caller's.
        match unsafe { unusual_position(key) }? {
            Some(position) => position,
            None => return Ok(Key::Slice),
        }
    };
    let position = if position < 0 {
        position.checked_add_unsigned(len).unwrap_or(-1)
    } else {
        position
    };
    match usize::try_from(position) {
        Ok(position) if position < len => Ok(Key::At(position)),
        _ => Err(out_of_range(assigning)),
    }
}

/// The position that an object with `__index__` stands for; `None` for a slice.
///
/// # Safety
///
/// - The GIL is held and `key` is alive.
#[cold]
unsafe fn unusual_position(key: *mut ffi::PyObject) -> Result<Option<isize>, PyErr> {
    // SAFETY: the GIL is held.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: `key` is alive.
    let key = unsafe { Bound::from_borrowed_ptr(py, key) };
    if key.is_instance_of::<PySlice>() {
        return Ok(None);
    }
    // SAFETY: the GIL is held and `key` alive.
    let position = unsafe { ffi::PyNumber_Index(key.as_ptr()) };
    if position.is_null() {
        let error = PyErr::fetch(py);
        if !error.is_instance_of::<PyTypeError>(py) {
            return Err(error);
        }
        return Err(PyTypeError::new_err(format!(
            "ShareableList indices must be integers or slices, not {}",
            key.get_type().name()?
        )));
    }
    // SAFETY: a new reference.
    let position = unsafe { Bound::from_owned_ptr(py, position) };
    Ok(Some(position.extract().unwrap_or(isize::MAX)))
}

/// # Safety
///
/// - Called by CPython only, with an instance and the GIL held.
unsafe extern "C" fn length(object: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    // SAFETY: an instance; no Python code runs below.
    match unsafe { list_of(object) } {
        Some(list) => list.len() as ffi::Py_ssize_t,
        None => {
            // SAFETY: the GIL is held.
            no_list().restore(unsafe { Python::assume_attached() });
            -1
        }
    }
}

/// # Safety
///
/// - `object` is an instance and the GIL is held.
#[inline]
unsafe fn get_at(object: *mut ffi::PyObject, index: usize) -> Result<*mut ffi::PyObject, PyErr> {
    let mut buffer = Buffer::new();
    // SAFETY: an instance; the reference ends with this statement, before Python
    // objects are made.
    let item = unsafe { list_of(object) }
        .ok_or_else(no_list)?
        .get(index, &mut buffer)
        .map_err(exception)?;
    // SAFETY: the GIL is held.
    let made = unsafe { object_of(item) };
    if made.is_null() {
        // SAFETY: the GIL is held.
        return Err(PyErr::fetch(unsafe { Python::assume_attached() }));
    }
    Ok(made)
}

/// # Safety
///
/// - `object` is an instance, `value` is alive and the GIL is held.
#[inline]
unsafe fn set_at(
    object: *mut ffi::PyObject,
    index: usize,
    value: *mut ffi::PyObject,
    check_only: bool,
) -> Result<(), PyErr> {
    // SAFETY: `value` is alive and outlives the item.
    let outcome = unsafe { item_of(value) }.and_then(|item| {
        // SAFETY: an instance; no Python code runs in the list.
        let list = unsafe { list_of(object) }
            .ok_or(Refusal::List(Error::OutOfRange { index, count: 0 }))?;
        if check_only {
            Ok(list.check(index, &item)?)
        } else {
            Ok(list.set(index, &item)?)
        }
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(refusal) => {
            // SAFETY: the GIL is held.
            let py = unsafe { Python::assume_attached() };
            // SAFETY: `value` is alive.
            let value = unsafe { Bound::from_borrowed_ptr(py, value) };
            Err(refused(py, refusal, index, &value))
        }
    }
}

/// # Safety
///
/// - Called by CPython only, with an instance and the GIL held.
unsafe extern "C" fn sq_item(
    object: *mut ffi::PyObject,
    index: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    let work = || {
        // SAFETY: an instance; the reference ends here.
        let len = unsafe { list_of(object) }.ok_or_else(no_list)?.len();
        match usize::try_from(index) {
            // SAFETY: the caller's.
            Ok(index) if index < len => unsafe { get_at(object, index) },
            _ => Err(out_of_range(false)),
        }
    };
    // SAFETY: the GIL is held.
    unsafe { guarded(ptr::null_mut(), work) }
}

/// # Safety
///
/// - Called by CPython only, with an instance, a live key and the GIL held.
unsafe extern "C" fn subscript(
    object: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let work = || {
        // SAFETY: an instance; the reference ends here.
        let len = unsafe { list_of(object) }.ok_or_else(no_list)?.len();
        // SAFETY: the caller's. It may run Python code and so replace the list; the
        // position is checked again by the one it is used with.
        match unsafe { key_of(key, len, false) }? {
            // SAFETY: the caller's.
            Key::At(index) => unsafe { get_at(object, index) },
            // SAFETY: the caller's.
            Key::Slice => unsafe { get_slice(object, key, len) },
        }
    };
    // SAFETY: the GIL is held.
    unsafe { guarded(ptr::null_mut(), work) }
}

/// # Safety
///
/// - Called by CPython only, with an instance, a live key and the GIL held;
///   `value` is null for a deletion.
unsafe extern "C" fn assign_subscript(
    object: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    let work = || {
        if value.is_null() {
            return Err(PyTypeError::new_err(
                "a ShareableList has a fixed length: items cannot be deleted",
            ));
        }
        // SAFETY: an instance; the reference ends here.
        let len = unsafe { list_of(object) }.ok_or_else(no_list)?.len();
        // SAFETY: the caller's; see `subscript`.
        match unsafe { key_of(key, len, true) }? {
            // SAFETY: the caller's.
            Key::At(index) => unsafe { set_at(object, index, value, false) }?,
            // SAFETY: the caller's.
            Key::Slice => unsafe { set_slice(object, key, value, len) }?,
        }
        Ok(0)
    };
    // SAFETY: the GIL is held.
    unsafe { guarded(-1, work) }
}

/// The positions that a slice selects.
///
/// # Safety
///
/// - The GIL is held and `slice` is a live slice.
unsafe fn positions(
    py: Python<'_>,
    slice: *mut ffi::PyObject,
    len: usize,
) -> Result<Vec<usize>, PyErr> {
    // SAFETY: `slice` is alive.
    let slice = unsafe { Bound::from_borrowed_ptr(py, slice) };
    // The method, because 3.6.0 lacks the functions of the C API.
    let (start, stop, step): (isize, isize, Bound<'_, PyAny>) =
        slice.call_method1("indices", (len,))?.extract()?;
    let step = match step.extract() {
        Ok(step) => step,
        Err(_) if step.lt(0)? => isize::MIN,
        Err(_) => isize::MAX,
    };
    let mut selected = Vec::new();
    let mut position = start;
    while if step > 0 {
        position < stop
    } else {
        position > stop
    } {
        selected.push(position as usize);
        // A step may be so large that it leads out of all numbers at once.
        position = position.saturating_add(step);
    }
    Ok(selected)
}

/// # Safety
///
/// - `object` is an instance, `slice` is a live slice and the GIL is held.
#[cold]
unsafe fn get_slice(
    object: *mut ffi::PyObject,
    slice: *mut ffi::PyObject,
    len: usize,
) -> Result<*mut ffi::PyObject, PyErr> {
    // SAFETY: the GIL is held.
    let py = unsafe { Python::assume_attached() };
    let mut items = Vec::new();
    // SAFETY: the caller's.
    for index in unsafe { positions(py, slice, len) }? {
        // SAFETY: the caller's.
        let item = unsafe { get_at(object, index) }?;
        // SAFETY: a new reference.
        items.push(unsafe { Bound::from_owned_ptr(py, item) });
    }
    Ok(pyo3::types::PyList::new(py, items)?.into_ptr())
}

/// All or nothing.
///
/// # Safety
///
/// - `object` is an instance, `slice` is a live slice, `values` is alive and the GIL
///   is held.
#[cold]
unsafe fn set_slice(
    object: *mut ffi::PyObject,
    slice: *mut ffi::PyObject,
    values: *mut ffi::PyObject,
    len: usize,
) -> Result<(), PyErr> {
    // SAFETY: the GIL is held.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: `values` is alive. A tuple of our own: nobody changes it meanwhile.
    let values = unsafe { ffi::PySequence_Tuple(values) };
    if values.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a new reference.
    let values = unsafe { Bound::from_owned_ptr(py, values) };
    let values = values.cast_into::<PyTuple>()?;
    // SAFETY: the caller's.
    let selected = unsafe { positions(py, slice, len) }?;
    if selected.len() != values.len() {
        return Err(PyValueError::new_err(format!(
            "attempt to assign sequence of size {} to slice of size {}: a ShareableList has a fixed length",
            values.len(),
            selected.len()
        )));
    }
    for check_only in [true, false] {
        for (&index, value) in selected.iter().zip(values.iter()) {
            // SAFETY: the caller's; `value` is alive.
            unsafe { set_at(object, index, value.as_ptr(), check_only) }?;
        }
    }
    Ok(())
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

/// Calls `use_item` with each value as an item.
fn each_item(
    values: &Bound<'_, PyTuple>,
    mut use_item: impl FnMut(usize, &Item<'_>) -> Result<(), Error>,
) -> PyResult<()> {
    for (index, value) in values.iter().enumerate() {
        // SAFETY: `value` is alive during this turn.
        let outcome =
            unsafe { item_of(value.as_ptr()) }.and_then(|item| Ok(use_item(index, &item)?));
        outcome.map_err(|refusal| refused(values.py(), refusal, index, &value))?;
    }
    Ok(())
}

fn plan_of(values: &Bound<'_, PyTuple>) -> PyResult<Plan> {
    let mut plan = Plan::new();
    each_item(values, |_, item| plan.push(item))?;
    Ok(plan)
}

/// The size in bytes of the segment that a list of `values` needs.
///
/// Raises TypeError, OverflowError or ValueError with the index of the first value
/// that a list cannot hold.
#[pyfunction]
fn list_size(values: &Bound<'_, PyTuple>) -> PyResult<usize> {
    plan_of(values)?.size_bytes().map_err(exception)
}

/// Makes a list of `values` in the fresh memory of `memory`, for `base`.
#[pyfunction]
fn list_fill(
    base: &Bound<'_, PyAny>,
    memory: &Bound<'_, PyAny>,
    values: &Bound<'_, PyTuple>,
) -> PyResult<()> {
    let mapping = exporter::mapping_of(memory)
        .ok_or_else(|| PyTypeError::new_err("the memory of a SharedMemory is needed"))?;
    let list = List::create(mapping, &plan_of(values)?).map_err(exception)?;
    each_item(values, |index, item| list.initialise(index, item))?;
    list.publish().map_err(exception)?;
    put(base, list)
}

/// Finds the list in `memory`, for `base`.
#[pyfunction]
fn list_open(base: &Bound<'_, PyAny>, memory: &Bound<'_, PyAny>) -> PyResult<()> {
    let mapping = exporter::mapping_of(memory)
        .ok_or_else(|| PyTypeError::new_err("the memory of a SharedMemory is needed"))?;
    put(base, List::open(mapping).map_err(exception)?)
}

/// The `struct` format of the item at `index`.
#[pyfunction]
fn list_format(base: &Bound<'_, PyAny>, index: usize) -> PyResult<String> {
    shared(base)?.format(index).map_err(exception)
}

/// The `struct` formats of all items, one after the other.
#[pyfunction]
fn list_formats(base: &Bound<'_, PyAny>) -> PyResult<String> {
    let list = shared(base)?;
    let mut formats = String::new();
    for index in 0..list.len() {
        formats.push_str(&list.format(index).map_err(exception)?);
    }
    Ok(formats)
}

/// The recorded code of the item at `index`: how to turn bytes into its value.
#[pyfunction]
fn list_code(base: &Bound<'_, PyAny>, index: usize) -> PyResult<u8> {
    shared(base)?.code(index).map_err(exception)
}

/// Where slots, formats and codes begin, in bytes from the start of the segment.
#[pyfunction]
fn list_parts(base: &Bound<'_, PyAny>) -> PyResult<(usize, usize, usize)> {
    Ok(shared(base)?.parts())
}

fn slot(number: c_int, value: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot {
        slot: number,
        pfunc: value,
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
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
    m.add_function(wrap_pyfunction!(list_size, m)?)?;
    m.add_function(wrap_pyfunction!(list_fill, m)?)?;
    m.add_function(wrap_pyfunction!(list_open, m)?)?;
    m.add_function(wrap_pyfunction!(list_format, m)?)?;
    m.add_function(wrap_pyfunction!(list_formats, m)?)?;
    m.add_function(wrap_pyfunction!(list_code, m)?)?;
    m.add_function(wrap_pyfunction!(list_parts, m)?)?;
    Ok(())
}
