//! Pools seen from outside, within one process: several participants, each with a
//! mapping of its own, as other processes would have.

use std::sync::Arc;

use shared_numpy_core::error::{Error, Result};
use shared_numpy_core::layout::{Participant, TOKEN_ROW};
use shared_numpy_core::pool::closer::Closer;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::holder::Holder;
use shared_numpy_core::pool::owner::{BlockName, Pool, PoolOptions};
use shared_numpy_core::pool::segment::PoolSegment;

/// A family with one owner; others join it.
struct World {
    family: Arc<Family>,
    me: Participant,
    pool: Pool,
}

impl World {
    fn new() -> Self {
        Self::with(PoolOptions {
            first_segment_bytes: 1 << 20,
            ..PoolOptions::default()
        })
    }

    fn with(options: PoolOptions) -> Self {
        let (family, _fd) = Family::create().unwrap();
        let family = Arc::new(family);
        let me = family.join().unwrap();
        let pool = Pool::new(Arc::clone(&family), me, options);
        World { family, me, pool }
    }

    fn allocate(&self, size_bytes: u64) -> BlockName {
        self.pool.allocate(size_bytes, &mut || true).unwrap()
    }

    /// What another process would do with the descriptor of a segment.
    fn attach(&self, segment: usize) -> (Participant, Holder) {
        let who = self.family.join().unwrap();
        (who, self.attach_as(who, segment))
    }

    fn attach_as(&self, who: Participant, segment: usize) -> Holder {
        let fd = self.pool.segment_fd(segment).unwrap();
        let segment = PoolSegment::attach(&fd, Arc::clone(&self.family)).unwrap();
        segment
            .register_row(who, Some(std::os::fd::AsFd::as_fd(&fd)))
            .unwrap();
        Holder::new(Arc::new(segment), who).unwrap()
    }

    fn release(&self, name: BlockName) {
        self.pool.release(name.segment, name.block).unwrap();
    }

    fn in_use(&self) -> u64 {
        self.pool.collect().unwrap();
        self.pool.stats().in_use_bytes
    }
}

fn is_stale<T: std::fmt::Debug>(result: Result<T>) -> bool {
    result.unwrap_err() == Error::Stale
}

#[test]
fn a_block_comes_back_warm_and_in_another_life() {
    let world = World::new();
    let first = world.allocate(5000);
    world.release(first);
    let second = world.allocate(5000);
    assert_eq!((first.segment, first.block), (second.segment, second.block));
    assert_eq!(second.generation, first.generation + 2);
    let holder = world.pool.holder(0).unwrap();
    assert!(is_stale(holder.take(first.block, first.generation)));
    world.release(second);
    assert_eq!(world.in_use(), 0);
}

#[test]
fn what_another_holds_is_not_freed() {
    let world = World::new();
    let name = world.allocate(100);
    let (_who, other) = world.attach(0);
    other.take(name.block, name.generation).unwrap();
    other.retain(name.block).unwrap();
    world.release(name);
    assert_ne!(world.in_use(), 0);
    assert!(!other.release(name.block).unwrap());
    assert_ne!(world.in_use(), 0);
    assert!(other.release(name.block).unwrap());
    assert_eq!(world.in_use(), 0);
    assert!(is_stale(other.take(name.block, name.generation)));
}

#[test]
fn the_dead_hold_nothing_and_their_slot_starts_empty() {
    let world = World::new();
    let name = world.allocate(100);
    let kept = world.allocate(100);
    let (who, other) = world.attach(0);
    other.take(name.block, name.generation).unwrap();
    other.take(kept.block, kept.generation).unwrap();
    world.release(name);
    assert!(world.family.declare_dead(who).unwrap());
    assert!(!world.family.declare_dead(who).unwrap());
    let left = world.in_use();
    assert_eq!(left, kept.size_bytes as u64);
    shared_numpy_core::recover::recover(&world.family, world.me, who, &[]).unwrap();
    let (again, next) = world.attach(0);
    assert_eq!(again.slot, who.slot);
    assert_eq!(again.generation, who.generation + 1);
    assert_eq!(next.held_blocks(), 0);
    assert_eq!(world.in_use(), left);
    world.release(kept);
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_token_holds_until_it_is_claimed_once() {
    let world = World::new();
    let name = world.allocate(100);
    let mine = world.pool.holder(0).unwrap();
    let token = mine.make_token(name.block, 0).unwrap();
    let twin = mine.make_token(name.block, 0).unwrap();
    world.release(name);
    assert_ne!(world.in_use(), 0);
    let (_who, other) = world.attach(0);
    other.claim(token, name.block, name.generation).unwrap();
    // The second unpickling of the same bytes is a take.
    other.claim(token, name.block, name.generation).unwrap();
    other.release(name.block).unwrap();
    other.release(name.block).unwrap();
    assert_ne!(world.in_use(), 0, "the twin still holds");
    other.claim(twin, name.block, name.generation).unwrap();
    other.release(name.block).unwrap();
    assert_eq!(world.in_use(), 0);
    assert!(is_stale(other.claim(twin, name.block, name.generation)));
    assert_eq!(other.segment().tokens_in_flight().unwrap(), []);
}

#[test]
fn tokens_expire() {
    let world = World::new();
    let name = world.allocate(100);
    let mine = world.pool.holder(0).unwrap();
    mine.make_token(name.block, 7).unwrap();
    world.release(name);
    let segment = mine.segment();
    assert_eq!(segment.expire_tokens(|token| token.made_s > 7).unwrap(), 0);
    assert_ne!(world.in_use(), 0);
    assert_eq!(segment.expire_tokens(|token| token.made_s == 7).unwrap(), 1);
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_forked_child_holds_what_its_parent_held() {
    let world = World::new();
    let name = world.allocate(100);
    let dropped = world.allocate(100);
    let (parent, holder) = world.attach(0);
    holder.take(name.block, name.generation).unwrap();
    holder.take(dropped.block, dropped.generation).unwrap();
    world.release(name);
    world.release(dropped);
    let child = world.family.reserve_for_child(parent).unwrap();
    holder.segment().copy_row(parent, child, None).unwrap();
    world.family.declare_dead(parent).unwrap();
    assert_eq!(
        world.in_use(),
        2 * 128,
        "reserved counts, whatever becomes of the parent"
    );
    world.family.adopt(child, parent).unwrap();
    holder.become_child(child);
    assert!(holder.release(dropped.block).unwrap());
    assert_eq!(world.in_use(), 128);
    world.family.declare_dead(child).unwrap();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn the_owners_child_holds_what_the_owner_held() {
    let world = World::new();
    let name = world.allocate(100);
    let child = world.family.reserve_for_child(world.me).unwrap();
    world.pool.copy_rows(child).unwrap();
    world.release(name);
    assert_ne!(world.in_use(), 0);
    // The fork failed.
    world.family.declare_dead(child).unwrap();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn who_was_declared_dead_takes_nothing() {
    let world = World::new();
    let name = world.allocate(100);
    let (who, other) = world.attach(0);
    world.family.declare_dead(who).unwrap();
    let refused = other.take(name.block, name.generation);
    assert!(matches!(refused.unwrap_err(), Error::NotAllowed(_)));
    world.family.declare_dead(world.me).unwrap();
    assert!(world.pool.allocate(1, &mut || true).is_err());
}

#[test]
fn a_new_closer_finds_tokens_whose_bit_is_lost() {
    let world = World::new();
    let name = world.allocate(100);
    let (heir, other) = world.attach(0);
    let mine = world.pool.holder(0).unwrap();
    let token = mine.make_token(name.block, 0).unwrap();
    // As if the old closer had been killed after clearing it.
    let segment = other.segment();
    let row = segment.layout().row_word(TOKEN_ROW, 0);
    segment.mapping().store_u64(row, 0).unwrap();
    world.family.declare_dead(world.me).unwrap();
    let mut closer = Closer::replace(Arc::clone(segment), heir).unwrap();
    let mut freed = Vec::new();
    closer.collect(&mut freed).unwrap();
    assert_eq!(freed, []);
    other.claim(token, name.block, name.generation).unwrap();
}

#[test]
fn a_parent_that_could_not_count_its_child_keeps_all() {
    let world = World::new();
    let name = world.allocate(100);
    world.pool.holder(0).unwrap().pin();
    world.release(name);
    assert_ne!(world.in_use(), 0);
    let (_who, other) = world.attach(0);
    assert!(other.take(name.block, name.generation).is_ok());
}

#[test]
fn a_row_is_registered_once() {
    let world = World::new();
    world.allocate(100);
    let segment = world.pool.holder(0).unwrap();
    let again = segment.segment().register_row(world.me, None);
    assert!(matches!(again.unwrap_err(), Error::NotAllowed(_)));
}

#[test]
fn an_orphaned_pool_is_closed_by_who_replaces_its_owner() {
    let world = World::new();
    let (heir, other) = {
        world.allocate(10);
        world.attach(0)
    };
    let held = world.allocate(100);
    let lost = world.allocate(100);
    let large = world.allocate(100_000);
    other.take(held.block, held.generation).unwrap();
    assert!(Closer::replace(Arc::clone(other.segment()), heir).is_err());
    world.family.declare_dead(world.me).unwrap();
    let mut closer = Closer::replace(Arc::clone(other.segment()), heir).unwrap();
    let mut freed = Vec::new();
    closer.collect(&mut freed).unwrap();
    assert!(freed.contains(&lost.block) && !freed.contains(&held.block));
    assert_eq!(closer.blocks_left().unwrap(), 1);
    other.release(held.block).unwrap();
    closer.collect(&mut freed).unwrap();
    let fd = world.pool.segment_fd(0).unwrap();
    // Blocks smaller than a page give nothing back by themselves.
    let pages = closer.give_back(&freed, &fd).unwrap();
    assert_eq!(pages, large.size_bytes as u64);
    assert_eq!(
        freed.iter().filter(|&&block| block == held.block).count(),
        1
    );
    assert_eq!(closer.blocks_left().unwrap(), 0);
}

#[test]
fn large_blocks_are_page_aligned_and_the_largest_have_their_own_segment() {
    let world = World::with(PoolOptions {
        own_segment_above_bytes: 2 << 20,
        ..PoolOptions::default()
    });
    let small = world.allocate(1);
    assert_eq!(small.offset_bytes % 64, 0);
    let large = world.allocate(1 << 20);
    assert_eq!(
        (large.offset_bytes % 4096, large.segment),
        (0, small.segment)
    );
    let largest = world.allocate(3 << 20);
    assert_eq!(largest.offset_bytes % 4096, 0);
    assert_ne!(largest.segment, small.segment);
    world.release(largest);
    let again = world.allocate(3 << 20);
    assert_eq!(
        (again.segment, again.block),
        (largest.segment, largest.block)
    );
}

#[test]
fn many_large_blocks_need_few_descriptors() {
    let world = World::with(PoolOptions {
        first_segment_bytes: 1 << 20,
        ..PoolOptions::default()
    });
    let mut names: Vec<_> = (0..40).map(|_| world.allocate(1 << 20)).collect();
    assert!(world.pool.stats().segments <= 4);
    names.drain(..).for_each(|name| world.release(name));
    // A block that is larger than a segment's turn makes a segment that has room.
    world.allocate(100 << 20);
    assert!(world.pool.stats().segments <= 5);
}

#[test]
fn memory_goes_back_and_comes_again() {
    let world = World::with(PoolOptions {
        keep_bytes: 1 << 20,
        ..PoolOptions::default()
    });
    let blocks: Vec<_> = (0..8).map(|_| world.allocate(1 << 20)).collect();
    for &name in &blocks {
        world.release(name);
    }
    let stats = world.pool.stats();
    assert_eq!(
        (stats.recycled_bytes, stats.punched_bytes),
        (1 << 20, 7 << 20)
    );
    assert_eq!(world.pool.trim().unwrap(), 1 << 20);
    let again = world.allocate(1 << 20);
    let holder = world.pool.holder(again.segment).unwrap();
    let mut bytes = [1; 64];
    let mapping = holder.segment().mapping();
    mapping.read_bytes(again.offset_bytes, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 64]);
}

#[test]
fn a_limit_is_heard() {
    let world = World::with(PoolOptions {
        limit: Box::new(|_| Err(Error::Interrupted)),
        ..PoolOptions::default()
    });
    assert!(world.pool.allocate(1, &mut || true).is_err());
}

#[test]
fn a_hundred_thousand_blocks_need_few_descriptors() {
    let world = World::with(PoolOptions::default());
    let names: Vec<_> = (0..100_000).map(|_| world.allocate(64)).collect();
    assert!(world.pool.stats().segments <= 2);
    for name in names {
        world.release(name);
    }
    assert_eq!(world.pool.stats().in_use_bytes, 0);
}

#[test]
fn another_familys_segment_is_refused() {
    let world = World::new();
    world.allocate(1);
    let fd = world.pool.segment_fd(0).unwrap();
    let (stranger, family_fd) = Family::create().unwrap();
    let refused = PoolSegment::attach(&fd, Arc::new(stranger));
    assert!(matches!(refused.unwrap_err(), Error::WrongSegment(_)));
    assert!(matches!(
        Family::attach(&fd).unwrap_err(),
        Error::WrongSegment(_)
    ));
    assert!(Family::attach(&family_fd).is_ok());
}

#[test]
fn threads_share_one_bit() {
    let world = World::new();
    let name = world.allocate(100);
    let (_who, other) = world.attach(0);
    let stale = name.generation.wrapping_sub(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    other.take(name.block, name.generation).unwrap();
                    assert!(is_stale(other.take(name.block, stale)));
                    other.release(name.block).unwrap();
                }
            });
        }
        for _ in 0..200 {
            assert_ne!(world.in_use(), 0);
        }
    });
    assert_eq!(other.held_blocks(), 0);
    world.release(name);
    assert_eq!(world.in_use(), 0);
}
