//! Rings and the records in them: checked access to their bytes.
//!
//! Guarantee: whatever a ring holds, a call here returns an error or a record inside the
//! ring. What is read may be torn by a putter that overwrites it; it counts only if
//! `head` is found unmoved afterwards.

use core::mem::{offset_of, size_of};
use std::sync::Arc;

use super::mark::Mark;
use crate::error::{Error, Result};
use crate::layout::WORD_BYTES;
use crate::layout::queues::{HANDLE_BYTES, Record, UNIT_BYTES, UNITS_MAX};
use crate::mapping::Mapping;
use crate::participation::{Handle, Hold};

const IN_BLOCK: u64 = 1 << 48;
const HANDLES_SHIFT: u32 = 32;
/// How many handles one item can have.
pub const HANDLES_MAX: usize = u16::MAX as usize;
const HEADER_BYTES: usize = size_of::<Record>();

/// The memory of a ring.
#[derive(Debug)]
pub(super) struct RingMemory {
    mapping: Arc<Mapping>,
    offset: usize,
    units: u64,
    /// Keeps the block, unless it is the queue's own.
    _hold: Option<Hold>,
}

/// What a record is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// The length of the payload.
    pub(super) bytes: usize,
    pub(super) handles: usize,
    /// The payload is in the block of the first handle.
    pub(super) is_in_block: bool,
}

impl Shape {
    /// How many bytes the record takes; `None` if no ring could hold it.
    fn record_bytes(self) -> Option<usize> {
        let inline = if self.is_in_block { 0 } else { self.bytes };
        let handles = self.handles.checked_mul(HANDLE_BYTES)?;
        handles.checked_add(HEADER_BYTES)?.checked_add(inline)
    }

    /// How many units.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] for an item that is too large for any ring.
    pub(super) fn units(self) -> Result<u64> {
        let units = self
            .record_bytes()
            .map(|bytes| bytes.div_ceil(UNIT_BYTES) as u64);
        let units = units.filter(|&units| self.handles <= HANDLES_MAX && units <= UNITS_MAX / 4);
        units.ok_or_else(|| Error::Full {
            what: "arrays in one item of a queue",
            limit: HANDLES_MAX,
        })
    }
}

impl RingMemory {
    /// A ring of `units` units, a power of two, at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for a length that no ring has.
    pub(super) fn new(
        mapping: Arc<Mapping>,
        offset: usize,
        room_bytes: usize,
        units: u64,
        hold: Option<Hold>,
    ) -> Result<Self> {
        let is_good = units.is_power_of_two()
            && units <= UNITS_MAX
            && units as usize * UNIT_BYTES <= room_bytes
            && offset.is_multiple_of(WORD_BYTES)
            && offset
                .checked_add(room_bytes)
                .is_some_and(|end| end <= mapping.len());
        if !is_good {
            return Err(Error::Damaged("a ring of impossible length"));
        }
        Ok(RingMemory {
            mapping,
            offset,
            units,
            _hold: hold,
        })
    }

    pub(super) fn units(&self) -> u64 {
        self.units
    }

    fn bytes(&self) -> usize {
        // At most 2^29.
        self.units as usize * UNIT_BYTES
    }

    /// Where byte `at` of the record at `mark` lies, in the ring.
    fn position(&self, mark: Mark, at: usize) -> usize {
        (mark.place() as usize * UNIT_BYTES + at) & (self.bytes() - 1)
    }

    /// Calls `each` with offset and length of the one or two pieces of a range.
    #[inline]
    fn pieces(
        &self,
        mark: Mark,
        at: usize,
        len: usize,
        mut each: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        let position = self.position(mark, at);
        let first = len.min(self.bytes() - position);
        each(self.offset + position, first)?;
        if first < len {
            each(self.offset, len - first)?;
        }
        Ok(())
    }

    fn write(&self, mark: Mark, at: usize, mut bytes: &[u8]) -> Result<()> {
        self.pieces(mark, at, bytes.len(), |offset, len| {
            let (now, rest) = bytes.split_at(len);
            bytes = rest;
            self.mapping.write_bytes(offset, now)
        })
    }

    /// Writes a record.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub(super) fn write_record(
        &self,
        mark: Mark,
        shape: Shape,
        handles: &[Handle],
        parts: &[&[u8]],
    ) -> Result<()> {
        debug_assert_eq!(shape.handles, handles.len());
        let units = shape.units()?;
        let in_block = if shape.is_in_block { IN_BLOCK } else { 0 };
        let word = units | (shape.handles as u64) << HANDLES_SHIFT | in_block;
        let header = self.offset + self.position(mark, 0);
        let store = |field, value| self.mapping.store_u64(header + field, value);
        store(offset_of!(Record, bytes), shape.bytes as u64)?;
        store(offset_of!(Record, shape), word)?;
        let mut at = HEADER_BYTES;
        for handle in handles {
            self.write(mark, at, &handle.to_bytes())?;
            at += HANDLE_BYTES;
        }
        if !shape.is_in_block {
            for part in parts {
                self.write(mark, at, part)?;
                at += part.len();
            }
        }
        Ok(())
    }

    /// The header of the record at `mark`, and the mark after it, which is not beyond
    /// `end`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for what is no record.
    pub(super) fn record(&self, mark: Mark, end: Mark) -> Result<(Shape, Mark)> {
        const NOT_ONE: Error = Error::Damaged("a queue with garbage in place of an item");
        let header = self.offset + self.position(mark, 0);
        let bytes = self.mapping.load_u64(header + offset_of!(Record, bytes))?;
        let word = self.mapping.load_u64(header + offset_of!(Record, shape))?;
        let units = u64::from(word as u32);
        let shape = Shape {
            bytes: usize::try_from(bytes).map_err(|_| NOT_ONE)?,
            handles: (word >> HANDLES_SHIFT) as usize & HANDLES_MAX,
            is_in_block: word & IN_BLOCK != 0,
        };
        let is_good = units >= 1
            && units <= self.units
            && units <= end.units_since(mark)
            && word < IN_BLOCK << 1
            && shape
                .record_bytes()
                .is_some_and(|bytes| bytes <= units as usize * UNIT_BYTES)
            && (!shape.is_in_block || shape.handles > 0);
        if is_good {
            Ok((shape, mark.after(units)))
        } else {
            Err(NOT_ONE)
        }
    }

    /// Appends the handles of a record.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignHandle`] for bytes that are none.
    pub(super) fn handles(&self, mark: Mark, shape: Shape, out: &mut Vec<Handle>) -> Result<()> {
        for index in 0..shape.handles {
            let mut bytes = [0; HANDLE_BYTES];
            let mut to = &mut bytes[..];
            let at = HEADER_BYTES + index * HANDLE_BYTES;
            self.pieces(mark, at, HANDLE_BYTES, |offset, len| {
                let (now, rest) = std::mem::take(&mut to).split_at_mut(len);
                to = rest;
                self.mapping.read_bytes(offset, now)
            })?;
            out.push(Handle::from_bytes(&bytes)?);
        }
        Ok(())
    }

    /// Appends the payload of a record, if it is inline.
    ///
    /// # Errors
    ///
    /// None: the record was checked.
    pub(super) fn payload(&self, mark: Mark, shape: Shape, out: &mut Vec<u8>) -> Result<()> {
        if shape.is_in_block {
            return Ok(());
        }
        let at = HEADER_BYTES + shape.handles * HANDLE_BYTES;
        self.pieces(mark, at, shape.bytes, |offset, len| {
            self.mapping.append_bytes(offset, len, out)
        })
    }
}
