//! Words of shared memory that hold several numbers: packed, and taken apart again.
//!
//! Every word can be taken apart; whether it makes sense is the reader's question.

use super::{BLOCKS_MAX, SLOTS};

/// A slot's or token's word taken apart: bits 0-3 state, 4-15 slot, 16-63 generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// What the tables of states in the format page number.
    pub state: u64,
    /// The slot that did, or does, something to it.
    pub by: usize,
    /// Which life this is.
    pub generation: u64,
}

impl Packed {
    /// The last generation; a word that has it is never used again.
    pub const GENERATION_LAST: u64 = (1 << 48) - 1;

    /// Takes a word apart; every word can be.
    pub const fn unpack(word: u64) -> Self {
        Packed {
            state: word & 0xf,
            by: (word >> 4 & 0xfff) as usize,
            generation: word >> 16,
        }
    }

    /// The word.
    pub const fn pack(self) -> u64 {
        debug_assert!(self.state < 16 && self.by < 4096);
        debug_assert!(self.generation <= Self::GENERATION_LAST);
        self.generation << 16 | (self.by as u64) << 4 | self.state
    }
}

/// One life of a slot: who holds, owns, closes or sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Participant {
    /// Index of the slot, below [`SLOTS`].
    pub slot: usize,
    /// The slot's generation.
    pub generation: u64,
}

impl Participant {
    /// In the word of a pool's closer, over the owner's name: it closes at this moment.
    const BUSY: u64 = 2;

    /// The word that names this participant; never zero.
    pub const fn pack(self) -> u64 {
        Packed {
            state: 1,
            by: self.slot,
            generation: self.generation,
        }
        .pack()
    }

    /// The word that names this participant, an owner, as closer at work.
    pub const fn pack_busy(self) -> u64 {
        self.pack() | Self::BUSY
    }

    /// The participant that the word of a pool's closer names, at work or not; `None` for
    /// nonsense.
    pub const fn unpack_closer(word: u64) -> Option<Self> {
        Self::unpack(word & !Self::BUSY)
    }

    /// The participant that a word names; `None` for zero and for nonsense.
    pub const fn unpack(word: u64) -> Option<Self> {
        let Packed {
            state,
            by,
            generation,
        } = Packed::unpack(word);
        if state == 1 && by < SLOTS {
            Some(Participant {
                slot: by,
                generation,
            })
        } else {
            None
        }
    }
}

/// What names a block within an owner's chain in one word: bits 0-15 the block, 16-63 the
/// number of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Index of the block, below [`BLOCKS_MAX`].
    pub block: usize,
    /// The segment's number.
    pub number: u64,
}

impl Place {
    /// The word; `None` for a number that no chain reaches.
    pub const fn pack(self) -> Option<u64> {
        if self.block as u64 >= BLOCKS_MAX || self.number >> 48 != 0 {
            return None;
        }
        Some(self.number << 16 | self.block as u64)
    }

    /// Takes a word apart; every word can be.
    pub const fn unpack(word: u64) -> Self {
        Place {
            block: (word & 0xffff) as usize,
            number: word >> 16,
        }
    }
}
