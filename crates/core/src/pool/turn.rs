//! Whose turn it is to close: the word `closer` of a segment, as its closer uses it.
//!
//! Guarantees: while a [`Turn`] lives nobody else closes, and nobody borrows the role; an
//! owner that has lent it does not wait, and takes it back from a dead borrower. The states
//! of the word are in `docs/crash_safety.md`, "Lending the closer".

use core::mem::offset_of;

use super::protocol;
use super::segment::PoolSegment;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{Participant, PoolHeader};
use crate::sync::{AtomicU64, Ordering};

/// What may be done while this lives: looking and closing.
pub(super) struct Turn<'s> {
    /// Where an owner is marked busy for this turn.
    word: Option<&'s AtomicU64>,
    me: Participant,
    /// Somebody died who had borrowed the role: every word is to be looked at.
    pub(super) is_taken_back: bool,
}

impl<'s> Turn<'s> {
    /// `None` while the role is lent, which only who `may_lend` has to look for.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] for who is not the closer any more.
    pub(super) fn begin(
        segment: &'s PoolSegment,
        me: Participant,
        may_lend: bool,
    ) -> Result<Option<Self>> {
        let word = segment.header(offset_of!(PoolHeader, closer))?;
        if !may_lend {
            return Self::begin_undisturbed(segment, word, me).map(Some);
        }
        if let Err(seen) = protocol::pass_closer(word, me.pack(), me.pack_busy()) {
            return Self::take_back(segment, word, me, seen);
        }
        let turn = Turn {
            word: Some(word),
            me,
            is_taken_back: false,
        };
        point("lend.busy");
        if !segment.family().counts(me) {
            return Err(is_no_member());
        }
        Ok(Some(turn))
    }

    /// From an heir nobody borrows, nor from an owner that is always busy: of what stays at
    /// home. But there is one closer: who was replaced, having left or been taken for dead,
    /// frees nothing more.
    fn begin_undisturbed(segment: &PoolSegment, word: &AtomicU64, me: Participant) -> Result<Self> {
        let expected = match segment.owner() == me {
            true => me.pack_busy(),
            false => me.pack(),
        };
        if word.load(Ordering::Acquire) != expected {
            return Err(is_replaced());
        }
        if !segment.family().counts(me) {
            return Err(is_no_member());
        }
        Ok(Turn {
            word: None,
            me,
            is_taken_back: false,
        })
    }

    /// Somebody else is in the owner's word: it has borrowed the role, and gives it back. Or
    /// it is dead, and does not.
    #[cold]
    fn take_back(
        segment: &'s PoolSegment,
        word: &'s AtomicU64,
        me: Participant,
        seen: u64,
    ) -> Result<Option<Self>> {
        let family = segment.family();
        if !family.counts(me) {
            return Err(is_no_member());
        }
        let who = Participant::unpack_closer(seen).filter(|&who| who != me);
        let who = who.ok_or_else(is_replaced)?;
        // Fails when it gave the role back at this moment: the next time, then.
        if family.counts(who) || protocol::pass_closer(word, seen, me.pack_busy()).is_err() {
            return Ok(None);
        }
        let turn = Turn {
            word: Some(word),
            me,
            is_taken_back: true,
        };
        point("lend.reclaimed");
        segment.restore_token_row()?;
        point("lend.restored");
        Ok(Some(turn))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(word) = self.word {
            protocol::end_turn(word, self.me.pack());
            point("lend.idle");
        }
    }
}

#[cold]
fn is_replaced() -> Error {
    Error::NotAllowed("another process replaced the pool's closer")
}

/// Its own row does not count either: it would free what it uses.
#[cold]
fn is_no_member() -> Error {
    Error::NotAllowed(
        "this process is no member of its family any more: it left, or was taken for dead",
    )
}
