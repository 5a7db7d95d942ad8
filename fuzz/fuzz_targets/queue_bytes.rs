//! Garbage over a queue's block and its ring, and every operation of a queue.

#![no_main]

#[path = "../../crates/core/tests/garbage_common/mod.rs"]
mod garbage_common;

use garbage_common::choices::{Choices, Given};
use garbage_common::queue::{OPERATIONS, World};
use libfuzzer_sys::fuzz_target;
use shared_numpy_core::participation;

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Given(bytes);
    let maxsize = [0, 4, 8][choices.below(3)];
    let mut world = World::new(maxsize, &mut choices);
    while !choices.is_over() {
        match choices.below(OPERATIONS.len() + 2) {
            0 | 1 => world.scribble(&mut choices),
            operation => OPERATIONS[operation - 2](&mut world, &mut choices),
        }
    }
    drop(world);
    participation::trim(true).unwrap();
});
