//! `_core.Exporter`: mapped memory as a Python buffer.
//!
//! Guarantees: the memory is unmapped when the `Exporter` dies and not before.
//! NumPy keeps a reference to the exporter but no buffer export, so a count of
//! exports says nothing; the object's own life is what counts. A read-only
//! exporter refuses writable requests with `BufferError`.
//!
//! The buffer protocol entered the stable ABI in 3.11. On 3.9 and newer
//! `PyType_FromSpec` takes its slots all the same; on 3.6 to 3.8, whose type layout
//! will not change any more, they are written into the type. The type cannot be
//! subclassed or made from Python.

#![allow(unsafe_code)]
#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use shared_numpy_core::mapping::Mapping;

use crate::gil;

/// `Py_buffer`; the same on every CPython 3.
#[repr(C)]
struct Py_buffer {
    buf: *mut c_void,
    obj: *mut ffi::PyObject,
    len: ffi::Py_ssize_t,
    itemsize: ffi::Py_ssize_t,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut ffi::Py_ssize_t,
    strides: *mut ffi::Py_ssize_t,
    suboffsets: *mut ffi::Py_ssize_t,
    internal: *mut c_void,
}

/// `PyBufferProcs`; the same on every CPython 3.
#[repr(C)]
struct PyBufferProcs {
    getbuffer: unsafe extern "C" fn(*mut ffi::PyObject, *mut Py_buffer, c_int) -> c_int,
    releasebuffer: *mut c_void,
}

unsafe extern "C" {
    fn PyBuffer_FillInfo(
        view: *mut Py_buffer,
        exporter: *mut ffi::PyObject,
        buf: *mut c_void,
        len: ffi::Py_ssize_t,
        readonly: c_int,
        flags: c_int,
    ) -> c_int;
}

/// Slot number of `bf_getbuffer` in a `PyType_Spec`.
const BF_GETBUFFER: c_int = 1;
/// Where `tp_as_buffer` lies in a type object of CPython 3.6 to 3.8 (64 bit).
const TP_AS_BUFFER_OFFSET: usize = 160;

/// What an exporter holds. `mapping` comes from `Arc::into_raw` and is only null
/// in an object whose making failed half way.
#[repr(C)]
struct ExporterObject {
    ob_base: ffi::PyObject,
    mapping: *const Mapping,
    /// How many bytes are exported; at most the mapping's length.
    len: usize,
    /// An object that lives as long as this one, or null.
    owner: *mut ffi::PyObject,
    read_only: bool,
}

/// The type object, made once by [`register`]; null before.
///
/// Written once, with the GIL held, before anything can read it; Relaxed because the
/// GIL orders the rest.
static TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// An exporter of `mapping`; `read_only` may restrict a writable mapping.
pub(crate) fn new<'py>(
    py: Python<'py>,
    mapping: Arc<Mapping>,
    read_only: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let len = mapping.len();
    new_part(py, mapping, len, read_only, None)
}

/// An exporter of the first `len` bytes of `mapping` (all of it, if that is less)
/// that keeps `owner` alive until it dies itself.
///
/// `owner` must not lead back to the exporter: nothing would find the cycle.
pub(crate) fn new_part<'py>(
    py: Python<'py>,
    mapping: Arc<Mapping>,
    len: usize,
    read_only: bool,
    owner: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let ty = TYPE.load(Ordering::Relaxed);
    if ty.is_null() {
        return Err(PySystemError::new_err(
            "shared_numpy._core is not initialised",
        ));
    }
    // SAFETY: `ty` is a live heap type; GenericAlloc zeroes the object and counts
    // the type, on every version.
    let object = unsafe { ffi::PyType_GenericAlloc(ty, 0) };
    if object.is_null() {
        return Err(PyErr::fetch(py));
    }
    let exporter = object.cast::<ExporterObject>();
    let read_only = read_only || mapping.is_read_only();
    let len = len.min(mapping.len());
    // SAFETY: as below.
    unsafe {
        (*exporter).len = len;
    }
    // SAFETY: as below; the new object takes over the reference.
    unsafe {
        (*exporter).owner = owner.map_or(ptr::null_mut(), Bound::into_ptr);
    }
    // SAFETY: the object was allocated with room for `ExporterObject`, nobody else
    // has seen it yet, and the fields are plain data.
    unsafe {
        (*exporter).mapping = Arc::into_raw(mapping);
    }
    // SAFETY: as above.
    unsafe {
        (*exporter).read_only = read_only;
    }
    // SAFETY: `object` is a new reference, which `Bound` takes over.
    Ok(unsafe { Bound::from_owned_ptr(py, object) })
}

/// The mapping behind `object`, if it is an exporter.
pub(crate) fn mapping_of(object: &Bound<'_, PyAny>) -> Option<Arc<Mapping>> {
    // SAFETY: `object` is a live Python object; its type pointer may be read.
    let ty = unsafe { ffi::Py_TYPE(object.as_ptr()) };
    if ty != TYPE.load(Ordering::Relaxed) || ty.is_null() {
        return None;
    }
    let exporter = object.as_ptr().cast::<ExporterObject>();
    // SAFETY: the type was compared, so the layout is `ExporterObject`'s.
    let mapping = unsafe { (*exporter).mapping };
    if mapping.is_null() {
        return None;
    }
    // SAFETY: `mapping` came from `Arc::into_raw` and the exporter, alive, holds
    // that count; this adds one for the `Arc` made below.
    unsafe { Arc::increment_strong_count(mapping) };
    // SAFETY: takes over the count added above.
    Some(unsafe { Arc::from_raw(mapping) })
}

/// The type of exporters; null before [`register`].
pub(crate) fn type_object() -> *mut ffi::PyTypeObject {
    TYPE.load(Ordering::Relaxed)
}

/// The object that `object` keeps alive, if `object` is an exporter with an owner.
pub(crate) fn owner_of<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    if object.get_type_ptr() != type_object() || type_object().is_null() {
        return None;
    }
    // SAFETY: the type was compared, so the layout is `ExporterObject`'s.
    let owner = unsafe { (*object.as_ptr().cast::<ExporterObject>()).owner };
    // SAFETY: null or an object that the exporter keeps alive; adds a reference.
    unsafe { Bound::from_borrowed_ptr_or_opt(object.py(), owner) }
}

/// # Safety
///
/// - Called by CPython only, with `object` of our type and the GIL held.
/// - `view` is null or points to a `Py_buffer` to fill.
unsafe extern "C" fn getbuffer(
    object: *mut ffi::PyObject,
    view: *mut Py_buffer,
    flags: c_int,
) -> c_int {
    let exporter = object.cast::<ExporterObject>();
    // SAFETY: CPython calls this slot with objects of our type only.
    let mapping = unsafe { (*exporter).mapping };
    if view.is_null() || mapping.is_null() {
        // SAFETY: the exception type is a static of the running interpreter.
        let kind = unsafe { ffi::PyExc_BufferError };
        // SAFETY: the GIL is held; the message is a C string.
        unsafe { ffi::PyErr_SetString(kind, c"nothing to export".as_ptr()) };
        return -1;
    }
    // SAFETY: not null, so from `Arc::into_raw`, and the exporter holds its count.
    let mapping = unsafe { &*mapping };
    // SAFETY: plain field of our object.
    let read_only = unsafe { (*exporter).read_only };
    // SAFETY: plain field of our object.
    let len = unsafe { (*exporter).len };
    // SAFETY: `view` is not null; the bytes live as long as `object`, of which
    // FillInfo keeps a reference in the view; lengths were limited to `isize::MAX`.
    unsafe {
        PyBuffer_FillInfo(
            view,
            object,
            mapping.start().as_ptr().cast(),
            len as ffi::Py_ssize_t,
            c_int::from(read_only),
            flags,
        )
    }
}

/// # Safety
///
/// - Called by CPython only, once, for an object of our type that nobody refers to.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: a live object's type may be read.
    let ty = unsafe { ffi::Py_TYPE(object) };
    // SAFETY: objects of our type have this layout.
    let owner = unsafe { (*object.cast::<ExporterObject>()).owner };
    // The owner first: it removes the name, which is quick while memory is mapped.
    // SAFETY: null or a reference of ours, given back once; the GIL is held.
    unsafe { ffi::Py_XDECREF(owner) };
    // SAFETY: objects of our type have this layout.
    let mapping = unsafe { (*object.cast::<ExporterObject>()).mapping };
    if !mapping.is_null() {
        // SAFETY: gives back the count that `new` took with `Arc::into_raw`; the
        // object cannot be reached any more, so nobody reads the pointer again.
        let mapping = unsafe { Arc::from_raw(mapping) };
        if Arc::strong_count(&mapping) == 1 {
            let size_bytes = mapping.len();
            // SAFETY: CPython deallocates with the GIL held.
            let py = unsafe { Python::assume_attached() };
            gil::free(py, mapping, size_bytes);
        }
    }
    // SAFETY: allocated by PyType_GenericAlloc without GC, freed by its counterpart.
    unsafe { ffi::PyObject_Free(object.cast()) };
    // SAFETY: PyType_GenericAlloc counted the type for this object on all versions.
    unsafe { ffi::Py_DECREF(ty.cast()) };
}

/// # Safety
///
/// - Called by CPython only, with an object of our type.
unsafe extern "C" fn length(object: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    // SAFETY: objects of our type have this layout; zero when half made.
    unsafe { (*object.cast::<ExporterObject>()).len as ffi::Py_ssize_t }
}

/// # Safety
///
/// - Called by CPython only, with the GIL held.
unsafe extern "C" fn refuse_new(
    _ty: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the exception type is a static of the running interpreter.
    let kind = unsafe { ffi::PyExc_TypeError };
    // SAFETY: the GIL is held; the message is a C string.
    unsafe {
        ffi::PyErr_SetString(
            kind,
            c"cannot create 'shared_numpy._core.Exporter' instances".as_ptr(),
        );
    }
    ptr::null_mut()
}

/// # Safety
///
/// - Called by CPython only, with an object of our type.
unsafe extern "C" fn size(
    object: *mut ffi::PyObject,
    _no_args: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: same duties as ours, which the caller keeps.
    let len = unsafe { length(object) };
    // SAFETY: the GIL is held.
    unsafe { ffi::PyLong_FromSsize_t(len) }
}

/// # Safety
///
/// - Called by CPython only, with the GIL held.
unsafe extern "C" fn do_nothing(
    _object: *mut ffi::PyObject,
    _no_args: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the GIL is held.
    let none = unsafe { ffi::Py_None() };
    // SAFETY: None is alive; the count is the caller's reference.
    unsafe { ffi::Py_INCREF(none) };
    none
}

/// Whether the running interpreter is 3.8 or older.
fn is_before_39(py: Python<'_>) -> bool {
    py.version_info() < (3, 9)
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
        return m.add("Exporter", ty); // imported again: there are objects of this type
    }
    let method =
        |name: &'static std::ffi::CStr, doc: &'static std::ffi::CStr, call| ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: call },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: doc.as_ptr(),
        };
    // The type keeps a pointer to its methods: they live as long as the process.
    let methods: &'static mut [ffi::PyMethodDef] = Box::leak(Box::new([
        method(c"size", c"The size in bytes.", size),
        method(
            c"flush",
            c"Nothing to do: the memory has no file on a disk.",
            do_nothing,
        ),
        method(
            c"close",
            c"Nothing to do: the memory is unmapped with its last view.",
            do_nothing,
        ),
        ffi::PyMethodDef::zeroed(),
    ]));
    let mut slots = vec![
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_new, refuse_new as *mut c_void),
        slot(ffi::Py_sq_length, length as *mut c_void),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(
            ffi::Py_tp_doc,
            c"Mapped shared memory as a buffer; unmapped when this object and all views of it are gone."
                .as_ptr()
                .cast_mut()
                .cast(),
        ),
    ];
    if !is_before_39(py) {
        slots.push(slot(BF_GETBUFFER, getbuffer as *mut c_void));
    }
    slots.push(slot(0, ptr::null_mut()));
    let mut spec = ffi::PyType_Spec {
        name: c"shared_numpy._core.Exporter".as_ptr(),
        basicsize: size_of::<ExporterObject>() as c_int,
        itemsize: 0,
        flags: ffi::Py_TPFLAGS_DEFAULT as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec and its slots are well formed and end with slot 0; CPython
    // copies what it needs, except the name and the methods, which are static.
    let ty = unsafe { ffi::PyType_FromSpec(&raw mut spec) };
    if ty.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a new reference, taken over.
    let ty = unsafe { Bound::from_owned_ptr(py, ty) };
    if is_before_39(py) {
        // SAFETY: on 3.6 to 3.8 the word at this offset of a type is `tp_as_buffer`,
        // and for a type made by PyType_FromSpec it points to the `PyBufferProcs`
        // inside that heap type.
        let at = ty
            .as_ptr()
            .cast::<u8>()
            .wrapping_add(TP_AS_BUFFER_OFFSET)
            .cast::<*mut PyBufferProcs>();
        // SAFETY: on 3.6 to 3.8 the word at this offset of a type is `tp_as_buffer`,
        // and for a type made by PyType_FromSpec it points to the `PyBufferProcs`
        // inside that heap type.
        let procs = unsafe { at.read() };
        if procs.is_null() {
            return Err(PySystemError::new_err("unexpected type layout"));
        }
        // SAFETY: `procs` is that struct, written here before the type has objects.
        unsafe { (*procs).getbuffer = getbuffer };
    }
    // Never given back: the module's functions make exporters until the end.
    TYPE.store(ty.as_ptr().cast(), Ordering::Relaxed);
    m.add("Exporter", &ty)?;
    std::mem::forget(ty);
    Ok(())
}

fn slot(number: c_int, value: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot {
        slot: number,
        pfunc: value,
    }
}
