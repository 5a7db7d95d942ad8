//! Whether anybody holds a block: what every closer asks, the owner, its heir and a borrower.
//!
//! Guarantee: a block that is said not to be held was held by nobody at one instant, and had
//! no token in flight. For who has the role of closer only: bits of tokens that ended are
//! cleared here. In doubt a block is held, and its word is dirty.

use super::protocol;
use super::segment::{Place, PoolSegment};
use crate::error::Result;
use crate::layout::TOKEN_ROW;
use crate::sync::Ordering;

/// How often one look at a block starts over because a token's bit was cleared.
const TOKEN_TRIES: usize = 4;

/// A table of tokens up to this is searched for the sake of one block whose count decides
/// nothing.
const SEARCHED_AT_ONCE: usize = 256;

impl PoolSegment {
    /// Those of the blocks `among` of a word that seem to be held by nobody; the blocks that
    /// are not described count as such.
    pub(super) fn unheld(&self, word: usize, among: u64) -> Result<u64> {
        let Some(held) = self.scan(word)? else {
            self.look_again(word)?;
            return Ok(0);
        };
        let free = among & !held.by_rows;
        let by_tokens = free & held.by_tokens;
        if by_tokens == 0 {
            return Ok(free);
        }
        // For all of them at once: the table may be long.
        let token_bits = self.bits(TOKEN_ROW, word)?;
        let by_tokens = protocol::settle_tokens(token_bits, by_tokens, |wanted| {
            self.find_tokens(word, wanted)
        })?;
        Ok(free & !by_tokens)
    }

    /// One whole scan for one block; `true` in doubt.
    pub(super) fn is_held(&self, block: usize) -> Result<bool> {
        let place = Place::of(block);
        for _ in 0..TOKEN_TRIES {
            let Some(held) = self.scan(place.word)? else {
                break;
            };
            if held.by_rows & place.bit != 0 {
                return Ok(true);
            }
            if held.by_tokens & place.bit == 0 {
                return Ok(false);
            }
            if self.counted_tokens(block)?.is_none() && self.tokens_high()? > SEARCHED_AT_ONCE {
                break; // with all of its word, when that is collected
            }
            let token_bits = self.bits(TOKEN_ROW, place.word)?;
            if protocol::settle_token(token_bits, place.bit, || self.find_token(block))? {
                return Ok(true);
            }
        }
        self.look_again(place.word)?;
        Ok(true)
    }

    /// Asks the closer to look at this word.
    pub(super) fn look_again(&self, word: usize) -> Result<()> {
        let (dirty, bit) = self.dirty(word)?;
        dirty.fetch_or(bit, Ordering::AcqRel);
        Ok(())
    }
}
