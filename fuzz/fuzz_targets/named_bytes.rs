//! The file of a named array: every header is refused, or describes what is inside the file.

#![no_main]

#[path = "../../crates/core/tests/garbage_common/mod.rs"]
mod garbage_common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| garbage_common::named::open(bytes));
