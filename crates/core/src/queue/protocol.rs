//! The steps that decide, on bare words: the part that is model-checked.
//!
//! Guarantees: an item is visible from [`commit`] on, whole; it goes to the one getter
//! whose [`take`] succeeds, and to none that died before; who sleeps is woken, or sees
//! by itself what it waits for. The argument is in `docs/queue.md`; `tests/loom_queue.rs`
//! runs these functions through their interleavings.

use super::mark::Mark;
use crate::fault::point;
use crate::lock::kernel::Kernel;
use crate::sync::{AtomicU64, Ordering, fence};

/// Somebody may sleep.
const SLEEPERS: u64 = 1;
/// Counts the wake-ups.
const COUNT: u64 = 0xffff_fffe;
const COUNT_ONE: u64 = 2;
/// Who waits for a bell.
const BELLS: u64 = 0xffff_ffff << 32;
const FIRST_BELL: u64 = 1 << 32;
const WAITING: u64 = SLEEPERS | BELLS;

/// Makes everything before `to` visible. For who has the lock, after the records are
/// complete.
#[inline]
pub fn commit(tail: &AtomicU64, to: Mark) {
    // Release: who sees it sees the records.
    tail.store(to.0, Ordering::Release);
    point("put.committed");
}

/// What is in the queue: `head`, and a `tail` that is not older.
#[inline]
pub fn look(head: &AtomicU64, tail: &AtomicU64) -> (Mark, Mark) {
    // Acquire: a tail read later is not older, and sees the records.
    let first = head.load(Ordering::Acquire);
    (Mark(first), Mark(tail.load(Ordering::Acquire)))
}

/// Takes what lies between two marks, if nobody has since `from` was read. What was read
/// of the records counts only if this succeeds.
#[inline]
#[must_use]
pub fn take(head: &AtomicU64, from: Mark, to: Mark) -> bool {
    // Release: what we read is read before a putter that sees the new head overwrites it.
    // Acquire is not needed for that, and costs nothing.
    let taken = head
        .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok();
    if taken {
        point("get.committed");
    }
    taken
}

/// How many items there are, at one instant.
pub fn size(head: &AtomicU64, tail: &AtomicU64) -> u64 {
    loop {
        let end = Mark(tail.load(Ordering::Acquire));
        let first = Mark(head.load(Ordering::Acquire));
        // Unchanged while `head` was read: both were so at that instant.
        if tail.load(Ordering::Acquire) == end.0 {
            return end.items_since(first);
        }
    }
}

/// Says that one is about to sleep on `waiters` while it has the value returned. What is
/// waited for must be looked at after this, once more.
#[inline]
#[must_use]
pub fn announce(waiters: &AtomicU64) -> u64 {
    let before = waiters.fetch_or(SLEEPERS, Ordering::Relaxed);
    // Of this fence and that of `whom_to_wake` one is first: either that one sees the bit,
    // or we see what it did before.
    fence(Ordering::SeqCst);
    before | SLEEPERS
}

/// Says that one waits for this bell. As [`announce`].
pub fn announce_bell(waiters: &AtomicU64, bell: usize) {
    waiters.fetch_or(FIRST_BELL << bell, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Whom to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Nobody waits.
    Nobody,
    /// One of those that sleep.
    Sleeper,
    /// Who has this bell.
    Bell(usize),
}

/// After a change: whom to wake, whose bit is taken away.
///
/// A wake-up also changes the count in the word. Without that, one who is late, and takes
/// the bit of a sleeper that announced itself after the change, would leave it asleep: that
/// one is not asleep yet when it is woken, and has no bit when it is.
#[inline]
#[must_use]
pub fn whom_to_wake(waiters: &AtomicU64) -> Wake {
    fence(Ordering::SeqCst);
    let seen = waiters.load(Ordering::Relaxed);
    if seen & WAITING == 0 {
        return Wake::Nobody;
    }
    take_bit(waiters, seen)
}

#[cold]
fn take_bit(waiters: &AtomicU64, mut seen: u64) -> Wake {
    loop {
        let bells = seen & BELLS;
        let (next, wake) = if seen & SLEEPERS != 0 {
            let count = (seen & COUNT).wrapping_add(COUNT_ONE) & COUNT;
            (bells | count, Wake::Sleeper)
        } else if bells != 0 {
            let bell = (bells.trailing_zeros() - FIRST_BELL.trailing_zeros()) as usize;
            (seen & !(FIRST_BELL << bell), Wake::Bell(bell))
        } else {
            return Wake::Nobody;
        };
        match waiters.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return wake,
            Err(now) => seen = now,
        }
    }
}

/// Wakes one of those that wait; the bell that is to be rung, if nobody sleeps.
#[inline]
pub fn wake_one(waiters: &AtomicU64, kernel: impl Kernel) -> Option<usize> {
    match whom_to_wake(waiters) {
        Wake::Nobody => None,
        Wake::Sleeper => wake_sleeper(waiters, kernel),
        Wake::Bell(bell) => Some(bell),
    }
}

#[cold]
fn wake_sleeper(waiters: &AtomicU64, kernel: impl Kernel) -> Option<usize> {
    if kernel.wake(waiters, 1) > 0 {
        return None;
    }
    // Nobody slept, though one that had slept left the bit for others. Who is about to sleep
    // finds another count, and looks; who announces itself now looks after the change.
    match whom_to_wake(waiters) {
        Wake::Bell(bell) => Some(bell),
        Wake::Sleeper => {
            kernel.wake(waiters, 1);
            None
        }
        Wake::Nobody => None,
    }
}

/// Has all of those that sleep look again, though nothing has changed that they wait for. One
/// that is about to sleep may miss it, and looks when its slice ends. Whatever the bits say: one
/// may have been taken away for another sleeper.
pub fn disturb(waiters: &AtomicU64, kernel: impl Kernel) {
    kernel.wake(waiters, u32::MAX);
}

/// Wakes all of those that sleep.
pub fn wake_all(waiters: &AtomicU64, kernel: impl Kernel) {
    if whom_to_wake(waiters) == Wake::Sleeper {
        kernel.wake(waiters, u32::MAX);
    }
}
