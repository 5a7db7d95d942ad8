//! What locks need of the system: sleeping, waking, a clock, and whether to spin.
//!
//! A trait, so that the model checker can take the system's place.

use crate::sync::AtomicU64;
pub use crate::sys::futex::Slept;

/// How many times a waiter looks before it sleeps, at most; about thirty microseconds, in
/// which most sleepers wake up.
pub const SPINS_MAX: u32 = 1200;

/// What locks need of the system.
pub trait Kernel: Copy {
    /// Sleeps while the low half of `word` is that of `seen`, for `at_most_ns`.
    fn sleep(self, word: &AtomicU64, seen: u64, at_most_ns: u64) -> Slept;
    /// As [`Kernel::sleep`], and also while the low half of another word is what was seen of
    /// it; `None` where that cannot be had.
    fn sleep_on_either(
        self,
        word: (&AtomicU64, u64),
        other: (&AtomicU64, u64),
        at_most_ns: u64,
    ) -> Option<Slept> {
        let _ = (word, other, at_most_ns);
        None
    }
    /// Wakes up to `count` sleepers of `word`; how many.
    fn wake(self, word: &AtomicU64, count: u32) -> usize;
    /// The monotonic clock.
    fn now_ns(self) -> u64;
    /// A number that differs between a process and its forked children.
    fn epoch(self) -> u32 {
        0
    }
    /// How often to look before sleeping; zero where only one processor is: who is
    /// waited for cannot run meanwhile.
    fn spins(self) -> u32;
}

/// The system itself.
#[cfg(not(loom))]
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

#[cfg(not(loom))]
impl Kernel for System {
    fn sleep(self, word: &AtomicU64, seen: u64, at_most_ns: u64) -> Slept {
        crate::sys::futex::wait(word, seen, at_most_ns)
    }

    fn sleep_on_either(
        self,
        word: (&AtomicU64, u64),
        other: (&AtomicU64, u64),
        at_most_ns: u64,
    ) -> Option<Slept> {
        crate::sys::futex::wait_either(word, other, at_most_ns)
    }

    fn wake(self, word: &AtomicU64, count: u32) -> usize {
        crate::sys::futex::wake(word, count)
    }

    fn now_ns(self) -> u64 {
        crate::sys::futex::now_ns()
    }

    fn epoch(self) -> u32 {
        crate::sys::fork::epoch()
    }

    fn spins(self) -> u32 {
        if crate::sys::futex::processors() > 1 {
            SPINS_MAX
        } else {
            0
        }
    }
}

/// Looks again and again, `limit` times at most, with pauses; tells how often it
/// looked in vain before `is_over` said so, `None` when it never did.
pub(crate) fn spin(limit: u32, mut is_over: impl FnMut() -> bool) -> Option<u32> {
    for count in 0..limit {
        if is_over() {
            return Some(count);
        }
        core::hint::spin_loop();
    }
    None
}
