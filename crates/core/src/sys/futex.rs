//! Sleeping until a shared word changes.
//!
//! Guarantee: the sleepers of a word are found by what the word *is* (file and
//! offset), not by its address in one process: the private flag is never given, so
//! that processes wake each other.
//!
//! The kernel looks at 32 bits. A 64-bit word sleeps on the half with its low bits,
//! where flags and counts are; a change of the other half alone wakes nobody and need
//! not, callers put whatever matters into the low bits.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::{ClockId, Timespec};

use super::feature::Switch;

const NS_PER_S: u64 = 1_000_000_000;

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// Somebody woke us; or, rarely, nobody did.
    Woken,
    /// The word was another one already: no sleep at all.
    Changed,
    /// The time is over.
    Elapsed,
    /// A signal came.
    Signalled,
}

/// Sleeps while the low half of `word` is that of `seen`, for `at_most_ns`.
///
/// # Panics
///
/// When the kernel has no futexes, or not on mapped memory: nothing here works then.
pub fn wait(word: &AtomicU64, seen: u64, at_most_ns: u64) -> Slept {
    let timeout = timespec(at_most_ns);
    // The low half, as the kernel will compare it.
    let seen = seen as u32;
    match futex::wait(low_half(word), futex::Flags::empty(), seen, Some(&timeout)) {
        Ok(()) => Slept::Woken,
        Err(Errno::AGAIN) => Slept::Changed,
        Err(Errno::TIMEDOUT) => Slept::Elapsed,
        Err(Errno::INTR) => Slept::Signalled,
        Err(errno) => panic!("futex wait: {errno}"),
    }
}

/// Sleeps as [`wait`] does, and also no longer than the low half of `other` is that of
/// `other_seen`. `None`, at once, where the kernel cannot (before Linux 5.16) or must not: the
/// caller looks more often then.
///
/// # Panics
///
/// As [`wait`].
#[cfg(target_os = "linux")]
pub fn wait_either(
    (word, seen): (&AtomicU64, u64),
    (other, other_seen): (&AtomicU64, u64),
    at_most_ns: u64,
) -> Option<Slept> {
    // No lock, which a fork could find taken. Relaxed: whoever does not know yet asks.
    static IS_MISSING: AtomicBool = AtomicBool::new(false);
    static SWITCH: Switch = Switch::new("waitv");
    if SWITCH.is_off() || IS_MISSING.load(Ordering::Relaxed) {
        return None;
    }
    let of = |word: &AtomicU64, seen: u64| {
        let mut one = futex::Wait::new();
        one.val = u64::from(seen as u32);
        one.uaddr = futex::WaitPtr::new(low_half(word).as_ptr().cast());
        one.flags = futex::WaitFlags::SIZE_U32;
        one
    };
    let words = [of(word, seen), of(other, other_seen)];
    // Not a length of time, as above, but an end.
    let end = timespec(now_ns().saturating_add(at_most_ns));
    let clock = ClockId::Monotonic;
    match futex::waitv(&words, futex::WaitvFlags::empty(), Some(&end), clock) {
        Ok(_) => Some(Slept::Woken),
        Err(Errno::AGAIN) => Some(Slept::Changed),
        Err(Errno::TIMEDOUT) => Some(Slept::Elapsed),
        Err(Errno::INTR) => Some(Slept::Signalled),
        // Or refused by whoever confines this process.
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => {
            IS_MISSING.store(true, Ordering::Relaxed);
            None
        }
        // For the list of two.
        Err(Errno::NOMEM) => None,
        Err(errno) => panic!("futex wait for two: {errno}"),
    }
}

/// Nowhere else.
#[cfg(not(target_os = "linux"))]
pub fn wait_either(_: (&AtomicU64, u64), _: (&AtomicU64, u64), _: u64) -> Option<Slept> {
    None
}

/// Wakes up to `count` sleepers of `word`; tells how many.
///
/// # Panics
///
/// As [`wait`].
pub fn wake(word: &AtomicU64, count: u32) -> usize {
    // The kernel's number is signed.
    let count = count.min(i32::MAX as u32);
    match futex::wake(low_half(word), futex::Flags::empty(), count) {
        Ok(woken) => woken,
        Err(errno) => panic!("futex wake: {errno}"),
    }
}

fn timespec(ns: u64) -> Timespec {
    Timespec {
        // At most 2^64 / 10^9: fits.
        tv_sec: (ns / NS_PER_S) as i64,
        tv_nsec: (ns % NS_PER_S) as _,
    }
}

/// The monotonic clock.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    // Never negative, and 584 years fit.
    now.tv_sec as u64 * NS_PER_S + now.tv_nsec as u64
}

/// How many processors this process may use; looked up once.
pub fn processors() -> usize {
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: a number of its own; two threads may look it up, and find the same.
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let found = std::thread::available_parallelism().map_or(1, usize::from);
            KNOWN.store(found, Ordering::Relaxed);
            found
        }
        known => known,
    }
}

fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let half = word.as_ptr().cast::<u32>();
    let index = usize::from(cfg!(target_endian = "big"));
    // SAFETY: both halves lie inside the 8 bytes of `word`.
    let low = unsafe { half.add(index) };
    // SAFETY: inside `word`, so valid as long as it is, and aligned to 4. The result
    // never leaves this file and is never read or written from Rust: it only carries
    // the address into the kernel, which reads it as any other thread may.
    unsafe { AtomicU32::from_ptr(low) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_half_is_the_one_with_the_low_bits() {
        let word = AtomicU64::new(0x1111_2222_3333_4444);
        assert_eq!(wait(&word, 0x3333_4444, 1), Slept::Elapsed);
        assert_eq!(wait(&word, 0x9999_9999_3333_4444, 1), Slept::Elapsed);
        assert_eq!(wait(&word, 0x1111_2222_3333_4445, u64::MAX), Slept::Changed);
        assert_eq!(wake(&word, u32::MAX), 0);
        assert!(processors() > 0 && now_ns() > 0);
    }

    #[test]
    fn a_change_of_either_word_ends_a_sleep() {
        let (word, other) = (AtomicU64::new(1), AtomicU64::new(2));
        let sleep = |seen, other_seen, ns| wait_either((&word, seen), (&other, other_seen), ns);
        let Some(slept) = sleep(1, 2, 1) else {
            return; // this kernel cannot, or is told not to
        };
        assert_eq!(slept, Slept::Elapsed);
        assert_eq!(sleep(0, 2, u64::MAX), Some(Slept::Changed));
        assert_eq!(sleep(1, 0, u64::MAX), Some(Slept::Changed));
        for changed in [&word, &other] {
            std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| sleep(1, 2, u64::MAX));
                while wake(changed, 1) == 0 {
                    std::thread::yield_now();
                }
                assert_eq!(sleeper.join().unwrap(), Some(Slept::Woken));
            });
        }
    }
}
