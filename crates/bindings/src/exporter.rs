//! `_core.Exporter`: shared memory as a Python buffer.
//!
//! Guarantees: what the memory is held by, a mapping or a hold on a block of a pool,
//! is let go when the `Exporter` dies and not before. NumPy keeps a reference to the
//! exporter but no buffer export, so a count of exports says nothing; the object's
//! own life is what counts. A read-only exporter refuses writable requests with
//! `BufferError`. Letting go of a block calls no Python and keeps the interpreter:
//! the garbage collector may do it anywhere.
//!
//! The type cannot be subclassed or made from Python; `slots` makes it.

#![allow(unsafe_code)]

mod slots;

use std::cell::Cell;
use std::ffi::CStr;
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

pub(crate) use slots::register;

/// Why the memory of a block cannot be had any more.
pub(crate) const DROPPED: &CStr =
    c"this memory was inherited by a fork and let go by drop_inherited()";

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

/// Whether `object` is an exporter that refuses writable requests.
pub(crate) fn is_read_only(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: it has a memory, so it is an exporter, which the reference keeps alive.
    let is_so = || unsafe { (*object.as_ptr().cast::<ExporterObject>()).read_only.get() };
    memory_of(object).is_some() && is_so()
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

/// Python has ended, and all objects with it.
pub(crate) fn forget() {
    TYPE.store(ptr::null_mut(), Ordering::Relaxed);
}
