//! Writing items: whatever cannot be kept exactly is refused before anything changes; readers
//! see the old value, the new one, or that somebody is writing.

use std::sync::atomic::{Ordering, fence};

use super::item::{BEING_WRITTEN, Body, Encoded, Item};
use super::layout::{Layout, Slot, WORD_BYTES};
use super::{Error, List, Result};

/// The places of the items of a list to be created.
#[derive(Debug, Default)]
pub struct Plan {
    pub(super) ends: Vec<usize>,
}

impl Plan {
    /// A plan of no items.
    pub const fn new() -> Self {
        Plan { ends: Vec::new() }
    }

    /// Gives the next item its place.
    ///
    /// # Errors
    ///
    /// [`Error::Inexpressible`], [`Error::TooLarge`].
    pub fn push(&mut self, item: &Item<'_>) -> Result<()> {
        let room = item.room_bytes();
        Encoded::new(item, self.ends.len(), room, 0)?;
        let end = self
            .data_bytes()
            .checked_add(room)
            .ok_or_else(|| Error::TooLarge)?;
        self.ends.push(end);
        Ok(())
    }

    /// The size of the segment that the list needs, in bytes; never zero.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`].
    pub fn size_bytes(&self) -> Result<usize> {
        Ok(Layout::new(self.ends.len(), self.data_bytes())?.end())
    }

    pub(super) fn data_bytes(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
}

impl List {
    /// Writes an item of a list that nobody else can reach yet.
    ///
    /// # Errors
    ///
    /// As [`List::set`].
    pub fn initialise(&self, index: usize, item: &Item<'_>) -> Result<()> {
        let slot = self.slot(index)?;
        let encoded = Encoded::new(item, index, slot.len, 0)?;
        self.write_body(slot, encoded.body)?;
        self.mapping
            .write_bytes(self.layout.code_at(index), &[encoded.code])?;
        let at = self.layout.format_at(index);
        Ok(self.mapping.store_u64(at, encoded.format)?)
    }

    /// Whether [`List::set`] would accept `item` at `index`.
    ///
    /// # Errors
    ///
    /// As [`List::set`].
    pub fn check(&self, index: usize, item: &Item<'_>) -> Result<()> {
        if self.mapping.is_read_only() {
            return Err(Error::Memory(crate::error::Error::ReadOnly));
        }
        let slot = self.slot(index)?;
        Encoded::new(item, index, slot.len, 0).map(|_| ())
    }

    /// Replaces item `index`, whatever it was.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::TooLong`], [`Error::Inexpressible`],
    /// [`Error::Corrupt`] (its place is impossible), [`Error::Memory`] (read-only).
    #[inline]
    pub fn set(&self, index: usize, item: &Item<'_>) -> Result<()> {
        if self.mapping.is_read_only() {
            return Err(Error::Memory(crate::error::Error::ReadOnly));
        }
        let slot = self.slot(index)?;
        let encoded = if item.is_long() {
            self.numbered(index, slot, item)?
        } else {
            Encoded::new(item, index, slot.len, 0)?
        };
        self.write(index, slot, &encoded)
    }

    /// A long text as it is to be recorded: never with the format of what it replaces, and
    /// of one writer's with no format again before all others.
    fn numbered<'a>(&self, index: usize, slot: Slot, item: &Item<'a>) -> Result<Encoded<'a>> {
        let old = self.mapping.load_u64(self.layout.format_at(index))?;
        // Relaxed: a mere number; the fences of `write` order the rest.
        let next = || self.version.fetch_add(1, Ordering::Relaxed);
        let encoded = Encoded::new(item, index, slot.len, next())?;
        if encoded.format == old {
            return Encoded::new(item, index, slot.len, next());
        }
        Ok(encoded)
    }

    #[inline]
    fn write(&self, index: usize, slot: Slot, new: &Encoded<'_>) -> Result<()> {
        let format_at = self.layout.format_at(index);
        if let Body::Word(word) = new.body
            && self.mapping.load_u64(format_at)? == new.format
            && self.read_code(index)? == new.code
        {
            // A single word changes: no reader sees a mixture.
            return Ok(self.mapping.store_u64(slot.at, word)?);
        }
        self.mapping.store_u64(format_at, BEING_WRITTEN)?;
        // The mark is visible before any of what follows, ...
        fence(Ordering::Release);
        self.write_body(slot, new.body)?;
        let code_at = self.layout.code_at(index);
        self.mapping.write_bytes(code_at, &[new.code])?;
        // ... and all of that before the new format.
        fence(Ordering::Release);
        Ok(self.mapping.store_u64(format_at, new.format)?)
    }

    #[inline]
    fn write_body(&self, slot: Slot, body: Body<'_>) -> Result<()> {
        let (text, end) = match body {
            Body::Word(word) => return Ok(self.mapping.store_u64(slot.at, word)?),
            // Slots are multiples of a word, so the end is within the slot.
            Body::Text(text) => (text, text.len().next_multiple_of(WORD_BYTES)),
            Body::Padded(text) => (text, slot.len),
        };
        self.mapping.write_bytes(slot.at, text)?;
        Ok(self
            .mapping
            .zero_bytes(slot.at + text.len(), end - text.len())?)
    }
}
