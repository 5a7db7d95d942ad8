//! A semaphore that carries no owner: anybody acquires, anybody releases.
//!
//! Guarantee (rule P8): units are exact; one that a dead process had acquired stays
//! acquired ([`super::bounded`] returns them). A wake-up that a dead waiter took
//! reaches the others when their slice ends.
//!
//! ```text
//! bit 0       waiters: somebody may sleep
//! bits 1-31   units left
//! bits 32-63  zero, passed over
//! ```

#[cfg(not(loom))]
use core::mem::offset_of;

#[cfg(not(loom))]
use super::Cell;
use super::kernel::Kernel;
#[cfg(not(loom))]
use super::kernel::System;
use super::spin::look;
use super::wait::{Naps, Stop, Wait};
#[cfg(not(loom))]
use crate::error::{Error, Result as CoreResult};
use crate::fault::point;
#[cfg(not(loom))]
use crate::layout::cells::{CELL_BYTES, SEMAPHORE_KIND, SemaphoreCell};
#[cfg(not(loom))]
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

/// The largest number of units, that of POSIX semaphores.
pub const UNITS_LEFT_MAX: u32 = i32::MAX as u32;

const WAITERS: u64 = 1;
const UNIT: u64 = 2;

/// The units in a word.
const fn units(word: u64) -> u32 {
    // The low half.
    word as u32 >> 1
}

/// A semaphore.
#[derive(Debug, Clone, Copy)]
pub struct Semaphore<'m, K> {
    word: &'m AtomicU64,
    spins: Option<&'m AtomicU64>,
    kernel: K,
}

#[cfg(not(loom))]
impl<'m> Semaphore<'m, System> {
    /// Makes a semaphore with `units` of the [`CELL_BYTES`] bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] for more than [`UNITS_LEFT_MAX`].
    pub fn create(mapping: &'m Mapping, offset: usize, units: u32) -> CoreResult<()> {
        if units > UNITS_LEFT_MAX {
            return Err(Error::NotAllowed(
                "a semaphore cannot have more than 2147483647 units",
            ));
        }
        let cell = Cell::create(mapping, offset, CELL_BYTES)?;
        let word = cell.word(offset_of!(SemaphoreCell, word))?;
        word.store(u64::from(units) * UNIT, Ordering::Relaxed);
        cell.finish(SEMAPHORE_KIND)
    }

    /// The semaphore at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`] when there is none.
    #[inline]
    pub fn at(mapping: &'m Mapping, offset: usize) -> CoreResult<Self> {
        let cell = Cell::at(mapping, offset, CELL_BYTES, SEMAPHORE_KIND)?;
        Ok(Semaphore {
            word: cell.word(offset_of!(SemaphoreCell, word))?,
            spins: Some(cell.word(offset_of!(SemaphoreCell, spins))?),
            kernel: System,
        })
    }
}

impl<'m, K: Kernel> Semaphore<'m, K> {
    /// A semaphore on this word, whose value is the number of its units times two.
    pub fn over(word: &'m AtomicU64, kernel: K) -> Self {
        Semaphore {
            word,
            spins: None,
            kernel,
        }
    }

    /// How many units are left.
    pub fn value(&self) -> u32 {
        // Relaxed: old when it is read.
        units(self.word.load(Ordering::Relaxed))
    }

    /// Takes a unit if there is one.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        self.take(0)
    }

    /// Takes a unit, waiting for one if need be.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`].
    #[inline]
    pub fn acquire(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        if self.try_acquire() {
            return Ok(());
        }
        self.acquire_contended(wait)
    }

    /// Gives `count` units.
    ///
    /// `false`, and nothing done, when there would be more than [`UNITS_LEFT_MAX`].
    #[inline]
    pub fn release(&self, count: u32) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let left = units(seen).checked_add(count);
            if left.is_none_or(|left| left > UNITS_LEFT_MAX) {
                return false;
            }
            let given = (seen & !WAITERS) + u64::from(count) * UNIT;
            // Release: what we did is before whatever the taker of the unit does.
            match self
                .word
                .compare_exchange(seen, given, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(other) => seen = other,
            }
        }
        point("semaphore.added");
        if seen & WAITERS != 0 {
            self.kernel.wake(self.word, count);
        }
        true
    }

    fn take(&self, waiters: u64) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        while units(seen) > 0 {
            let taken = (seen - UNIT) | waiters;
            // Acquire: after whatever who gave the unit did.
            match self
                .word
                .compare_exchange(seen, taken, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => {
                    point("semaphore.taken");
                    // One release wakes one, and clears the bit: releases that followed
                    // it at once woke nobody. Who was woken wakes for them.
                    if waiters != 0 && units(taken) > 0 {
                        self.kernel.wake(self.word, 1);
                    }
                    return true;
                }
                Err(other) => seen = other,
            }
        }
        false
    }

    #[cold]
    fn acquire_contended(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        let mut naps = Naps::of(wait, self.kernel);
        if !wait.is_try() {
            let is_over = || units(self.word.load(Ordering::Relaxed)) > 0;
            look(self.kernel, self.spins, is_over);
        }
        let mut slept = 0;
        loop {
            if self.take(slept) {
                return Ok(());
            }
            if wait.is_try() {
                return Err(Stop::TimedOut);
            }
            let seen = self.word.load(Ordering::Relaxed);
            if units(seen) > 0 {
                continue;
            }
            let marked = seen | WAITERS;
            // Relaxed: the bit promises nothing about other words.
            if seen != marked
                && self
                    .word
                    .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            point("semaphore.marked");
            let nap = naps.nap(wait, self.kernel, self.word, marked);
            slept = WAITERS;
            point("semaphore.woken");
            if let Err(stop) = nap {
                // A wake-up that may have been meant for us goes on. AcqRel: whoever
                // gave a unit and cleared the bit is before us.
                let before = self.word.fetch_or(WAITERS, Ordering::AcqRel);
                if units(before) > 0 {
                    self.kernel.wake(self.word, 1);
                }
                return Err(stop);
            }
        }
    }
}
