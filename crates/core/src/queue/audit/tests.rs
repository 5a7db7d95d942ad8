//! Looks at queues that stand still where a process is in the middle of a step.

use super::*;
use crate::pool::family::Family;
use crate::pool::owner::{Pool, PoolOptions};

/// Room for a queue with a first ring of one unit.
const ROOM_BYTES: u64 = FIRST_RING as u64 + 64;

/// A pool with one block, which its owner holds.
struct OnePool {
    family: Arc<Family>,
    pool: Pool,
    me: Participant,
    block: usize,
    generation: u64,
}

impl OnePool {
    fn new(family: &Arc<Family>) -> Self {
        let me = family.join().unwrap();
        let options = PoolOptions {
            first_segment_bytes: 1 << 20,
            ..PoolOptions::default()
        };
        let mut pool = Pool::new(Arc::clone(family), me, options);
        let name = pool.allocate(ROOM_BYTES, &mut || true).unwrap();
        OnePool {
            family: Arc::clone(family),
            me,
            block: name.block,
            generation: name.generation,
            pool,
        }
    }

    /// Its segment, as another process maps it.
    fn segment(&self) -> Arc<PoolSegment> {
        let fd = self.pool.segment_fd(0).unwrap();
        Arc::new(PoolSegment::attach(&fd, Arc::clone(&self.family)).unwrap())
    }

    fn container(&self) -> Container {
        Container {
            family: self.family.id()[0],
            owner: self.me,
            place: Place {
                block: self.block,
                number: 0,
            },
            generation: self.generation,
        }
    }

    /// Sets a word of what is in the block.
    fn set(&self, field: usize, value: u64) {
        let segment = self.segment();
        let at = segment.block(self.block).unwrap().offset_bytes + field;
        let word = segment.mapping().shared_word(at).unwrap();
        word.store(value, Ordering::Release);
    }

    /// Makes the block an empty queue or channel.
    fn become_container(&self, kind: u64) {
        self.set(0, kind);
        self.set(RING_TABLE + offset_of!(Ring, units), 1);
    }

    fn put_into(&mut self, container: &Container) -> TokenName {
        let block = self.block;
        let holder = self.pool.holder(0).unwrap();
        holder.make_token_in(block, 0, Some(container)).unwrap()
    }
}

fn family() -> Arc<Family> {
    Arc::new(Family::create().unwrap().0)
}

/// Puts a block of one family into what is in a block of another, and stops before the
/// record is written; how many tokens a look ends before and after the lock is released, and
/// when the sender is dead but somebody else puts.
fn looks_at_a_guest(kind: u64, putting: usize) -> [usize; 3] {
    let queue = OnePool::new(&family());
    queue.become_container(kind);
    let mut guest = OnePool::new(&family());
    // Known under another name where the queue is.
    let known_as = queue.family.join().unwrap();
    assert_ne!(known_as, guest.me);
    let look = |guest: &OnePool| {
        let segments = [guest.segment()];
        end_dead_tokens(&segments, &[queue.segment()]).unwrap()
    };
    queue.set(putting, known_as.pack());
    guest.put_into(&queue.container());
    let while_putting = look(&guest);
    queue.set(putting, 0);
    let after = look(&guest);
    queue.set(putting, known_as.pack());
    guest.put_into(&queue.container());
    guest.family.declare_dead(guest.me).unwrap();
    [while_putting, after, look(&guest)]
}

#[test]
fn what_a_guest_is_putting_is_left_alone() {
    let lock = offset_of!(QueueHeader, lock);
    assert_eq!(looks_at_a_guest(QUEUE_KIND, lock), [0, 1, 1]);
}

#[test]
fn what_a_guest_is_publishing_is_left_alone() {
    let writer = offset_of!(LatestHeader, writer);
    assert_eq!(looks_at_a_guest(LATEST_KIND, writer), [0, 1, 1]);
}

#[test]
fn what_somebody_else_of_the_family_has_not_put_is_ended() {
    let family = family();
    let queue = OnePool::new(&family);
    queue.become_container(QUEUE_KIND);
    let mut one = OnePool::new(&family);
    let other = family.join().unwrap();
    one.put_into(&queue.container());
    let look = |one: &OnePool| end_dead_tokens(&[one.segment()], &[queue.segment()]).unwrap();
    queue.set(offset_of!(QueueHeader, lock), one.me.pack());
    assert_eq!(look(&one), 0);
    queue.set(offset_of!(QueueHeader, lock), other.pack());
    assert_eq!(look(&one), 1);
}
