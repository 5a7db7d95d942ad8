//! What locks and semaphores of every kind do, behind the methods that Python sees
//! ([`super::semlock`], [`super::quick`]).
//!
//! Guarantee: acquire and release of what is free are one call, no system call, and one
//! compare-and-swap each.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::create_exception;
use pyo3::exceptions::{PyAssertionError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use shared_numpy_core::layout::Participant;
use shared_numpy_core::layout::cells::{CELL_BYTES, UNITS_MAX};
use shared_numpy_core::lock::bounded::{self, BoundedSemaphore};
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::mutex::{self, Guard, Lock, RLock};
use shared_numpy_core::lock::semaphore::Semaphore;
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::lock::word::{Acquired, Released};

use super::{Cell, Over, checked, thread};

create_exception!(
    shared_numpy,
    AbandonedLock,
    PyRuntimeError,
    "A process died that had the lock: what the lock guards may be half done."
);

/// What it is; the numbers are Python's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Lock,
    RLock,
    Semaphore,
    Bounded,
}

impl Kind {
    pub(super) fn of(number: u8) -> PyResult<Self> {
        match number {
            0 => Ok(Kind::Lock),
            1 => Ok(Kind::RLock),
            2 => Ok(Kind::Semaphore),
            3 => Ok(Kind::Bounded),
            _ => Err(PyValueError::new_err("unrecognized kind")),
        }
    }
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// `None`: for ever.
    pub(super) timeout_ns: Option<u64>,
}

impl Patience {
    pub(super) const ENDLESS: Self = Patience { timeout_ns: None };
    pub(super) const NONE: Self = Patience {
        timeout_ns: Some(0),
    };
}

/// A lock or a semaphore.
pub(super) struct AnyLock {
    pub(super) cell: Cell,
    kind: Kind,
    /// Who acquires what a dead process had is told so by an exception, and has it not.
    raises: bool,
    /// The thread of this process that acquired it last, through this object.
    thread: AtomicU64,
}

const TOO_OFTEN: &str = "semaphore or lock released too many times";
const PLAIN: Acquired = Acquired { abandoned: false };

impl AnyLock {
    /// A new one.
    pub(super) fn create(py: Python<'_>, kind: Kind, value: i32, raises: bool) -> PyResult<Self> {
        let Ok(units) = u32::try_from(value) else {
            return Err(PyOSError::new_err((
                libc::EINVAL,
                "a semaphore cannot begin below zero",
            )));
        };
        let cell = match kind {
            Kind::Lock | Kind::RLock => Cell::create(py, CELL_BYTES, mutex::create),
            Kind::Semaphore => Cell::create(py, CELL_BYTES, |mapping, offset| {
                Semaphore::create(mapping, offset, units)
            }),
            Kind::Bounded => {
                let units = u64::from(units);
                if units == 0 || units > UNITS_MAX {
                    return Err(PyValueError::new_err(format!(
                        "a bounded semaphore has 1 to {UNITS_MAX} units"
                    )));
                }
                let size = bounded::size_bytes(units).map_err(crate::error::exception)?;
                Cell::create(py, size, |mapping, offset| {
                    BoundedSemaphore::create(mapping, offset, units)
                })
            }
        }?;
        Ok(Self::over(cell, kind, raises))
    }

    /// The one that a handle leads to.
    pub(super) fn open(handle: &Bound<'_, PyAny>, kind: Kind, raises: bool) -> PyResult<Self> {
        let lock = Self::over(Cell::open(handle)?, kind, raises);
        match kind {
            Kind::Lock | Kind::RLock => drop(lock.lock()?),
            Kind::Semaphore => drop(lock.semaphore()?),
            Kind::Bounded => drop(lock.bounded()?),
        }
        Ok(lock)
    }

    fn over(cell: Cell, kind: Kind, raises: bool) -> Self {
        AnyLock {
            cell,
            kind,
            raises,
            thread: AtomicU64::new(0),
        }
    }

    #[inline]
    fn lock(&self) -> PyResult<Lock<'_, System>> {
        let (mapping, offset) = self.cell.at();
        checked(Lock::at(mapping, offset))
    }

    #[inline]
    fn rlock(&self) -> PyResult<RLock<'_, System>> {
        let (mapping, offset) = self.cell.at();
        checked(RLock::at(mapping, offset))
    }

    #[inline]
    fn semaphore(&self) -> PyResult<Semaphore<'_, System>> {
        let (mapping, offset) = self.cell.at();
        checked(Semaphore::at(mapping, offset))
    }

    fn bounded(&self) -> PyResult<BoundedSemaphore<'_, System>> {
        let (mapping, offset) = self.cell.at();
        checked(BoundedSemaphore::at(mapping, offset))
    }

    /// Acquires what is free.
    #[inline]
    fn try_now(&self, me: Participant) -> PyResult<Option<Acquired>> {
        Ok(match self.kind {
            Kind::Lock => self.lock()?.try_acquire(me),
            Kind::RLock => self.rlock()?.try_acquire(me, thread()),
            Kind::Semaphore => self.semaphore()?.try_acquire().then_some(PLAIN),
            Kind::Bounded => self.bounded()?.try_acquire(me).then_some(PLAIN),
        })
    }

    #[cold]
    fn wait(&self, py: Python<'_>, patience: Patience) -> PyResult<Option<Acquired>> {
        let timeout_ns = patience.timeout_ns;
        let done = match self.kind {
            Kind::Lock => {
                let lock = self.lock()?;
                self.cell
                    .wait(py, timeout_ns, &mut |wait| lock.acquire(wait))
            }
            Kind::RLock => {
                let (lock, thread) = (self.rlock()?, thread());
                let work = &mut |wait: &mut Wait<'_>| lock.acquire(wait, thread);
                self.cell.wait(py, timeout_ns, work)
            }
            Kind::Semaphore => {
                let semaphore = self.semaphore()?;
                let work = &mut |wait: &mut Wait<'_>| semaphore.acquire(wait).map(|()| PLAIN);
                self.cell.wait(py, timeout_ns, work)
            }
            Kind::Bounded => {
                let semaphore = self.bounded()?;
                let work = &mut |wait: &mut Wait<'_>| semaphore.acquire(wait).map(|()| PLAIN);
                self.cell.wait(py, timeout_ns, work)
            }
        }?;
        match done {
            Ok(acquired) => Ok(Some(acquired)),
            Err(Over::TimedOut) => Ok(None),
            Err(over) => Err(super::never(over)),
        }
    }

    /// Acquires; `None` when it could not in time.
    #[inline]
    fn acquire_any(&self, py: Python<'_>, patience: Patience) -> PyResult<Option<Acquired>> {
        let acquired = match self.try_now(self.cell.me()?)? {
            Some(acquired) => Some(acquired),
            None => self.wait(py, patience)?,
        };
        // Only of a lock it is asked.
        if acquired.is_some() && self.kind == Kind::Lock {
            self.note_thread();
        }
        Ok(acquired)
    }

    /// Acquires; whether it could in time.
    #[inline]
    pub(super) fn acquire(&self, py: Python<'_>, patience: Patience) -> PyResult<bool> {
        match self.acquire_any(py, patience)? {
            Some(Acquired { abandoned: true }) if self.raises => self.refuse().map(|()| true),
            acquired => Ok(acquired.is_some()),
        }
    }

    /// As [`AnyLock::acquire`], without an exception for what a dead process had.
    pub(super) fn acquire_abandoned(&self, py: Python<'_>, patience: Patience) -> PyResult<bool> {
        Ok(self.acquire_any(py, patience)?.is_some())
    }

    /// An exception for a lock that was abandoned, which the next one learns too.
    #[cold]
    fn refuse(&self) -> PyResult<()> {
        let me = self.cell.me()?;
        match self.kind {
            Kind::Lock => self.lock()?.release_abandoned(me),
            Kind::RLock => {
                let lock = self.rlock()?;
                if lock.depth(me, thread()) > 1 {
                    return Ok(()); // whoever has it knows
                }
                lock.release_abandoned(me, thread())
            }
            Kind::Semaphore | Kind::Bounded => return Ok(()),
        };
        Err(abandoned())
    }

    /// Releases.
    #[inline]
    pub(super) fn release(&self) -> PyResult<()> {
        let me = self.cell.me()?;
        let is_released = match self.kind {
            Kind::Lock => self.lock()?.release(me) == Released::Done,
            Kind::RLock => {
                if self.rlock()?.release(me, thread()) == Released::NotHeld {
                    return Err(not_owned());
                }
                true
            }
            Kind::Semaphore => self.semaphore()?.release(1),
            Kind::Bounded => self.bounded()?.release(me) == Released::Done,
        };
        if is_released {
            Ok(())
        } else {
            Err(PyValueError::new_err(TOO_OFTEN))
        }
    }

    /// Whether the calling thread has it.
    pub(super) fn is_mine(&self) -> PyResult<bool> {
        let me = self.cell.me()?;
        Ok(match self.kind {
            Kind::RLock => self.rlock()?.is_mine(me, thread()),
            Kind::Lock => {
                self.lock()?.owner() == Some(me)
                    && self.thread.load(Ordering::Relaxed) == thread().get()
            }
            Kind::Semaphore | Kind::Bounded => false,
        })
    }

    /// How often this process has it: a lock; zero for semaphores.
    pub(super) fn count(&self) -> PyResult<u64> {
        let me = self.cell.me()?;
        Ok(match self.kind {
            Kind::RLock => {
                let lock = self.rlock()?;
                let mine = lock.depth(me, thread());
                mine.max(u64::from(lock.owner() == Some(me)))
            }
            Kind::Lock => u64::from(self.lock()?.owner() == Some(me)),
            Kind::Semaphore | Kind::Bounded => 0,
        })
    }

    /// How many units are left; of a lock one, if it is free.
    pub(super) fn value(&self) -> PyResult<usize> {
        self.cell.me()?;
        Ok(match self.kind {
            Kind::Lock | Kind::RLock => usize::from(!self.lock()?.is_held()),
            Kind::Semaphore => self.semaphore()?.value() as usize,
            Kind::Bounded => self.bounded()?.value(),
        })
    }

    /// How many units a bounded semaphore has; zero for others.
    pub(super) fn bound(&self) -> PyResult<usize> {
        self.cell.me()?;
        match self.kind {
            Kind::Bounded => Ok(self.bounded()?.bound()),
            Kind::Lock | Kind::RLock | Kind::Semaphore => Ok(0),
        }
    }

    /// Whether an owner died, and nobody has released the lock since.
    pub(super) fn is_abandoned(&self) -> PyResult<bool> {
        self.cell.me()?;
        match self.kind {
            Kind::Lock | Kind::RLock => {
                let lock = self.lock()?;
                let is_left = |who| self.cell.is_gone(who);
                Ok(lock.is_abandoned() || lock.owner().is_some_and(is_left))
            }
            Kind::Semaphore | Kind::Bounded => Ok(false),
        }
    }

    /// What a wait on a condition does with the lock: lets it go, sleeps, acquires it.
    pub(super) fn release_and<T>(
        &self,
        wait: &mut Wait<'_>,
        work: impl FnOnce(&dyn DynGuard, &mut Wait<'_>) -> T,
    ) -> PyResult<T> {
        Ok(match self.kind {
            Kind::Lock => work(&self.lock()?, wait),
            Kind::RLock => {
                let lock = self.rlock()?;
                work(&lock.guard(thread()), wait)
            }
            Kind::Semaphore | Kind::Bounded => {
                return Err(PyRuntimeError::new_err(
                    "the lock of a condition is no lock",
                ));
            }
        })
    }

    /// The calling thread has the lock.
    #[inline]
    pub(super) fn note_thread(&self) {
        self.thread.store(thread().get(), Ordering::Relaxed);
    }

    pub(super) fn raises(&self) -> bool {
        self.raises
    }
}

#[cold]
fn not_owned() -> PyErr {
    PyAssertionError::new_err("attempt to release recursive lock not owned by thread")
}

#[cold]
pub(super) fn abandoned() -> PyErr {
    AbandonedLock::new_err(
        "a process died that had this lock: what it guards may be half done \
         (acquire_abandoned() acquires it all the same)",
    )
}

/// A [`Guard`] of either sort.
pub(super) trait DynGuard {
    fn release_all(&self, me: Participant) -> Option<u64>;
    fn reacquire(&self, wait: &mut Wait<'_>, depth: u64) -> Result<Acquired, Stop>;
}

impl<G: Guard> DynGuard for G {
    fn release_all(&self, me: Participant) -> Option<u64> {
        Guard::release_all(self, me)
    }

    fn reacquire(&self, wait: &mut Wait<'_>, depth: u64) -> Result<Acquired, Stop> {
        Guard::reacquire(self, wait, depth)
    }
}
