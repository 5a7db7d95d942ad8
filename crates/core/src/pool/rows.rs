//! Rows of bits: registering one, copying one for a forked child, reading them all.
//!
//! Guarantees: a row is written by its slot's process only (by the forking parent
//! until the child is `LIVE`); it is committed before its owner word names it, and
//! read only while an owner word does; bits of a dead life are never counted.

use core::mem::offset_of;
use std::os::fd::BorrowedFd;

use super::protocol;
use super::segment::{Place, PoolSegment, clamp};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{Participant, PoolHeader, SLOTS, TOKEN_ROW, WORD_BYTES};
use crate::sync::Ordering;
use crate::sys::anon;

/// Who holds the blocks of one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// By processes.
    pub by_rows: u64,
    /// Perhaps by tokens: the table decides.
    pub by_tokens: u64,
}

impl PoolSegment {
    /// Registers the row of `me`, empty. `fd` commits it; without one the mapping does.
    ///
    /// # Errors
    ///
    /// Those of committing: no memory, or without `fd` a kernel before 5.14.
    /// [`Error::NotAllowed`] when it is registered already: emptying it once more would
    /// take away what the process holds.
    pub fn register_row(&self, me: Participant, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        if self.is_registered(me)? {
            return Err(Error::NotAllowed(
                "this process attached the segment already",
            ));
        }
        self.commit_row(me.slot, fd)?;
        point("attach.committed");
        self.abandon_tokens(me.slot, |_| Ok(true))?;
        for word in 0..self.layout().row_words {
            self.bits(me.slot, word)?.store(0, Ordering::Relaxed);
        }
        point("attach.zeroed");
        self.publish_row(me)?;
        point("attach.published");
        Ok(())
    }

    /// Commits the row of `me` through the mapping, as a fork will do for a child's.
    ///
    /// # Errors
    ///
    /// `EINVAL` on kernels before 5.14, which cannot.
    pub fn commit_again(&self, me: Participant) -> Result<()> {
        self.check_slot(me)?;
        self.commit_row(me.slot, None)
    }

    /// Copies the row of `parent` into that of `child`, a slot reserved for a fork.
    /// Allocates nothing; its time depends on the segment's capacity only.
    ///
    /// # Errors
    ///
    /// Those of committing the row; the child then holds nothing here.
    pub fn copy_row(
        &self,
        parent: Participant,
        child: Participant,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        self.check_slot(parent)?;
        self.check_slot(child)?;
        if self.row_owner(parent.slot)?.load(Ordering::Acquire) != parent.pack() {
            return Ok(());
        }
        self.commit_row(child.slot, fd)?;
        self.abandon_tokens(child.slot, |_| Ok(true))?;
        for word in 0..self.layout().row_words {
            let held = self.bits(parent.slot, word)?.load(Ordering::Relaxed);
            self.bits(child.slot, word)?.store(held, Ordering::Relaxed);
        }
        point("fork.copied");
        self.publish_row(child)?;
        point("fork.published");
        // The trace for scans: before the parent's own holds can go.
        self.moves()?.fetch_add(1, Ordering::AcqRel);
        point("fork.counted");
        Ok(())
    }

    /// Whether the row of this participant is registered here.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for a slot that does not exist.
    pub fn is_registered(&self, who: Participant) -> Result<bool> {
        self.check_slot(who)?;
        Ok(self.row_owner(who.slot)?.load(Ordering::Acquire) == who.pack())
    }

    /// The participant that a row is registered for, dead or alive.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for an owner word that names another row's participant.
    pub fn row_participant(&self, row: usize) -> Result<Option<Participant>> {
        let word = self.row_owner(row)?.load(Ordering::Acquire);
        match Participant::unpack(word) {
            Some(who) if who.slot == row => Ok(Some(who)),
            None if word == 0 => Ok(None),
            _ => Err(Error::Damaged("a row registered for another slot")),
        }
    }

    /// Every registered row is below this.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn rows_high(&self) -> Result<usize> {
        let high = self.header(offset_of!(PoolHeader, rows_high))?;
        Ok(clamp(high.load(Ordering::Acquire), SLOTS))
    }

    /// Whether the bit of a participant, whose row is registered, says that it holds a block.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for a block or slot that does not exist.
    pub fn is_held_by(&self, who: Participant, block: usize) -> Result<bool> {
        self.check_slot(who)?;
        if block >= self.layout().blocks {
            return Err(Error::Damaged("a block that does not exist"));
        }
        let place = Place::of(block);
        Ok(self.bits(who.slot, place.word)?.load(Ordering::Acquire) & place.bit != 0)
    }

    /// Whether some process holds a block; in doubt it is one.
    ///
    /// # Errors
    ///
    /// As [`PoolSegment::scan`].
    pub(crate) fn is_in_a_row(&self, block: usize) -> Result<bool> {
        let place = Place::of(block);
        let held = self.scan(place.word)?;
        Ok(held.is_none_or(|held| held.by_rows & place.bit != 0))
    }

    /// Who holds the blocks of word `word`, as at one instant; `None` when holds
    /// kept moving.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in the owner words.
    pub fn scan(&self, word: usize) -> Result<Option<Held>> {
        protocol::scan(self.moves()?, || {
            let mut by_rows = 0;
            for row in 0..self.rows_high()? {
                if let Some(who) = self.row_participant(row)?
                    && self.family().counts(who)
                {
                    by_rows |= self.bits(row, word)?.load(Ordering::Acquire);
                }
            }
            // Last: the crash page says why.
            let by_tokens = self.bits(TOKEN_ROW, word)?.load(Ordering::Acquire);
            Ok(Held { by_rows, by_tokens })
        })
    }

    fn commit_row(&self, row: usize, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let offset = self.layout().row_word(row, 0);
        let len = self.layout().row_words * WORD_BYTES;
        match fd {
            Some(fd) => anon::commit(fd, offset as u64, len as u64, &mut || true)
                .map_err(|errno| Error::os("commit a row of a pool", "", errno)),
            None => self.mapping().populate(offset, len),
        }
    }

    fn publish_row(&self, who: Participant) -> Result<()> {
        self.header(offset_of!(PoolHeader, rows_high))?
            .fetch_max(who.slot as u64 + 1, Ordering::AcqRel);
        self.row_owner(who.slot)?
            .store(who.pack(), Ordering::Release);
        Ok(())
    }

    fn check_slot(&self, who: Participant) -> Result<()> {
        if who.slot < SLOTS {
            Ok(())
        } else {
            Err(Error::Damaged("a slot that does not exist"))
        }
    }
}
