//! What memory a pool takes, offers again and gives back.

use shared_numpy_core::error::Error;
use shared_numpy_core::pool::owner::PoolOptions;

use crate::world::{World, is_stale};

#[test]
fn a_block_comes_back_warm_and_in_another_life() {
    let mut world = World::new();
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
fn large_blocks_are_page_aligned_and_the_largest_have_their_own_segment() {
    let mut world = World::with(PoolOptions {
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
    let mut world = World::with(PoolOptions {
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
    let mut world = World::with(PoolOptions {
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
    let mut bytes = [1; 64];
    let mapping = world.pool.segment(again.segment).unwrap().mapping();
    mapping.read_bytes(again.offset_bytes, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 64]);
}

#[test]
fn a_limit_is_heard() {
    let mut world = World::with(PoolOptions {
        limit: Box::new(|_, _| Err(Error::Interrupted)),
        ..PoolOptions::default()
    });
    assert!(world.pool.allocate(1, &mut || true).is_err());
}

#[test]
fn a_hundred_thousand_blocks_need_few_descriptors() {
    let mut world = World::with(PoolOptions::default());
    let names: Vec<_> = (0..100_000).map(|_| world.allocate(64)).collect();
    assert!(world.pool.stats().segments <= 2);
    for name in names {
        world.release(name);
    }
    assert_eq!(world.pool.stats().in_use_bytes, 0);
}

#[test]
fn what_others_dropped_goes_back_when_it_is_not_used() {
    let mut world = World::with(PoolOptions {
        keep_bytes: 1 << 20,
        decay_after_s: 0,
        ..PoolOptions::default()
    });
    let (_, mut other) = {
        let first = world.allocate(1 << 20);
        world.release(first);
        world.attach(0)
    };
    let names: Vec<_> = (0..8).map(|_| world.allocate(1 << 20)).collect();
    for name in &names {
        other.take(name.block, name.generation).unwrap();
        world.release(*name);
        other.release(name.block).unwrap();
    }
    // Just found: it may be needed.
    world.pool.collect().unwrap();
    let stats = world.pool.stats();
    assert_eq!((stats.recycled_bytes, stats.punched_bytes), (8 << 20, 0));
    // It was not.
    world.pool.collect().unwrap();
    let stats = world.pool.stats();
    assert_eq!(
        (stats.recycled_bytes, stats.punched_bytes),
        (1 << 20, 7 << 20)
    );
    assert_eq!(stats.committed_bytes, 1 << 20);
}
