//! The one participant that frees: the pool's owner, or who replaced a dead one.
//!
//! Guarantees: a block is reported free once, when nobody holds it or can take it
//! any more (rule P1); no death is overlooked: whenever the participant of a row
//! changed or died since the last look, every word is looked at again; while an owner looks
//! or closes, nobody borrows its role, and while somebody has borrowed it ([`super::lend`])
//! the owner does nothing and waits for nothing.
//!
//! What a closer remembers is private, and a new closer needs none of it.

use core::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::protocol::{self, Closed};
use super::segment::{Place, PoolSegment, bits};
use super::turn::Turn;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{Participant, PoolHeader, WORD_BITS};
use crate::sync::Ordering;
use crate::sys::anon;

/// Frees blocks of one segment.
#[derive(Debug)]
pub struct Closer {
    segment: Arc<PoolSegment>,
    me: Participant,
    /// Who has the segment may borrow the role. Not before somebody has: to be marked busy
    /// for each turn costs as much as a tenth of a new array.
    may_lend: bool,
    known: Known,
}

/// What a closer remembers.
#[derive(Debug)]
struct Known {
    /// Owner words of the rows, as last seen.
    rows_seen: Vec<u64>,
    /// Every word is to be looked at.
    look_everywhere: bool,
    /// The blocks that were reported free and not opened since, by word. Closed blocks
    /// that are not in here were closed by somebody else, who may have been killed over it:
    /// they may still be held.
    reported: Vec<u64>,
    /// Blocks of the last report that somebody else had closed.
    closed_by_others: Vec<usize>,
}

impl Closer {
    /// The owner's own closer.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when `me` is not the segment's closer.
    pub fn of_owner(segment: Arc<PoolSegment>, me: Participant) -> Result<Self> {
        let closer = segment.header(offset_of!(PoolHeader, closer))?;
        if segment.owner() != me || closer.load(Ordering::Acquire) != me.pack_busy() {
            return Err(Error::NotAllowed(
                "only the owner of a pool frees its blocks",
            ));
        }
        Ok(Self::new(segment, me, false))
    }

    fn new(segment: Arc<PoolSegment>, me: Participant, look_everywhere: bool) -> Self {
        let known = Known {
            rows_seen: Vec::new(),
            look_everywhere,
            reported: vec![0; segment.layout().row_words],
            closed_by_others: Vec::new(),
        };
        Closer {
            segment,
            me,
            may_lend: false,
            known,
        }
    }

    /// Replaces a closer that is dead. Nobody allocates from the segment any more.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when the closer lives (be it that an owner who died had lent it
    /// the role: try again later), or the owner, or somebody else replaced it first.
    pub fn replace(segment: Arc<PoolSegment>, me: Participant) -> Result<Self> {
        let word = segment.header(offset_of!(PoolHeader, closer))?;
        let seen = word.load(Ordering::Acquire);
        // Busy or not: a dead owner is dead.
        let before = Participant::unpack_closer(seen);
        let lives = |who| segment.family().counts(who);
        if lives(segment.owner()) || before.is_some_and(lives) {
            return Err(Error::NotAllowed("the pool's closer is alive"));
        }
        if protocol::pass_closer(word, seen, me.pack()).is_err() {
            return Err(Error::NotAllowed(
                "another process replaced the pool's closer",
            ));
        }
        point("orphan.claimed");
        segment.restore_token_row()?;
        Ok(Self::new(segment, me, true))
    }

    /// For the owner, when a tracker has the segment: it may close in its place from now on.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub(super) fn lend(&mut self) -> Result<()> {
        if self.segment.owner() == self.me && !self.may_lend {
            self.may_lend = true;
            let word = self.segment.header(offset_of!(PoolHeader, closer))?;
            // Fails for who was replaced, which shows at its next turn.
            let _ = protocol::pass_closer(word, self.me.pack_busy(), self.me.pack());
        }
        Ok(())
    }

    /// Looks wherever a holder may have gone, and appends the blocks that are free
    /// now to `freed`. What cannot be decided now stays dirty, and so does everything while
    /// the role is lent.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in the segment; what was freed before stands.
    /// [`Error::NotAllowed`] when another process replaced this closer.
    pub fn collect(&mut self, freed: &mut Vec<usize>) -> Result<()> {
        self.known.closed_by_others.clear();
        let Some(turn) = Turn::begin(&self.segment, self.me, self.may_lend)? else {
            return Ok(());
        };
        self.known.look_everywhere |= turn.is_taken_back;
        self.known.collect(&self.segment, freed)
    }

    /// Closes one block if nobody holds it; `true` when it is free now. While the role is lent
    /// it is not: the block is found later, its word being dirty.
    ///
    /// # Errors
    ///
    /// As [`Closer::collect`].
    pub fn close(&mut self, block: usize) -> Result<bool> {
        self.known.closed_by_others.clear();
        let Some(turn) = Turn::begin(&self.segment, self.me, self.may_lend)? else {
            return Ok(false);
        };
        self.known.look_everywhere |= turn.is_taken_back;
        self.known.close(&self.segment, block)
    }

    /// Whether a block of the last report had been closed by somebody else, who may have
    /// given its pages back, or not have come to it.
    pub(super) fn was_closed_by_another(&self, block: usize) -> bool {
        self.known.closed_by_others.contains(&block)
    }

    /// For the owner, whose closed blocks these are: it describes a new one, and knows it.
    pub(super) fn has_described(&mut self, block: usize) {
        let place = Place::of(block);
        self.known.reported[place.word] |= place.bit;
    }

    /// And it opens one.
    pub(super) fn has_opened(&mut self, block: usize) {
        let place = Place::of(block);
        self.known.reported[place.word] &= !place.bit;
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
            let place = Place::of(block);
            left += usize::from(self.known.reported[place.word] & place.bit == 0);
        }
        Ok(left)
    }
}

impl Known {
    fn collect(&mut self, segment: &PoolSegment, freed: &mut Vec<usize>) -> Result<()> {
        self.look_at_rows(segment)?;
        let everywhere = std::mem::take(&mut self.look_everywhere);
        for index in 0..segment.layout().dirty_words {
            let word = segment.dirty_word(index)?;
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
                if rows_word < segment.layout().row_words
                    && let Err(error) = self.collect_word(segment, rows_word, freed)
                {
                    self.look_everywhere = true;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, segment: &PoolSegment, block: usize) -> Result<bool> {
        let generation = segment.generation(block)?;
        let place = Place::of(block);
        let is_held = || segment.is_held(block);
        let open = generation.load(Ordering::Acquire);
        let is_free = if protocol::is_open(open) {
            protocol::close(generation, open, is_held)? == Closed::Free
        } else if self.reported[place.word] & place.bit != 0 {
            return Ok(false);
        } else {
            // Closed by somebody else, in whose time a take may have succeeded.
            let is_free = protocol::is_free_since(is_held)?;
            if is_free {
                self.closed_by_others.push(block);
            }
            is_free
        };
        if is_free {
            self.reported[place.word] |= place.bit;
        }
        Ok(is_free)
    }

    /// Finds out whose rows changed hands or belong to the dead.
    fn look_at_rows(&mut self, segment: &PoolSegment) -> Result<()> {
        let high = segment.rows_high()?;
        self.rows_seen.resize(high.max(self.rows_seen.len()), 0);
        for row in 0..high {
            let word = segment.row_owner(row)?;
            let seen = word.load(Ordering::Acquire);
            if self.rows_seen[row] != seen {
                self.rows_seen[row] = seen;
                self.look_everywhere = true;
            }
            if let Some(who) = segment.row_participant(row)?
                && who.pack() == seen
                && !segment.family().counts(who)
            {
                segment.abandon_tokens(row, |segment| {
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

    fn collect_word(
        &mut self,
        segment: &PoolSegment,
        word: usize,
        freed: &mut Vec<usize>,
    ) -> Result<()> {
        let first = word * WORD_BITS;
        let used = segment.blocks_used()?;
        if first >= used {
            return Ok(());
        }
        let free = segment.unheld(word, !self.reported[word])?;
        for at in bits(free) {
            let block = first + at;
            if block < used && self.close(segment, block)? {
                freed.push(block);
            }
        }
        Ok(())
    }
}
