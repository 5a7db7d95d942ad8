//! What may refuse growth or make it needless, what a failed allocation leaves, and
//! that the pool counts what its files have.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use shared_numpy_core::error::Error;
use shared_numpy_core::pool::owner::PoolOptions;
use shared_numpy_core::sys::{anon, shm};

use crate::world::World;

const MIB: u64 = 1 << 20;

/// What the files of the pool have, in bytes.
fn committed(world: &World) -> u64 {
    (0..world.pool.segments())
        .map(|segment| {
            let fd = world.pool.segment_fd(segment).unwrap();
            shm::status(&fd).unwrap().committed_bytes
        })
        .sum()
}

/// A pool that may commit so many bytes, while that is not changed.
fn with_limit(limit_bytes: u64) -> (World, Arc<AtomicU64>) {
    let limit = Arc::new(AtomicU64::new(limit_bytes));
    let heard = Arc::clone(&limit);
    let world = World::with(PoolOptions {
        limit: Box::new(move |more, committed| {
            if committed + more <= heard.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err(Error::Interrupted)
            }
        }),
        ..PoolOptions::default()
    });
    (world, limit)
}

#[test]
fn who_is_found_dead_makes_growth_needless() {
    let holder = Arc::new(Mutex::new(None));
    let asked = Arc::new(AtomicUsize::new(0));
    let (found, count) = (Arc::clone(&holder), Arc::clone(&asked));
    let mut world = World::with(PoolOptions {
        before_growing: Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let taken: Option<(Arc<shared_numpy_core::pool::family::Family>, _)> =
                found.lock().unwrap().take();
            taken.is_some_and(|(family, who)| family.declare_dead(who).unwrap())
        }),
        ..PoolOptions::default()
    });
    let name = world.allocate(MIB);
    let (who, mut other) = world.attach(0);
    other.take(name.block, name.generation).unwrap();
    world.release(name);
    *holder.lock().unwrap() = Some((Arc::clone(&world.family), who));
    asked.store(0, Ordering::Relaxed);
    let again = world.allocate(MIB);
    assert_eq!(again.block, name.block);
    // Nobody more is found dead: the pool grows.
    let more = world.allocate(MIB);
    assert_ne!(more.block, name.block);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // What is free is taken without asking.
    world.release(more);
    world.allocate(MIB);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn a_limit_takes_nothing_away() {
    let (mut world, limit) = with_limit(3 * MIB);
    let names: Vec<_> = (0..3).map(|_| world.allocate(MIB)).collect();
    let before = committed(&world);
    for _ in 0..5 {
        let refused = world.pool.allocate(MIB, &mut || true);
        assert_eq!(refused.unwrap_err(), Error::Interrupted);
    }
    let stats = world.pool.stats();
    assert_eq!(
        (stats.in_use_bytes, stats.committed_bytes),
        (3 * MIB, 3 * MIB)
    );
    assert_eq!(stats.punched_bytes, MIB, "one block waits, not five");
    assert_eq!(committed(&world), before);
    limit.store(4 * MIB, Ordering::Relaxed);
    world.allocate(MIB);
    let stats = world.pool.stats();
    assert_eq!((stats.in_use_bytes, stats.punched_bytes), (4 * MIB, 0));
    names.into_iter().for_each(|name| world.release(name));
    assert_eq!(world.in_use(), MIB);
}

#[test]
fn what_nobody_uses_is_given_back_before_an_allocation_is_refused() {
    let (mut world, _limit) = with_limit(4 * MIB);
    let names: Vec<_> = (0..4).map(|_| world.allocate(MIB)).collect();
    let before = committed(&world);
    world.release(names[0]);
    assert!(world.pool.allocate(2 * MIB, &mut || true).is_err());
    world.release(names[1]);
    let large = world.allocate(2 * MIB);
    let stats = world.pool.stats();
    assert_eq!((stats.in_use_bytes, stats.recycled_bytes), (4 * MIB, 0));
    assert_eq!(
        (stats.committed_bytes, committed(&world)),
        (4 * MIB, before)
    );
    world.release(large);
    // By who else held it.
    let (_who, mut other) = world.attach(large.segment);
    other.take(names[2].block, names[2].generation).unwrap();
    world.release(names[2]);
    other.release(names[2].block).unwrap();
    world.allocate(3 * MIB);
}

#[test]
fn a_refused_block_is_committed_later() {
    let (mut world, limit) = with_limit(100_000);
    assert!(world.pool.allocate(200_000, &mut || true).is_err());
    // Lies behind it, and commits what lies behind itself.
    let behind = world.allocate(64);
    limit.store(u64::MAX, Ordering::Relaxed);
    let before = committed(&world);
    let name = world.allocate(200_000);
    assert!(name.offset_bytes < behind.offset_bytes);
    assert!(committed(&world) >= before + 200_000 - 4096);
}

#[test]
fn an_allocation_that_was_given_up_leaves_its_block_and_no_memory() {
    let mut world = World::new();
    world.allocate(1);
    let name = world.allocate(16 * MIB);
    world.release(name);
    world.pool.trim().unwrap();
    // Once for a block that had pages before, once for a new one.
    for size in [16 * MIB, 32 * MIB] {
        let (before, stats) = (committed(&world), world.pool.stats());
        let opening = world.pool.begin(size).unwrap();
        let counted = world.pool.stats().committed_bytes;
        assert_eq!(counted, stats.committed_bytes + size, "counted at once");
        let before = before.max(committed(&world));
        let mut steps = 0;
        let stopped = opening.commit.as_ref().unwrap().run(&mut || {
            steps += 1;
            steps < 2
        });
        assert_eq!(stopped.unwrap_err(), Error::Interrupted);
        assert_eq!(committed(&world), before + 2 * shm::RESERVE_STEP_BYTES);
        world.pool.abandon(opening);
        assert_eq!(committed(&world), before);
        assert_eq!(world.pool.stats().committed_bytes, stats.committed_bytes);
        let segments = world.pool.segments();
        let name = world.allocate(size);
        assert_eq!(
            (committed(&world), world.pool.segments()),
            (before + size, segments)
        );
        assert_eq!(world.pool.stats().punched_bytes, 0);
        let mut bytes = [1; 64];
        let mapping = world.pool.segment(name.segment).unwrap().mapping();
        mapping.read_bytes(name.offset_bytes, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 64]);
    }
}

#[test]
fn a_committed_block_that_was_given_up_is_recycled() {
    let mut world = World::new();
    let mut opening = world.pool.begin(16 * MIB).unwrap();
    opening.commit.take().unwrap().run(&mut || true).unwrap();
    opening.is_committed = true;
    world.pool.abandon(opening);
    let stats = world.pool.stats();
    assert_eq!(
        (stats.recycled_bytes, stats.committed_bytes),
        (16 * MIB, 16 * MIB)
    );
    assert!(world.pool.begin(16 * MIB).unwrap().commit.is_none());
}

#[test]
fn a_chain_makes_do_with_the_address_space_there_is() {
    let mut refusals = 5; // 64, 32, 16, 8 and 4 MiB
    let mut world = World::with(PoolOptions {
        source: Box::new(move |size_bytes| {
            if refusals > 0 {
                refusals -= 1;
                return Err(Error::os("map", "", Errno::NOMEM));
            }
            anon::create(size_bytes).map_err(|errno| Error::os("create", "", errno))
        }),
        ..PoolOptions::default()
    });
    let name = world.allocate(3 * MIB);
    let mapping = world.pool.segment(0).unwrap().mapping();
    assert_eq!(mapping.len(), name.offset_bytes + name.size_bytes);
}

#[test]
fn the_pool_counts_what_its_files_have() {
    const SIZES: [u64; 7] = [100, 4096, 5000, 9000, 40_000, 300_000, 2 << 20];
    let mut world = World::with(PoolOptions {
        keep_bytes: 4 * MIB,
        ..PoolOptions::default()
    });
    let mut names = Vec::new();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for step in 0..3000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = random as usize >> 8;
        if random % 100 < 53 || names.is_empty() {
            names.push(world.allocate(SIZES[at % SIZES.len()]));
        } else {
            world.release(names.swap_remove(at % names.len()));
        }
        if random % 200 == 99 {
            world.pool.trim().unwrap();
        }
        if step % 50 != 0 {
            continue;
        }
        let counted = world.pool.stats().committed_bytes;
        let mut most = counted;
        for segment in 0..world.pool.segments() {
            let segment = world.pool.segment(segment).unwrap();
            let layout = segment.layout();
            // Two rows and what the table has in steps of 32 KiB, in whole pages.
            let tables = layout.block_table + layout.row_words * 8 * 2 + (64 << 10);
            let used = segment.blocks_used().unwrap();
            let padded =
                (0..used).filter(|&block| segment.block(block).unwrap().size_bytes >= 32 << 10);
            most += tables as u64 + MIB + padded.count() as u64 * 4096;
        }
        let has = committed(&world);
        assert!((counted..=most).contains(&has), "{counted} {has} {most}");
    }
    names.into_iter().for_each(|name| world.release(name));
    world.pool.trim().unwrap();
    let stats = world.pool.stats();
    // Smaller ones keep theirs, and pages that blocks share are kept with them.
    assert!(stats.committed_bytes < 8 * MIB, "{stats:?}");
}

#[test]
fn of_large_blocks_what_was_dropped_last_is_taken_first() {
    let mut world = World::with(PoolOptions {
        first_segment_bytes: 32 * MIB,
        ..PoolOptions::default()
    });
    let names: Vec<_> = (0..4).map(|_| world.allocate(MIB)).collect();
    let (_who, mut other) = world.attach(0);
    for name in &names {
        other.take(name.block, name.generation).unwrap();
        world.release(*name);
    }
    other.release(names[0].block).unwrap();
    other.release(names[2].block).unwrap();
    assert_eq!(world.allocate(MIB).block, names[2].block);
    // The first one is on the list now, and this one is not yet.
    other.release(names[3].block).unwrap();
    assert_eq!(world.allocate(MIB).block, names[3].block);
    assert_eq!(world.allocate(MIB).block, names[0].block);
    // Nobody dropped the other one.
    assert_ne!(world.allocate(MIB).block, names[1].block);
}
