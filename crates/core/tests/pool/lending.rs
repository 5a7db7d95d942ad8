//! The role of closer, lent by an owner that sleeps: what is closed, and who finds it.

use std::sync::Arc;

use shared_numpy_core::error::Error;
use shared_numpy_core::layout::Participant;
use shared_numpy_core::pool::closer::Closer;
use shared_numpy_core::pool::holder::Holder;
use shared_numpy_core::pool::lend::Borrowed;
use shared_numpy_core::pool::owner::{BlockName, PoolOptions};
use shared_numpy_core::pool::protocol;

use crate::world::{World, is_stale};

const LARGE: u64 = 1 << 20;

/// Blocks that only another holds, who may drop them; and who may borrow.
fn sent(count: usize) -> (World, Participant, Holder, Vec<BlockName>) {
    let mut world = World::with(PoolOptions::default());
    let names: Vec<_> = (0..count).map(|_| world.allocate(LARGE)).collect();
    let (_, mut other) = world.attach(0);
    world.pool.lend(0).unwrap();
    for name in &names {
        other.take(name.block, name.generation).unwrap();
        world.release(*name);
    }
    let borrower = world.family.join().unwrap();
    (world, borrower, other, names)
}

fn borrow(other: &Holder, borrower: Participant) -> Option<Borrowed> {
    Borrowed::borrow(other.segment(), borrower).unwrap()
}

/// Closes all large blocks that nobody holds; how many bytes went.
fn close_all(world: &World, borrowed: &Borrowed) -> u64 {
    let fd = world.pool.segment_fd(0).unwrap();
    let mut went = 0;
    let mut goes_on = |bytes| {
        went += bytes;
        true
    };
    borrowed.close_word(0, LARGE, &fd, &mut goes_on).unwrap();
    went
}

#[test]
fn what_a_borrower_closed_its_owner_finds_without_pages() {
    let (mut world, borrower, mut other, names) = sent(4);
    let small = world.allocate(100);
    other.take(small.block, small.generation).unwrap();
    world.release(small);
    let mine = world.allocate(LARGE);
    other.release(small.block).unwrap();
    for name in &names[1..] {
        other.release(name.block).unwrap();
    }
    let borrowed = borrow(&other, borrower).unwrap();
    assert_eq!(close_all(&world, &borrowed), 3 * LARGE);
    assert_eq!(close_all(&world, &borrowed), 0);
    drop(borrowed);
    assert!(is_stale(other.take(names[1].block, names[1].generation)));
    other.take(names[0].block, names[0].generation).unwrap();
    world.pool.collect().unwrap();
    let stats = world.pool.stats();
    assert_eq!(stats.in_use_bytes, 2 * LARGE);
    assert_eq!(stats.punched_bytes, 3 * LARGE);
    assert_eq!(
        stats.committed_bytes,
        stats.in_use_bytes + stats.recycled_bytes
    );
    // Each once, with pages and with a new number.
    let again: Vec<_> = (0..3).map(|_| world.allocate(LARGE)).collect();
    let mapping = Arc::clone(world.pool.segment(0).unwrap().mapping());
    for name in &again {
        let before = names.iter().find(|old| old.block == name.block).unwrap();
        assert_eq!(name.generation, before.generation + 2);
        let mut bytes = [1; 64];
        mapping.read_bytes(name.offset_bytes, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 64]);
    }
    assert_eq!(world.pool.stats().punched_bytes, 0);
    world.release(mine);
}

#[test]
fn while_the_role_is_lent_its_owner_goes_on_without() {
    let (mut world, borrower, mut other, names) = sent(2);
    let borrowed = borrow(&other, borrower).unwrap();
    // A second borrower does not get it.
    assert!(borrow(&other, world.family.join().unwrap()).is_none());
    other.release(names[0].block).unwrap();
    let mine = world.allocate(LARGE);
    let in_use = world.pool.stats().in_use_bytes;
    world.release(mine);
    assert_eq!(world.in_use(), in_use);
    let more = world.allocate(LARGE);
    assert_ne!(more.block, mine.block);
    drop(borrowed);
    assert_eq!(world.in_use(), 2 * LARGE);
    other.take(more.block, more.generation).unwrap();
}

#[test]
fn an_owner_takes_its_role_back_from_a_dead_borrower() {
    let (mut world, borrower, mut other, names) = sent(3);
    std::mem::forget(borrow(&other, borrower).unwrap());
    // Killed after the bump of a block that somebody holds, and of one that nobody holds.
    let segment = Arc::clone(other.segment());
    other.release(names[1].block).unwrap();
    for name in &names[..2] {
        let at = segment.layout().block(name.block, 0);
        segment
            .mapping()
            .store_u64(at, name.generation + 1)
            .unwrap();
    }
    assert_eq!(world.in_use(), 3 * LARGE);
    world.family.declare_dead(borrower).unwrap();
    assert_eq!(world.in_use(), 2 * LARGE);
    assert_eq!(world.pool.stats().punched_bytes, LARGE);
    // What is held stays, whatever its number, until it is dropped.
    let found = segment.block(names[0].block).unwrap().generation;
    assert!(!protocol::is_open(found));
    other.release(names[0].block).unwrap();
    assert_eq!(world.in_use(), LARGE);
    assert_eq!(segment.block(names[0].block).unwrap().generation, found);
    // Each of them is on one list.
    let again: Vec<_> = (0..3).map(|_| world.allocate(LARGE).block).collect();
    assert_ne!(again[0], again[1]);
    assert!(!again.contains(&names[2].block));
}

#[test]
fn who_was_taken_for_dead_while_it_stood_still_punches_nothing() {
    let (mut world, borrower, mut other, names) = sent(2);
    let borrowed = borrow(&other, borrower).unwrap();
    world.family.declare_dead(borrower).unwrap();
    for name in &names {
        other.release(name.block).unwrap();
    }
    assert_eq!(world.in_use(), 0);
    let again = world.allocate(LARGE);
    other.take(again.block, again.generation).unwrap();
    world.release(again);
    other.release(again.block).unwrap();
    let fd = world.pool.segment_fd(0).unwrap();
    let closed = borrowed.close_word(0, LARGE, &fd, &mut |_| true);
    assert!(matches!(closed, Err(Error::NotAllowed(_))));
    // Nor does it give back what it has not.
    drop(borrowed);
    assert_eq!(world.in_use(), 0);
    assert_eq!(world.pool.stats().punched_bytes, 0);
}

#[test]
fn an_heir_waits_for_a_living_borrower_and_not_for_a_dead_one() {
    let (world, borrower, other, _) = sent(2);
    let heir = world.family.join().unwrap();
    let replace = || Closer::replace(Arc::clone(other.segment()), heir);
    let borrowed = borrow(&other, borrower).unwrap();
    assert!(matches!(replace(), Err(Error::NotAllowed(_))));
    world.family.declare_dead(world.me).unwrap();
    assert!(matches!(replace(), Err(Error::NotAllowed(_))));
    drop(borrowed);
    assert!(replace().is_ok());
    // Nobody borrows from an heir.
    assert!(borrow(&other, borrower).is_none());

    let (world, borrower, other, _) = sent(2);
    let heir = world.family.join().unwrap();
    let replace = || Closer::replace(Arc::clone(other.segment()), heir);
    std::mem::forget(borrow(&other, borrower).unwrap());
    world.family.declare_dead(borrower).unwrap();
    // The owner lives: it takes its role back itself.
    assert!(matches!(replace(), Err(Error::NotAllowed(_))));
    world.family.declare_dead(world.me).unwrap();
    assert!(replace().is_ok());
}

#[test]
fn what_no_tracker_has_is_not_lent() {
    let mut world = World::new();
    let name = world.allocate(LARGE / 2);
    let (borrower, other) = world.attach(0);
    assert!(borrow(&other, borrower).is_none());
    world.pool.lend(0).unwrap();
    world.pool.lend(0).unwrap();
    assert!(borrow(&other, borrower).is_some());
    world.release(name);
    assert_eq!(world.in_use(), 0);
    // Nor is what somebody has inherited, or the role of a dead owner's.
    world.family.declare_dead(world.me).unwrap();
    assert!(borrow(&other, borrower).is_none());
}
