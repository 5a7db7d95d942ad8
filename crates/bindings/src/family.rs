//! What this process is part of: families, their trackers, and what all of it takes.

use std::ffi::OsString;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use shared_numpy_core::participation::{self, Options};

use crate::block;
use crate::error::exception;
use crate::segment;
use crate::sync;

/// A family as Python has it: its identity, and what its members prove themselves with.
type Address = ([u8; 16], [u8; 16]);

/// Says how to start a tracker, what relatives prove themselves with, and where a family may
/// be that this process is to be at home in, and who may receive what it sends when it has
/// ended. To be called before the first array is made.
#[pyfunction]
#[pyo3(signature = (executable, cookie, hint=None, guardian_pid=None))]
fn configure_family(
    executable: OsString,
    cookie: [u8; 16],
    hint: Option<Address>,
    guardian_pid: Option<u32>,
) {
    participation::configure(Options {
        executable: executable.into(),
        cookie,
        guardian_pid,
        hint: hint.map(|(family, cookie)| (halves(family), cookie)),
    });
}

/// Where children that are not forked find the family; None before its tracker was started.
#[pyfunction]
fn family_address() -> Option<Address> {
    let ([low, high], cookie) = participation::address()?;
    let family = u128::from(high) << 64 | u128::from(low);
    Some((family.to_le_bytes(), cookie))
}

fn halves(family: [u8; 16]) -> [u64; 2] {
    let family = u128::from_le_bytes(family);
    [family as u64, (family >> 64) as u64]
}

/// Becomes a guest in the family of a handle or a name, which can be opened afterwards.
#[pyfunction]
fn join_family(handle: &Bound<'_, PyAny>, cookie: [u8; 16]) -> PyResult<()> {
    let view = block::parse(handle)?;
    segment::interruptible(handle.py(), usize::MAX, |keep_going| {
        participation::join(&view.handle, cookie, keep_going)
    })
}

/// What this process has and owns, sizes in bytes.
#[pyfunction]
fn stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let stats = participation::stats().map_err(exception)?;
    let dict = PyDict::new(py);
    dict.set_item("segments", stats.segments)?;
    dict.set_item("attached_segments", stats.attached_segments)?;
    dict.set_item("in_use_bytes", stats.in_use_bytes)?;
    dict.set_item("recycled_bytes", stats.recycled_bytes)?;
    dict.set_item("committed_bytes", stats.committed_bytes)?;
    dict.set_item("in_flight", stats.in_flight)?;
    dict.set_item("held_blocks", stats.held_blocks)?;
    dict.set_item("inherited_blocks", stats.inherited_blocks)?;
    dict.set_item("inherited_bytes", stats.inherited_bytes)?;
    let holders = PyList::empty(py);
    for holder in stats.by_holder {
        let entry = PyDict::new(py);
        entry.set_item("pid", holder.pid)?;
        entry.set_item("blocks", holder.blocks)?;
        entry.set_item("bytes", holder.bytes)?;
        holders.append(entry)?;
    }
    dict.set_item("by_holder", holders)?;
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
fn drop_inherited(py: Python<'_>) -> PyResult<usize> {
    let dropped = segment::interruptible(py, usize::MAX, |_| participation::drop_inherited());
    sync::note_drop();
    dropped
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(configure_family, m)?)?;
    m.add_function(wrap_pyfunction!(family_address, m)?)?;
    m.add_function(wrap_pyfunction!(join_family, m)?)?;
    m.add_function(wrap_pyfunction!(stats, m)?)?;
    m.add_function(wrap_pyfunction!(trim, m)?)?;
    m.add_function(wrap_pyfunction!(drop_inherited, m)?)?;
    Ok(())
}
