//! Locks and their kin for Python: the core's cells, each in a block of its own.
//!
//! Guarantees:
//!
//! - An object holds its block, as an array does; a forked child uses it under its own name.
//! - Who does not have to wait keeps the interpreter. Who waits gives it up, runs signal
//!   handlers between slices of sleep, and ends its wait with the exception of one.
//! - A handler that forks meanwhile leaves the parent waiting. The child begins anew under
//!   its own name; where that has no meaning (conditions, barriers) it gets an exception.

mod barrier;
mod condition;
mod event;
mod integer;
mod lock;
mod quick;
mod semlock;

use std::cell::{Cell as ThreadCell, RefCell};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shared_numpy_core::error::{Error, Result as CoreResult};
use shared_numpy_core::layout::Participant;
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::participation::{Hold, Presence};
use shared_numpy_core::sys::{fork, futex};

use crate::block;
use crate::error::exception;
use crate::gil;

/// How often inherited memory was let go of: who was inherited has to be asked about again.
static DROPS: AtomicU32 = AtomicU32::new(0);

/// Inherited memory is about to be let go of, or has just been.
pub(crate) fn note_drop() {
    DROPS.fetch_add(1, Ordering::Relaxed);
}

/// A cell of the core's in a block.
struct Cell {
    hold: Hold,
    presence: Presence,
    /// For which process, and after how many drops, `me` is right; zero: for none.
    stamp: AtomicU64,
    /// Who this process is there, packed.
    me: AtomicU64,
}

/// Why a wait brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    TimedOut,
    Broken,
}

/// Runs something with the interpreter taken back.
type Attach<'a> = &'a dyn Fn(&mut dyn FnMut(Python<'_>));
/// What is done while waiting.
type Work<'w, T> = dyn FnMut(&mut Wait<'_>, Attach<'_>) -> Result<T, Stop> + 'w;

fn outcome<T>(done: Result<T, Stop>) -> PyResult<Result<T, Over>> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Stop::TimedOut) => Ok(Err(Over::TimedOut)),
        Err(Stop::Broken) => Ok(Err(Over::Broken)),
        Err(Stop::Interrupted) => Err(PyRuntimeError::new_err("interrupted by nobody")),
        Err(Stop::Failed(error)) => Err(exception(error)),
    }
}

impl Cell {
    /// A new block of `size_bytes`, where `create` makes a cell.
    fn create(
        py: Python<'_>,
        size_bytes: usize,
        create: impl FnOnce(&Mapping, usize) -> CoreResult<()>,
    ) -> PyResult<Self> {
        let hold = block::allocate(py, size_bytes, false)?;
        create(hold.mapping(), hold.offset_bytes()).map_err(exception)?;
        Self::over(hold)
    }

    /// The cell that a handle leads to.
    fn open(handle: &Bound<'_, PyAny>) -> PyResult<Self> {
        let view = block::parse(handle)?;
        let hold = block::receive(handle.py(), &view.handle)?;
        Self::over(hold)
    }

    fn over(hold: Hold) -> PyResult<Self> {
        let presence = hold.presence().map_err(exception)?;
        Ok(Cell {
            hold,
            presence,
            stamp: AtomicU64::new(0),
            me: AtomicU64::new(0),
        })
    }

    /// A handle, which holds the block until somebody receives it.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        block::send_whole(py, &self.hold)
    }

    /// Where the cell is.
    #[inline]
    fn at(&self) -> (&Mapping, usize) {
        (self.hold.mapping(), self.hold.offset_bytes())
    }

    /// How large its block is.
    fn size_bytes(&self) -> usize {
        self.hold.size_bytes()
    }

    /// Who this process is; an error where the memory was let go of.
    #[inline]
    fn me(&self) -> PyResult<Participant> {
        let drops = u64::from(DROPS.load(Ordering::Relaxed));
        let stamp = (drops << 32 | u64::from(fork::epoch())) + 1;
        // Acquire: `me` was written before its stamp.
        if self.stamp.load(Ordering::Acquire) == stamp
            && let Some(me) = Participant::unpack(self.me.load(Ordering::Relaxed))
        {
            return Ok(me);
        }
        let me = self.hold.me().map_err(exception)?;
        self.me.store(me.pack(), Ordering::Relaxed);
        self.stamp.store(stamp, Ordering::Release);
        Ok(me)
    }

    /// Waits with the interpreter given up, unless there is no time to wait.
    ///
    /// After a fork in a signal handler the child runs `work` again.
    fn wait<T>(
        &self,
        py: Python<'_>,
        timeout_ns: Option<u64>,
        work: &mut dyn FnMut(&mut Wait<'_>) -> Result<T, Stop>,
    ) -> PyResult<Result<T, Over>> {
        if timeout_ns == Some(0) {
            return outcome(work(&mut Wait {
                me: self.me()?,
                watch: None,
                timeout_ns,
                is_gone: &mut |who| self.presence.is_gone(who),
                keep_going: &mut || true,
            }));
        }
        self.wait_detached(py, timeout_ns, &mut |wait, _| work(wait))
    }

    /// As [`Cell::wait`], where `work` may wait for something that has no timeout, or
    /// calls Python.
    fn wait_detached<T>(
        &self,
        py: Python<'_>,
        timeout_ns: Option<u64>,
        work: &mut Work<'_, T>,
    ) -> PyResult<Result<T, Over>> {
        let end_ns = timeout_ns.and_then(|timeout_ns| futex::now_ns().checked_add(timeout_ns));
        let mut left_ns = timeout_ns;
        loop {
            match self.wait_once(py, left_ns, work)? {
                (_, Some(error)) => return Err(error),
                (Err(Stop::Interrupted), None) => {
                    left_ns = end_ns.map(|end_ns| end_ns.saturating_sub(futex::now_ns()));
                }
                (done, None) => return outcome(done),
            }
        }
    }

    /// As [`Cell::wait_detached`]; what `work` came to, and what a signal handler raised.
    ///
    /// A fork in a handler interrupts `work` in the child.
    fn wait_once<T>(
        &self,
        py: Python<'_>,
        timeout_ns: Option<u64>,
        work: &mut Work<'_, T>,
    ) -> PyResult<(Result<T, Stop>, Option<PyErr>)> {
        let (me, epoch) = (self.me()?, fork::epoch());
        let mut raised = None;
        let done = gil::detached(py, |detached| {
            let detached = RefCell::new(detached);
            let wait = &mut Wait {
                me,
                watch: Some(&self.presence),
                timeout_ns,
                is_gone: &mut |who| self.presence.is_gone(who),
                keep_going: &mut || {
                    detached.borrow_mut().hear_signals(&mut raised) && fork::epoch() == epoch
                },
            };
            work(wait, &|call| detached.borrow_mut().attached(&mut *call))
        });
        Ok((done, raised))
    }

    fn is_gone(&self, who: Participant) -> bool {
        self.presence.is_gone(who)
    }
}

/// What a wait that must not fail ended with.
fn never(over: Over) -> PyErr {
    PyRuntimeError::new_err(format!("a wait without an end ended: {over:?}"))
}

/// A timeout in seconds; below zero is none at all, too long to count is for ever. What is no
/// number is a ValueError: it would be no time here and for ever elsewhere.
pub(crate) fn timeout_ns(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(timeout) = timeout else {
        return Ok(None);
    };
    let seconds = gil::float(timeout)?;
    if seconds.is_nan() {
        return Err(PyValueError::new_err(
            "a timeout is a number of seconds, not NaN",
        ));
    }
    // Saturates at both ends.
    Ok(Some((seconds * 1e9).ceil() as u64).filter(|&ns| ns < u64::MAX))
}

/// The number of this thread, which no other thread of the process ever has.
#[inline]
fn thread_number() -> NonZeroU64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static OWN: ThreadCell<u64> = const { ThreadCell::new(0) };
    }
    OWN.with(|own| {
        if own.get() == 0 {
            // Relaxed: only its own value counts.
            own.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        // It counts up from 1, and does not come round.
        NonZeroU64::new(own.get()).unwrap_or(NonZeroU64::MAX)
    })
}

/// An object that is not what its handle is for.
pub(crate) fn checked<T>(found: CoreResult<T>) -> PyResult<T> {
    found.map_err(|error| match error {
        Error::WrongSegment(what) => {
            PyRuntimeError::new_err(format!("the handle of another object: {what}"))
        }
        error => exception(error),
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    semlock::register(m)?;
    integer::register(m)?;
    event::register(m)?;
    condition::register(m)?;
    barrier::register(m)
}
