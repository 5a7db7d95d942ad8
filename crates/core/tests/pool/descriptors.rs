//! A program may close descriptors that it does not know (a daemon closes all), and
//! then have files of its own under their numbers.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared_numpy_core::error::Error;
use shared_numpy_core::layout::FAMILY_BYTES;
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::owner::PoolOptions;
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::sys::{anon, fd, shm};

use crate::world::{World, is_stale};

const LARGE: u64 = 1 << 20;
const FILE_BYTES: usize = 4096;

/// Somebody else's file under the numbers of all descriptors of the pool.
fn take_numbers(world: &World) -> (OwnedFd, Vec<i32>) {
    let stranger = anon::create(FILE_BYTES as u64).unwrap();
    let mapping = Mapping::new(&stranger, FILE_BYTES, false).unwrap();
    mapping.write_bytes(0, &[7; FILE_BYTES]).unwrap();
    let numbers: Vec<_> = (0..world.pool.segments())
        .map(|segment| world.pool.segment_fd_number(segment).unwrap())
        .collect();
    for &number in &numbers {
        // SAFETY: dup2 onto a number that the pool alone uses, and looks at before use.
        let taken = unsafe { libc::dup2(stranger.as_raw_fd(), number) };
        assert_eq!(taken, number);
    }
    (stranger, numbers)
}

#[test]
fn a_file_that_is_not_ours_is_not_mapped_to_find_that_out() {
    // Its owner writes and cuts it all the time; who reads such a file by way of a mapping
    // is killed sooner or later.
    let file = anon::create(FAMILY_BYTES as u64).unwrap();
    let family = Arc::new(Family::create().unwrap().0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                shm::set_len(&file, 0).unwrap();
                shm::set_len(&file, FAMILY_BYTES as u64).unwrap();
            }
        });
        for _ in 0..20_000 {
            let wrong = |error| matches!(error, Error::WrongSegment(_));
            assert!(Family::attach(&file).is_err_and(wrong));
            assert!(PoolSegment::attach(&file, Arc::clone(&family)).is_err_and(wrong));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_pool_goes_on_without_its_descriptors() {
    let mut world = World::with(PoolOptions {
        first_segment_bytes: 8 << 20,
        ..PoolOptions::default()
    });
    let small = world.allocate(100);
    let large = world.allocate(LARGE);
    let kept = world.pool.segment_fd(0).unwrap();
    let committed = || shm::status(&kept).unwrap().committed_bytes;
    let (stranger, numbers) = take_numbers(&world);
    assert!(is_stale(world.pool.segment_fd(0)));
    assert!(world.pool.borrow_fd(0).is_none());

    // Recycled, given back and committed again.
    world.release(large);
    let before = committed();
    assert_eq!(world.pool.trim().unwrap(), LARGE);
    assert_eq!(committed(), before - LARGE);
    let again = world.allocate(LARGE);
    assert_eq!((again.segment, again.block), (0, large.block));
    assert_eq!(committed(), before);
    // New: a large one, and small ones beyond what was committed ahead.
    let more = world.allocate(LARGE);
    assert_eq!((more.segment, committed()), (0, before + LARGE));
    let names: Vec<_> = (0..40).map(|_| world.allocate(100_000)).collect();
    assert!(names.iter().all(|name| name.segment == 0));
    assert!(committed() >= before + LARGE + 40 * 100_000);
    // A child's row.
    let child = world.family.reserve_for_child(world.me).unwrap();
    world.pool.copy_rows(child).unwrap();
    world.family.declare_dead(child).unwrap();
    // A segment more has a descriptor again.
    while world.pool.segments() == 1 {
        world.allocate(LARGE);
    }
    assert!(world.pool.segment_fd(1).is_ok());
    world.release(small);
    names.into_iter().for_each(|name| world.release(name));
    world.pool.trim().unwrap();
    let World { pool, .. } = world;
    drop(pool);

    let mut bytes = [0; FILE_BYTES];
    let mapping = Mapping::new(&stranger, FILE_BYTES, true).unwrap();
    mapping.read_bytes(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; FILE_BYTES]);
    let status = shm::status(&stranger).unwrap();
    let whole = FILE_BYTES as u64;
    assert_eq!((status.size_bytes, status.committed_bytes), (whole, whole));
    for number in numbers {
        // Still open, and the stranger's.
        let identity = fd::with_number(number, |fd| rustix::fs::fstat(fd).unwrap().st_ino);
        assert_eq!(identity, Ok(rustix::fs::fstat(&stranger).unwrap().st_ino));
        // SAFETY: the duplicate made above.
        unsafe { rustix::io::close(number) };
    }
}

#[test]
fn a_commit_without_a_descriptor_can_be_stopped() {
    let mut world = World::new();
    world.allocate(1);
    world.allocate(32 << 20);
    let (_stranger, _numbers) = take_numbers(&world);
    let mut steps = 0;
    let stopped = world.pool.allocate(16 << 20, &mut || {
        steps += 1;
        steps < 2
    });
    assert_eq!((stopped.unwrap_err(), steps), (Error::Interrupted, 2));
    world.allocate(16 << 20);
}
