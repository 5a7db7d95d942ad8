//! The type of exporters: what CPython calls, and how the type is made.
//!
//! The buffer protocol entered the stable ABI in 3.11. On 3.9 and newer
//! `PyType_FromSpec` takes its slots all the same; on 3.6 to 3.8, whose type layout
//! will not change any more, they are written into the type.

#![allow(unsafe_code)]
#![allow(non_camel_case_types)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::{DROPPED, ExporterObject, Memory, TYPE};
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

/// # Safety
///
/// - Called by CPython only, with `object` of our type and the GIL held.
/// - `view` is null or points to a `Py_buffer` to fill.
unsafe extern "C" fn getbuffer(
    object: *mut ffi::PyObject,
    view: *mut Py_buffer,
    flags: c_int,
) -> c_int {
    // SAFETY: CPython calls this slot with objects of our type only.
    let exporter = unsafe { &*object.cast::<ExporterObject>() };
    let refusal = if view.is_null() || exporter.start.is_null() {
        // SAFETY: the exception type is a static of the running interpreter.
        Some((unsafe { ffi::PyExc_BufferError }, c"nothing to export"))
    } else {
        // SAFETY: where there is a start, there is a memory.
        match unsafe { exporter.memory.assume_init_ref() } {
            // As using an array over it; where that looks first, it says more.
            Memory::Block(hold) if hold.is_dropped() => {
                // SAFETY: the exception type is a static of the running interpreter.
                Some((unsafe { ffi::PyExc_ValueError }, DROPPED))
            }
            _ => None,
        }
    };
    if let Some((kind, refusal)) = refusal {
        if !view.is_null() {
            // The protocol asks for it: nobody is to give back what was not had.
            // SAFETY: a `Py_buffer` to fill, as the caller promises.
            unsafe { (*view).obj = ptr::null_mut() };
        }
        // SAFETY: the GIL is held; the message is a C string.
        unsafe { ffi::PyErr_SetString(kind, refusal.as_ptr()) };
        return -1;
    }
    // SAFETY: `view` is not null; the bytes live as long as `object`, of which
    // FillInfo keeps a reference in the view; lengths were limited to `isize::MAX`.
    unsafe {
        PyBuffer_FillInfo(
            view,
            object,
            exporter.start.cast(),
            exporter.len as ffi::Py_ssize_t,
            c_int::from(exporter.read_only.get()),
            flags,
        )
    }
}

/// Lets go of a mapping of so many bytes; called in deallocation only, with the GIL held.
fn unmap<T>(mapping: Arc<T>, size_bytes: usize) {
    if Arc::strong_count(&mapping) > 1 {
        return;
    }
    // SAFETY: CPython deallocates with the GIL held.
    let py = unsafe { Python::assume_attached() };
    gil::free(py, mapping, size_bytes);
}

/// # Safety
///
/// - Called by CPython only, once, for an object of our type that nobody refers to.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: a live object's type may be read.
    let ty = unsafe { ffi::Py_TYPE(object) };
    // SAFETY: objects of our type have this layout, and nobody else refers to this one.
    let exporter = unsafe { &mut *object.cast::<ExporterObject>() };
    if !exporter.start.is_null() {
        exporter.start = ptr::null_mut();
        // SAFETY: where there was a start, there was a memory; it is not looked at again.
        match unsafe { exporter.memory.assume_init_read() } {
            Memory::Block(hold) => drop(hold),
            Memory::Mapping(mapping) => unmap(mapping, exporter.len),
            Memory::Named(array) => unmap(array, exporter.len),
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

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    let made = TYPE.load(Ordering::Relaxed).cast();
    // SAFETY: null, or the type that is never given back.
    if let Some(ty) = unsafe { Bound::from_borrowed_ptr_or_opt(py, made) } {
        return m.add("Exporter", ty); // imported again: there are objects of this type
    }
    let method = |name: &'static CStr, doc: &'static CStr, call| ffi::PyMethodDef {
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
            c"Shared memory as a buffer; let go when this object and all views of it are gone."
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
