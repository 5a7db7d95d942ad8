//! What others dropped of an owner's pool since it last allocated, and whether it sleeps.
//!
//! Guarantee: an owner that was marked and is found marked has not allocated in between.
//! Everything else here is a hint, in one word of the owner's slot (`Slot::dropped_bytes`):
//! whatever it says, no memory is given back that somebody holds.
//!
//! | word | reached by | next |
//! | --- | --- | --- |
//! | 0 | the owner allocates | who drops: *n* bytes |
//! | *n* bytes, even | who drops | who drops: more. A tracker: marked. The owner: 0 |
//! | marked (bit 0) | a tracker | as above |
//!
//! Relaxed throughout: the word is alone, and orders nothing. What is done because of it is
//! decided by the words of the segments.

use core::mem::offset_of;

use super::family::Family;
use super::owner::KEEP_BYTES;
use crate::error::Result;
use crate::fault::point;
use crate::layout::{Participant, SLOTS, Slot, slot_offset};
use crate::sync::{AtomicU64, Ordering};

/// Blocks from this size on are counted, and closed in place of an owner that sleeps.
pub const LARGE_BYTES: u64 = 1 << 20;
/// The tracker is told whenever so many bytes more were dropped: for what is less than that,
/// and was free beyond the limit before, nobody is woken.
pub const TELL_EVERY_BYTES: u64 = KEEP_BYTES / 4;

const MARK: u64 = 1;

impl Family {
    /// Counts a block that was dropped; whether it is time to tell the tracker.
    pub fn has_dropped(&self, owner: Participant, size_bytes: u64) -> Result<bool> {
        let before = self
            .dropped(owner)?
            .fetch_add(size_bytes & !MARK, Ordering::Relaxed);
        point("surplus.counted");
        let after = before.wrapping_add(size_bytes);
        Ok(before / TELL_EVERY_BYTES != after / TELL_EVERY_BYTES)
    }

    /// For the owner, whenever it allocates.
    #[inline]
    pub(super) fn is_awake(&self, me: Participant) -> Result<()> {
        let word = self.dropped(me)?;
        // The load spares a write to what others write, where there is nothing: the rule.
        if word.load(Ordering::Relaxed) != 0 {
            word.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// For a tracker: marks an owner, to see later whether it has allocated meanwhile.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn mark_idle(&self, owner: Participant) -> Result<()> {
        self.dropped(owner)?.fetch_or(MARK, Ordering::Relaxed);
        point("surplus.marked");
        Ok(())
    }

    /// What was dropped, if the owner is still marked.
    ///
    /// # Errors
    ///
    /// As [`Family::mark_idle`].
    pub fn dropped_while_idle(&self, owner: Participant) -> Result<Option<u64>> {
        let seen = self.dropped(owner)?.load(Ordering::Relaxed);
        Ok((seen & MARK != 0).then_some(seen))
    }

    fn dropped(&self, owner: Participant) -> Result<&AtomicU64> {
        // Whoever was found to be a participant has a slot.
        debug_assert!(owner.slot < SLOTS);
        self.shared_word(slot_offset(owner.slot) + offset_of!(Slot, dropped_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_that_much_was_dropped_somebody_is_told() {
        let family = Family::create().unwrap().0;
        let owner = family.join().unwrap();
        let size_bytes = TELL_EVERY_BYTES / 4;
        let told = || {
            let drops = (0..8).map(|_| family.has_dropped(owner, size_bytes).unwrap());
            drops.filter(|&is_told| is_told).count()
        };
        assert_eq!(told(), 2);
        // A mark does not count as bytes.
        family.mark_idle(owner).unwrap();
        assert_eq!(told(), 2);
        let seen = family.dropped_while_idle(owner).unwrap();
        assert_eq!(seen, Some(16 * size_bytes + MARK));
        family.is_awake(owner).unwrap();
        assert_eq!(family.dropped_while_idle(owner), Ok(None));
        assert_eq!(told(), 2);
        assert_eq!(family.dropped_while_idle(owner), Ok(None));
    }
}
