//! What the standard library's private `_posixshmem` offers: bare `shm_open` and
//! `shm_unlink`, for code in the wild that calls them.

use std::ffi::OsString;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use shared_numpy_core::error::Error;
use shared_numpy_core::name::SegmentName;
use shared_numpy_core::sys::shm::{self, OpenFlags};

use crate::error::exception;

/// Opens a shared memory object and returns its descriptor (close-on-exec).
#[pyfunction]
#[pyo3(signature = (path, flags, mode=0o777))]
fn shm_open(path: OsString, flags: u32, mode: u32) -> PyResult<i32> {
    let name = SegmentName::new(path.as_bytes()).map_err(exception)?;
    shm::open(&name, OpenFlags::from_bits_retain(flags), mode)
        .map(IntoRawFd::into_raw_fd)
        .map_err(|errno| exception(Error::os("open shared memory", name.display(), errno)))
}

/// Removes the name of a shared memory object.
#[pyfunction]
fn shm_unlink(path: OsString) -> PyResult<()> {
    let name = SegmentName::new(path.as_bytes()).map_err(exception)?;
    shm::unlink(&name)
        .map_err(|errno| exception(Error::os("unlink shared memory", name.display(), errno)))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(shm_open, m)?)?;
    m.add_function(wrap_pyfunction!(shm_unlink, m)?)?;
    Ok(())
}
