//! What we know of NumPy's array object, and the hook NumPy calls for each new one.
//!
//! Guarantees:
//!
//! - An object of type `SharedNDArray` lies in shared memory. NumPy makes results
//!   of the type of their operands; where such a result has memory of its own, the
//!   hook gives it the type `numpy.ndarray` before anybody has seen it.
//! - The hook is a method in C that does a few loads and runs no Python code.
//!
//! The hook is `__array_finalize__`, which NumPy calls last in the making of an
//! array. The head of the array object (`ArrayFields`) is part of NumPy's binary
//! interface: every compiled extension has it inlined, in NumPy 1 and 2. (NumPy
//! takes a capsule for the hook too, which would be faster still, but its own
//! Python code calls the attribute.)

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PySystemError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::exporter;
use crate::gil;
use crate::numpy;

/// The head of NumPy's array object.
#[repr(C)]
struct ArrayFields {
    ob_base: ffi::PyObject,
    data: *mut c_char,
    nd: c_int,
    dimensions: *mut ffi::Py_ssize_t,
    strides: *mut ffi::Py_ssize_t,
    base: *mut ffi::PyObject,
    descr: *mut ffi::PyObject,
    flags: c_int,
}

/// Flag of an array that frees its data itself.
const OWNS_DATA: c_int = 0x0004;

/// `numpy.ndarray`; null before [`array_type`].
static NDARRAY: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// `shared_numpy.SharedNDArray`; null before [`array_type`].
static SHARED: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// # Safety
///
/// - `object` is a live Python object, the GIL is held.
unsafe fn is_array(object: *mut ffi::PyObject) -> bool {
    // Relaxed, here and below: written once under the GIL.
    let ndarray = NDARRAY.load(Ordering::Relaxed);
    // SAFETY: the caller's promise; types live at least as long as their objects.
    let ty = unsafe { ffi::Py_TYPE(object) };
    // SAFETY: both are live types once `ndarray` is not null.
    !ndarray.is_null() && (ty == ndarray || unsafe { ffi::PyType_IsSubtype(ty, ndarray) } != 0)
}

/// The exporter at the end of an array's bases, or null.
///
/// # Safety
///
/// - `array` is a live NumPy array, the GIL is held.
unsafe fn exporter_behind(array: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let mut array = array.cast::<ArrayFields>();
    loop {
        // SAFETY: a live array: the caller's, or the base of one, which keeps it.
        let base = unsafe { (*array).base };
        if base.is_null() {
            return base;
        }
        // SAFETY: an array keeps its base alive.
        if unsafe { ffi::Py_TYPE(base) } == exporter::type_object() {
            return base;
        }
        // SAFETY: as above.
        if !unsafe { is_array(base) } {
            return ptr::null_mut();
        }
        array = base.cast();
    }
}

/// Whether the memory of a new array is shared.
///
/// # Safety
///
/// - `array` is a NumPy array, complete but for its base perhaps; `parent` is null
///   or a live object; the GIL is held.
unsafe fn is_shared(array: *mut ffi::PyObject, parent: *mut ffi::PyObject) -> bool {
    let fields = array.cast::<ArrayFields>();
    // SAFETY: an array has these fields.
    if unsafe { (*fields).flags } & OWNS_DATA != 0 {
        return false;
    }
    // SAFETY: as above.
    if !unsafe { (*fields).base }.is_null() {
        // SAFETY: the caller's promise.
        return !unsafe { exporter_behind(array) }.is_null();
    }
    // Neither an owner nor a view yet: NumPy may set the base later, to `parent`.
    // SAFETY: null or alive.
    parent != array && !parent.is_null() && unsafe { is_array(parent) } && {
        // SAFETY: an array, as was just found out.
        !unsafe { exporter_behind(parent) }.is_null()
    }
}

/// `SharedNDArray.__array_finalize__(self, parent)`: NumPy's last step in making an
/// array.
///
/// # Safety
///
/// - Called by CPython only, as a method of a type that is derived from NumPy's
///   array, with the object the array was made from, or None; the GIL is held.
unsafe extern "C" fn finalize(
    array: *mut ffi::PyObject,
    parent: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's promises.
    unsafe { settle_type(array, parent) };
    // SAFETY: the GIL is held.
    let none = unsafe { ffi::Py_None() };
    // SAFETY: None is alive; the count is the caller's reference.
    unsafe { ffi::Py_INCREF(none) };
    none
}

/// Makes an array whose memory is its own an ordinary one.
///
/// # Safety
///
/// - As for [`finalize`].
unsafe fn settle_type(array: *mut ffi::PyObject, parent: *mut ffi::PyObject) {
    let shared = SHARED.load(Ordering::Relaxed);
    // SAFETY: a live object.
    if unsafe { ffi::Py_TYPE(array) } != shared {
        return; // a user's subclass, whose objects are laid out in another way
    }
    // SAFETY: the caller's promises.
    if unsafe { is_shared(array, parent) } {
        return;
    }
    // SAFETY: `array_type` checked that objects of both types are laid out,
    // allocated and freed alike; what can be done to the one can be done to the other.
    unsafe { (*array).ob_type = NDARRAY.load(Ordering::Relaxed) };
    // SAFETY: the allocation counted a reference to the heap type for this object,
    // which the object's end will not give back any more. Others keep the type.
    unsafe { ffi::Py_DECREF(shared.cast()) };
}

/// Makes an ordinary array over an exporter a `SharedNDArray`: [`settle_type`] the other
/// way round, for which NumPy need not be asked.
///
/// # Safety
///
/// - `array` is new, of exactly NumPy's type, lies in shared memory, and nobody else knows it;
///   the GIL is held.
pub(crate) unsafe fn adopt(array: *mut ffi::PyObject) {
    let shared = SHARED.load(Ordering::Relaxed);
    debug_assert!(!shared.is_null());
    // SAFETY: null only before `array_type`, without which there is no table of NumPy's
    // functions to make an array with. The allocation counted no type, NumPy's being a
    // static one; the object's end gives back a reference to a heap type, which is this.
    unsafe { ffi::Py_INCREF(shared.cast()) };
    // SAFETY: `array_type` checked that objects of both types are laid out, allocated and
    // freed alike. No reference but the caller's exists, so no code remembers the type.
    unsafe { (*array).ob_type = shared };
}

/// Makes the type `SharedNDArray`, derived from `numpy.ndarray`; the same one at
/// each call. Python adds its methods.
///
/// A class statement would not do: since 3.8 its objects are garbage collected, so
/// that they are laid out and freed unlike NumPy's and cannot change into those.
#[pyfunction]
fn array_type<'py>(ndarray: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let py = ndarray.py();
    let made = SHARED.load(Ordering::Relaxed);
    if !made.is_null() {
        // SAFETY: never given back, see below.
        return Ok(unsafe { Bound::from_borrowed_ptr(py, made.cast()) });
    }
    // The type keeps a pointer to its methods: they live as long as the process.
    let methods: &'static mut [ffi::PyMethodDef] = Box::leak(Box::new([
        ffi::PyMethodDef {
            ml_name: c"__array_finalize__".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer {
                PyCFunction: finalize,
            },
            ml_flags: ffi::METH_O,
            ml_doc: c"Called by numpy for each new array: private memory makes an ordinary array."
                .as_ptr(),
        },
        ffi::PyMethodDef::zeroed(),
    ]));
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        // Counts a reference to the type for each object on every version, which
        // `settle_type` relies on and NumPy's own older allocator does not do.
        slot(ffi::Py_tp_alloc, ffi::PyType_GenericAlloc as *mut c_void),
        slot(ffi::Py_tp_free, ffi::PyObject_Free as *mut c_void),
        slot(0, ptr::null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"shared_numpy.arrays.SharedNDArray".as_ptr(),
        basicsize: 0, // as the base's
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE) as u32,
        slots: slots.as_mut_ptr(),
    };
    let bases = PyTuple::new(py, [ndarray])?;
    // SAFETY: the spec and its slots are well formed and end with slot 0; CPython
    // copies what it needs, except the name and the methods, which are static.
    let ty = unsafe { ffi::PyType_FromSpecWithBases(&raw mut spec, bases.as_ptr()) };
    // SAFETY: a new reference, or null with an exception set.
    let ty = unsafe { Bound::from_owned_ptr_or_err(py, ty) }?;
    // What `settle_type` and `adopt` need: same size, same extras, and both without a header of
    // the garbage collector or of CPython in front.
    for attribute in [
        "__basicsize__",
        "__itemsize__",
        "__dictoffset__",
        "__weakrefoffset__",
    ] {
        if !ndarray.getattr(attribute)?.eq(ty.getattr(attribute)?)? {
            return Err(PySystemError::new_err(format!("{attribute} differs")));
        }
    }
    const HEADER_FLAGS: u64 = 1 << 14 | 1 << 3 | 1 << 4;
    for ty in [ndarray.as_any(), &ty] {
        if ty.getattr("__flags__")?.extract::<u64>()? & HEADER_FLAGS != 0 {
            return Err(PySystemError::new_err("arrays have an unknown layout"));
        }
    }
    const HEAP_TYPE: u64 = 1 << 9;
    if ndarray.getattr("__flags__")?.extract::<u64>()? & HEAP_TYPE != 0 {
        // Then its objects would count it.
        return Err(PySystemError::new_err("numpy.ndarray is not a static type"));
    }
    // Never given back: the types are used until the process ends.
    NDARRAY.store(ndarray.clone().into_ptr().cast(), Ordering::Relaxed);
    SHARED.store(ty.clone().into_ptr().cast(), Ordering::Relaxed);
    // Without it arrays are made by Python code.
    if let Err(error) = numpy::load(ndarray.as_any()) {
        let warnings = py.import("warnings")?;
        warnings.call_method1("warn", (format!("arrays are made slowly: {error}"),))?;
    }
    Ok(ty)
}

/// A result of NumPy's as it would be for plain operands: as it is, or a scalar.
///
/// The value of `SharedNDArray.__array_wrap__`, which NumPy calls with the result and up to
/// two more arguments: one that does not matter here, and since NumPy 2 whether a result
/// without axes is to become a scalar, which it always did before.
#[pyfunction]
#[pyo3(signature = (array, context=None, return_scalar=None))]
fn array_unwrap<'py>(
    array: Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    return_scalar: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let _ = context;
    let to_scalar = match return_scalar {
        None => true,
        Some(told) => told.is_none() || gil::is_true(told)?,
    };
    if to_scalar && array.get_type_ptr() == NDARRAY.load(Ordering::Relaxed) {
        // SAFETY: the type was compared: an array, and alive.
        let nd = unsafe { (*array.as_ptr().cast::<ArrayFields>()).nd };
        if nd == 0 {
            return array.get_item(PyTuple::empty(array.py()));
        }
    }
    Ok(array)
}

/// The array, as it is: NumPy 1 asks before it writes a result.
#[pyfunction]
#[pyo3(signature = (array, context=None))]
fn array_prepare<'py>(
    array: Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
) -> Bound<'py, PyAny> {
    let _ = context;
    array
}

/// Where an array lies and how it is laid out.
pub(crate) struct Layout {
    /// The address of the element at index 0.
    pub(crate) address: usize,
    /// For each axis its length, and its stride in bytes.
    pub(crate) axes: Vec<(i64, i64)>,
}

/// Which of the two types that we know every detail of an object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `numpy.ndarray` itself.
    Ordinary,
    /// `SharedNDArray` itself.
    Shared,
}

/// An array of one of these two types, seen while it is kept alive and the GIL held.
///
/// Whoever lets other Python code run in between looks again.
pub(crate) struct Seen<'a> {
    pub(crate) kind: Kind,
    pub(crate) data: *mut u8,
    pub(crate) lengths: &'a [ffi::Py_ssize_t],
    pub(crate) strides: &'a [ffi::Py_ssize_t],
    pub(crate) descr: *mut ffi::PyObject,
    flags: c_int,
}

impl<'a> Seen<'a> {
    /// Only axes, of an array whose other properties do not matter.
    pub(crate) fn of_axes(lengths: &'a [ffi::Py_ssize_t], strides: &'a [ffi::Py_ssize_t]) -> Self {
        Seen {
            kind: Kind::Ordinary,
            data: ptr::null_mut(),
            lengths,
            strides,
            descr: ptr::null_mut(),
            flags: numpy::WRITEABLE,
        }
    }

    pub(crate) fn is_c_contiguous(&self) -> bool {
        self.flags & numpy::C_CONTIGUOUS != 0
    }

    pub(crate) fn is_f_contiguous(&self) -> bool {
        self.flags & numpy::F_CONTIGUOUS != 0
    }

    pub(crate) fn is_writeable(&self) -> bool {
        self.flags & numpy::WRITEABLE != 0
    }
}

/// The array behind `object`, unless it is something else, or of a derived type.
#[inline]
pub(crate) fn see<'a>(object: &'a Bound<'_, PyAny>) -> Option<Seen<'a>> {
    let ty = object.get_type_ptr();
    let kind = if ty == NDARRAY.load(Ordering::Relaxed) {
        Kind::Ordinary
    } else if ty == SHARED.load(Ordering::Relaxed) {
        Kind::Shared
    } else {
        return None;
    };
    // SAFETY: the type was compared: an array, which has these fields, and which the
    // reference keeps alive.
    let fields = unsafe { &*object.as_ptr().cast::<ArrayFields>() };
    let nd = usize::try_from(fields.nd).unwrap_or(0);
    let axes = |start: *mut ffi::Py_ssize_t| -> &'a [ffi::Py_ssize_t] {
        if nd == 0 {
            return &[]; // the pointer may be null then
        }
        // SAFETY: an array has `nd` lengths and as many strides, which change under the
        // GIL only, when Python code runs.
        unsafe { std::slice::from_raw_parts(start, nd) }
    };
    Some(Seen {
        kind,
        data: fields.data.cast(),
        lengths: axes(fields.dimensions),
        strides: axes(fields.strides),
        descr: fields.descr,
        flags: fields.flags,
    })
}

/// The exporter of the memory of `array`, which [`see`] knows, if it has one.
#[inline]
pub(crate) fn exporter_of<'py>(array: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    see(array)?;
    // SAFETY: an array, as was just found out; the GIL is held.
    let exporter = unsafe { exporter_behind(array.as_ptr()) };
    // SAFETY: null, or kept alive by the array; adds a reference.
    unsafe { Bound::from_borrowed_ptr_or_opt(array.py(), exporter) }
}

/// Forbids writing to `array`, which [`see`] knows and nobody else has seen yet.
pub(crate) fn freeze(array: &Bound<'_, PyAny>) {
    if see(array).is_some() {
        let fields = array.as_ptr().cast::<ArrayFields>();
        // SAFETY: an array has these fields; NumPy's own function does the same.
        unsafe { (*fields).flags &= !numpy::WRITEABLE };
    }
}

/// The layout of `array` and the exporter of its memory, if it has one.
pub(crate) fn exporter_and_layout<'py>(
    array: &Bound<'py, PyAny>,
) -> PyResult<Option<(Bound<'py, PyAny>, Layout)>> {
    let object = array.as_ptr();
    // SAFETY: alive, and the GIL is held.
    if !unsafe { is_array(object) } {
        return Err(PyTypeError::new_err("expected an array"));
    }
    // SAFETY: an array, as was just found out.
    let exporter = unsafe { exporter_behind(object) };
    // SAFETY: null, or kept alive by the array; adds a reference.
    let exporter = unsafe { Bound::from_borrowed_ptr_or_opt(array.py(), exporter) };
    let Some(exporter) = exporter else {
        return Ok(None);
    };
    // SAFETY: an array has these fields.
    let fields = unsafe { &*object.cast::<ArrayFields>() };
    let nd = usize::try_from(fields.nd).unwrap_or(0);
    let axes = if nd == 0 {
        Vec::new() // the pointers below may be null then
    } else {
        // SAFETY: an array has `nd` lengths, which change under the GIL only.
        let lengths = unsafe { std::slice::from_raw_parts(fields.dimensions, nd) };
        // SAFETY: and as many strides.
        let strides = unsafe { std::slice::from_raw_parts(fields.strides, nd) };
        let pairs = lengths.iter().zip(strides);
        pairs
            .map(|(&length, &stride)| (length as i64, stride as i64))
            .collect()
    };
    let address = fields.data as usize;
    Ok(Some((exporter, Layout { address, axes })))
}

/// Takes the right to write to `array` away, as ``array.flags.writeable = False`` does.
pub(crate) fn make_read_only(array: &Bound<'_, PyAny>) {
    let object = array.as_ptr();
    // SAFETY: alive, and the GIL is held.
    if unsafe { is_array(object) } {
        // SAFETY: an array has these fields, which change under the GIL only.
        unsafe { (*object.cast::<ArrayFields>()).flags &= !numpy::WRITEABLE };
    }
}

/// Python has ended, and all objects with it.
pub(crate) fn forget() {
    NDARRAY.store(ptr::null_mut(), Ordering::Relaxed);
    SHARED.store(ptr::null_mut(), Ordering::Relaxed);
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(array_type, m)?)?;
    m.add_function(wrap_pyfunction!(array_unwrap, m)?)?;
    m.add_function(wrap_pyfunction!(array_prepare, m)?)?;
    Ok(())
}
