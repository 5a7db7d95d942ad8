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
pub const SLEEPERS: u64 = 1;

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

/// Says that one waits. What is waited for must be looked at after this, once more.
#[inline]
pub fn announce(waiters: &AtomicU64, bit: u64) {
    waiters.fetch_or(bit, Ordering::Relaxed);
    // Of this fence and that of `whom_to_wake` one is first: either that one sees the bit,
    // or we see what it did before.
    fence(Ordering::SeqCst);
}

/// After a change: takes away the bit of those that sleep if it is set, else one bell's;
/// that one is to be woken.
#[inline]
pub fn whom_to_wake(waiters: &AtomicU64) -> u64 {
    fence(Ordering::SeqCst);
    let seen = waiters.load(Ordering::Relaxed);
    if seen == 0 {
        return 0;
    }
    take_bit(waiters, seen)
}

#[cold]
fn take_bit(waiters: &AtomicU64, mut seen: u64) -> u64 {
    while seen != 0 {
        let lowest = seen & seen.wrapping_neg();
        let before = waiters.fetch_and(!lowest, Ordering::Relaxed);
        if before & lowest != 0 {
            return lowest;
        }
        seen = before & !lowest;
    }
    0
}

/// Wakes one of those that sleep on `word`, which has changed; the bell that is to be rung
/// instead, if nobody sleeps.
#[inline]
pub fn wake_one(waiters: &AtomicU64, word: &AtomicU64, kernel: impl Kernel) -> u64 {
    match whom_to_wake(waiters) {
        SLEEPERS => {
            kernel.wake(word, 1);
            0
        }
        bell => bell,
    }
}
