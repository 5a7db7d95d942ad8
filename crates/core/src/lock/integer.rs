//! An integer in shared memory.
//!
//! Guarantee: every operation is one instruction on one word. All are sequentially
//! consistent: users reason about several integers as if operations took turns.

use core::mem::offset_of;

use super::Cell;
use crate::error::Result;
use crate::layout::cells::{CELL_BYTES, INTEGER_KIND, IntegerCell};
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

/// An integer of 64 bits.
#[derive(Debug, Clone, Copy)]
pub struct AtomicInt<'m> {
    value: &'m AtomicU64,
}

impl<'m> AtomicInt<'m> {
    /// Makes one of the [`CELL_BYTES`] bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`](crate::error::Error::OutOfBounds).
    pub fn create(mapping: &'m Mapping, offset: usize, value: i64) -> Result<()> {
        let cell = Cell::create(mapping, offset, CELL_BYTES)?;
        let word = cell.word(offset_of!(IntegerCell, value))?;
        word.store(value as u64, Ordering::Relaxed);
        cell.finish(INTEGER_KIND)
    }

    /// The one at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`](crate::error::Error::WrongSegment) when there is none.
    #[inline]
    pub fn at(mapping: &'m Mapping, offset: usize) -> Result<Self> {
        let cell = Cell::at(mapping, offset, CELL_BYTES, INTEGER_KIND)?;
        Ok(AtomicInt {
            value: cell.word(offset_of!(IntegerCell, value))?,
        })
    }

    /// The value.
    #[inline]
    pub fn load(&self) -> i64 {
        self.value.load(Ordering::SeqCst) as i64
    }

    /// Replaces the value.
    #[inline]
    pub fn store(&self, value: i64) {
        self.value.store(value as u64, Ordering::SeqCst);
    }

    /// Replaces the value; tells the one before.
    #[inline]
    pub fn swap(&self, value: i64) -> i64 {
        self.value.swap(value as u64, Ordering::SeqCst) as i64
    }

    /// Adds, and tells the value before; `None`, and nothing done, when the sum does not
    /// fit.
    #[inline]
    pub fn add(&self, delta: i64) -> Option<i64> {
        let sum = |value: u64| Some((value as i64).checked_add(delta)? as u64);
        self.value
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, sum)
            .ok()
            .map(|before| before as i64)
    }

    /// Replaces the value if it is `expected`.
    ///
    /// # Errors
    ///
    /// The value that it is.
    #[inline]
    pub fn compare_exchange(&self, expected: i64, value: i64) -> core::result::Result<(), i64> {
        self.value
            .compare_exchange(
                expected as u64,
                value as u64,
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .map(|_| ())
            .map_err(|found| found as i64)
    }
}
