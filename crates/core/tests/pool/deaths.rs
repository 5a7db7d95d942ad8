//! What becomes of what the dead held, and of their pools.

use std::sync::Arc;

use shared_numpy_core::error::Error;
use shared_numpy_core::inspect;
use shared_numpy_core::layout::TOKEN_ROW;
use shared_numpy_core::pool::closer::Closer;

use crate::world::{World, is_stale};

#[test]
fn the_dead_hold_nothing_and_their_slot_starts_empty() {
    let mut world = World::new();
    let name = world.allocate(100);
    let kept = world.allocate(100);
    let (who, mut other) = world.attach(0);
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
fn a_new_closer_finds_tokens_whose_bit_is_lost() {
    let mut world = World::new();
    let name = world.allocate(100);
    let (heir, mut other) = world.attach(0);
    let mine = world.pool.holder(0).unwrap();
    let token = mine.make_token(name.block, 0).unwrap();
    // As if the old closer had been killed after clearing it.
    let segment = Arc::clone(other.segment());
    let row = segment.layout().row_word(TOKEN_ROW, 0);
    segment.mapping().store_u64(row, 0).unwrap();
    world.family.declare_dead(world.me).unwrap();
    let mut closer = Closer::replace(segment, heir).unwrap();
    let mut freed = Vec::new();
    closer.collect(&mut freed).unwrap();
    assert_eq!(freed, []);
    other.claim(token, name.block, name.generation).unwrap();
}

#[test]
fn an_orphaned_pool_is_closed_by_who_replaces_its_owner() {
    let mut world = World::new();
    let (heir, mut other) = {
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
fn who_left_takes_nothing_from_its_slots_next_process() {
    let mut world = World::new();
    let name = world.allocate(100);
    let (left, mut holder) = world.attach(0);
    holder.take(name.block, name.generation).unwrap();
    world.family.declare_dead(left).unwrap();
    shared_numpy_core::recover::recover(&world.family, world.me, left, &[]).unwrap();
    let (next, mut newcomer) = world.attach(0);
    assert_eq!(next.slot, left.slot);
    newcomer.take(name.block, name.generation).unwrap();
    world.release(name);
    // Its objects end later than its participation.
    assert!(holder.release(name.block).unwrap());
    assert_eq!(world.in_use(), 128);
    newcomer.release(name.block).unwrap();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_closer_that_was_replaced_frees_nothing() {
    let mut world = World::new();
    let name = world.allocate(100);
    let (heir, mut other) = world.attach(0);
    other.take(name.block, name.generation).unwrap();
    world.family.declare_dead(world.me).unwrap();
    let mut closer = Closer::replace(Arc::clone(other.segment()), heir).unwrap();
    let is_refused = |error| matches!(error, Error::NotAllowed(_));
    assert!(is_refused(world.pool.collect().unwrap_err()));
    other.release(name.block).unwrap();
    let released = world.pool.release(name.segment, name.block);
    assert!(is_refused(released.unwrap_err()));
    let info = other.segment().block(name.block).unwrap();
    assert_eq!(info.generation, name.generation, "closed by two");
    let mut freed = Vec::new();
    closer.collect(&mut freed).unwrap();
    assert_eq!(freed, [name.block]);
}

#[test]
fn a_block_without_pages_is_opened_by_nobody() {
    let mut world = World::new();
    world.allocate(10);
    let mut opening = world.pool.begin(512 << 10).unwrap();
    assert_eq!(opening.segment(), 0);
    let (heir, mut other) = world.attach(0);
    let segment = Arc::clone(other.segment());
    let block = segment.blocks_used().unwrap() - 1;
    // Neither its owner nor others see more of it than that it is closed.
    world.pool.collect().unwrap();
    assert_eq!(world.pool.trim().unwrap(), 0);
    let generation = segment.block(block).unwrap().generation;
    for given in [generation, generation + 1, generation.wrapping_sub(1)] {
        assert!(is_stale(other.take(block, given)));
    }
    world.family.declare_dead(world.me).unwrap();
    let fd = world.pool.segment_fd(0).unwrap();
    let before = shared_numpy_core::sys::shm::status(&fd).unwrap();
    let mut closer = Closer::replace(Arc::clone(&segment), heir).unwrap();
    let mut freed = Vec::new();
    closer.collect(&mut freed).unwrap();
    assert!(freed.contains(&block));
    closer.give_back(&freed, &fd).unwrap();
    assert_eq!(closer.blocks_left().unwrap(), 0);
    assert_eq!(segment.block(block).unwrap().generation, generation);
    assert_eq!(inspect::verify_settled(&segment).unwrap(), []);
    let after = shared_numpy_core::sys::shm::status(&fd).unwrap();
    assert!(after.committed_bytes <= before.committed_bytes);
    // Who allocated meanwhile is refused: it counts for nothing.
    let commit = opening.commit.take().unwrap();
    commit.run(&mut || true).unwrap();
    opening.is_committed = true;
    let refused = world.pool.finish(opening);
    assert!(matches!(refused.unwrap_err(), Error::NotAllowed(_)));
    assert_eq!(segment.block(block).unwrap().generation, generation);
}
