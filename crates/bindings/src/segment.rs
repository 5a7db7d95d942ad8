//! `_core.Segment`: a named segment, and the functions that make and remove one.

use std::ffi::OsString;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use pyo3::exceptions::{PyFileNotFoundError, PyKeyboardInterrupt};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shared_numpy_core::error::Error;
use shared_numpy_core::name::SegmentName;
use shared_numpy_core::segment::{self, CreateOptions, Reserve};
use shared_numpy_core::sys::shm::{Identity, OpenFlags};

use crate::error::exception;
use crate::exporter;
use crate::gil;

/// Above this size other Python threads run while memory is committed.
const DETACH_ABOVE_BYTES: usize = 4 << 20;

/// A named segment mapped into this process; the memory lives as long as its
/// exporters or this object.
#[pyclass(frozen, module = "shared_numpy._core")]
pub(crate) struct Segment {
    inner: segment::Segment,
}

#[pymethods]
impl Segment {
    /// The size in bytes.
    #[getter]
    fn size(&self) -> usize {
        self.inner.mapping().len()
    }

    /// The canonical name, without a slash, as the file system's bytes.
    #[getter]
    fn name<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.inner.name().as_bytes())
    }

    /// `(device, inode)` of the file that was opened.
    #[getter]
    fn identity(&self) -> (u64, u64) {
        let Identity { dev, ino } = self.inner.identity();
        (dev, ino)
    }

    /// The memory as a buffer. All views of it keep the memory mapped.
    fn exporter<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        exporter::new(py, Arc::clone(self.inner.mapping()), false)
    }

    /// Opens the file anew; the caller owns the descriptor.
    fn reopen(&self) -> PyResult<i32> {
        Ok(self.inner.reopen().map_err(exception)?.into_raw_fd())
    }
}

fn parse(name: &OsString) -> PyResult<SegmentName> {
    SegmentName::new(name.as_bytes()).map_err(exception)
}

/// Creates a segment of `size` zero bytes.
#[pyfunction]
fn segment_create(
    py: Python<'_>,
    name: OsString,
    size: usize,
    mode: u32,
    reserve: Option<bool>,
) -> PyResult<Segment> {
    let name = parse(&name)?;
    let options = CreateOptions {
        mode,
        reserve: match reserve {
            None => Reserve::Auto,
            Some(true) => Reserve::Always,
            Some(false) => Reserve::Never,
        },
    };
    let mut interrupt = None;
    let made = if size > DETACH_ABOVE_BYTES {
        gil::detached(py, |detached| {
            segment::Segment::create(name, size, options, &mut || match detached
                .attached(|py| py.check_signals())
            {
                Ok(()) => true,
                Err(error) => {
                    interrupt = Some(error);
                    false
                }
            })
        })
    } else {
        segment::Segment::create(name, size, options, &mut || true)
    };
    match made {
        Ok(inner) => Ok(Segment { inner }),
        Err(Error::Interrupted) => {
            Err(interrupt.unwrap_or_else(|| PyKeyboardInterrupt::new_err(())))
        }
        Err(error) => Err(exception(error)),
    }
}

/// Opens and maps an existing segment. `flags` are `os.O_*`; its access mode is
/// set by `readonly`.
#[pyfunction]
fn segment_attach(name: OsString, flags: u32, mode: u32, readonly: bool) -> PyResult<Segment> {
    let inner = segment::Segment::attach(
        parse(&name)?,
        OpenFlags::from_bits_retain(flags),
        mode,
        readonly,
    )
    .map_err(exception)?;
    Ok(Segment { inner })
}

/// Removes a name, only if it still leads to `identity` where that is given.
///
/// A name that leads to another segment by now counts as gone.
#[pyfunction]
#[pyo3(signature = (name, identity=None))]
fn segment_unlink(name: OsString, identity: Option<(u64, u64)>) -> PyResult<()> {
    let identity = identity.map(|(dev, ino)| Identity { dev, ino });
    segment::unlink(&parse(&name)?, identity).map_err(|error| match error {
        Error::Replaced { ref name } => {
            PyFileNotFoundError::new_err((libc::ENOENT, error.to_string(), format!("/{name}")))
        }
        error => exception(error),
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Segment>()?;
    m.add_function(wrap_pyfunction!(segment_create, m)?)?;
    m.add_function(wrap_pyfunction!(segment_attach, m)?)?;
    m.add_function(wrap_pyfunction!(segment_unlink, m)?)?;
    Ok(())
}
