//! Words of shared memory that hold several numbers: packed, and taken apart again.
//!
//! Every word can be taken apart; whether it makes sense is the reader's question.

use super::{BLOCKS_MAX, SLOTS, TOKENS_MAX};

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

/// The tokens of a block, as its entry counts them: bits 0-17 the index of the one that was
/// made last, 18-40 how many were made, 41-63 how many ended, both modulo 2^23.
///
/// As many ended as were made proves that none is in flight; anything else proves nothing,
/// since a kill between a step and its counting leaves the two apart for good. Neither count is
/// ever set back, in no life of the block: an end that is counted late would else stand in for
/// one that has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockTokens {
    /// Index of the token that was made last.
    pub latest: usize,
    made: u64,
    ended: u64,
}

impl BlockTokens {
    const INDEX_BITS: u32 = TOKENS_MAX.trailing_zeros();
    const COUNT_BITS: u32 = (64 - Self::INDEX_BITS) / 2;
    const COUNT_MASK: u64 = (1 << Self::COUNT_BITS) - 1;

    /// Takes a word apart; every word can be.
    pub const fn unpack(word: u64) -> Self {
        BlockTokens {
            latest: (word & (TOKENS_MAX - 1)) as usize,
            made: word >> Self::INDEX_BITS & Self::COUNT_MASK,
            ended: word >> (Self::INDEX_BITS + Self::COUNT_BITS) & Self::COUNT_MASK,
        }
    }

    /// The word.
    pub const fn pack(self) -> u64 {
        debug_assert!((self.latest as u64) < TOKENS_MAX);
        self.ended << (Self::INDEX_BITS + Self::COUNT_BITS)
            | self.made << Self::INDEX_BITS
            | self.latest as u64
    }

    /// One more was made.
    pub const fn made(self, index: usize) -> Self {
        BlockTokens {
            latest: index,
            made: (self.made + 1) & Self::COUNT_MASK,
            ..self
        }
    }

    /// One more ended.
    pub const fn ended(self) -> Self {
        BlockTokens {
            ended: (self.ended + 1) & Self::COUNT_MASK,
            ..self
        }
    }

    /// Whether as many ended as were made.
    pub const fn are_all_ended(self) -> bool {
        self.made == self.ended
    }
}

const _: () = {
    assert!(
        TOKENS_MAX.is_power_of_two() && 2 * BlockTokens::COUNT_BITS + BlockTokens::INDEX_BITS <= 64
    );
    // What is in flight at a time never makes the counts equal by going round.
    assert!(TOKENS_MAX < 1 << BlockTokens::COUNT_BITS);
};
