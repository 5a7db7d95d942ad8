//! A handle that lies, and a process that receives it.

#![no_main]

#[path = "../../crates/core/tests/garbage_common/mod.rs"]
mod garbage_common;

use garbage_common::choices::{Choices, Given};
use garbage_common::handle;
use libfuzzer_sys::fuzz_target;
use shared_numpy_core::participation;

fuzz_target!(|bytes: &[u8]| {
    handle::parse(bytes);
    let mut choices = Given(bytes);
    let mut world = handle::World::new(&mut choices);
    while !choices.is_over() {
        world.scribble(&mut choices);
        world.receive(&mut choices);
    }
    drop(world);
    participation::trim(true).unwrap();
});
