//! Garbage over the tables of a pool segment and its family, and every operation of a pool.

#![no_main]

#[path = "../../crates/core/tests/garbage_common/mod.rs"]
mod garbage_common;

use garbage_common::choices::{Choices, Given};
use garbage_common::segment::{OPERATIONS, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Given(bytes);
    let mut world = World::new();
    while !choices.is_over() {
        match choices.below(OPERATIONS.len() + 3) {
            0 | 1 => world.scribble_segment(&mut choices),
            2 => world.scribble_family(&mut choices),
            operation => OPERATIONS[operation - 3](&mut world, &mut choices),
        }
    }
});
