//! The segments that were registered: their descriptors, and, when an owner has died, its
//! work.
//!
//! Guarantees: the first registration of a segment stands; a pool whose owner is dead has its
//! free blocks closed and their memory given back, and is let go when nothing of it is held;
//! before that, what was in the queues in it is given back too, whoever's memory it is;
//! one that is no segment of this family, or a damaged one, is let go at once, and nothing
//! else happens.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{Participant, PoolHeader, SEGMENT_MAX_BYTES};
use crate::members::protocol::SegmentId;
use crate::pool::closer::Closer;
use crate::pool::family::Family;
use crate::pool::segment::PoolSegment;
use crate::pool::tokens;
use crate::queue::audit;
use crate::sys::clock;
use crate::sys::shm;

/// How many segments are kept. Each costs a descriptor.
const SEGMENTS_MAX: usize = 1 << 16;

/// How deep queues in queues are looked into at a time.
const QUEUES_IN_QUEUES: usize = 16;

/// Orphaned pools are looked at so soon after something happened, and ever more rarely, up
/// to once a second.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Segments {
    kept: BTreeMap<SegmentId, Segment>,
    look_at: Option<Instant>,
    wait: Duration,
    /// Tokens of dead senders expire after so many seconds.
    in_flight_limit_s: u64,
}

struct Segment {
    fd: OwnedFd,
    /// Ours, since the owner died.
    closer: Option<Closer>,
}

/// What has become of an orphan.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Something of it is held.
    Held,
    /// Nothing is held, or nothing can be done with it.
    Over,
}

impl Segments {
    pub(super) fn new() -> Self {
        Segments {
            kept: BTreeMap::new(),
            look_at: None,
            wait: FIRST_LOOK,
            in_flight_limit_s: tokens::in_flight_limit_s(),
        }
    }

    /// Keeps a segment, if it may be one and is not known.
    pub(super) fn register(&mut self, id: SegmentId, fd: Option<OwnedFd>) {
        // Without a descriptor: it was lost on the way, for want of one.
        if let Some(fd) = fd
            && is_likely(&fd)
            && self.kept.len() < SEGMENTS_MAX
        {
            self.kept.entry(id).or_insert(Segment { fd, closer: None });
        }
    }

    pub(super) fn get(&self, id: SegmentId) -> Option<BorrowedFd<'_>> {
        self.kept.get(&id).map(|segment| segment.fd.as_fd())
    }

    /// The segments of one owner that are kept.
    pub(super) fn of_owner(&self, owner: Participant) -> impl Iterator<Item = BorrowedFd<'_>> {
        let first = SegmentId { owner, number: 0 };
        let last = SegmentId {
            owner,
            number: u64::MAX,
        };
        self.kept
            .range(first..=last)
            .map(|(_, kept)| kept.fd.as_fd())
    }

    /// Nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// When orphans have to be looked at.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// The segments in which we free.
    pub(super) fn orphans(&self) -> Vec<Arc<PoolSegment>> {
        let closers = self.kept.values().filter_map(|kept| kept.closer.as_ref());
        closers.map(|closer| Arc::clone(closer.segment())).collect()
    }

    /// We have another slot: what we closed has no closer any more.
    pub(super) fn forget_orphans(&mut self) {
        for kept in self.kept.values_mut() {
            kept.closer = None;
        }
    }

    /// Ends the tokens of orphans that are in queues and count no more. Queues and rings
    /// may be in any segment.
    fn look_into_queues(&self, family: &Arc<Family>) {
        let orphans = self.orphans();
        if orphans.iter().any(is_in_queue) {
            // What cannot be told now is looked at again.
            let _ = audit::end_dead_tokens(&orphans, &self.others(family));
        }
    }

    /// The same for the tokens of all: an array may be in a queue that its owner has never
    /// heard of, put there by who had received it, and be nobody's when that queue is.
    fn look_into_all_queues(&self, family: &Arc<Family>) {
        let mut all = self.orphans();
        all.extend(self.others(family));
        for _ in 0..QUEUES_IN_QUEUES {
            if !all.iter().any(is_in_queue) {
                return;
            }
            match audit::end_dead_tokens(&all, &[]) {
                // It may have been a queue's, which then is nobody's either.
                Ok(ended) if ended > 0 => {}
                _ => return,
            }
        }
    }

    /// The segments in which somebody else frees.
    fn others(&self, family: &Arc<Family>) -> Vec<Arc<PoolSegment>> {
        let others = self.kept.values().filter(|kept| kept.closer.is_none());
        let others = others.filter_map(|kept| {
            let segment = PoolSegment::attach(&kept.fd, Arc::clone(family)).ok()?;
            Some(Arc::new(segment))
        });
        others.collect()
    }

    /// Takes over from owners that are dead, and frees in their place.
    pub(super) fn tend(&mut self, family: &Arc<Family>, me: Participant, news: bool, now: Instant) {
        let is_orphan = |id: &SegmentId| !family.counts(id.owner);
        let is_new = |(id, kept): (&SegmentId, &Segment)| kept.closer.is_none() && is_orphan(id);
        let is_news = news || (self.look_at.is_none() && self.kept.iter().any(is_new));
        if !is_news && self.look_at.is_none_or(|when| when > now) {
            return;
        }
        let limit_s = self.in_flight_limit_s;
        if is_news {
            self.look_into_all_queues(family);
        } else {
            self.look_into_queues(family);
        }
        let mut over = Vec::new();
        let mut has_freed = false;
        for (id, kept) in self.kept.iter_mut().filter(|(id, _)| is_orphan(id)) {
            let is_over = match kept.free(*id, family, me, limit_s, &mut has_freed) {
                Ok(fate) => fate == Fate::Over,
                // For want of memory or descriptors: tried again.
                Err(Error::Os { .. }) => false,
                // Its closer is another, who is not known to be dead yet; or we were taken
                // for dead ourselves: tried again, from the beginning.
                Err(Error::NotAllowed(_)) => {
                    kept.closer = None;
                    false
                }
                // Bytes that make no sense. Who maps it, has it; nobody else needs it.
                Err(_) => true,
            };
            if is_over {
                over.push(*id);
            }
        }
        // While what was freed can be seen to be so: it may have been a queue.
        if has_freed {
            self.look_into_all_queues(family);
        }
        for id in over {
            self.kept.remove(&id);
        }
        let is_any = self.kept.keys().any(is_orphan);
        self.wait = match is_news {
            true => FIRST_LOOK,
            false => (self.wait * 2).min(LAST_LOOK),
        };
        self.look_at = is_any.then(|| now + self.wait);
    }
}

impl Segment {
    fn free(
        &mut self,
        id: SegmentId,
        family: &Arc<Family>,
        me: Participant,
        limit_s: u64,
        has_freed: &mut bool,
    ) -> Result<Fate> {
        let closer = match &mut self.closer {
            Some(closer) => closer,
            none => {
                let segment = PoolSegment::attach(&self.fd, Arc::clone(family))?;
                if segment.owner() != id.owner || segment.number() != id.number {
                    return Err(Error::WrongSegment("it was registered as another"));
                }
                let closer = Closer::replace(Arc::new(segment), me)?;
                point("orphan.replaced");
                none.insert(closer)
            }
        };
        let now_s = clock::monotonic_s();
        closer.segment().expire_tokens_of_the_dead(now_s, limit_s)?;
        let mut freed = Vec::new();
        let collected = closer.collect(&mut freed);
        point("orphan.collected");
        *has_freed |= !freed.is_empty();
        for block in freed {
            match closer.give_back(&[block], &self.fd) {
                // Where the system does not take it back it goes with the segment.
                Ok(_) | Err(Error::Os { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        collected?;
        if closer.blocks_left()? > 0 {
            return Ok(Fate::Held);
        }
        point("orphan.emptied");
        Ok(Fate::Over)
    }
}

fn is_in_queue(segment: &Arc<PoolSegment>) -> bool {
    let tokens = segment.tokens_in_flight().unwrap_or_default();
    tokens.iter().any(|token| token.container.is_some())
}

/// Whether the file may be a segment, as far as that can be told without mapping it.
fn is_likely(fd: &OwnedFd) -> bool {
    let sizes = size_of::<PoolHeader>() as u64..=SEGMENT_MAX_BYTES;
    shm::status(fd).is_ok_and(|file| file.is_regular && sizes.contains(&file.size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::holder::Holder;
    use crate::pool::owner::{Pool, PoolOptions};

    struct World {
        family: Arc<Family>,
        me: Participant,
        segments: Segments,
        id: SegmentId,
        pool: Pool,
        holder: Holder,
        sender: Participant,
    }

    impl World {
        /// A pool with one block, which only a token holds.
        fn new() -> Self {
            let family = Arc::new(Family::create().unwrap().0);
            let [me, owner, sender] = [(); 3].map(|()| family.join().unwrap());
            let options = PoolOptions {
                first_segment_bytes: 1 << 20,
                ..PoolOptions::default()
            };
            let mut pool = Pool::new(Arc::clone(&family), owner, options);
            let name = pool.allocate(1000, &mut || true).unwrap();
            let fd = pool.segment_fd(0).unwrap();
            let segment = PoolSegment::attach(&fd, Arc::clone(&family)).unwrap();
            segment.register_row(sender, Some(fd.as_fd())).unwrap();
            let mut holder = Holder::new(Arc::new(segment), sender).unwrap();
            holder.take(name.block, name.generation).unwrap();
            holder.make_token(name.block, clock::monotonic_s()).unwrap();
            holder.release(name.block).unwrap();
            pool.release(name.segment, name.block).unwrap();
            let id = SegmentId { owner, number: 0 };
            let mut segments = Segments::new();
            segments.in_flight_limit_s = 600;
            segments.register(id, Some(fd));
            World {
                family,
                me,
                segments,
                id,
                pool,
                holder,
                sender,
            }
        }

        fn tend(&mut self) -> bool {
            self.segments
                .tend(&self.family, self.me, true, Instant::now());
            self.segments.get(self.id).is_some()
        }
    }

    #[test]
    fn tokens_of_the_dead_expire_in_their_time_and_those_of_the_living_do_not() {
        let mut world = World::new();
        assert!(world.tend() && world.segments.look_at().is_none());
        world.family.declare_dead(world.id.owner).unwrap();
        world.segments.in_flight_limit_s = 0;
        assert!(world.tend() && world.segments.look_at().is_some());
        world.segments.in_flight_limit_s = 600;
        world.family.declare_dead(world.sender).unwrap();
        assert!(world.tend());
        world.segments.in_flight_limit_s = 0;
        assert!(!world.tend());
        assert_eq!(world.segments.look_at(), None);
        drop(world.pool);
    }

    #[test]
    fn who_was_taken_for_dead_begins_again_under_another_name() {
        let mut world = World::new();
        world.family.declare_dead(world.id.owner).unwrap();
        assert!(world.tend());
        assert_eq!(world.segments.orphans().len(), 1);
        // Somebody else takes over, and dies.
        let other = world.family.join().unwrap();
        world.family.declare_dead(world.me).unwrap();
        let segment = Arc::clone(world.holder.segment());
        drop(Closer::replace(segment, other).unwrap());
        assert!(world.tend());
        assert_eq!(world.segments.orphans().len(), 0);
        world.me = world.family.join().unwrap();
        assert!(world.tend());
        assert_eq!(world.segments.orphans().len(), 0);
        world.family.declare_dead(other).unwrap();
        assert!(world.tend());
        assert_eq!(world.segments.orphans().len(), 1);
    }
}
