//! Garbage, and what it is done to: shared by the bounded random tests (`*_garbage.rs`,
//! `lock/`, `list/`) and by the fuzz targets (`fuzz/`).
//!
//! Guarantee: each world can be asked for everything that its subject can be asked for, one
//! operation at a time, and fails when an answer is neither an error nor inside its limits.
//! Who decides what is written where and what is asked next is [`choices`]: numbers that
//! are the same in every run, or a fuzzer's bytes.

#![allow(dead_code)] // each takes its part

pub(crate) mod channel;
pub(crate) mod choices;
pub(crate) mod handle;
pub(crate) mod list;
pub(crate) mod lock;
pub(crate) mod named;
pub(crate) mod queue;
#[path = "../queue_common/mod.rs"]
pub(crate) mod queue_common;
pub(crate) mod segment;
pub(crate) mod wire;

use shared_numpy_core::mapping::Mapping;

use choices::Choices;

/// How often a test does what it does; `SHARED_NUMPY_FUZZ_N` says otherwise.
pub(crate) fn rounds(usual: u64) -> u64 {
    std::env::var("SHARED_NUMPY_FUZZ_N").map_or(usual, |text| text.parse().unwrap())
}

/// Changes some of the words of a mapping between two offsets.
pub(crate) fn scribble(choices: &mut dyn Choices, mapping: &Mapping, from: usize, to: usize) {
    let (from, words) = (from / 8 * 8, (to - from) / 8);
    for _ in 0..=choices.below(20) {
        let at = from + choices.below(words) * 8;
        let word = match choices.below(8) {
            // What is there, a little beside, or what is elsewhere: it passes more checks.
            0 => mapping.load_u64(at).unwrap() ^ 1 << choices.below(64),
            1 => mapping.load_u64(at).unwrap().wrapping_add(1),
            2 => mapping.load_u64(at).unwrap().wrapping_sub(1),
            3 => mapping.load_u64(from + choices.below(words) * 8).unwrap(),
            _ => choices.word(),
        };
        mapping.store_u64(at, word).unwrap();
    }
}

/// Changes some of the bytes of a mapping.
pub(crate) fn scribble_bytes(choices: &mut dyn Choices, mapping: &Mapping) {
    for _ in 0..choices.below(8) {
        let at = choices.below(mapping.len());
        let byte = choices.below(256) as u8;
        mapping.write_bytes(at, &[byte]).unwrap();
    }
}

/// Reads the first and the last byte of a range that was given out: it must be memory.
pub(crate) fn touch(mapping: &Mapping, offset_bytes: usize, size_bytes: usize) {
    let end = offset_bytes.checked_add(size_bytes).unwrap();
    assert!(end <= mapping.len());
    let mut byte = [0];
    for at in [offset_bytes, end.saturating_sub(1)] {
        if size_bytes > 0 {
            mapping.read_bytes(at, &mut byte).unwrap();
        }
    }
}
