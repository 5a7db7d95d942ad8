//! Bytes from elsewhere: handles, and the messages of both trackers. They are refused, or
//! read as what can be written again. `SHARED_NUMPY_FUZZ_N` sets the number of rounds.

mod garbage_common;

use garbage_common::choices::{Choices, Seeded};
use garbage_common::{handle, rounds, wire};
use shared_numpy_core::participation;

const ROUNDS: u64 = 1000;

#[test]
fn handles_that_lie_are_errors() {
    for round in 0..rounds(ROUNDS) {
        let mut choices = Seeded::new(round);
        let mut world = handle::World::new(&mut choices);
        for _ in 0..=choices.below(4) {
            world.scribble(&mut choices);
            world.receive(&mut choices);
        }
        drop(world);
        participation::trim(true).unwrap();
    }
    assert_eq!(participation::stats().unwrap().in_use_bytes, 0);
}

#[test]
fn messages_are_refused_or_whole() {
    let mut choices = Seeded::new(3);
    for _ in 0..rounds(ROUNDS) * 20 {
        wire::parse(&wire::noise(&mut choices));
    }
}
