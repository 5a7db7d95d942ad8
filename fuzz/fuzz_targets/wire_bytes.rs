//! Messages of both trackers, and addresses: refused, or written again byte for byte.

#![no_main]

#[path = "../../crates/core/tests/garbage_common/mod.rs"]
mod garbage_common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| garbage_common::wire::parse(bytes));
