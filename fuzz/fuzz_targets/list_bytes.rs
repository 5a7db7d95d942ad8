//! A segment that may be a `ShareableList`: read, written, and changed meanwhile.

#![no_main]

#[path = "../../crates/core/tests/garbage_common/mod.rs"]
mod garbage_common;

use garbage_common::choices::{Choices, Given};
use garbage_common::list::{exercise, exercise_some, mapping_of, sound};
use garbage_common::scribble_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Given(bytes);
    if choices.below(4) > 0 {
        let mapping = sound(&mut choices);
        scribble_bytes(&mut choices, &mapping);
        exercise_some(&mapping, &mut choices);
    } else if !choices.is_over() {
        exercise(mapping_of(choices.0));
    }
});
