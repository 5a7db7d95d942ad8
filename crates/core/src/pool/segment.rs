//! One pool segment as every participant sees it: checked access to its parts.
//!
//! Guarantees: no offset is read from shared memory but those of blocks, and those
//! are checked against the data part each time; a part is touched only where it is
//! committed; whatever bytes a segment holds, a call here returns an error or a
//! value inside its limits, and never panics.

use core::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::family::{Family, TOO_LARGE};
use super::header::{check_file, check_header};
use crate::error::{Error, Result};
use crate::layout::{
    BLOCK_ALIGN_BYTES, Block, POOL_MAGIC, Participant, PoolHeader, PoolLayout, SEGMENT_MAX_BYTES,
    SLOTS, TOKEN_ROW, WORD_BITS, WORD_BYTES,
};
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::shm;

/// A pool segment, mapped, with the family whose participants share it.
#[derive(Debug)]
pub struct PoolSegment {
    mapping: Arc<Mapping>,
    family: Arc<Family>,
    layout: PoolLayout,
    owner: Participant,
    number: u64,
}

/// A block as its table entry describes it, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockInfo {
    /// Index in the segment's table.
    pub block: usize,
    /// Odd: open.
    pub generation: u64,
    /// Where it begins in the segment.
    pub offset_bytes: usize,
    /// How long it is.
    pub size_bytes: usize,
}

/// What is left of a word of blocks: which bit and which dirty bit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) word: usize,
    pub(crate) bit: u64,
}

impl Place {
    pub(crate) fn of(block: usize) -> Self {
        Place {
            word: block / WORD_BITS,
            bit: 1 << (block % WORD_BITS),
        }
    }
}

impl PoolSegment {
    /// Maps a segment and checks that it is one of this family.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`] for another family, version or layout, [`Error::Damaged`]
    /// for a header that contradicts itself or the file.
    pub fn attach(fd: impl AsFd, family: Arc<Family>) -> Result<Self> {
        let os = |errno| Error::os("attach a pool segment", "", errno);
        let status = shm::status(&fd).map_err(os)?;
        if !status.is_regular || status.size_bytes > SEGMENT_MAX_BYTES {
            return Err(Error::WrongSegment("it is not a file, or too large a one"));
        }
        if status.size_bytes < size_of::<PoolHeader>() as u64 {
            return Err(Error::WrongSegment("it is too small for a pool segment"));
        }
        let size = usize::try_from(status.size_bytes).map_err(|_| os(TOO_LARGE))?;
        if check_file(&fd, POOL_MAGIC)? != family.id() {
            return Err(Error::WrongSegment("it belongs to another program"));
        }
        let mapping = Mapping::new(&fd, size, false).map_err(os)?;
        Self::over(Arc::new(mapping), family)
    }

    /// Checks the header of mapped bytes. Separate from [`PoolSegment::attach`] for
    /// those who map a segment themselves.
    ///
    /// # Errors
    ///
    /// As [`PoolSegment::attach`].
    pub fn over(mapping: Arc<Mapping>, family: Arc<Family>) -> Result<Self> {
        check_header(&mapping, POOL_MAGIC)?;
        let field = |offset| mapping.load_u64(offset);
        let id = [
            field(offset_of!(PoolHeader, family_low))?,
            field(offset_of!(PoolHeader, family_high))?,
        ];
        if id != family.id() {
            return Err(Error::WrongSegment("it belongs to another program"));
        }
        if field(offset_of!(PoolHeader, size_bytes))? != mapping.len() as u64 {
            return Err(Error::Damaged("a segment that is not as large as it says"));
        }
        let layout = PoolLayout::new(
            field(offset_of!(PoolHeader, blocks))?,
            field(offset_of!(PoolHeader, tokens))?,
        )?;
        if layout.data > mapping.len() {
            return Err(Error::Damaged("a segment without room for its own tables"));
        }
        let owner = Participant::unpack(field(offset_of!(PoolHeader, owner))?)
            .ok_or_else(|| Error::Damaged("a segment without an owner"))?;
        let number = field(offset_of!(PoolHeader, segment))?;
        Ok(PoolSegment {
            mapping,
            family,
            layout,
            owner,
            number,
        })
    }

    /// The memory.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The family.
    pub fn family(&self) -> &Arc<Family> {
        &self.family
    }

    /// Where the parts lie.
    pub fn layout(&self) -> &PoolLayout {
        &self.layout
    }

    /// Who allocates here.
    pub fn owner(&self) -> Participant {
        self.owner
    }

    /// The segment's number in its owner's chain.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many entries of the block table may be looked at.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn blocks_used(&self) -> Result<usize> {
        let used = self.header(offset_of!(PoolHeader, blocks_used))?;
        Ok(clamp(used.load(Ordering::Acquire), self.layout.blocks))
    }

    /// A block's entry.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for an index not in use; [`Error::Damaged`] for an entry that
    /// lies outside the data.
    pub fn block(&self, block: usize) -> Result<BlockInfo> {
        let generation = self.generation(block)?.load(Ordering::Acquire);
        let field = |offset| self.mapping.load_u64(self.layout.block(block, offset));
        let offset = field(offset_of!(Block, offset_bytes))?;
        let size = field(offset_of!(Block, size_bytes))?;
        let is_inside = offset >= self.layout.data as u64
            && offset % BLOCK_ALIGN_BYTES == 0
            && size > 0
            && offset
                .checked_add(size)
                .is_some_and(|end| end <= self.mapping.len() as u64);
        if !is_inside {
            return Err(Error::Damaged("a block outside its segment"));
        }
        // Both are at most the length of the mapping, which is a usize.
        Ok(BlockInfo {
            block,
            generation,
            offset_bytes: offset as usize,
            size_bytes: size as usize,
        })
    }

    /// The word with a block's generation, if the block's entry is in use.
    pub(crate) fn generation(&self, block: usize) -> Result<&AtomicU64> {
        if block >= self.blocks_used()? {
            return Err(Error::Stale);
        }
        self.mapping
            .shared_word(self.layout.block(block, offset_of!(Block, generation)))
    }

    /// A word of the header.
    pub(crate) fn header(&self, offset: usize) -> Result<&AtomicU64> {
        self.mapping.shared_word(offset)
    }

    /// The word that counts moved holds.
    pub(crate) fn moves(&self) -> Result<&AtomicU64> {
        self.header(offset_of!(PoolHeader, moves))
    }

    /// A word of a registered row, or of the tokens' row.
    pub(crate) fn bits(&self, row: usize, word: usize) -> Result<&AtomicU64> {
        debug_assert!(row <= TOKEN_ROW && word < self.layout.row_words);
        self.mapping.shared_word(self.layout.row_word(row, word))
    }

    /// The word that says whose row this is.
    pub(crate) fn row_owner(&self, row: usize) -> Result<&AtomicU64> {
        debug_assert!(row < SLOTS);
        self.mapping.shared_word(self.layout.row_owner(row))
    }

    /// The dirty word and bit for a word of rows.
    pub(crate) fn dirty(&self, word: usize) -> Result<(&AtomicU64, u64)> {
        Ok((self.dirty_word(word / WORD_BITS)?, 1 << (word % WORD_BITS)))
    }

    pub(crate) fn dirty_word(&self, index: usize) -> Result<&AtomicU64> {
        debug_assert!(index < self.layout.dirty_words);
        self.mapping
            .shared_word(self.layout.dirty + index * WORD_BYTES)
    }

    /// Asks the closer to look at every word.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn mark_all_dirty(&self) -> Result<()> {
        for index in 0..self.layout.dirty_words {
            self.dirty_word(index)?.store(u64::MAX, Ordering::Release);
        }
        Ok(())
    }
}

/// A count read from shared memory, as far as it can be true.
pub(crate) fn clamp(count: u64, limit: usize) -> usize {
    usize::try_from(count).map_or(limit, |count| count.min(limit))
}

/// The numbers of the bits that are set.
pub(crate) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let lowest = word.trailing_zeros() as usize;
        word &= word - 1;
        Some(lowest)
    })
}
