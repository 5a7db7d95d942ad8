//! Owners that sleep: what others dropped of their pools is given back in their place.
//!
//! Guarantees: an owner that allocates is left alone; one that has not for a second keeps no
//! more free memory than it would awake, as far as large blocks make it up; a turn gives back
//! [`STEP_BYTES`] at most, so that nobody waits long for an answer meanwhile.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::segments::Segments;
use crate::error::{Error, Result};
use crate::layout::{Participant, SLOTS, WORD_BITS};
use crate::pool::family::Family;
use crate::pool::idle::LARGE_BYTES;
use crate::pool::lend::Borrowed;
use crate::pool::owner::KEEP_BYTES;
use crate::pool::segment::PoolSegment;
use crate::sys::shm;

/// Who has not allocated for so long sleeps.
const ASLEEP_AFTER: Duration = Duration::from_secs(1);
/// What one turn gives back at most, in bytes, if a block is not larger: 0.1 s.
const STEP_BYTES: u64 = 256 << 20;

/// See the module.
pub(super) struct Sleepers {
    /// When to look at whom, and what had been dropped when it was looked at last.
    due: BTreeMap<Participant, (Instant, u64)>,
    /// What an owner may keep, in bytes.
    keep_bytes: u64,
}

impl Sleepers {
    pub(super) fn new() -> Self {
        Sleepers {
            due: BTreeMap::new(),
            keep_bytes: KEEP_BYTES,
        }
    }

    /// Much of this owner's memory was dropped.
    pub(super) fn dropped(&mut self, family: &Family, owner: Participant, now: Instant) {
        if family.counts(owner)
            && !self.due.contains_key(&owner)
            && self.due.len() < SLOTS
            && family.mark_idle(owner).is_ok()
        {
            self.due.insert(owner, (now + ASLEEP_AFTER, 0));
        }
    }

    /// When an owner has to be looked at.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.due.values().map(|&(when, _)| when).min()
    }

    /// Gives back in the place of those that sleep.
    pub(super) fn tend(
        &mut self,
        family: &Arc<Family>,
        me: Participant,
        segments: &Segments,
        now: Instant,
    ) {
        let due = self.due.iter().filter(|(_, (when, _))| *when <= now);
        let due: Vec<_> = due.map(|(&owner, &(_, before))| (owner, before)).collect();
        for (owner, before) in due {
            self.due.remove(&owner);
            // Its mark is gone: it is awake. Dead: there are other rules.
            let Ok(Some(dropped)) = family.dropped_while_idle(owner) else {
                continue;
            };
            if !family.counts(owner) {
                continue;
            }
            // An error is garbage in a segment, or our own death: not tried again.
            let is_more = give_back(family, me, owner, segments, self.keep_bytes).unwrap_or(false);
            let next = match (is_more, dropped != before) {
                (true, _) => (now, before),
                (_, true) => (now + ASLEEP_AFTER, dropped),
                _ => continue,
            };
            self.due.insert(owner, next);
        }
    }
}

/// Gives back what is above the limit, a step of it; whether there was more to give.
fn give_back(
    family: &Arc<Family>,
    me: Participant,
    owner: Participant,
    segments: &Segments,
    keep_bytes: u64,
) -> Result<bool> {
    let mut pool = Vec::new();
    let mut free_bytes = 0_u64;
    for fd in segments.of_owner(owner) {
        let Ok(segment) = PoolSegment::attach(fd, Arc::clone(family)) else {
            continue;
        };
        let status = shm::status(fd).map_err(|errno| Error::os("look at a segment", "", errno))?;
        free_bytes += status.committed_bytes.saturating_sub(segment.held_bytes()?);
        pool.push((Arc::new(segment), fd));
    }
    let surplus_bytes = free_bytes.saturating_sub(keep_bytes);
    let mut went_bytes = 0;
    for (segment, fd) in &pool {
        close_in(family, me, segment, *fd, &mut |bytes| {
            went_bytes += bytes;
            // Bounds are looked at before each block: the last may go beyond.
            went_bytes < surplus_bytes.min(STEP_BYTES)
        })?;
    }
    Ok(went_bytes > 0 && went_bytes < surplus_bytes)
}

fn close_in(
    family: &Family,
    me: Participant,
    segment: &Arc<PoolSegment>,
    fd: BorrowedFd<'_>,
    has_room: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    for word in 0..segment.blocks_used()?.div_ceil(WORD_BITS) {
        if !has_room(0) {
            break;
        }
        // For a word at a time: an owner that wakes up finds the role back soon.
        let Some(borrowed) = Borrowed::borrow(segment, me)? else {
            break;
        };
        borrowed.close_word(word, LARGE_BYTES, fd, &mut |bytes| {
            let is_asleep = family.dropped_while_idle(segment.owner());
            has_room(bytes) && matches!(is_asleep, Ok(Some(_)))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::protocol::SegmentId;
    use crate::pool::holder::Holder;
    use crate::pool::owner::{BlockName, Pool, PoolOptions};
    use std::os::fd::AsFd;

    const BLOCKS: u64 = 12;

    struct World {
        family: Arc<Family>,
        me: Participant,
        owner: Participant,
        pool: Pool,
        holder: Holder,
        segments: Segments,
        sleepers: Sleepers,
        names: Vec<BlockName>,
    }

    impl World {
        /// An owner of large blocks that only another holds.
        fn new() -> Self {
            let family = Arc::new(Family::create().unwrap().0);
            let [me, owner, other] = [(); 3].map(|()| family.join().unwrap());
            let mut pool = Pool::new(Arc::clone(&family), owner, PoolOptions::default());
            let allocate = |_| pool.allocate(LARGE_BYTES, &mut || true).unwrap();
            let names: Vec<_> = (0..BLOCKS).map(allocate).collect();
            pool.lend(0).unwrap();
            let fd = pool.segment_fd(0).unwrap();
            let segment = PoolSegment::attach(&fd, Arc::clone(&family)).unwrap();
            segment.register_row(other, Some(fd.as_fd())).unwrap();
            let mut holder = Holder::new(Arc::new(segment), other).unwrap();
            for name in &names {
                holder.take(name.block, name.generation).unwrap();
                pool.release(name.segment, name.block).unwrap();
            }
            let mut segments = Segments::new();
            segments.register(SegmentId { owner, number: 0 }, Some(fd));
            let mut sleepers = Sleepers::new();
            sleepers.keep_bytes = 3 * LARGE_BYTES + LARGE_BYTES / 2;
            World {
                family,
                me,
                owner,
                pool,
                holder,
                segments,
                sleepers,
                names,
            }
        }

        fn drop_all_but(&mut self, kept: usize) {
            for name in &self.names[kept..] {
                self.holder.release(name.block).unwrap();
                self.family.has_dropped(self.owner, LARGE_BYTES).unwrap();
            }
            let now = Instant::now();
            self.sleepers.dropped(&self.family, self.owner, now);
        }

        /// How much is committed `after` the message, in bytes.
        fn tend(&mut self, after: Duration) -> u64 {
            let now = Instant::now() + after;
            self.sleepers
                .tend(&self.family, self.me, &self.segments, now);
            let fd = self.segments.of_owner(self.owner).next().unwrap();
            shm::status(fd).unwrap().committed_bytes
        }
    }

    #[test]
    fn what_was_dropped_while_its_owner_sleeps_goes_back_down_to_the_limit() {
        let mut world = World::new();
        world.drop_all_but(2);
        let before = world.tend(Duration::ZERO);
        let after = world.tend(ASLEEP_AFTER);
        // What was dropped, without the limit: the tables count as free.
        let went = (before - after) / LARGE_BYTES;
        assert!((BLOCKS - 2 - 4..=BLOCKS - 2 - 2).contains(&went), "{went}");
        // Looked at once more, since something was dropped since the beginning.
        assert!(world.sleepers.look_at().is_some());
        assert_eq!(world.tend(3 * ASLEEP_AFTER), after);
        assert_eq!(world.sleepers.look_at(), None);
        // The owner wakes up, and finds all of it.
        world.pool.collect().unwrap();
        let stats = world.pool.stats();
        assert_eq!(stats.in_use_bytes, 2 * LARGE_BYTES);
        assert!(stats.recycled_bytes <= world.sleepers.keep_bytes);
        assert_eq!(
            stats.committed_bytes,
            stats.in_use_bytes + stats.recycled_bytes
        );
        for name in &world.names[..2] {
            assert_eq!(world.holder.holds(name.block), 1);
        }
    }

    #[test]
    fn an_owner_that_allocates_is_left_alone() {
        let mut world = World::new();
        world.drop_all_but(0);
        world.pool.allocate(1, &mut || true).unwrap();
        let before = world.tend(Duration::ZERO);
        assert_eq!(world.tend(ASLEEP_AFTER), before);
        assert_eq!(world.sleepers.look_at(), None);
    }

    #[test]
    fn a_dead_owner_and_one_that_is_nobody_are_left_to_others() {
        let mut world = World::new();
        world.drop_all_but(0);
        world.family.declare_dead(world.owner).unwrap();
        let before = world.tend(Duration::ZERO);
        assert_eq!(world.tend(ASLEEP_AFTER), before);
        let nobody = Participant {
            slot: 99,
            generation: 1,
        };
        let now = Instant::now();
        world.sleepers.dropped(&world.family, nobody, now);
        assert_eq!(world.sleepers.look_at(), None);
    }
}
