//! The robust lock word: who owns, who waits, and whether an owner died.
//!
//! Guarantees: at most one participant owns; the owner is in the word from the very
//! instruction that makes it the owner, so a death never leaves a lock without a name
//! on it; a dead owner's lock goes to exactly one of those who find it so; who gets
//! it learns that. Alone, acquire and release are one compare-and-swap each.
//!
//! ```text
//! bit 0      held
//! bit 1      waiters: somebody may sleep, the release must wake
//! bit 2      abandoned: an owner died, and nobody has released it regularly since
//! bit 3      unsettled: taken over from the dead, the fields beside the word are theirs
//! 4-15, 16-63  the owner's slot and generation, as in every participant's word
//! ```
//!
//! The low half has all flags, the slot and 16 bits of the generation: what is slept on.
//! (Two owners that differ only in the other 32 bits look the same to a sleeper. It
//! sleeps on then, and rightly: the lock is held, with the waiters bit set.)

use super::kernel::Kernel;
use super::spin::look;
use super::wait::{Nap, Naps, Stop, Wait};
use crate::fault::point;
use crate::layout::Participant;
use crate::sync::{AtomicU64, Ordering};

/// Nobody's, and nobody died.
pub const FREE: u64 = 0;
/// Somebody owns it.
pub const HELD: u64 = 1;
/// Somebody may sleep.
pub const WAITERS: u64 = 2;
/// An owner died and the lock was not released regularly since.
pub const ABANDONED: u64 = 4;
/// Fields beside the word are still those of a dead owner.
pub const UNSETTLED: u64 = 8;

/// A lock was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acquired {
    /// An owner died in it: what the lock guards may be half done.
    pub abandoned: bool,
    /// That owner was found dead by this very call.
    pub inherited: bool,
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It was held.
    Done,
    /// It was not held, or not by whom it had to be.
    NotHeld,
}

/// The participant in a held lock's word; `None` for free ones, and for garbage.
pub const fn owner(seen: u64) -> Option<Participant> {
    Participant::unpack(seen & !(WAITERS | ABANDONED | UNSETTLED))
}

/// A lock word, and the hint beside it.
#[derive(Debug, Clone, Copy)]
pub struct LockWord<'m, K> {
    /// The word.
    pub word: &'m AtomicU64,
    /// How many looks were worth it lately: a hint.
    pub spins: &'m AtomicU64,
    /// The system.
    pub kernel: K,
}

impl<K: Kernel> LockWord<'_, K> {
    /// Acquires if that takes no waiting. One compare-and-swap when nobody has it.
    #[inline]
    pub fn try_acquire(&self, me: Participant) -> Option<Acquired> {
        // Acquire: after whatever the last owner did before its release.
        let swap =
            self.word
                .compare_exchange(FREE, me.pack(), Ordering::Acquire, Ordering::Relaxed);
        match swap {
            Ok(_) => {
                point("lock.taken");
                Some(Acquired::default())
            }
            Err(seen) => self.acquire_free(me, seen, 0),
        }
    }

    /// Acquires, waiting if need be.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`]; the lock is not ours then.
    #[inline]
    pub fn acquire(&self, wait: &mut Wait<'_>) -> Result<Acquired, Stop> {
        match self.try_acquire(wait.me) {
            Some(acquired) => Ok(acquired),
            None => self.acquire_contended(wait),
        }
    }

    /// Takes the lock while it is free, with bits that tell of waiters and of the dead.
    fn acquire_free(&self, me: Participant, mut seen: u64, waiters: u64) -> Option<Acquired> {
        while seen & HELD == 0 {
            let mine = me.pack() | seen & (WAITERS | ABANDONED) | waiters;
            // Orderings as in `try_acquire`.
            match self
                .word
                .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => {
                    point("lock.taken");
                    let abandoned = mine & ABANDONED != 0;
                    return Some(Acquired {
                        abandoned,
                        inherited: false,
                    });
                }
                Err(other) => seen = other,
            }
        }
        None
    }

    #[cold]
    fn acquire_contended(&self, wait: &mut Wait<'_>) -> Result<Acquired, Stop> {
        let mut naps = Naps::of(wait, self.kernel);
        if !wait.is_try() {
            let is_free = || self.word.load(Ordering::Relaxed) & HELD == 0;
            look(self.kernel, Some(self.spins), is_free);
        }
        // Who has slept may have been the one that a release woke, for all who sleep:
        // it says so by the bit, whatever becomes of it.
        let mut slept = 0;
        // Who does not wait looks after the dead at once.
        let mut look_after_owner = wait.is_try();
        loop {
            // Relaxed: only a compare-and-swap decides.
            let seen = self.word.load(Ordering::Relaxed);
            if seen & HELD == 0 {
                if let Some(acquired) = self.acquire_free(wait.me, seen, slept) {
                    return Ok(acquired);
                }
                continue;
            }
            if look_after_owner {
                look_after_owner = false;
                if owner(seen).is_none_or(|owner| (wait.is_gone)(owner)) {
                    if self.take_over(wait.me, seen, slept) {
                        return Ok(Acquired {
                            abandoned: true,
                            inherited: true,
                        });
                    }
                    continue;
                }
            }
            if seen & WAITERS == 0 && !wait.is_try() {
                let marked = seen | WAITERS;
                // Relaxed: the bit promises nothing about other words.
                if self
                    .word
                    .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
                {
                    continue;
                }
                point("lock.marked");
            }
            match naps.nap(wait, self.kernel, self.word, seen | WAITERS) {
                Ok(nap) => {
                    slept = WAITERS;
                    point("lock.woken");
                    look_after_owner = nap == Nap::Slice;
                }
                Err(stop) => {
                    if !wait.is_try() {
                        self.give_up();
                    }
                    return Err(stop);
                }
            }
        }
    }

    /// Takes the lock from an owner that is gone, if it is still the one seen.
    fn take_over(&self, me: Participant, seen: u64, slept: u64) -> bool {
        let mine = me.pack() | seen & WAITERS | slept | ABANDONED | UNSETTLED;
        // Acquire: the dead released nothing, but what it wrote is in memory: whoever
        // says that it is gone learned of it from the kernel, later.
        let taken = self
            .word
            .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        if taken {
            point("lock.inherited");
        }
        taken
    }

    /// Leaves without the lock: a wake-up that may have been meant for us goes on.
    fn give_up(&self) {
        // AcqRel: whoever released and cleared the bit is before us.
        let before = self.word.fetch_or(WAITERS, Ordering::AcqRel);
        if before & HELD == 0 {
            self.kernel.wake(self.word, 1);
        }
    }

    /// Releases, whoever owns it. One compare-and-swap when the owner is `me` and
    /// nobody waits. `keep_abandoned`: who acquires next is told that an owner died, as
    /// the caller was.
    #[inline]
    pub fn release(&self, me: Participant, keep_abandoned: bool) -> Released {
        // Release: what we did is before whatever the next owner does.
        let swap =
            self.word
                .compare_exchange(me.pack(), FREE, Ordering::Release, Ordering::Relaxed);
        match swap {
            Ok(_) => {
                point("lock.freed");
                Released::Done
            }
            Err(seen) => self.release_marked(seen, keep_abandoned),
        }
    }

    #[cold]
    fn release_marked(&self, mut seen: u64, keep_abandoned: bool) -> Released {
        while seen & HELD != 0 {
            let free = if keep_abandoned {
                seen & ABANDONED
            } else {
                FREE
            };
            match self
                .word
                .compare_exchange(seen, free, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => {
                    point("lock.freed");
                    if seen & WAITERS != 0 {
                        self.kernel.wake(self.word, 1);
                    }
                    return Released::Done;
                }
                Err(other) => seen = other,
            }
        }
        Released::NotHeld
    }

    /// Says that the fields beside the word are the owner's own now.
    pub fn settle(&self) {
        // Release: who sees the bit gone sees those fields.
        self.word.fetch_and(!UNSETTLED, Ordering::Release);
    }

    /// The word as it is now.
    pub fn load(&self) -> u64 {
        // Acquire: pairs with `settle`, for those who read the fields next.
        self.word.load(Ordering::Acquire)
    }
}
