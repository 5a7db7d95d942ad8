//! Locks, semaphores, conditions, events, barriers and integers in shared memory.
//!
//! Guarantee: no wait is endless because somebody died. Whoever is killed, between
//! any two instructions, leaves words from which the others go on by themselves, at
//! the latest when the slice of sleep they are in ends ([`SLICE_NS`], [`LONGEST_SLICE_NS`]).
//! The words, their states, the reason for each ordering and what each kill leaves are told
//! in `docs/locks.md`.
//!
//! Each object is a *cell* of 64 bytes (some with a table behind it) in memory that the
//! caller keeps: a block of a pool. So an object is held by the processes that can
//! see it and travels by handle, as an array does. The types here borrow the mapping
//! and add nothing: they are made for each call.
//!
//! Bottom up: [`kernel`] (sleeping, so that the model checker can take its place),
//! [`wait`] (who waits, how long, who is asked what meanwhile), `spin` (a look before sleeping), [`word`] (the robust
//! lock word), and the objects: [`mutex`], [`semaphore`], [`bounded`], [`condition`],
//! [`event`], [`barrier`], [`integer`].

pub mod barrier;
pub mod bounded;
pub mod condition;
pub mod event;
#[cfg(not(loom))]
pub mod integer;
pub mod kernel;
pub mod mutex;
pub mod semaphore;
mod spin;
pub mod wait;
pub mod word;

#[cfg(not(loom))]
use core::ops::RangeInclusive;

#[cfg(not(loom))]
use crate::error::{Error, Result};
#[cfg(not(loom))]
use crate::layout::{WORD_BYTES, cells::CELL_BYTES};
#[cfg(not(loom))]
use crate::mapping::Mapping;
#[cfg(not(loom))]
use crate::sync::{AtomicU64, Ordering};

/// How long a waiter sleeps before it looks after the dead and asks whether to go on.
pub const SLICE_NS: u64 = 50_000_000;

/// The same at most where everybody is watched ([`wait::Watch`]), so that a death ends the
/// sleep: each slice is twice as long as the one before. What is left for them is a signal
/// that came to another thread, and a death after that of who watched; after some of them,
/// what else nobody tells of.
pub const LONGEST_SLICE_NS: u64 = 1_000_000_000;

/// A cell in a mapping, its kind checked.
#[cfg(not(loom))]
#[derive(Debug, Clone, Copy)]
struct Cell<'m> {
    mapping: &'m Mapping,
    offset: usize,
    /// How large it is, its table included, as its block says.
    size_bytes: usize,
}

#[cfg(not(loom))]
impl<'m> Cell<'m> {
    /// Zeroes a new cell and its table; `finish` says what it is. Before that it is of
    /// no kind, and before the maker gives its offset away nobody looks.
    fn create(mapping: &'m Mapping, offset: usize, size_bytes: usize) -> Result<Self> {
        mapping.zero_bytes(offset, size_bytes)?;
        Ok(Cell {
            mapping,
            offset,
            size_bytes,
        })
    }

    fn finish(self, kind: u64) -> Result<()> {
        self.word(0)?.store(kind, Ordering::Release);
        Ok(())
    }

    #[inline]
    fn at(mapping: &'m Mapping, offset: usize, size_bytes: usize, kind: u64) -> Result<Self> {
        let cell = Cell {
            mapping,
            offset,
            size_bytes,
        };
        if cell.word(0)?.load(Ordering::Acquire) != kind {
            return Err(Error::WrongSegment("there is another kind of object"));
        }
        Ok(cell)
    }

    #[inline]
    fn word(self, field: usize) -> Result<&'m AtomicU64> {
        let at = self.offset.checked_add(field).ok_or_else(|| TOO_FAR)?;
        self.mapping.shared_word(at)
    }

    /// The table behind the cell, with `each` words for each of what the field `count`
    /// counts, so many as `limits` say; it ends before the cell's block does.
    fn table(
        self,
        count: usize,
        limits: RangeInclusive<u64>,
        each: usize,
    ) -> Result<&'m [AtomicU64]> {
        let len = self.word(count)?.load(Ordering::Relaxed);
        let fits = self.size_bytes.saturating_sub(CELL_BYTES) / (each * WORD_BYTES);
        if !limits.contains(&len) || len > fits as u64 {
            return Err(Error::Damaged("a table of impossible size"));
        }
        let start = self.offset.checked_add(CELL_BYTES).ok_or_else(|| TOO_FAR)?;
        // At most what fits.
        self.mapping.shared_words(start, len as usize * each)
    }
}

#[cfg(not(loom))]
const TOO_FAR: Error = Error::Damaged("an object outside its segment");
