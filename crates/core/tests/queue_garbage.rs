//! Random words where a queue's or a channel's block is: every operation gives an error or
//! what is inside their limits; none panics, leaves its bounds or runs for ever.
//! `SHARED_NUMPY_FUZZ_N` sets the number of rounds.

mod garbage_common;

use garbage_common::choices::{Choices, Seeded};
use garbage_common::{channel, queue, rounds};
use shared_numpy_core::participation;

const ROUNDS: u64 = 1000;

#[test]
fn garbage_in_a_queue_is_an_error_and_nothing_else() {
    for round in 0..rounds(ROUNDS) {
        let mut choices = Seeded::new(round);
        let mut world = queue::World::new(round % 3 * 4, &mut choices);
        world.scribble(&mut choices);
        world.everything(&mut choices);
        drop(world);
        participation::trim(true).unwrap();
    }
    queue::a_sound_one_works();
}

#[test]
fn garbage_in_a_channel_is_an_error_and_nothing_else() {
    for round in 0..rounds(ROUNDS) {
        let mut choices = Seeded::new(round);
        let mut world = channel::World::new(&mut choices);
        for _ in 0..=choices.below(3) {
            world.scribble(&mut choices);
            world.everything(&mut choices);
        }
        drop(world);
        participation::trim(true).unwrap();
    }
}
