//! Garbage over the block of a latest-value channel, and every operation of one.

#![no_main]

#[path = "../../crates/core/tests/garbage_common/mod.rs"]
mod garbage_common;

use garbage_common::channel::{OPERATIONS, World};
use garbage_common::choices::{Choices, Given};
use libfuzzer_sys::fuzz_target;
use shared_numpy_core::participation;

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Given(bytes);
    let mut world = World::new(&mut choices);
    while !choices.is_over() {
        match choices.below(OPERATIONS.len() + 2) {
            0 | 1 => world.scribble(&mut choices),
            operation => OPERATIONS[operation - 2](&mut world, &mut choices),
        }
    }
    drop(world);
    participation::trim(true).unwrap();
});
