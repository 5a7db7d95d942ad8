//! Waiting in a queue without a thread: what asyncio needs.
//!
//! Guarantee: no call here waits.

use std::os::fd::{AsFd, AsRawFd};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use shared_numpy_core::queue::forget_bell;
use shared_numpy_core::sys::doorbell::Doorbell;

use super::{PyQueue, failure};

/// A socket that becomes readable when a queue has changed, perhaps.
#[pyclass(module = "shared_numpy._core", frozen)]
struct Bell {
    bell: Doorbell,
}

impl Drop for Bell {
    fn drop(&mut self) {
        forget_bell(&self.bell);
    }
}

#[pymethods]
impl Bell {
    #[new]
    fn new() -> PyResult<Self> {
        let bell = Doorbell::new().map_err(|errno| {
            PyOSError::new_err((
                errno.raw_os_error(),
                "cannot make the socket that wakes this event loop",
            ))
        })?;
        Ok(Bell { bell })
    }

    /// The number of the socket.
    fn fileno(&self) -> i32 {
        self.bell.as_fd().as_raw_fd()
    }

    /// Forgets that it was rung; whether it was.
    fn hush(&self) -> bool {
        self.bell.hush()
    }
}

/// Asks for a ring when there may be an object; False when there is one already.
#[pyfunction]
fn queue_ring_for_items(queue: &Bound<'_, PyQueue>, bell: &Bound<'_, Bell>) -> PyResult<bool> {
    let queue = &queue.get().opened()?.queue;
    queue.ring_for_items(&bell.get().bell).map_err(failure)
}

/// Asks for a ring when there may be room; False when there is some already.
#[pyfunction]
fn queue_ring_for_room(queue: &Bound<'_, PyQueue>, bell: &Bound<'_, Bell>) -> PyResult<bool> {
    let queue = &queue.get().opened()?.queue;
    queue.ring_for_room(&bell.get().bell).map_err(failure)
}

/// Wakes another who waits, if there is something for it: to be called after each ring, or
/// when a wait was given up.
#[pyfunction]
fn queue_pass_on_ring(queue: &Bound<'_, PyQueue>) -> PyResult<()> {
    let queue = &queue.get().opened()?.queue;
    queue.pass_on_ring().map_err(failure)
}

/// Whether the last other process that had the queue died, and no handle of it is on its way.
#[pyfunction]
fn queue_is_alone(queue: &Bound<'_, PyQueue>) -> PyResult<bool> {
    queue.get().opened()?.queue.is_alone().map_err(failure)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Bell>()?;
    m.add_function(wrap_pyfunction!(queue_ring_for_items, m)?)?;
    m.add_function(wrap_pyfunction!(queue_ring_for_room, m)?)?;
    m.add_function(wrap_pyfunction!(queue_pass_on_ring, m)?)?;
    m.add_function(wrap_pyfunction!(queue_is_alone, m)?)?;
    Ok(())
}
