//! A bounded semaphore that gives back what the dead had.
//!
//! Guarantee (rule P8): each unit is a word that says who has it, written by the one
//! instruction that takes it; so no count can be wrong, and a dead participant's units
//! go, one by one, to those who find them so. There are never more units than at the
//! start. At most 65,536 are taken at a time, however many there are.
//!
//! ```text
//! unit   zero: free. Else the participant that has it
//! word   bit 0: waiters, somebody may sleep; bits 1-63: counts releases
//! ```

#[cfg(not(loom))]
use core::mem::offset_of;

use super::kernel::Kernel;
#[cfg(not(loom))]
use super::semaphore::UNITS_LEFT_MAX;
use super::spin::look;
use super::wait::{Nap, Naps, Stop, Wait};
use super::word::Released;
#[cfg(not(loom))]
use super::{Cell, kernel::System};
use crate::error::Error;
#[cfg(not(loom))]
use crate::error::Result as CoreResult;
use crate::fault::point;
use crate::layout::Participant;
#[cfg(not(loom))]
use crate::layout::cells::{BOUNDED_KIND, BoundedCell, CELL_BYTES, UNITS_MAX};
#[cfg(not(loom))]
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

const WAITERS: u64 = 1;
const RELEASE: u64 = 2;
const FREE: u64 = 0;

/// A bounded semaphore.
#[derive(Debug, Clone, Copy)]
pub struct BoundedSemaphore<'m, K> {
    word: &'m AtomicU64,
    start: &'m AtomicU64,
    units: &'m [AtomicU64],
    bound: u64,
    spins: Option<&'m AtomicU64>,
    kernel: K,
}

/// How many bytes a bounded semaphore with so many units takes.
///
/// # Errors
///
/// [`Error::NotAllowed`] for more than [`UNITS_LEFT_MAX`].
#[cfg(not(loom))]
pub fn size_bytes(units: u64) -> CoreResult<usize> {
    if units > u64::from(UNITS_LEFT_MAX) {
        return Err(Error::NotAllowed(
            "a semaphore cannot have more than 2147483647 units",
        ));
    }
    // Small: cannot overflow.
    Ok(CELL_BYTES + units.min(UNITS_MAX) as usize * crate::layout::WORD_BYTES)
}

#[cfg(not(loom))]
impl<'m> BoundedSemaphore<'m, System> {
    /// Makes one of the [`size_bytes`] at `offset`, all units free.
    ///
    /// # Errors
    ///
    /// As [`size_bytes`]; [`Error::OutOfBounds`].
    pub fn create(mapping: &'m Mapping, offset: usize, units: u64) -> CoreResult<()> {
        let cell = Cell::create(mapping, offset, size_bytes(units)?)?;
        let count = cell.word(offset_of!(BoundedCell, units))?;
        count.store(units.min(UNITS_MAX), Ordering::Relaxed);
        let bound = cell.word(offset_of!(BoundedCell, bound))?;
        bound.store(units, Ordering::Relaxed);
        cell.finish(BOUNDED_KIND)
    }

    /// The one at `offset`, in a block of so many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`] when there is none, [`Error::Damaged`] when it cannot be.
    pub fn at(mapping: &'m Mapping, offset: usize, size_bytes: usize) -> CoreResult<Self> {
        let cell = Cell::at(mapping, offset, size_bytes, BOUNDED_KIND)?;
        let units = cell.table(offset_of!(BoundedCell, units), 0..=UNITS_MAX, 1)?;
        let bound = cell.word(offset_of!(BoundedCell, bound))?;
        let bound = bound.load(Ordering::Relaxed);
        if bound > u64::from(UNITS_LEFT_MAX) || bound.min(UNITS_MAX) != units.len() as u64 {
            return Err(Error::Damaged("a semaphore of impossible size"));
        }
        Ok(BoundedSemaphore {
            word: cell.word(offset_of!(BoundedCell, word))?,
            start: cell.word(offset_of!(BoundedCell, start))?,
            units,
            bound,
            spins: Some(cell.word(offset_of!(BoundedCell, spins))?),
            kernel: System,
        })
    }
}

impl<'m, K: Kernel> BoundedSemaphore<'m, K> {
    /// One on these words, zero at first.
    pub fn over(
        word: &'m AtomicU64,
        start: &'m AtomicU64,
        units: &'m [AtomicU64],
        kernel: K,
    ) -> Self {
        BoundedSemaphore {
            word,
            start,
            units,
            bound: units.len() as u64,
            spins: None,
            kernel,
        }
    }

    /// How many units are free; exact while nobody acquires or releases.
    pub fn value(&self) -> usize {
        // Relaxed: old when it is read.
        let is_taken = |unit: &&AtomicU64| unit.load(Ordering::Relaxed) != FREE;
        self.bound() - self.units.iter().filter(is_taken).count()
    }

    /// How many units there are.
    pub fn bound(&self) -> usize {
        self.bound as usize
    }

    /// Whether there are more units than can be taken at a time.
    fn has_more_than_places(&self) -> bool {
        self.bound() > self.units.len()
    }

    /// Takes a unit if there is one; looks after nobody dead.
    #[inline]
    pub fn try_acquire(&self, me: Participant) -> bool {
        let claimed = self.indices().find(|&index| self.claim(index, FREE, me));
        if let Some(index) = claimed
            && self.units.len() > 1
        {
            self.start.store(index as u64 + 1, Ordering::Relaxed);
        }
        claimed.is_some()
    }

    /// Takes a unit, waiting for one if need be.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`]; [`Error::Full`] when as many units are taken
    /// as can be, though there are more.
    pub fn acquire(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        if self.try_acquire(wait.me) {
            return Ok(());
        }
        self.acquire_contended(wait)
    }

    /// Gives a unit back: one of the participant's own, else somebody else's.
    pub fn release(&self, me: Participant) -> Released {
        let own = |index: &usize| self.free(*index, me.pack());
        let index = match self.indices_taken().find(own) {
            Some(index) => index,
            None => {
                let any = |index: &usize| {
                    let seen = self.units[*index].load(Ordering::Relaxed);
                    seen != FREE && self.free(*index, seen)
                };
                match self.indices_taken().find(any) {
                    Some(index) => index,
                    None => return Released::NotHeld,
                }
            }
        };
        self.start.store(index as u64, Ordering::Relaxed);
        point("bounded.returned");
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let told = (seen & !WAITERS).wrapping_add(RELEASE);
            // Release: who sees the new count sees the free unit. Acquire: with one's own
            // mark, see `acquire_contended`.
            match self
                .word
                .compare_exchange(seen, told, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(other) => seen = other,
            }
        }
        point("bounded.told");
        if seen & WAITERS != 0 {
            self.kernel.wake(self.word, 1);
        }
        Released::Done
    }

    /// All indices, the one taken last first.
    fn indices_taken(&self) -> impl Iterator<Item = usize> + use<K> {
        let (start, len) = (self.first(), self.units.len());
        (0..start).rev().chain((start..len).rev())
    }

    fn first(&self) -> usize {
        // Relaxed: a hint, which may be anything.
        let start = self.start.load(Ordering::Relaxed) as usize;
        if start < self.units.len() { start } else { 0 }
    }

    /// All indices, those first that are most likely free.
    fn indices(&self) -> impl Iterator<Item = usize> + use<K> {
        let (start, len) = (self.first(), self.units.len());
        (start..len).chain(0..start)
    }

    fn claim(&self, index: usize, from: u64, me: Participant) -> bool {
        // Acquire: after whatever the last holder did before its release.
        let claimed = self.units[index].load(Ordering::Relaxed) == from
            && self.units[index]
                .compare_exchange(from, me.pack(), Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if claimed {
            let inherited = from != FREE;
            point(if inherited {
                "bounded.inherited"
            } else {
                "bounded.taken"
            });
        }
        claimed
    }

    fn free(&self, index: usize, holder: u64) -> bool {
        // Release: what we did is before whatever the next holder does.
        self.units[index].load(Ordering::Relaxed) == holder
            && self.units[index]
                .compare_exchange(holder, FREE, Ordering::Release, Ordering::Relaxed)
                .is_ok()
    }

    /// Why no unit was to be had at once.
    #[cold]
    fn in_vain(&self) -> Stop {
        if self.has_more_than_places() {
            Stop::Failed(Error::Full {
                what: "units taken of one bounded semaphore",
                limit: self.units.len(),
            })
        } else {
            Stop::TimedOut
        }
    }

    fn inherit(&self, wait: &mut Wait<'_>) -> bool {
        self.indices().any(|index| {
            let seen = self.units[index].load(Ordering::Relaxed);
            let is_left = seen != FREE
                && Participant::unpack(seen).is_none_or(|holder| (wait.is_gone)(holder));
            is_left && self.claim(index, seen, wait.me)
        })
    }

    #[cold]
    fn acquire_contended(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        let mut naps = Naps::of(wait, self.kernel);
        if wait.is_try() {
            let found = self.inherit(wait);
            return found.then_some(()).ok_or_else(|| self.in_vain());
        }
        if self.has_more_than_places() {
            return if self.inherit(wait) {
                Ok(())
            } else {
                Err(self.in_vain())
            };
        }
        let before = self.word.load(Ordering::Relaxed);
        let is_over = || self.word.load(Ordering::Relaxed) != before;
        look(self.kernel, self.spins, is_over);
        let mut slept = false;
        loop {
            // Acquire: a unit that was free when this was counted is seen free below.
            let seen = self.word.load(Ordering::Acquire);
            if self.try_acquire(wait.me) {
                if slept {
                    self.pass_on();
                }
                return Ok(());
            }
            let marked = seen | WAITERS;
            // It fails if a unit was released since `seen`: then there is one to look
            // for. A release that follows sees the mark and wakes. AcqRel: as the
            // release's own.
            if seen != marked
                && self
                    .word
                    .compare_exchange(seen, marked, Ordering::AcqRel, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            point("bounded.marked");
            let nap = naps.nap(wait, self.kernel, self.word, marked);
            slept = true;
            point("bounded.woken");
            match nap {
                Ok(Nap::Look | Nap::Rest) => {}
                Ok(Nap::Slice) => {
                    if self.inherit(wait) {
                        self.pass_on();
                        return Ok(());
                    }
                }
                Err(stop) => {
                    self.pass_on();
                    return Err(stop);
                }
            }
        }
    }

    /// Who has slept says that others may sleep still, and wakes one if there is a unit:
    /// a release clears the mark and wakes one, those that follow it at once wake none.
    fn pass_on(&self) {
        // AcqRel: of a release and this, the second sees the first: the release our mark,
        // or we its unit.
        self.word.fetch_or(WAITERS, Ordering::AcqRel);
        if self.value() > 0 {
            self.kernel.wake(self.word, 1);
        }
    }
}
