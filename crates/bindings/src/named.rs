//! Named arrays: making, opening, removing, and finding the one behind an array.
//!
//! Guarantee: an array over a named array's memory keeps, through its exporter, the
//! object that knows the name; nothing happens to the name when that object dies.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use pyo3::exceptions::{PyFileNotFoundError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PySlice};
use shared_numpy_core::error::Error;
use shared_numpy_core::name::SegmentName;
use shared_numpy_core::named_array::header::{Order, Spec};
use shared_numpy_core::named_array::{self, NamedArray, Owner};
use shared_numpy_core::sys::shm::Identity;
use shared_numpy_core::view;

use crate::error::exception;
use crate::exporter;
use crate::ndarray;
use crate::segment;

/// The named array behind an array.
#[pyclass(module = "shared_numpy._core", name = "NamedArray", frozen)]
struct PyNamedArray {
    inner: Arc<NamedArray>,
}

#[pymethods]
impl PyNamedArray {
    /// The name, with its slash.
    #[getter]
    fn name(&self) -> String {
        format!("/{}", self.inner.name().display())
    }

    /// Device and inode of the segment's file.
    #[getter]
    fn identity(&self) -> (u64, u64) {
        let Identity { dev, ino } = self.inner.identity();
        (dev, ino)
    }

    /// The size of the array in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.place().len_bytes
    }

    /// Whether it was opened without the right to write.
    #[getter]
    fn readonly(&self) -> bool {
        self.inner.mapping().is_read_only()
    }

    /// Whether the name still leads to this array, so that a handle with it is good.
    fn publish(&self) -> bool {
        self.inner.is_linked()
    }

    /// Removes the name; False when that was done before. The tracker is the caller's
    /// to tell.
    fn unlink(&self) -> PyResult<bool> {
        self.inner.unlink().map_err(exception)
    }

    /// The array's bytes as a buffer that keeps the memory but not this object.
    fn exporter<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let all = exporter::new(py, Arc::clone(self.inner.mapping()), false)?;
        let place = self.inner.place();
        let start = place.offset_bytes as isize;
        let part = PySlice::new(py, start, start + place.len_bytes as isize, 1);
        PyMemoryView::from(&all)?.get_item(part)
    }
}

fn parse(name: &OsString) -> PyResult<SegmentName> {
    SegmentName::new(name.as_bytes()).map_err(exception)
}

/// A buffer of the whole segment, and where in it the data begins.
fn export(py: Python<'_>, array: NamedArray) -> PyResult<(Bound<'_, PyAny>, usize)> {
    let start = array.place().offset_bytes;
    Ok((exporter::new_named(py, Arc::new(array))?, start))
}

/// Makes a free name, for `named_fill`; gives its identity.
#[pyfunction]
fn named_claim(name: OsString) -> PyResult<(u64, u64)> {
    let Identity { dev, ino } = named_array::claim(&parse(&name)?).map_err(exception)?;
    Ok((dev, ino))
}

/// Makes an array of zero bytes under a claimed name: its memory as a buffer, and
/// where in it the data begins.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "what makes an array")]
fn named_fill<'py>(
    py: Python<'py>,
    name: OsString,
    identity: (u64, u64),
    mode: u32,
    shape: Vec<u64>,
    itemsize: u64,
    fortran: bool,
    dtype: Vec<u8>,
) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let name = parse(&name)?;
    let (dev, ino) = identity;
    let size_bytes = shape
        .iter()
        .fold(itemsize, |size, length| size.saturating_mul(*length));
    let spec = Spec {
        shape,
        item_bytes: itemsize,
        order: if fortran { Order::Fortran } else { Order::C },
        dtype,
    };
    let size = usize::try_from(size_bytes).unwrap_or(usize::MAX);
    let made = segment::interruptible(py, size, |keep_going| {
        named_array::fill(name, Identity { dev, ino }, spec, mode, keep_going)
    })?;
    export(py, made)
}

/// What Python gets of an array that it opens: memory, where the data begins, shape,
/// item size, whether the first axis runs fastest, dtype.
type Opened<'py> = (
    Bound<'py, PyAny>,
    usize,
    Vec<u64>,
    u64,
    bool,
    Bound<'py, PyBytes>,
);

/// Opens a named array of this user or of root; of user `owner` if that is given.
#[pyfunction]
fn named_attach<'py>(
    py: Python<'py>,
    name: OsString,
    readonly: bool,
    owner: Option<u32>,
) -> PyResult<Opened<'py>> {
    let owner = owner.map_or(Owner::OwnOrRoot, Owner::User);
    let array = NamedArray::attach(parse(&name)?, readonly, owner).map_err(exception)?;
    let Spec {
        shape,
        item_bytes,
        order,
        dtype,
    } = array.spec().clone();
    let (exporter, start) = export(py, array)?;
    let dtype = PyBytes::new(py, &dtype);
    let is_fortran = order == Order::Fortran;
    Ok((exporter, start, shape, item_bytes, is_fortran, dtype))
}

/// Opens exactly the file `identity`, for a view as described; gives a buffer and
/// where in it the view's element at index 0 lies.
#[pyfunction]
fn named_open<'py>(
    py: Python<'py>,
    name: OsString,
    identity: (u64, u64),
    readonly: bool,
    offset: i64,
    axes: Vec<(i64, i64)>,
    itemsize: i64,
) -> PyResult<(Bound<'py, PyAny>, i64)> {
    let (dev, ino) = identity;
    let owner = Owner::File(Identity { dev, ino });
    let array =
        NamedArray::attach(parse(&name)?, readonly, owner).map_err(|error| match error {
            Error::Replaced { ref name } => gone(&error, name),
            error => exception(error),
        })?;
    check(&array, offset, &axes, itemsize)?;
    let (exporter, start) = export(py, array)?;
    // Both are inside the mapping, as was just checked.
    Ok((exporter, start as i64 + offset))
}

fn gone(error: &Error, name: &str) -> PyErr {
    PyFileNotFoundError::new_err((libc::ENOENT, error.to_string(), format!("/{name}")))
}

fn check(array: &NamedArray, offset: i64, axes: &[(i64, i64)], itemsize: i64) -> PyResult<()> {
    view::check(array.place().len_bytes as u64, offset, axes, itemsize)
        .map_err(|error| PyValueError::new_err(format!("view outside its array: {error}")))
}

/// The named array behind `array` and where in its data the element at index 0
/// begins, in bytes; None for any other array.
#[pyfunction]
fn named_place(array: &Bound<'_, PyAny>, itemsize: i64) -> PyResult<Option<(PyNamedArray, i64)>> {
    let Some((exporter, layout)) = ndarray::exporter_and_layout(array)? else {
        return Ok(None);
    };
    let Some(named) = exporter::named_of(&exporter) else {
        return Ok(None);
    };
    let start = named.mapping().start().as_ptr() as usize;
    let start = start.wrapping_add(named.place().offset_bytes);
    let offset = view::offset(start, layout.address, &layout.axes);
    check(&named, offset, &layout.axes, itemsize)?;
    Ok(Some((PyNamedArray { inner: named }, offset)))
}

/// Removes the name of a named array of this user or of root, or of `owner`; gives
/// its identity. The tracker is the caller's to tell.
#[pyfunction]
fn named_unlink(name: OsString, owner: Option<u32>) -> PyResult<(u64, u64)> {
    let owner = owner.map_or(Owner::OwnOrRoot, Owner::User);
    let removed = named_array::remove(&parse(&name)?, owner);
    let Identity { dev, ino } = removed.map_err(|error| match error {
        Error::Replaced { ref name } => gone(&error, name),
        error => exception(error),
    })?;
    Ok((dev, ino))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyNamedArray>()?;
    m.add_function(wrap_pyfunction!(named_claim, m)?)?;
    m.add_function(wrap_pyfunction!(named_fill, m)?)?;
    m.add_function(wrap_pyfunction!(named_attach, m)?)?;
    m.add_function(wrap_pyfunction!(named_open, m)?)?;
    m.add_function(wrap_pyfunction!(named_place, m)?)?;
    m.add_function(wrap_pyfunction!(named_unlink, m)?)?;
    Ok(())
}
