//! The memory of one array: making, opening, telling others, letting go.
//!
//! Guarantee: when the last view of an array is gone in the process that made it,
//! the name of its segment is removed unless it was given to somebody. That is the
//! work of the exporter's owner (`ArraySegment`), which dies with the exporter.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use shared_numpy_core::array_segment::ArraySegment;
use shared_numpy_core::name::SegmentName;
use shared_numpy_core::sys::shm::Identity;
use shared_numpy_core::tracker::client;
use shared_numpy_core::tracker::protocol::ResourceType;

use crate::error::exception;
use crate::exporter;
use crate::ndarray;
use crate::segment;

/// The segment behind an array.
#[pyclass(module = "shared_numpy._core", name = "ArraySegment", frozen)]
struct PyArraySegment {
    inner: ArraySegment,
}

impl Drop for PyArraySegment {
    fn drop(&mut self) {
        if self.inner.abandon() {
            // The creator is connected to the tracker, so that this is one message and
            // no wait. Should it fail, the tracker finds no file and is silent.
            let name = self.name();
            let _ = client::shared().try_gone(
                ResourceType::Array,
                name.as_bytes(),
                self.inner.identity(),
            );
        }
    }
}

#[pymethods]
impl PyArraySegment {
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
        self.inner.len_bytes()
    }

    /// Notes that a handle with the name is given away; False when the name is gone.
    fn publish(&self) -> bool {
        self.inner.publish()
    }

    /// Takes back one `publish`: that handle reached nobody.
    fn withdraw(&self) {
        self.inner.withdraw();
    }

    /// Removes the name; False when that was done before. The tracker is the caller's
    /// to tell.
    fn unlink(&self) -> PyResult<bool> {
        self.inner.unlink().map_err(exception)
    }

    /// The array's bytes as a buffer that keeps the memory but not this object.
    fn exporter<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mapping = Arc::clone(self.inner.mapping());
        exporter::new_part(py, mapping, self.inner.len_bytes(), false, None)
    }
}

fn parse(name: &OsString) -> PyResult<SegmentName> {
    SegmentName::new(name.as_bytes()).map_err(exception)
}

fn export(segment: PyArraySegment, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let mapping = Arc::clone(segment.inner.mapping());
    let len_bytes = segment.inner.len_bytes();
    let owner = Bound::new(py, segment)?.into_any();
    exporter::new_part(py, mapping, len_bytes, false, Some(owner))
}

/// Creates the memory of an array of `nbytes` bytes, all zero, as a buffer.
#[pyfunction]
fn array_create<'py>(
    py: Python<'py>,
    name: OsString,
    nbytes: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let name = parse(&name)?;
    let made = segment::interruptible(py, nbytes, |keep_going| {
        ArraySegment::create(name, nbytes, keep_going)
    })?;
    export(PyArraySegment { inner: made }, py)
}

/// Opens the memory of an array as a buffer, if a view as described lies inside it.
#[pyfunction]
fn array_attach<'py>(
    py: Python<'py>,
    name: OsString,
    offset: i64,
    axes: Vec<(i64, i64)>,
    itemsize: i64,
) -> PyResult<Bound<'py, PyAny>> {
    let attached = ArraySegment::attach(parse(&name)?).map_err(exception)?;
    check(&attached, offset, &axes, itemsize)?;
    export(PyArraySegment { inner: attached }, py)
}

fn check(segment: &ArraySegment, offset: i64, axes: &[(i64, i64)], itemsize: i64) -> PyResult<()> {
    segment
        .check_view(offset, axes, itemsize)
        .map_err(|error| PyValueError::new_err(format!("view outside its segment: {error}")))
}

/// The segment of `array`; None when its memory is not shared.
#[pyfunction]
fn array_segment<'py>(array: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let found = ndarray::exporter_and_layout(array)?;
    Ok(found.and_then(|(exporter, _)| exporter::owner_of(&exporter)))
}

/// The segment of `array` and where in it the element at index 0 begins, in bytes;
/// None when its memory is not shared.
#[pyfunction]
fn array_place<'py>(
    array: &Bound<'py, PyAny>,
    itemsize: i64,
) -> PyResult<Option<(Bound<'py, PyArraySegment>, i64)>> {
    let Some((exporter, layout)) = ndarray::exporter_and_layout(array)? else {
        return Ok(None);
    };
    let owner = exporter::owner_of(&exporter);
    let Some(Ok(owner)) = owner.map(|owner| owner.cast_into::<PyArraySegment>()) else {
        return Ok(None);
    };
    let segment = &owner.get().inner;
    let start = segment.mapping().start().as_ptr() as usize;
    // Wraps for an array that begins before its segment, and is refused then.
    let offset = layout.address.wrapping_sub(start) as i64;
    check(segment, offset, &layout.axes, itemsize)?;
    Ok(Some((owner, offset)))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyArraySegment>()?;
    m.add_function(wrap_pyfunction!(array_create, m)?)?;
    m.add_function(wrap_pyfunction!(array_attach, m)?)?;
    m.add_function(wrap_pyfunction!(array_segment, m)?)?;
    m.add_function(wrap_pyfunction!(array_place, m)?)?;
    Ok(())
}
