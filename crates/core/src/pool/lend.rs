//! Closing in the place of an owner that sleeps: the role of closer, borrowed for a moment.
//!
//! Guarantees: while it is borrowed nobody else closes; only open blocks are closed, by rule
//! P1, and only what was closed here is punched, before the role goes back; an owner that is
//! awake is never waited for and never waits. The steps, and what a kill between them leaves,
//! are in `docs/crash_safety.md`, "Lending the closer".

use core::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::protocol::{self, Closed};
use super::segment::{PoolSegment, bits};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{Participant, PoolHeader, WORD_BITS};
use crate::sync::Ordering;
use crate::sys::anon;

/// The role of closer of one segment, borrowed. Dropping it gives it back.
#[derive(Debug)]
pub struct Borrowed {
    segment: Arc<PoolSegment>,
    me: Participant,
}

impl Borrowed {
    /// Borrows the role from a living owner; `None` when that is at it, or the role is
    /// with somebody else.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn borrow(segment: &Arc<PoolSegment>, me: Participant) -> Result<Option<Self>> {
        let owner = segment.owner();
        if owner == me || !segment.family().counts(owner) {
            return Ok(None);
        }
        let word = segment.header(offset_of!(PoolHeader, closer))?;
        if protocol::pass_closer(word, owner.pack(), me.pack()).is_err() {
            return Ok(None);
        }
        point("lend.borrowed");
        let segment = Arc::clone(segment);
        Ok(Some(Borrowed { segment, me }))
    }

    /// Closes the blocks of a word that have at least `min_bytes` and that nobody holds, and
    /// gives their pages back, while `goes_on` says so; it is told how many bytes went last.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in the segment; [`Error::NotAllowed`] when the role was
    /// taken from us.
    pub fn close_word(
        &self,
        word: usize,
        min_bytes: u64,
        fd: impl AsFd,
        goes_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let used = self.segment.blocks_used()?;
        let first = word * WORD_BITS;
        let mut went_bytes = 0;
        for at in bits(self.segment.unheld(word, u64::MAX)?) {
            let block = first + at;
            if block >= used {
                break;
            }
            let info = self.segment.block(block)?;
            // Even: on one of the owner's lists, perhaps about to be opened.
            if !protocol::is_open(info.generation) || (info.size_bytes as u64) < min_bytes {
                continue;
            }
            if !goes_on(went_bytes) {
                return Ok(());
            }
            went_bytes = 0;
            self.check_in_charge()?;
            let generation = self.segment.generation(block)?;
            let is_held = || self.segment.is_held(block);
            if protocol::close(generation, info.generation, is_held)? != Closed::Free {
                continue;
            }
            point("lend.closed");
            // Where the system does not take it back now, the owner tries again.
            went_bytes =
                anon::punch(&fd, info.offset_bytes as u64, info.size_bytes as u64).unwrap_or(0);
            point("lend.punched");
            self.segment.look_again(word)?;
        }
        goes_on(went_bytes);
        Ok(())
    }

    /// Who was taken for dead meanwhile has the role no more.
    fn check_in_charge(&self) -> Result<()> {
        let word = self.segment.header(offset_of!(PoolHeader, closer))?;
        if word.load(Ordering::Acquire) == self.me.pack() && self.segment.family().counts(self.me) {
            return Ok(());
        }
        Err(Error::NotAllowed(
            "the pool's owner took the role of closer back",
        ))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Ok(word) = self.segment.header(offset_of!(PoolHeader, closer)) {
            // Fails when it was taken from us: then it is not ours to give.
            let _ = protocol::pass_closer(word, self.me.pack(), self.segment.owner().pack());
            point("lend.returned");
        }
    }
}

impl PoolSegment {
    /// How many bytes of its blocks are held, by whomever: to tell how much is not. Changes
    /// nothing, so anybody may ask.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in the segment.
    pub fn held_bytes(&self) -> Result<u64> {
        let used = self.blocks_used()?;
        let mut bytes = 0;
        for word in 0..used.div_ceil(WORD_BITS) {
            let mut held = match self.scan(word)? {
                // Bits of tokens outlive them, until the closer looks.
                Some(held) if held.by_tokens & !held.by_rows != 0 => {
                    held.by_rows | self.find_tokens(word, held.by_tokens)?
                }
                Some(held) => held.by_rows,
                // It moves: somebody has it.
                None => u64::MAX,
            };
            if word == used / WORD_BITS {
                held &= (1 << (used % WORD_BITS)) - 1;
            }
            for at in bits(held) {
                bytes += self.block(word * WORD_BITS + at)?.size_bytes as u64;
            }
        }
        Ok(bytes)
    }
}
