//! Named segments: the functions that make, open and remove one.

use std::ffi::OsString;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use pyo3::exceptions::{PyFileNotFoundError, PyKeyboardInterrupt};
use pyo3::prelude::*;
use shared_numpy_core::error::Error;
use shared_numpy_core::name::SegmentName;
use shared_numpy_core::segment::{self, CreateOptions, Reserve};
use shared_numpy_core::sys::shm::{Identity, OpenFlags};
use shared_numpy_core::tracker::client;
use shared_numpy_core::tracker::protocol::ResourceType;

use crate::error::exception;
use crate::exporter;
use crate::gil;

/// Above this size other Python threads run while memory is committed.
const DETACH_ABOVE_BYTES: usize = 4 << 20;

/// What Python gets of a segment: its memory as a buffer, and `(device, inode)`.
type Parts<'py> = (Bound<'py, PyAny>, (u64, u64));

fn parts(py: Python<'_>, segment: segment::Segment) -> PyResult<Parts<'_>> {
    let Identity { dev, ino } = segment.identity();
    let exporter = exporter::new(py, Arc::clone(segment.mapping()), false)?;
    Ok((exporter, (dev, ino)))
}

fn parse(name: &OsString) -> PyResult<SegmentName> {
    SegmentName::new(name.as_bytes()).map_err(exception)
}

/// Creates a segment of `size` zero bytes and maps it.
#[pyfunction]
fn segment_create(
    py: Python<'_>,
    name: OsString,
    size: usize,
    mode: u32,
    reserve: Option<bool>,
) -> PyResult<Parts<'_>> {
    let name = parse(&name)?;
    let options = CreateOptions {
        mode,
        reserve: match reserve {
            None => Reserve::Auto,
            Some(true) => Reserve::Always,
            Some(false) => Reserve::Never,
        },
    };
    let made = interruptible(py, size, |keep_going| {
        segment::Segment::create(name, size, options, keep_going)
    })?;
    parts(py, made)
}

/// Runs `work`, which commits `size_bytes` bytes; if those are many, with the
/// interpreter lock released and signal handlers run whenever it asks.
pub(crate) fn interruptible<T>(
    py: Python<'_>,
    size_bytes: usize,
    work: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<T, Error>,
) -> PyResult<T> {
    let mut interrupt = None;
    let done = if size_bytes > DETACH_ABOVE_BYTES {
        gil::detached(py, |detached| {
            work(&mut || detached.hear_signals(&mut interrupt))
        })
    } else {
        work(&mut || true)
    };
    match done {
        Err(Error::Interrupted) => {
            Err(interrupt.unwrap_or_else(|| PyKeyboardInterrupt::new_err(())))
        }
        done => done.map_err(exception),
    }
}

/// Opens and maps an existing segment. `flags` are `os.O_*`; its access mode is
/// set by `readonly`.
#[pyfunction]
fn segment_attach(
    py: Python<'_>,
    name: OsString,
    flags: u32,
    mode: u32,
    readonly: bool,
) -> PyResult<Parts<'_>> {
    let segment = segment::Segment::attach(
        parse(&name)?,
        OpenFlags::from_bits_retain(flags),
        mode,
        readonly,
    )
    .map_err(exception)?;
    parts(py, segment)
}

/// Opens a segment's file anew, if the name still leads to `identity`; the caller
/// owns the descriptor.
#[pyfunction]
fn segment_reopen(name: OsString, identity: (u64, u64), readonly: bool) -> PyResult<i32> {
    let (dev, ino) = identity;
    segment::reopen(&parse(&name)?, Identity { dev, ino }, readonly)
        .map(IntoRawFd::into_raw_fd)
        .map_err(exception)
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

/// Removes a name, only if it still leads to `identity` where `check` asks for that,
/// and tells the tracker in the same breath: no signal's handler can come in between.
///
/// True when the tracker has been told; otherwise the caller still has to.
#[pyfunction]
fn segment_remove(name: OsString, identity: (u64, u64), check: bool) -> PyResult<bool> {
    segment_unlink(name.clone(), check.then_some(identity))?;
    let (dev, ino) = identity;
    let told = client::shared().try_gone(
        ResourceType::SharedMemory,
        name.as_bytes(),
        Identity { dev, ino },
    );
    Ok(told.unwrap_or(false))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(segment_create, m)?)?;
    m.add_function(wrap_pyfunction!(segment_attach, m)?)?;
    m.add_function(wrap_pyfunction!(segment_reopen, m)?)?;
    m.add_function(wrap_pyfunction!(segment_unlink, m)?)?;
    m.add_function(wrap_pyfunction!(segment_remove, m)?)?;
    Ok(())
}
