//! Where the parts of a pool segment lie. A reader computes it from two counts, which are
//! checked here, and reads no offset from shared memory.

use core::mem::size_of;

use super::{
    BLOCKS_MAX, Block, PART_ALIGN_BYTES, PoolHeader, ROWS, TOKENS_MAX, Token, WORD_BITS, WORD_BYTES,
};
use crate::error::{Error, Result};

/// Where the parts of a pool segment lie, computed from its two capacities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLayout {
    /// Capacity of the block table; a multiple of 64.
    pub blocks: usize,
    /// Capacity of the token table.
    pub tokens: usize,
    /// How many words a row has.
    pub row_words: usize,
    /// How many words of dirty bits there are.
    pub dirty_words: usize,
    /// Offset of the row owners.
    pub row_owners: usize,
    /// Offset of the dirty bits.
    pub dirty: usize,
    /// Offset of the token table; everything before it is committed at creation.
    pub token_table: usize,
    /// Offset of the block table.
    pub block_table: usize,
    /// Offset of the rows.
    pub rows: usize,
    /// Offset of the data.
    pub data: usize,
}

impl PoolLayout {
    /// Computes the layout for these capacities.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for a capacity that is zero, too large, or for `blocks`
    /// not a multiple of 64.
    pub fn new(blocks: u64, tokens: u64) -> Result<Self> {
        let bits = WORD_BITS as u64;
        if blocks == 0 || blocks > BLOCKS_MAX || !blocks.is_multiple_of(bits) {
            return Err(Error::Damaged("a block table of impossible size"));
        }
        if tokens == 0 || tokens > TOKENS_MAX {
            return Err(Error::Damaged("a token table of impossible size"));
        }
        // Both are small: nothing below can overflow.
        let (blocks, tokens) = (blocks as usize, tokens as usize);
        let row_words = blocks / WORD_BITS;
        let dirty_words = row_words.div_ceil(WORD_BITS);
        let align = |offset: usize| offset.next_multiple_of(PART_ALIGN_BYTES as usize);
        let row_owners = size_of::<PoolHeader>();
        let dirty = row_owners + ROWS * WORD_BYTES;
        let token_table = dirty + dirty_words * WORD_BYTES;
        let block_table = align(token_table + tokens * size_of::<Token>());
        let rows = align(block_table + blocks * size_of::<Block>());
        let data = align(rows + ROWS * row_words * WORD_BYTES);
        Ok(PoolLayout {
            blocks,
            tokens,
            row_words,
            dirty_words,
            row_owners,
            dirty,
            token_table,
            block_table,
            rows,
            data,
        })
    }

    /// Where word `word` of row `row` lies.
    pub const fn row_word(&self, row: usize, word: usize) -> usize {
        self.rows + (row * self.row_words + word) * WORD_BYTES
    }

    /// Where the owner word of row `row` lies.
    pub const fn row_owner(&self, row: usize) -> usize {
        self.row_owners + row * WORD_BYTES
    }

    /// Where a field of token `token` lies.
    pub const fn token(&self, token: usize, field: usize) -> usize {
        self.token_table + token * size_of::<Token>() + field
    }

    /// Where a field of block `block` lies.
    pub const fn block(&self, block: usize, field: usize) -> usize {
        self.block_table + block * size_of::<Block>() + field
    }
}
