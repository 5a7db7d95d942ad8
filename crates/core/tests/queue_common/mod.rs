//! What the tests of the queue share.

#![allow(dead_code)] // each takes its part

use std::sync::{Arc, Once};

use shared_numpy_core::participation::{self, Hold};
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::queue::{Queue, QueueOptions};

/// Goes on.
pub(crate) fn on() -> bool {
    true
}

/// To be called before anything else; once is enough.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| participation::configure(participation::Options::default()));
}

pub(crate) fn queue(options: QueueOptions) -> Queue {
    start();
    Queue::create(options, &mut on).unwrap()
}

/// `len` bytes that depend on `seed`.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// An item that can be checked: who, which, and bytes that belong to both.
pub(crate) fn with(who: u64, n: u64, put: impl FnOnce(&[u8])) {
    let mut text = Vec::new();
    text.extend(who.to_le_bytes());
    text.extend(n.to_le_bytes());
    text.extend(bytes(who * 1_000_003 + n, (n * 31 % 700) as usize));
    put(&text);
}

/// Who and which; panics when the bytes do not belong to them.
pub(crate) fn checked(text: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(text[at..at + 8].try_into().unwrap());
    let (who, n) = (word(0), word(8));
    assert!(text[16..] == bytes(who * 1_000_003 + n, (n * 31 % 700) as usize)[..]);
    (who, n)
}

/// A block full of `value`.
pub(crate) fn fill(size: usize, value: u8) -> Hold {
    start();
    let hold = participation::allocate(size as u64, &mut on).unwrap();
    let all = vec![value; hold.size_bytes()];
    hold.mapping()
        .write_bytes(hold.offset_bytes(), &all)
        .unwrap();
    hold
}

pub(crate) fn is_filled(hold: &Hold, value: u8) -> bool {
    let mut all = Vec::new();
    hold.mapping()
        .append_bytes(hold.offset_bytes(), hold.size_bytes(), &mut all)
        .unwrap();
    all.iter().all(|&byte| byte == value)
}

/// The segment of a block, as others see it.
pub(crate) fn segment_of(hold: &Hold) -> Arc<PoolSegment> {
    hold.segment().unwrap()
}

/// Memory of this process's pool that somebody holds, in bytes.
pub(crate) fn in_use() -> u64 {
    participation::trim(false).unwrap();
    participation::stats().unwrap().in_use_bytes
}

/// Drops the queues; nothing may be left then.
pub(crate) fn settle(queues: Vec<Queue>) {
    drop(queues);
    assert_eq!(in_use(), 0);
    assert_eq!(participation::stats().unwrap().in_flight, 0);
}
