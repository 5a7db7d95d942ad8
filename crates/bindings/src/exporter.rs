//! `_core.Exporter`: shared memory as a Python buffer.
//!
//! Guarantees: what the memory is held by, a mapping or a hold on a block of a pool,
//! is let go when the `Exporter` dies and not before. NumPy keeps a reference to the
//! exporter but no buffer export, so a count of exports says nothing; the object's
//! own life is what counts. A read-only exporter refuses writable requests with
//! `BufferError`. Letting go of a block calls no Python and keeps the interpreter:
//! the garbage collector may do it anywhere.
//!
//! The buffer protocol entered the stable ABI in 3.11. On 3.9 and newer
//! `PyType_FromSpec` takes its slots all the same; on 3.6 to 3.8, whose type layout
//! will not change any more, they are written into the type. The type cannot be
//! subclassed or made from Python.

#![allow(unsafe_code)]
#![allow(non_camel_case_types)]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::named_array::NamedArray;
use shared_numpy_core::participation::Hold;

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

/// Why the memory of a block cannot be had any more.
pub(crate) const DROPPED: &CStr =
    c"this memory was inherited by a fork and let go by drop_inherited()";

/// Slot number of `bf_getbuffer` in a `PyType_Spec`.
const BF_GETBUFFER: c_int = 1;
/// Where `tp_as_buffer` lies in a type object of CPython 3.6 to 3.8 (64 bit).
const TP_AS_BUFFER_OFFSET: usize = 160;

/// What keeps the memory of an exporter.
enum Memory {
    /// A mapping of which the exporter shows the whole.
    Mapping(Arc<Mapping>),
    /// A block, from its beginning.
    Block(Hold),
    /// A named array, with its header.
    Named(Arc<NamedArray>),
}

/// For whom a block was made that is to be filled and then handed over; zero: for nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Mark {
    /// The channel, by a number of this process.
    pub(crate) channel: u64,
    /// The address of the array through which it is to be filled.
    pub(crate) array: usize,
    /// After how many forks: what a child inherits its parent may write to.
    pub(crate) epoch: u32,
}

/// An exporter. All bytes zero, as the allocator leaves it, is one that was not
/// made yet and has nothing.
#[repr(C)]
struct ExporterObject {
    ob_base: ffi::PyObject,
    /// Where the bytes begin; null before `memory` is there.
    start: *mut u8,
    /// How many there are.
    len: usize,
    read_only: Cell<bool>,
    mark: Cell<Mark>,
    memory: MaybeUninit<Memory>,
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
    let read_only = read_only || mapping.is_read_only();
    let (start, len) = (mapping.start().as_ptr(), mapping.len());
    export(py, Memory::Mapping(mapping), start, len, read_only)
}

/// An exporter of the first `len` bytes of a block.
pub(crate) fn new_block(py: Python<'_>, hold: Hold, len: usize) -> PyResult<Bound<'_, PyAny>> {
    let start = hold.start().as_ptr();
    let len = len.min(hold.size_bytes());
    export(py, Memory::Block(hold), start, len, false)
}

/// An exporter of the first `len` bytes of a block that nobody shall write to any more.
pub(crate) fn new_frame(py: Python<'_>, hold: Hold, len: usize) -> PyResult<Bound<'_, PyAny>> {
    let start = hold.start().as_ptr();
    let len = len.min(hold.size_bytes());
    export(py, Memory::Block(hold), start, len, true)
}

/// An exporter of the whole segment of a named array.
pub(crate) fn new_named(py: Python<'_>, array: Arc<NamedArray>) -> PyResult<Bound<'_, PyAny>> {
    let mapping = array.mapping();
    let read_only = mapping.is_read_only();
    let (start, len) = (mapping.start().as_ptr(), mapping.len());
    export(py, Memory::Named(array), start, len, read_only)
}

fn export(
    py: Python<'_>,
    memory: Memory,
    start: *mut u8,
    len: usize,
    read_only: bool,
) -> PyResult<Bound<'_, PyAny>> {
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
    // SAFETY: the object was allocated with room for `ExporterObject` and nobody else
    // has seen it yet; none of its fields has anything to drop before `memory` is
    // written, which is now.
    let exporter = unsafe { &mut *object.cast::<ExporterObject>() };
    exporter.memory.write(memory);
    exporter.start = start;
    exporter.len = len;
    exporter.read_only.set(read_only);
    // SAFETY: `object` is a new reference, which `Bound` takes over.
    Ok(unsafe { Bound::from_owned_ptr(py, object) })
}

/// What keeps the memory of `object`, if that is an exporter.
fn memory_of<'a>(object: &'a Bound<'_, PyAny>) -> Option<&'a Memory> {
    let ty = TYPE.load(Ordering::Relaxed);
    if ty.is_null() || object.get_type_ptr() != ty {
        return None;
    }
    let exporter = object.as_ptr().cast::<ExporterObject>();
    // SAFETY: the type was compared, so the layout is `ExporterObject`'s; once made,
    // an exporter is changed by its end only, which the reference keeps away.
    let exporter = unsafe { &*exporter };
    // SAFETY: where there is a start, there is a memory.
    (!exporter.start.is_null()).then(|| unsafe { exporter.memory.assume_init_ref() })
}

/// The mapping behind `object`, if it is an exporter of a whole one.
pub(crate) fn mapping_of(object: &Bound<'_, PyAny>) -> Option<Arc<Mapping>> {
    match memory_of(object)? {
        Memory::Mapping(mapping) => Some(Arc::clone(mapping)),
        Memory::Block(_) | Memory::Named(_) => None,
    }
}

/// The named array behind `object`, if it is an exporter of one.
pub(crate) fn named_of(object: &Bound<'_, PyAny>) -> Option<Arc<NamedArray>> {
    match memory_of(object)? {
        Memory::Named(array) => Some(Arc::clone(array)),
        Memory::Block(_) | Memory::Mapping(_) => None,
    }
}

/// The hold behind `object`, if it is an exporter of a block, and how many bytes of the
/// block it shows.
pub(crate) fn block_of<'a>(object: &'a Bound<'_, PyAny>) -> Option<(&'a Hold, usize)> {
    let Memory::Block(hold) = memory_of(object)? else {
        return None;
    };
    // SAFETY: it has a memory, so it is an exporter.
    let len = unsafe { (*object.as_ptr().cast::<ExporterObject>()).len };
    Some((hold, len))
}

/// Refuses writable requests to an exporter from now on; those that were met stay.
pub(crate) fn make_read_only(object: &Bound<'_, PyAny>) {
    if memory_of(object).is_some() {
        let exporter = object.as_ptr().cast::<ExporterObject>();
        // SAFETY: it has a memory, so it is an exporter, which the reference keeps alive.
        unsafe { (*exporter).read_only.set(true) };
    }
}

/// The mark of an exporter.
pub(crate) fn mark_of(object: &Bound<'_, PyAny>) -> Mark {
    if memory_of(object).is_none() {
        return Mark::default();
    }
    // SAFETY: it has a memory, so it is an exporter, which the reference keeps alive.
    unsafe { (*object.as_ptr().cast::<ExporterObject>()).mark.get() }
}

/// Marks an exporter.
pub(crate) fn set_mark(object: &Bound<'_, PyAny>, mark: Mark) {
    if memory_of(object).is_some() {
        // SAFETY: it has a memory, so it is an exporter, which the reference keeps alive.
        unsafe { (*object.as_ptr().cast::<ExporterObject>()).mark.set(mark) };
    }
}

/// The type of exporters; null before [`register`].
pub(crate) fn type_object() -> *mut ffi::PyTypeObject {
    TYPE.load(Ordering::Relaxed)
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
