//! Garbage over cells of each kind, and every operation of locks and their kin: none writes
//! outside of its own block.

#![no_main]

#[path = "../../crates/core/tests/garbage_common/mod.rs"]
mod garbage_common;

use garbage_common::choices::{Choices, Given};
use garbage_common::lock::{OPERATIONS, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Given(bytes);
    let world = World::new();
    while !choices.is_over() {
        match choices.below(OPERATIONS.len() + 2) {
            0 => world.scribble_all(&mut choices, true),
            1 => world.scribble_one(&mut choices),
            operation => world.ask(&OPERATIONS[operation - 2], &mut choices),
        }
    }
});
