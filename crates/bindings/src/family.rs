//! What this process is part of: families, their trackers, and what all of it takes.

use std::ffi::OsString;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use shared_numpy_core::participation::{self, Options};

use crate::error::exception;
use crate::segment;

/// Says how to start a tracker, and what its processes prove themselves with. To be called
/// before the first array is sent.
#[pyfunction]
fn configure_family(executable: OsString, cookie: [u8; 16]) {
    participation::configure(Options {
        executable: executable.into(),
        cookie,
    });
}

/// Becomes a guest in the family with this identity: afterwards its handles can be received.
#[pyfunction]
fn join_family(py: Python<'_>, family: [u8; 16], cookie: [u8; 16]) -> PyResult<()> {
    segment::interruptible(py, usize::MAX, |keep_going| {
        participation::join(halves(family), cookie, keep_going)
    })
}

fn halves(family: [u8; 16]) -> [u64; 2] {
    let family = u128::from_le_bytes(family);
    [family as u64, (family >> 64) as u64]
}

/// What the pools of this process have, in bytes.
#[pyfunction]
fn stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let stats = participation::stats().map_err(exception)?;
    let dict = PyDict::new(py);
    dict.set_item("segments", stats.own.segments)?;
    dict.set_item("in_use", stats.own.in_use_bytes)?;
    dict.set_item("recycled", stats.own.recycled_bytes)?;
    dict.set_item("punched", stats.own.punched_bytes)?;
    Ok(dict)
}

/// Gives free memory back to the system, with `in_flight` also what was sent and not
/// received; how many bytes.
#[pyfunction]
#[pyo3(signature = (in_flight=false))]
fn trim(py: Python<'_>, in_flight: bool) -> PyResult<u64> {
    segment::interruptible(py, usize::MAX, |_| participation::trim(in_flight))
}

/// Lets go of what this process holds because its parent did when it was forked; how many
/// blocks.
#[pyfunction]
fn drop_inherited(py: Python<'_>) -> PyResult<u64> {
    segment::interruptible(py, usize::MAX, |_| participation::drop_inherited())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(configure_family, m)?)?;
    m.add_function(wrap_pyfunction!(join_family, m)?)?;
    m.add_function(wrap_pyfunction!(stats, m)?)?;
    m.add_function(wrap_pyfunction!(trim, m)?)?;
    m.add_function(wrap_pyfunction!(drop_inherited, m)?)?;
    Ok(())
}
