//! Random bytes where the tables of a family and a segment should be: every operation
//! gives an error or a value inside its limits; none panics, leaves its bounds or
//! runs for ever. `SHARED_NUMPY_FUZZ_N` sets the number of rounds.

mod garbage_common;

use std::sync::Arc;

use garbage_common::choices::{Choices, Seeded};
use garbage_common::segment::World;
use garbage_common::{rounds, scribble};
use shared_numpy_core::layout::FAMILY_BYTES;
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::sys::anon;

const ROUNDS: u64 = 400;

fn garbage_by(seed: u64, write: fn(&mut World, &mut dyn Choices)) {
    let mut choices = Seeded::new(seed);
    for _ in 0..rounds(ROUNDS) {
        let mut world = World::new();
        for _ in 0..=choices.below(3) {
            write(&mut world, &mut choices);
            world.everything(&mut choices);
        }
    }
}

#[test]
fn garbage_in_a_segment() {
    garbage_by(0x1234, World::scribble_segment);
}

#[test]
fn garbage_in_a_family() {
    garbage_by(0xfeed, World::scribble_family);
}

#[test]
fn files_of_garbage_are_refused() {
    let (family, _fd) = Family::create().unwrap();
    let family = Arc::new(family);
    let mut choices = Seeded::new(0xabcd);
    for size in [0, 1, 8, 255, 256, 4096, FAMILY_BYTES as u64, 1 << 20] {
        let fd = anon::create(size).unwrap();
        if size >= 8 {
            let mapping = Mapping::new(&fd, size as usize, false).unwrap();
            scribble(&mut choices, &mapping, 0, size as usize);
        }
        assert!(PoolSegment::attach(&fd, Arc::clone(&family)).is_err());
        assert!(Family::attach(&fd).is_err());
    }
}
