//! `_core.LatestCell`: a channel whose readers get the newest frame.
//!
//! Guarantees:
//!
//! - A frame that was read is a buffer that cannot be written to, and so are the memory and
//!   the array of one that was published; views that were writable before stay so.
//! - What was handed out to be filled is known again, once: by the array itself, in the
//!   process that had it made.
//! - Publishing and reading what is at hand keep the interpreter: publications of several
//!   threads come one after the other, as the core wants it.
//! - Who waits gives the interpreter up, runs signal handlers between slices of sleep, and
//!   ends its wait with the exception of one. A handler that forks leaves the parent
//!   waiting; the child begins anew.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shared_numpy_core::error::Error;
use shared_numpy_core::latest::{Latest, Received};
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::sys::fork;

use crate::block::{self, at_hand_or_waiting};
use crate::error::{PeerDied, exception};
use crate::exporter::{self, Mark};
use crate::ndarray;
use crate::sync::{checked, timeout_ns};
use crate::waiting::waiting;

/// A channel; of its frames it knows only their length in bytes.
#[pyclass(module = "shared_numpy._core", frozen)]
struct LatestCell {
    channel: Latest,
    /// The length of each frame.
    frame_bytes: usize,
    /// What no other channel of this process is marked with.
    id: u64,
}

/// A frame's number and its bytes.
type Frame<'py> = (u64, Bound<'py, PyAny>);

impl LatestCell {
    fn over(channel: Latest, frame_bytes: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        LatestCell {
            channel,
            frame_bytes,
            // Relaxed: only its own value counts.
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn mark(&self, array: &Bound<'_, PyAny>) -> Mark {
        Mark {
            channel: self.id,
            array: array.as_ptr() as usize,
            epoch: fork::epoch(),
        }
    }

    fn frame<'py>(&self, py: Python<'py>, received: Received) -> PyResult<Frame<'py>> {
        let Received {
            hold,
            bytes,
            number,
        } = received;
        if bytes != self.frame_bytes {
            return Err(PyValueError::new_err(format!(
                "frame {number} has {bytes} bytes, and not {} as its channel's shape and dtype say",
                self.frame_bytes
            )));
        }
        Ok((number, exporter::new_frame(py, hold, bytes)?))
    }

    /// Waits with the interpreter given up; `None` when the time is over.
    fn wait_detached(
        &self,
        py: Python<'_>,
        after: u64,
        timeout_ns: Option<u64>,
    ) -> PyResult<Option<Received>> {
        let work = &mut |left_ns: Option<u64>, keep_going: &mut dyn FnMut() -> bool| {
            self.channel.wait(after, left_ns, keep_going)
        };
        match waiting(py, timeout_ns, &|| true, &|_| Ok(()), work)? {
            Ok(received) => Ok(Some(received)),
            Err(Stop::TimedOut) => Ok(None),
            Err(Stop::Failed(Error::PeerDied)) => Err(PeerDied::new_err(
                "the channel's writer has died, and nobody took its place: there will be \
                 no newer frame until somebody publishes one",
            )),
            Err(Stop::Failed(error)) => Err(exception(error)),
            Err(Stop::Broken | Stop::Interrupted) => {
                Err(PyRuntimeError::new_err("interrupted by nobody"))
            }
        }
    }
}

#[pymethods]
impl LatestCell {
    #[new]
    fn new(py: Python<'_>, frame_bytes: usize) -> PyResult<Self> {
        let channel = at_hand_or_waiting(py, |keep_going| Latest::create(keep_going))?;
        Ok(Self::over(channel, frame_bytes))
    }

    /// The channel that a handle leads to.
    #[staticmethod]
    fn open(handle: &Bound<'_, PyAny>, frame_bytes: usize) -> PyResult<Self> {
        let view = block::parse(handle)?;
        let hold = block::receive(handle.py(), &view.handle)?;
        Ok(Self::over(checked(Latest::open(hold))?, frame_bytes))
    }

    /// A handle, which holds the channel until somebody receives it.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        block::send_whole(py, self.channel.hold())
    }

    /// The number of the newest frame; zero when there is none yet.
    #[getter]
    fn number(&self) -> PyResult<u64> {
        self.channel.number().map_err(exception)
    }

    /// Whether somebody writes who is not known to be gone.
    #[getter]
    fn has_writer(&self) -> PyResult<bool> {
        self.channel.has_writer().map_err(exception)
    }

    /// Makes this process the writer; False when it was already.
    fn become_writer(&self) -> PyResult<bool> {
        self.channel.become_writer().map_err(|error| match error {
            Error::NotAllowed(_) => PyRuntimeError::new_err(
                "this channel has a writer, another process that lives: that one has to end, or \
                 to call stop_writing(), before this one can publish",
            ),
            error => exception(error),
        })
    }

    /// Ends being the writer; nothing happens if this process is not.
    fn stop_writing(&self) -> PyResult<()> {
        match self.channel.stop_writing() {
            // What was let go of is not written to either.
            Ok(()) | Err(Error::Dropped) => Ok(()),
            Err(error) => Err(exception(error)),
        }
    }

    /// Notes that an array, over a block of its own, is to be filled and published.
    fn issue(&self, array: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Some((memory, _)) = ndarray::exporter_and_layout(array)? {
            exporter::set_mark(&memory, self.mark(array));
        }
        Ok(())
    }

    /// Whether this very array was issued, by this process, and not published since.
    fn is_issued(&self, array: &Bound<'_, PyAny>) -> bool {
        // An error says that it is no array.
        let found = ndarray::exporter_and_layout(array).unwrap_or_default();
        found.is_some_and(|(memory, _)| exporter::mark_of(&memory) == self.mark(array))
    }

    /// Publishes the memory of an array, a whole block's, without copying it; the frame's
    /// number, or None when this process is not the writer. It cannot be written to then.
    fn publish(&self, py: Python<'_>, array: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        let found = ndarray::exporter_and_layout(array)?;
        let memory = found.as_ref().and_then(|(memory, layout)| {
            let (hold, len) = exporter::block_of(memory)?;
            let is_whole = layout.address == hold.start().as_ptr() as usize;
            (is_whole && len == self.frame_bytes).then_some((memory, hold))
        });
        let Some((memory, hold)) = memory else {
            return Err(PyTypeError::new_err("not a frame of this channel"));
        };
        loop {
            if !self.channel.is_writer().map_err(exception)? {
                return Ok(None);
            }
            // With the interpreter held: no other thread publishes at the same time.
            match self.channel.publish(hold, self.frame_bytes, &mut || false) {
                Ok(number) => {
                    exporter::set_mark(memory, Mark::default());
                    exporter::make_read_only(memory);
                    ndarray::make_read_only(array);
                    return Ok(Some(number));
                }
                Err(Error::Interrupted) => {}
                Err(error) => return Err(exception(error)),
            }
            at_hand_or_waiting(py, |keep_going| self.channel.prepare(hold, keep_going))?;
        }
    }

    /// The newest frame, if there is one and its number is above `after`: the number, and
    /// the bytes. Waits for nobody.
    fn read<'py>(&self, py: Python<'py>, after: u64) -> PyResult<Option<Frame<'py>>> {
        if self.channel.number().map_err(exception)? <= after {
            return Ok(None);
        }
        let received = at_hand_or_waiting(py, |keep_going| self.channel.read(keep_going))?;
        received.map(|it| self.frame(py, it)).transpose()
    }

    /// As `read`, but waits for such a frame; None when none came in time.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        after: u64,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Frame<'py>>> {
        let timeout_ns = timeout_ns(timeout)?;
        if let Some(frame) = self.read(py, after)? {
            return Ok(Some(frame));
        }
        if timeout_ns == Some(0) {
            return Ok(None);
        }
        let received = self.wait_detached(py, after, timeout_ns)?;
        received.map(|it| self.frame(py, it)).transpose()
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<LatestCell>()
}
