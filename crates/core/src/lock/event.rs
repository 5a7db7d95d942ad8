//! A flag to wait for.
//!
//! Guarantee: who waited when the flag was set returns, even if it is cleared at once.
//!
//! ```text
//! bit 0      set
//! bit 1      waiters: somebody may sleep
//! bits 2-63  how often it was set
//! ```

#[cfg(not(loom))]
use core::mem::offset_of;

use super::kernel::Kernel;
use super::spin::look;
use super::wait::{Naps, Stop, Wait};
#[cfg(not(loom))]
use super::{Cell, kernel::System};
#[cfg(not(loom))]
use crate::error::Result as CoreResult;
use crate::fault::point;
#[cfg(not(loom))]
use crate::layout::cells::{CELL_BYTES, EVENT_KIND, EventCell};
#[cfg(not(loom))]
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

const SET: u64 = 1;
const WAITERS: u64 = 2;
const ONCE: u64 = 4;

/// An event.
#[derive(Debug, Clone, Copy)]
pub struct Event<'m, K> {
    word: &'m AtomicU64,
    spins: Option<&'m AtomicU64>,
    kernel: K,
}

#[cfg(not(loom))]
impl<'m> Event<'m, System> {
    /// Makes an event, not set, of the [`CELL_BYTES`] bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`](crate::error::Error::OutOfBounds).
    pub fn create(mapping: &'m Mapping, offset: usize) -> CoreResult<()> {
        Cell::create(mapping, offset, CELL_BYTES)?.finish(EVENT_KIND)
    }

    /// The event at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`](crate::error::Error::WrongSegment) when there is none.
    #[inline]
    pub fn at(mapping: &'m Mapping, offset: usize) -> CoreResult<Self> {
        let cell = Cell::at(mapping, offset, CELL_BYTES, EVENT_KIND)?;
        Ok(Event {
            word: cell.word(offset_of!(EventCell, word))?,
            spins: Some(cell.word(offset_of!(EventCell, spins))?),
            kernel: System,
        })
    }
}

impl<'m, K: Kernel> Event<'m, K> {
    /// An event on this word, zero at first.
    pub fn over(word: &'m AtomicU64, kernel: K) -> Self {
        Event {
            word,
            spins: None,
            kernel,
        }
    }

    /// Whether it is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        // Acquire: after whatever was done before it was set.
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Sets it and wakes all who wait.
    pub fn set(&self) {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            // Set already: written again all the same, so that who sees it set from now
            // on also sees what we did before.
            let once = if seen & SET == 0 { ONCE } else { 0 };
            let new = (seen & !WAITERS).wrapping_add(once) | SET;
            // AcqRel: what we did is before whatever the woken do; and what was done
            // before an earlier `set` that is still on stays so.
            match self
                .word
                .compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(other) => seen = other,
            }
        }
        point("event.set");
        if seen & WAITERS != 0 {
            self.kernel.wake(self.word, u32::MAX);
        }
    }

    /// Clears it.
    pub fn clear(&self) {
        // AcqRel: as for `set`.
        self.word.fetch_and(!SET, Ordering::AcqRel);
    }

    /// Waits until it is set.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`].
    pub fn wait(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        // Acquire, here and below: as `is_set`.
        let first = self.word.load(Ordering::Acquire);
        let is_over = |seen: u64| seen & SET != 0 || seen / ONCE != first / ONCE;
        if is_over(first) {
            return Ok(());
        }
        let mut naps = Naps::of(wait, self.kernel);
        if !wait.is_try() {
            let is_over = || is_over(self.word.load(Ordering::Relaxed));
            look(self.kernel, self.spins, is_over);
        }
        loop {
            let seen = self.word.load(Ordering::Acquire);
            if is_over(seen) {
                return Ok(());
            }
            if wait.is_try() {
                return Err(Stop::TimedOut);
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
            point("event.marked");
            // All are woken, by each set: who gives up takes nothing from the others.
            naps.nap(wait, self.kernel, self.word, marked)?;
        }
    }
}
