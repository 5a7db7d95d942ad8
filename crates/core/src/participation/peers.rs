//! The words of a queue's table of peers.
//!
//! Guarantee: who is in the table stands at its own slot's place, in its own life; a word is
//! erased for the life that it was meant for, or not at all.

use super::growth::Asking;
use super::registry::Membership;
use crate::error::Result;
use crate::layout::{Packed, Participant, SLOTS, WORD_BYTES};
use crate::mapping::Mapping;
use crate::sync::Ordering;

// States of a peer word.
/// It has opened the queue, or used it.
pub(super) const HAS_COME: u64 = 1;
/// Its parent has it, and forked: it may never be born, or call `exec`.
pub(super) const IS_TO_COME: u64 = 2;

fn peer_word(who: Participant, state: u64) -> u64 {
    let (by, generation) = (who.slot, who.generation);
    Packed {
        state,
        by,
        generation,
    }
    .pack()
}

pub(super) fn write_peer(
    mapping: &Mapping,
    peers: usize,
    who: Participant,
    state: u64,
) -> Result<()> {
    let word = mapping.shared_word(peers + who.slot * WORD_BYTES)?;
    word.store(peer_word(who, state), Ordering::SeqCst);
    Ok(())
}

fn erase_peer(mapping: &Mapping, peers: usize, who: Participant) -> Result<()> {
    let word = mapping.shared_word(peers + who.slot * WORD_BYTES)?;
    for state in [HAS_COME, IS_TO_COME] {
        let seen = peer_word(who, state);
        // Fails when the slot's next life has opened it: that one stays.
        let _ = word.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
    Ok(())
}

pub(super) fn peer(
    mapping: &Mapping,
    peers: usize,
    slot: usize,
) -> Result<Option<(Participant, u64)>> {
    let word = mapping.shared_word(peers + slot * WORD_BYTES)?;
    let Packed {
        state,
        by,
        generation,
    } = Packed::unpack(word.load(Ordering::Acquire));
    let is_one = by == slot && matches!(state, HAS_COME | IS_TO_COME);
    Ok(is_one.then_some((Participant { slot, generation }, state)))
}

/// Takes this process out of a table of peers, and the dead with it: the last one to go did
/// not die. Whether nobody is left.
pub(super) fn leave(mapping: &Mapping, peers: usize, member: &Membership) -> Result<bool> {
    if let Some(me) = member.me {
        erase_peer(mapping, peers, me)?;
    }
    // Of two that leave at once, both may find that nobody is left.
    crate::sync::fence(Ordering::SeqCst);
    let mut is_last = true;
    for slot in 0..SLOTS {
        if let Some((who, _)) = peer(mapping, peers, slot)? {
            if member.is_gone(who, Asking::WhileWaiting) {
                erase_peer(mapping, peers, who)?;
            } else {
                is_last = false;
            }
        }
    }
    Ok(is_last)
}
