//! The one participant that frees: the pool's owner, or who replaced a dead one.
//!
//! Guarantees: a block is reported free once, when nobody holds it or can take it
//! any more (rule P1); no death is overlooked: whenever the participant of a row
//! changed or died since the last look, every word is looked at again.
//!
//! What a closer remembers is private, and a new closer needs none of it.

use core::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::protocol::{self, Closed};
use super::segment::{Place, PoolSegment, bits};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{Participant, PoolHeader, TOKEN_ROW, WORD_BITS};
use crate::sync::Ordering;
use crate::sys::anon;

/// How often one look at a block starts over because a token's bit was cleared.
const TOKEN_TRIES: usize = 4;

/// A table of tokens up to this is searched for the sake of one block whose count decides
/// nothing.
const SEARCHED_AT_ONCE: usize = 256;

/// Frees blocks of one segment.
#[derive(Debug)]
pub struct Closer {
    segment: Arc<PoolSegment>,
    me: Participant,
    /// Owner words of the rows, as last seen.
    rows_seen: Vec<u64>,
    /// Every word is to be looked at.
    look_everywhere: bool,
    /// For who replaced the owner: the blocks that were reported free, by word. Closed
    /// blocks that are not in here may still be held. `None` for the owner, who knows
    /// its closed blocks.
    reported: Option<Vec<u64>>,
}

impl Closer {
    /// The owner's own closer.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when `me` is not the segment's closer.
    pub fn of_owner(segment: Arc<PoolSegment>, me: Participant) -> Result<Self> {
        let closer = segment.header(offset_of!(PoolHeader, closer))?;
        if segment.owner() != me || closer.load(Ordering::Acquire) != me.pack() {
            return Err(Error::NotAllowed(
                "only the owner of a pool frees its blocks",
            ));
        }
        Ok(Closer {
            segment,
            me,
            rows_seen: Vec::new(),
            look_everywhere: false,
            reported: None,
        })
    }

    /// Replaces a closer that is dead. Nobody allocates from the segment any more.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when the closer lives, or somebody else replaced it first.
    pub fn replace(segment: Arc<PoolSegment>, me: Participant) -> Result<Self> {
        let word = segment.header(offset_of!(PoolHeader, closer))?;
        let seen = word.load(Ordering::Acquire);
        let before = Participant::unpack(seen);
        if before.is_some_and(|before| segment.family().counts(before)) {
            return Err(Error::NotAllowed("the pool's closer is alive"));
        }
        if word
            .compare_exchange(seen, me.pack(), Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            return Err(Error::NotAllowed(
                "another process replaced the pool's closer",
            ));
        }
        point("orphan.claimed");
        segment.restore_token_row()?;
        let reported = Some(vec![0; segment.layout().row_words]);
        Ok(Closer {
            segment,
            me,
            rows_seen: Vec::new(),
            look_everywhere: true,
            reported,
        })
    }

    /// Looks wherever a holder may have gone, and appends the blocks that are free
    /// now to `freed`. What cannot be decided now stays dirty.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in the segment; what was freed before stands.
    /// [`Error::NotAllowed`] when another process replaced this closer.
    pub fn collect(&mut self, freed: &mut Vec<usize>) -> Result<()> {
        self.check_in_charge()?;
        self.look_at_rows()?;
        let everywhere = std::mem::take(&mut self.look_everywhere);
        for index in 0..self.segment.layout().dirty_words {
            let word = self.segment.dirty_word(index)?;
            // The load spares a locked write where there is nothing, which is the rule.
            let mut dirty = word.load(Ordering::Relaxed);
            if dirty != 0 {
                dirty = word.swap(0, Ordering::AcqRel);
            }
            if everywhere {
                dirty = u64::MAX;
            }
            if dirty != 0 {
                point("collect.swapped");
            }
            for at in bits(dirty) {
                let rows_word = index * WORD_BITS + at;
                if rows_word < self.segment.layout().row_words
                    && let Err(error) = self.collect_word(rows_word, freed)
                {
                    self.look_everywhere = true;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Closes one block if nobody holds it; `true` when it is free now.
    ///
    /// # Errors
    ///
    /// As [`Closer::collect`].
    pub fn close(&mut self, block: usize) -> Result<bool> {
        self.check_in_charge()?;
        self.close_one(block)
    }

    fn close_one(&mut self, block: usize) -> Result<bool> {
        let generation = self.segment.generation(block)?;
        let open = generation.load(Ordering::Acquire);
        if protocol::is_open(open) {
            let closed = protocol::close(generation, open, || self.is_held(block))?;
            return Ok(closed == Closed::Free);
        }
        // Closed by somebody before us, in whose time a take may have succeeded.
        Ok(self.reported.is_some() && protocol::is_free_since(|| self.is_held(block))?)
    }

    /// Gives the pages of blocks that [`Closer::collect`] reported back to the system;
    /// how many bytes. For who replaced an owner: nobody uses these blocks again. Places
    /// come from the shared table, checked against the segment.
    ///
    /// # Errors
    ///
    /// The system's; [`Error::Damaged`] for a block outside the segment.
    pub fn give_back(&self, freed: &[usize], fd: impl AsFd) -> Result<u64> {
        let mut bytes = 0;
        for &block in freed {
            let info = self.segment.block(block)?;
            bytes += anon::punch(&fd, info.offset_bytes as u64, info.size_bytes as u64)
                .map_err(|errno| Error::os("give back shared memory", "", errno))?;
            point("trim.punched");
        }
        Ok(bytes)
    }

    /// The segment.
    pub fn segment(&self) -> &Arc<PoolSegment> {
        &self.segment
    }

    /// How many blocks in use were not reported free; for who replaced an owner: at
    /// zero the segment may be let go.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn blocks_left(&self) -> Result<usize> {
        let used = self.segment.blocks_used()?;
        let mut left = 0;
        for block in 0..used {
            let is_gone = match &self.reported {
                Some(reported) => reported[block / WORD_BITS] & Place::of(block).bit != 0,
                None => !protocol::is_open(self.segment.block(block)?.generation),
            };
            left += usize::from(!is_gone);
        }
        Ok(left)
    }

    /// There is one closer: who was replaced, having left or been taken for dead, frees
    /// nothing more.
    fn check_in_charge(&self) -> Result<()> {
        let closer = self.segment.header(offset_of!(PoolHeader, closer))?;
        if closer.load(Ordering::Acquire) != self.me.pack() {
            return Err(Error::NotAllowed(
                "another process replaced the pool's closer",
            ));
        }
        if !self.segment.family().counts(self.me) {
            // Its own row does not count either: it would free what it uses.
            return Err(Error::NotAllowed(
                "this process is no member of its family any more: it left, or was taken for dead",
            ));
        }
        Ok(())
    }

    /// Finds out whose rows changed hands or belong to the dead.
    fn look_at_rows(&mut self) -> Result<()> {
        let high = self.segment.rows_high()?;
        self.rows_seen.resize(high.max(self.rows_seen.len()), 0);
        for row in 0..high {
            let word = self.segment.row_owner(row)?;
            let seen = word.load(Ordering::Acquire);
            if self.rows_seen[row] != seen {
                self.rows_seen[row] = seen;
                self.look_everywhere = true;
            }
            if let Some(who) = self.segment.row_participant(row)?
                && who.pack() == seen
                && !self.segment.family().counts(who)
            {
                self.segment.abandon_tokens(row, |segment| {
                    // A newcomer registers before it makes tokens.
                    Ok(segment.row_owner(row)?.load(Ordering::Acquire) == seen)
                })?;
                // Fails when a newcomer has the row: seen as a change the next time.
                let _ = word.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire);
                self.rows_seen[row] = 0;
                self.look_everywhere = true;
            }
        }
        Ok(())
    }

    fn collect_word(&mut self, word: usize, freed: &mut Vec<usize>) -> Result<()> {
        let first = word * WORD_BITS;
        let used = self.segment.blocks_used()?;
        if first >= used {
            return Ok(());
        }
        let Some(held) = self.segment.scan(word)? else {
            self.look_again(word)?;
            return Ok(());
        };
        let reported = self.reported.as_ref().map_or(0, |reported| reported[word]);
        let mut free = !held.by_rows & !reported;
        let by_tokens = free & held.by_tokens;
        if by_tokens != 0 {
            // For all of them at once: the table may be long.
            let token_bits = self.segment.bits(TOKEN_ROW, word)?;
            free &= !protocol::settle_tokens(token_bits, by_tokens, |wanted| {
                self.segment.find_tokens(word, wanted)
            })?;
        }
        for at in bits(free) {
            let block = first + at;
            if block < used && self.close_one(block)? {
                freed.push(block);
                if let Some(reported) = &mut self.reported {
                    reported[word] |= 1 << at;
                }
            }
        }
        Ok(())
    }

    /// One whole scan for one block; `true` in doubt.
    fn is_held(&self, block: usize) -> Result<bool> {
        let place = Place::of(block);
        for _ in 0..TOKEN_TRIES {
            let Some(held) = self.segment.scan(place.word)? else {
                break;
            };
            if held.by_rows & place.bit != 0 {
                return Ok(true);
            }
            if held.by_tokens & place.bit == 0 {
                return Ok(false);
            }
            if self.segment.counted_tokens(block)?.is_none()
                && self.segment.tokens_high()? > SEARCHED_AT_ONCE
            {
                break; // with all of its word, when that is collected
            }
            let token_bits = self.segment.bits(TOKEN_ROW, place.word)?;
            if protocol::settle_token(token_bits, place.bit, || self.segment.find_token(block))? {
                return Ok(true);
            }
        }
        self.look_again(place.word)?;
        Ok(true)
    }

    fn look_again(&self, word: usize) -> Result<()> {
        let (dirty, bit) = self.segment.dirty(word)?;
        dirty.fetch_or(bit, Ordering::AcqRel);
        Ok(())
    }
}
