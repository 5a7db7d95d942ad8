//! What locks and semaphores of every kind do, behind the methods that Python sees
//! ([`super::semlock`], [`super::quick`]).
//!
//! Guarantee: acquire and release of what is free are one call, no system call, and one
//! compare-and-swap each.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pyo3::create_exception;
use pyo3::exceptions::{PyAssertionError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use shared_numpy_core::layout::Participant;
use shared_numpy_core::layout::cells::CELL_BYTES;
use shared_numpy_core::lock::bounded::{self, BoundedSemaphore};
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::mutex::{self, Guard, Lock, RLock};
use shared_numpy_core::lock::semaphore::Semaphore;
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::lock::word::{Acquired, Released};
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::sys::thread;

use super::{Cell, Over, checked, thread_number, timeout_ns};
use crate::gil;

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

    /// What the arguments of `acquire` say; `None` where not given.
    pub(super) fn of(
        block: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let block = block.map_or(Ok(true), gil::is_true)?;
        let timeout_ns = timeout_ns(timeout.filter(|timeout| !timeout.is_none()))?;
        Ok(if block {
            Patience { timeout_ns }
        } else {
            Patience::NONE
        })
    }
}

/// The words of a lock or a semaphore.
enum Words<'m> {
    Lock(Lock<'m, System>),
    RLock(RLock<'m, System>),
    Semaphore(Semaphore<'m, System>),
    Bounded(BoundedSemaphore<'m, System>),
}

/// A lock or a semaphore.
pub(super) struct AnyLock {
    /// Found once. Not to be given out but by [`AnyLock::words`]: they lie in the mapping
    /// that `cell` keeps.
    words: Words<'static>,
    pub(super) cell: Cell,
    /// Who acquires what a dead process had is told so by an exception, and has it not.
    raises: bool,
    /// Whoever has it was told so all the same, by the end of a wait on a condition, and has
    /// repaired nothing: its release keeps telling.
    is_refused: AtomicBool,
    /// The thread of this process that acquired it last, through this object, as
    /// [`thread::own`] tells it: a lock that is not re-entrant may be released by
    /// anybody, so that it does no harm if a later thread is taken for it.
    thread: AtomicU64,
}

const PLAIN: Acquired = Acquired {
    abandoned: false,
    inherited: false,
};

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
                let size = bounded::size_bytes(units).map_err(crate::error::exception)?;
                Cell::create(py, size, |mapping, offset| {
                    BoundedSemaphore::create(mapping, offset, units)
                })
            }
        }?;
        Self::over(cell, kind, raises)
    }

    /// The one that a handle leads to.
    pub(super) fn open(handle: &Bound<'_, PyAny>, kind: Kind, raises: bool) -> PyResult<Self> {
        Self::over(Cell::open(handle)?, kind, raises)
    }

    fn over(cell: Cell, kind: Kind, raises: bool) -> PyResult<Self> {
        let words = {
            let (mapping, offset) = cell.at();
            // SAFETY: `cell` keeps the mapping, at the same address, as long as it lives
            // itself; the words live as long as the cell, beside it, and no longer than
            // that are they given out.
            let mapping: &'static Mapping = unsafe { &*ptr::from_ref(mapping) };
            match kind {
                Kind::Lock => Words::Lock(checked(Lock::at(mapping, offset))?),
                Kind::RLock => Words::RLock(checked(RLock::at(mapping, offset))?),
                Kind::Semaphore => Words::Semaphore(checked(Semaphore::at(mapping, offset))?),
                Kind::Bounded => Words::Bounded(checked(BoundedSemaphore::at(
                    mapping,
                    offset,
                    cell.size_bytes(),
                ))?),
            }
        };
        Ok(AnyLock {
            words,
            cell,
            raises,
            is_refused: AtomicBool::new(false),
            thread: AtomicU64::new(0),
        })
    }

    #[inline]
    fn words(&self) -> &Words<'_> {
        &self.words
    }

    /// Acquires what is free.
    #[inline]
    fn try_now(&self, me: Participant) -> Option<Acquired> {
        match self.words() {
            Words::Lock(lock) => {
                let acquired = lock.try_acquire(me)?;
                self.note_thread();
                Some(acquired)
            }
            Words::RLock(lock) => lock.try_acquire(me, thread_number()),
            Words::Semaphore(semaphore) => semaphore.try_acquire().then_some(PLAIN),
            Words::Bounded(semaphore) => semaphore.try_acquire(me).then_some(PLAIN),
        }
    }

    #[cold]
    fn wait(&self, py: Python<'_>, patience: Patience) -> PyResult<Option<Acquired>> {
        let thread = thread_number();
        let work = &mut |wait: &mut Wait<'_>| match self.words() {
            Words::Lock(lock) => lock.acquire(wait),
            Words::RLock(lock) => lock.acquire(wait, thread),
            Words::Semaphore(semaphore) => semaphore.acquire(wait).map(|()| PLAIN),
            Words::Bounded(semaphore) => semaphore.acquire(wait).map(|()| PLAIN),
        };
        match self.cell.wait(py, patience.timeout_ns, work)? {
            Ok(acquired) => {
                self.note_thread();
                Ok(Some(acquired))
            }
            Err(Over::TimedOut) => Ok(None),
            Err(over) => Err(super::never(over)),
        }
    }

    /// Acquires; `None` when it could not in time.
    #[inline]
    fn acquire_any(&self, py: Python<'_>, patience: Patience) -> PyResult<Option<Acquired>> {
        match self.try_now(self.cell.me()?) {
            Some(acquired) => Ok(Some(acquired)),
            None => self.wait(py, patience),
        }
    }

    /// Acquires; whether it could in time.
    #[inline]
    pub(super) fn acquire(&self, py: Python<'_>, patience: Patience) -> PyResult<bool> {
        match self.acquire_any(py, patience)? {
            Some(acquired) if acquired.abandoned && self.raises => self.refuse().map(|()| true),
            acquired => Ok(acquired.is_some()),
        }
    }

    /// As [`AnyLock::acquire`], without an exception for what a dead process had.
    pub(super) fn acquire_abandoned(&self, py: Python<'_>, patience: Patience) -> PyResult<bool> {
        let is_acquired = self.acquire_any(py, patience)?.is_some();
        if is_acquired {
            self.note_refused(false);
        }
        Ok(is_acquired)
    }

    /// An exception for a lock that was abandoned, which the next one learns too.
    #[cold]
    fn refuse(&self) -> PyResult<()> {
        let me = self.cell.me()?;
        match self.words() {
            Words::Lock(lock) => lock.release_abandoned(me),
            Words::RLock(lock) => {
                if lock.depth(me, thread_number()) > 1 {
                    return Ok(()); // whoever has it knows
                }
                lock.release_abandoned(me, thread_number())
            }
            Words::Semaphore(_) | Words::Bounded(_) => return Ok(()),
        };
        Err(abandoned())
    }

    /// Releases.
    #[inline]
    pub(super) fn release(&self) -> PyResult<()> {
        let me = self.cell.me()?;
        let is_released = match self.words() {
            Words::Lock(lock) => {
                let released = if self.is_refused() {
                    self.note_refused(false);
                    lock.release_abandoned(me)
                } else {
                    lock.release(me)
                };
                released == Released::Done
            }
            Words::RLock(lock) => {
                let thread = thread_number();
                let released = if self.is_refused() {
                    if lock.depth(me, thread) == 1 {
                        self.note_refused(false);
                    }
                    lock.release_abandoned(me, thread)
                } else {
                    lock.release(me, thread)
                };
                if released == Released::NotHeld {
                    return Err(not_owned());
                }
                true
            }
            Words::Semaphore(semaphore) => semaphore.release(1),
            Words::Bounded(semaphore) => semaphore.release(me) == Released::Done,
        };
        if is_released {
            Ok(())
        } else {
            Err(too_often())
        }
    }

    /// Whether the calling thread has it.
    pub(super) fn is_mine(&self) -> PyResult<bool> {
        let me = self.cell.me()?;
        Ok(match self.words() {
            Words::RLock(lock) => lock.is_mine(me, thread_number()),
            Words::Lock(lock) => lock.owner() == Some(me) && self.thread_is_noted(),
            Words::Semaphore(_) | Words::Bounded(_) => false,
        })
    }

    /// How often this process has it: a lock; zero for semaphores.
    pub(super) fn count(&self) -> PyResult<u64> {
        let me = self.cell.me()?;
        Ok(match self.words() {
            Words::RLock(lock) => {
                let mine = lock.depth(me, thread_number());
                mine.max(u64::from(lock.owner() == Some(me)))
            }
            Words::Lock(lock) => u64::from(lock.owner() == Some(me)),
            Words::Semaphore(_) | Words::Bounded(_) => 0,
        })
    }

    /// How many units are left; of a lock one, if it is free.
    pub(super) fn value(&self) -> PyResult<usize> {
        self.cell.me()?;
        Ok(match self.words() {
            Words::Lock(lock) => usize::from(!lock.is_held()),
            Words::RLock(lock) => usize::from(!lock.is_held()),
            Words::Semaphore(semaphore) => semaphore.value() as usize,
            Words::Bounded(semaphore) => semaphore.value(),
        })
    }

    /// How many units a bounded semaphore has; zero for others.
    pub(super) fn bound(&self) -> usize {
        match self.words() {
            Words::Bounded(semaphore) => semaphore.bound(),
            Words::Lock(_) | Words::RLock(_) | Words::Semaphore(_) => 0,
        }
    }

    /// Whether an owner died, and nobody has released the lock since.
    pub(super) fn is_abandoned(&self) -> PyResult<bool> {
        self.cell.me()?;
        let (is_marked, owner) = match self.words() {
            Words::Lock(lock) => (lock.is_abandoned(), lock.owner()),
            Words::RLock(lock) => (lock.is_abandoned(), lock.owner()),
            Words::Semaphore(_) | Words::Bounded(_) => (false, None),
        };
        Ok(is_marked || owner.is_some_and(|who| self.cell.is_gone(who)))
    }

    /// What a wait on a condition does with the lock: lets it go, sleeps, acquires it.
    pub(super) fn release_and<T>(
        &self,
        wait: &mut Wait<'_>,
        work: impl FnOnce(&dyn DynGuard, &mut Wait<'_>) -> T,
    ) -> PyResult<T> {
        Ok(match self.words() {
            Words::Lock(lock) => work(lock, wait),
            Words::RLock(lock) => work(&lock.guard(thread_number()), wait),
            Words::Semaphore(_) | Words::Bounded(_) => {
                return Err(PyRuntimeError::new_err(
                    "the lock of a condition is no lock",
                ));
            }
        })
    }

    /// The calling thread has the lock.
    #[inline]
    pub(super) fn note_thread(&self) {
        self.thread.store(thread::own(), Ordering::Relaxed);
    }

    fn thread_is_noted(&self) -> bool {
        self.thread.load(Ordering::Relaxed) == thread::own()
    }

    pub(super) fn raises(&self) -> bool {
        self.raises
    }

    /// Whether the calling thread, which has the lock, knows that it was abandoned, and repairs.
    pub(super) fn is_being_repaired(&self) -> bool {
        let is_marked = match self.words() {
            Words::Lock(lock) => lock.is_abandoned(),
            Words::RLock(lock) => lock.is_abandoned(),
            Words::Semaphore(_) | Words::Bounded(_) => false,
        };
        is_marked && !self.is_refused()
    }

    #[inline]
    fn is_refused(&self) -> bool {
        // Relaxed: only who has the lock looks and writes, and it was told by its own wait. A
        // mark that stayed, since another process released the lock, keeps no bit that is not there.
        self.raises && self.is_refused.load(Ordering::Relaxed)
    }

    pub(super) fn note_refused(&self, is_refused: bool) {
        self.is_refused.store(is_refused, Ordering::Relaxed);
    }
}

#[cold]
fn too_often() -> PyErr {
    PyValueError::new_err("semaphore or lock released too many times")
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
