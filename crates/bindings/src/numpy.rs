//! The few functions of NumPy's C API that making an array takes.
//!
//! NumPy offers them to compiled code as a table of pointers in a capsule,
//! `_ARRAY_API` of its module `multiarray`. The places in the table never change
//! (NumPy 1 and 2 agree on those used here, see `PLACE_*`); what does change from
//! major version to major version is the layout of a dtype, of which nothing is
//! read here: sizes are asked for in Python, once for each builtin dtype.
//!
//! Guarantee: a NumPy whose interface is unknown is noticed when the table is loaded;
//! then arrays are made by Python code, which is slower and gives the same.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyComplex, PyFloat, PyInt, PyString};

use crate::gil;

// Places in the table, from `__multiarray_api.h`: the same from NumPy 1.7 to 2.x.
const PLACE_ABI_VERSION: usize = 0;
const PLACE_ARRAY_TYPE: usize = 2;
const PLACE_DESCR_FROM_TYPE: usize = 45;
const PLACE_NEW_FROM_DESCR: usize = 94;
const PLACE_DESCR_CONVERTER: usize = 174;
const PLACE_SET_BASE_OBJECT: usize = 282;

/// The binary interfaces (`NPY_VERSION`) that the places above were checked with:
/// NumPy 1.x, NumPy 2.x.
const KNOWN_ABI_VERSIONS: [c_uint; 2] = [0x0100_0009, 0x0200_0000];

// Flags of a new array.
pub(crate) const C_CONTIGUOUS: c_int = 0x0001;
pub(crate) const F_CONTIGUOUS: c_int = 0x0002;
const ALIGNED: c_int = 0x0100;
pub(crate) const WRITEABLE: c_int = 0x0400;

/// Numbers of the builtin dtypes that are plain numbers, the usual ones first: unsigned
/// bytes, doubles, floats, ... (bool 0, integers 1 to 10, floats 11 to 13, complex 14 to 16,
/// half 23).
const NUMBERS: [c_int; 18] = [2, 12, 11, 7, 5, 0, 1, 3, 4, 6, 8, 9, 10, 23, 13, 14, 15, 16];
const DOUBLE: c_int = 12;

/// Axes that any NumPy can have.
pub(crate) const AXES_MAX: usize = 32;

type DescrFromType = unsafe extern "C" fn(c_int) -> *mut ffi::PyObject;
type NewFromDescr = unsafe extern "C" fn(
    *mut ffi::PyTypeObject,
    *mut ffi::PyObject,
    c_int,
    *const ffi::Py_ssize_t,
    *const ffi::Py_ssize_t,
    *mut c_void,
    c_int,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;
// The converter may run Python code, which may give the interpreter up: see `gil`.
type DescrConverter =
    unsafe extern "C-unwind" fn(*mut ffi::PyObject, *mut *mut ffi::PyObject) -> c_int;
type SetBaseObject = unsafe extern "C" fn(*mut ffi::PyObject, *mut ffi::PyObject) -> c_int;

/// The table, as far as it is used, and the builtin dtypes.
pub(crate) struct Api {
    array_type: *mut ffi::PyTypeObject,
    new_from_descr: NewFromDescr,
    descr_converter: DescrConverter,
    set_base_object: SetBaseObject,
    /// What may stand for a builtin dtype, by address: itself, its scalar type, Python's.
    keys: Vec<*mut ffi::PyObject>,
    /// The dtypes that the keys stand for.
    values: Vec<Dtype>,
    double: Dtype,
    /// The builtin dtypes, in the order of [`NUMBERS`].
    numbers: Vec<Dtype>,
}

/// A builtin dtype of plain numbers; it lives as long as the interpreter.
#[derive(Clone, Copy)]
pub(crate) struct Dtype {
    descr: *mut ffi::PyObject,
    pub(crate) item_bytes: usize,
}

/// Null before [`load`] and after the interpreter's end; never freed. Written with the
/// GIL held; Relaxed because the GIL orders the rest.
static API: AtomicPtr<Api> = AtomicPtr::new(ptr::null_mut());

/// The table, if it was loaded.
#[inline]
pub(crate) fn api<'py>(_py: Python<'py>) -> Option<&'py Api> {
    // SAFETY: null, or leaked by `load`; the token proves that the interpreter lives,
    // and with it the objects that the table names.
    unsafe { API.load(Ordering::Relaxed).as_ref() }
}

/// Loads the table of the NumPy that `ndarray` belongs to; at most once.
///
/// # Errors
///
/// `ImportError` for a NumPy whose interface is not known; and what importing raises.
pub(crate) fn load(ndarray: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = ndarray.py();
    if api(py).is_some() {
        return Ok(());
    }
    // The new place first: NumPy 2 warns of the old one.
    let of_module = |name| py.import(name)?.getattr("_ARRAY_API");
    let capsule =
        of_module("numpy._core.multiarray").or_else(|_| of_module("numpy.core.multiarray"))?;
    // SAFETY: any object may be asked; NumPy's capsule has no name.
    let table = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), ptr::null()) };
    if table.is_null() {
        return Err(PyErr::fetch(py));
    }
    let entry = |place: usize| {
        let entry = table.cast::<*mut c_void>().wrapping_add(place);
        // SAFETY: the table is longer than the highest place since NumPy 1.7, and lives
        // as long as NumPy, which is never unloaded.
        unsafe { entry.read() }
    };
    // SAFETY: the function at this place, whatever the version.
    let abi_version: unsafe extern "C" fn() -> c_uint =
        unsafe { std::mem::transmute(entry(PLACE_ABI_VERSION)) };
    // SAFETY: it takes nothing and returns a constant.
    let abi_version = unsafe { abi_version() };
    let array_type = entry(PLACE_ARRAY_TYPE).cast::<ffi::PyTypeObject>();
    if !KNOWN_ABI_VERSIONS.contains(&abi_version) || array_type.cast() != ndarray.as_ptr() {
        return Err(PyImportError::new_err(format!(
            "numpy has an unknown binary interface ({abi_version:#x})"
        )));
    }
    // SAFETY: the function at this place in the versions known.
    let descr_from_type: DescrFromType =
        unsafe { std::mem::transmute(entry(PLACE_DESCR_FROM_TYPE)) };
    let dtype_of = |number| -> PyResult<(Bound<'_, PyAny>, Dtype)> {
        // SAFETY: the GIL is held; a number that NumPy knows.
        let descr = unsafe { descr_from_type(number) };
        // SAFETY: a new reference, or null with an exception set.
        let descr = unsafe { Bound::from_owned_ptr_or_err(py, descr) }?;
        let item_bytes = descr.getattr("itemsize")?.extract()?;
        // Builtin dtypes are never freed.
        let dtype = Dtype {
            descr: descr.as_ptr(),
            item_bytes,
        };
        Ok((descr, dtype))
    };
    let double = dtype_of(DOUBLE)?.1;
    let mut found = Vec::new();
    let mut themselves = Vec::new();
    for number in NUMBERS {
        let (descr, dtype) = dtype_of(number)?;
        found.push((descr.getattr("type")?, dtype));
        themselves.push((descr, dtype));
    }
    let numbers = themselves.iter().map(|&(_, dtype)| dtype).collect();
    found.append(&mut themselves);
    let dtype_type = found[NUMBERS.len()].0.getattr("__class__")?;
    let dtype_type = dtype_type.getattr("__mro__")?.get_item(-2)?; // numpy.dtype
    for python in [
        py.get_type::<PyFloat>().into_any(),
        py.get_type::<PyInt>().into_any(),
        py.get_type::<PyBool>().into_any(),
        py.get_type::<PyComplex>().into_any(),
    ] {
        let descr = dtype_type.call1((&python,))?;
        let dtype = found.iter().find(|(key, _)| key.is(&descr));
        if let Some(dtype) = dtype.map(|&(_, dtype)| dtype) {
            found.push((python, dtype));
        }
    }
    let api = Api {
        array_type,
        // SAFETY: the function at this place in the versions known.
        new_from_descr: unsafe {
            std::mem::transmute::<*mut c_void, NewFromDescr>(entry(PLACE_NEW_FROM_DESCR))
        },
        // SAFETY: as above.
        descr_converter: unsafe {
            std::mem::transmute::<*mut c_void, DescrConverter>(entry(PLACE_DESCR_CONVERTER))
        },
        // SAFETY: as above.
        set_base_object: unsafe {
            std::mem::transmute::<*mut c_void, SetBaseObject>(entry(PLACE_SET_BASE_OBJECT))
        },
        values: found.iter().map(|&(_, dtype)| dtype).collect(),
        // Kept for ever, so that no other object comes to lie at these addresses.
        keys: found.into_iter().map(|(key, _)| key.into_ptr()).collect(),
        double,
        numbers,
    };
    API.store(Box::into_raw(Box::new(api)), Ordering::Relaxed);
    Ok(())
}

/// Python has ended, and all objects with it.
pub(crate) fn forget() {
    API.store(ptr::null_mut(), Ordering::Relaxed);
}

impl Api {
    /// The dtype of doubles, which is the default.
    pub(crate) fn double(&self) -> Dtype {
        self.double
    }

    /// The builtin dtype that an argument stands for: a dtype, a type, or text that says one;
    /// `None` for everything else.
    ///
    /// # Safety
    ///
    /// - `given` is a live object.
    ///
    /// # Errors
    ///
    /// What NumPy says of text that is no dtype.
    pub(crate) unsafe fn dtype(
        &self,
        py: Python<'_>,
        given: *mut ffi::PyObject,
    ) -> PyResult<Option<Dtype>> {
        if let Some(dtype) = self.builtin(given) {
            return Ok(Some(dtype));
        }
        // SAFETY: the caller's promise.
        if !unsafe { Bound::from_borrowed_ptr(py, given) }.is_exact_instance_of::<PyString>() {
            return Ok(None);
        }
        let mut descr = ptr::null_mut();
        // SAFETY: alive; `descr` takes a new reference when the result is 1.
        if gil::parking(|| unsafe { (self.descr_converter)(given, &raw mut descr) }) == 0 {
            return Err(PyErr::fetch(py));
        }
        let dtype = self.builtin(descr);
        // SAFETY: the reference that the converter gave.
        unsafe { ffi::Py_XDECREF(descr) };
        Ok(dtype)
    }

    /// The number of a builtin dtype, the same in every process of a machine, and the size
    /// of an item; `None` for every other object.
    #[inline]
    pub(crate) fn number_of(&self, descr: *mut ffi::PyObject) -> Option<(u8, usize)> {
        let at = self.numbers.iter().position(|it| it.descr == descr)?;
        Some((NUMBERS[at] as u8, self.numbers[at].item_bytes))
    }

    /// The builtin dtype of a number.
    #[inline]
    pub(crate) fn dtype_of_number(&self, number: u8) -> Option<Dtype> {
        let at = NUMBERS.iter().position(|&it| it == c_int::from(number))?;
        Some(self.numbers[at])
    }

    #[inline]
    fn builtin(&self, given: *mut ffi::PyObject) -> Option<Dtype> {
        let at = self.keys.iter().position(|&key| key == given)?;
        Some(self.values[at])
    }

    /// An ordinary array with memory of its own, which is not set.
    ///
    /// # Errors
    ///
    /// What NumPy says: no memory.
    pub(crate) fn array_new<'py>(
        &self,
        py: Python<'py>,
        lengths: &[ffi::Py_ssize_t],
        dtype: Dtype,
        is_fortran: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        // Without data: anything but zero says so.
        let flags = c_int::from(is_fortran);
        // SAFETY: without data NumPy allocates it.
        unsafe { self.make(py, lengths, ptr::null(), dtype, ptr::null_mut(), flags) }
    }

    /// As [`Api::array_over`], with strides.
    ///
    /// # Safety
    ///
    /// - There are as many strides as lengths, and every item that they lead to from `start`
    ///   may be read and written while `base` lives. How they are aligned NumPy finds out.
    ///
    /// # Errors
    ///
    /// What NumPy says: no memory.
    pub(crate) unsafe fn array_strided<'py>(
        &self,
        base: Bound<'py, PyAny>,
        start: *mut u8,
        lengths: &[ffi::Py_ssize_t],
        strides: &[ffi::Py_ssize_t],
        dtype: Dtype,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, strides) = (base.py(), strides.as_ptr());
        // SAFETY: the caller's promises; NumPy works the other flags out from the strides.
        let array = unsafe { self.make(py, lengths, strides, dtype, start, WRITEABLE) }?;
        self.keep(array, base)
    }

    /// An ordinary array over the memory of `base`, which it keeps; nothing but the two
    /// knows it.
    ///
    /// # Safety
    ///
    /// - From `start`, aligned for any number, as many bytes as lengths and dtype make may be
    ///   read and written while `base` lives.
    ///
    /// # Errors
    ///
    /// What NumPy says: no memory.
    pub(crate) unsafe fn array_over<'py>(
        &self,
        base: Bound<'py, PyAny>,
        start: *mut u8,
        lengths: &[ffi::Py_ssize_t],
        dtype: Dtype,
        is_fortran: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let order = if is_fortran {
            F_CONTIGUOUS
        } else {
            C_CONTIGUOUS
        };
        let (py, flags) = (base.py(), order | ALIGNED | WRITEABLE);
        // SAFETY: the caller's promises; NumPy computes strides that stay within the lengths.
        let array = unsafe { self.make(py, lengths, ptr::null(), dtype, start, flags) }?;
        self.keep(array, base)
    }

    /// A new array of NumPy's own type, which has no hook.
    ///
    /// # Safety
    ///
    /// - `strides` is null, or leads to as many as there are lengths.
    /// - `data` is null, or may be read and written where lengths and strides lead to.
    #[inline]
    unsafe fn make<'py>(
        &self,
        py: Python<'py>,
        lengths: &[ffi::Py_ssize_t],
        strides: *const ffi::Py_ssize_t,
        dtype: Dtype,
        data: *mut u8,
        flags: c_int,
    ) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: builtin dtypes live; the function called next takes this reference, also
        // when it fails.
        unsafe { ffi::Py_INCREF(dtype.descr) };
        // SAFETY: the lengths are as many as said, the rest is the caller's promise; NumPy
        // does not free data that it was given.
        let array = unsafe {
            (self.new_from_descr)(
                self.array_type,
                dtype.descr,
                lengths.len() as c_int,
                lengths.as_ptr(),
                strides,
                data.cast(),
                flags,
                ptr::null_mut(),
            )
        };
        // SAFETY: a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(py, array) }
    }

    /// Has a new array keep what its memory is part of.
    #[inline]
    fn keep<'py>(
        &self,
        array: Bound<'py, PyAny>,
        base: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: a new array without a base; the reference to `base` is taken, also when
        // it fails.
        match unsafe { (self.set_base_object)(array.as_ptr(), base.into_ptr()) } {
            0 => Ok(array),
            _ => Err(PyErr::fetch(array.py())),
        }
    }
}
