//! Lists of fixed length in shared memory, in the standard library's own format.
//!
//! Guarantees:
//!
//! - Lists of both historical layouts are read and written (see `layout.rs`); new
//!   ones have the newer one, which the standard library of 3.9 and newer reads.
//! - Every value comes back exactly (see `item.rs`); what cannot is refused before
//!   anything changes.
//! - A reader that races with one writer sees the old value, the new one or an
//!   error. Writers who want to share an item agree on a lock among themselves.
//! - Whatever the segment contains, the worst that happens is an error.
//!
//! Order of a write that changes more than one word: the format says "being
//! written"; slot and code; the new format. Killed in between, a writer leaves an
//! item that reads as [`Error::Unfinished`] and can be set anew; the others are
//! untouched. A list being created has a count of -1 until all of it is there.

mod error;
mod item;
mod layout;
mod read;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

pub use error::{Error, Result};
pub use item::Item;
pub use read::Buffer;
pub use write::Plan;

use crate::mapping::Mapping;
use item::Format;
use layout::{Layout, Slot};

/// A list, made or found in a mapping.
#[derive(Debug)]
pub struct List {
    mapping: Arc<Mapping>,
    layout: Layout,
    /// Counts writes of long texts: their formats tell them apart.
    version: AtomicU32,
}

impl List {
    /// Finds the list in `mapping`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAList`].
    pub fn open(mapping: Arc<Mapping>) -> Result<Self> {
        let layout = Layout::read(&mapping)?;
        Ok(List {
            mapping,
            layout,
            version: AtomicU32::new(1),
        })
    }

    /// Makes a list by `plan` in fresh memory, all zero. Until it is filled by
    /// [`List::initialise`] and [`List::publish`]ed nobody can attach to it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] when the mapping is smaller than the plan;
    /// [`Error::Memory`].
    pub fn create(mapping: Arc<Mapping>, plan: &Plan) -> Result<Self> {
        let layout = Layout::new(plan.ends.len(), plan.data_bytes())?;
        if layout.end() > mapping.len() {
            return Err(Error::TooLarge);
        }
        layout.write_offsets(&mapping, &plan.ends)?;
        Ok(List {
            mapping,
            layout,
            version: AtomicU32::new(1),
        })
    }

    /// Lets others attach.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`].
    pub fn publish(&self) -> Result<()> {
        // All stores above become visible before the count.
        fence(Ordering::Release);
        self.layout.publish(&self.mapping)
    }

    /// The number of items; never changes.
    #[allow(clippy::len_without_is_empty)]
    #[inline]
    pub fn len(&self) -> usize {
        self.layout.count()
    }

    /// Where slots, formats and codes begin, in bytes from the start of the segment.
    pub fn parts(&self) -> (usize, usize, usize) {
        self.layout.parts()
    }

    /// The room of item `index`, in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::Corrupt`].
    pub fn room_bytes(&self, index: usize) -> Result<usize> {
        Ok(self.slot(index)?.len)
    }

    /// The `struct` format of item `index` as the standard library would say it: a
    /// text has the size of its slot.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::Corrupt`].
    pub fn format(&self, index: usize) -> Result<String> {
        let slot = self.slot(index)?;
        let word = self.mapping.load_u64(self.layout.format_at(index))?;
        match Format::parse(word) {
            Some(format) => Ok(format.name(slot.len)),
            None => Err(Error::Corrupt {
                index,
                reason: "its format is unknown",
            }),
        }
    }

    /// The code of item `index`, as it is recorded.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`].
    pub fn code(&self, index: usize) -> Result<u8> {
        self.slot(index)?;
        self.read_code(index)
    }

    #[inline]
    fn slot(&self, index: usize) -> Result<Slot> {
        let count = self.len();
        if index >= count {
            return Err(Error::OutOfRange { index, count });
        }
        self.layout.slot(&self.mapping, index)
    }

    #[inline]
    fn read_code(&self, index: usize) -> Result<u8> {
        let mut code = [0];
        self.mapping
            .read_bytes(self.layout.code_at(index), &mut code)?;
        Ok(code[0])
    }
}
