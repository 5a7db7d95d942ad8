//! What is sent between processes, and the bytes by which it is known again.

use std::os::unix::net::UnixDatagram;

use shared_numpy_core::participation::{Handle, Hold};
use shared_numpy_core::pool::tokens::in_flight_limit_s;
use shared_numpy_core::sys::clock;

/// A handle, and what its block is filled with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Letter {
    pub(crate) handle: Handle,
    pub(crate) seed: u64,
    /// When, on the clock of tokens.
    pub(crate) sent_s: u64,
}

const BYTES: usize = Handle::BYTES + 16;

impl Letter {
    /// `false` when the inbox is full.
    pub(crate) fn post(&self, to: &UnixDatagram) -> bool {
        let mut bytes = [0; BYTES];
        bytes[..Handle::BYTES].copy_from_slice(&self.handle.to_bytes());
        bytes[Handle::BYTES..Handle::BYTES + 8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[Handle::BYTES + 8..].copy_from_slice(&self.sent_s.to_le_bytes());
        match to.send(&bytes) {
            Ok(len) => len == BYTES,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn take_from(inbox: &UnixDatagram) -> Option<Self> {
        let mut bytes = [0; BYTES];
        match inbox.recv(&mut bytes) {
            Ok(len) => assert_eq!(len, BYTES),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        }
        let (handle, rest) = bytes.split_at(Handle::BYTES);
        let (seed, sent_s) = rest.split_at(8);
        Some(Letter {
            handle: Handle::from_bytes(handle).unwrap(),
            seed: u64::from_le_bytes(seed.try_into().unwrap()),
            sent_s: u64::from_le_bytes(sent_s.try_into().unwrap()),
        })
    }

    /// Whether it has lain so long that what a dead sender held may be given back: on a busy
    /// machine some do.
    pub(crate) fn is_overdue(&self) -> bool {
        clock::monotonic_s().saturating_sub(self.sent_s) >= in_flight_limit_s()
    }
}

/// Fills a block with what `seed` says. Nobody else has it yet, and nobody writes later.
pub(crate) fn fill(hold: &Hold, seed: u64) {
    let start = hold.start().as_ptr().cast::<u64>();
    // SAFETY: the block is aligned to 64 bytes, as long as it says, there while `hold` is,
    // and only ours.
    let words = unsafe { std::slice::from_raw_parts_mut(start, hold.size_bytes() / 8) };
    for (at, word) in words.iter_mut().enumerate() {
        *word = expected(seed, at);
    }
}

/// Fails if one word of the block is another.
pub(crate) fn verify(hold: &Hold, seed: u64) {
    let start = hold.start().as_ptr().cast::<u64>();
    // SAFETY: as above, and nobody writes what was sent.
    let words = unsafe { std::slice::from_raw_parts(start, hold.size_bytes() / 8) };
    let mut each = words.iter().enumerate();
    if let Some((at, word)) = each.find(|&(at, &word)| word != expected(seed, at)) {
        panic!(
            "word {at} of a block of {} bytes is {word:#x}, not {:#x}: {:?}",
            hold.size_bytes(),
            expected(seed, at),
            hold.handle()
        );
    }
}

fn expected(seed: u64, at: usize) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at as u64
}

/// Numbers that differ from process to process.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Random((now.tv_nsec as u64) << 32 | u64::from(std::process::id()) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize) % limit
    }

    /// Mostly small, up to four megabytes.
    pub(crate) fn size_bytes(&mut self) -> u64 {
        let largest_log2 = match self.below(100) {
            0..2 => 22,
            2..10 => 20,
            10..30 => 16,
            _ => 12,
        };
        let log2 = 6 + self.below(largest_log2 - 5);
        (1 << log2) - self.below(1 << (log2 - 1)) as u64
    }
}
