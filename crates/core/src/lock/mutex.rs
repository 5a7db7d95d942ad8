//! `Lock` and `RLock`: the robust lock word as an object.
//!
//! Guarantees (rule P8): the last acquirer owns, its death abandons, and who gets the
//! lock then learns it. A [`Lock`] may be released by anybody; an [`RLock`] by the
//! thread that owns it only, as often as that acquired it.

#[cfg(not(loom))]
use core::mem::offset_of;

use super::kernel::Kernel;
use super::wait::{Stop, Wait};
use super::word::{ABANDONED, Acquired, HELD, LockWord, Released, UNSETTLED, owner};
#[cfg(not(loom))]
use super::{Cell, kernel::System};
#[cfg(not(loom))]
use crate::error::Result as CoreResult;
use crate::fault::point;
use crate::layout::Participant;
#[cfg(not(loom))]
use crate::layout::cells::{CELL_BYTES, LOCK_KIND, LockCell};
#[cfg(not(loom))]
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

/// A lock that is not re-entrant.
#[derive(Debug, Clone, Copy)]
pub struct Lock<'m, K> {
    word: LockWord<'m, K>,
}

/// A lock that its owner, one thread, may acquire again.
#[derive(Debug, Clone, Copy)]
pub struct RLock<'m, K> {
    word: LockWord<'m, K>,
    thread: &'m AtomicU64,
    depth: &'m AtomicU64,
}

/// What a condition does with the lock it belongs to.
pub trait Guard {
    /// Lets the lock go altogether; what [`Guard::reacquire`] needs, or `None` when it
    /// is not the caller's. No regular release: who acquires next learns that an owner died,
    /// if the caller did.
    fn release_all(&self, me: Participant) -> Option<u64>;
    /// Acquires as it was.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`].
    fn reacquire(&self, wait: &mut Wait<'_>, depth: u64) -> Result<Acquired, Stop>;
}

/// Makes a free lock, of either sort, of the [`CELL_BYTES`] bytes at `offset`.
///
/// # Errors
///
/// [`Error::OutOfBounds`](crate::error::Error::OutOfBounds),
/// [`Error::ReadOnly`](crate::error::Error::ReadOnly).
#[cfg(not(loom))]
pub fn create(mapping: &Mapping, offset: usize) -> CoreResult<()> {
    Cell::create(mapping, offset, CELL_BYTES)?.finish(LOCK_KIND)
}

#[cfg(not(loom))]
fn word_of<'m>(cell: Cell<'m>) -> CoreResult<LockWord<'m, System>> {
    Ok(LockWord {
        word: cell.word(offset_of!(LockCell, word))?,
        spins: cell.word(offset_of!(LockCell, spins))?,
        kernel: System,
    })
}

#[cfg(not(loom))]
impl<'m> Lock<'m, System> {
    /// The lock at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`](crate::error::Error::WrongSegment) when there is none.
    #[inline]
    pub fn at(mapping: &'m Mapping, offset: usize) -> CoreResult<Self> {
        let cell = Cell::at(mapping, offset, CELL_BYTES, LOCK_KIND)?;
        Ok(Lock {
            word: word_of(cell)?,
        })
    }
}

impl<'m, K: Kernel> Lock<'m, K> {
    /// A lock on these words.
    pub fn over(word: LockWord<'m, K>) -> Self {
        Lock { word }
    }

    /// Acquires if that takes no waiting; looks after no dead owner.
    #[inline]
    pub fn try_acquire(&self, me: Participant) -> Option<Acquired> {
        self.word.try_acquire(me)
    }

    /// Acquires, waiting if need be.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`].
    #[inline]
    pub fn acquire(&self, wait: &mut Wait<'_>) -> Result<Acquired, Stop> {
        self.word.acquire(wait)
    }

    /// Releases, whoever acquired it.
    #[inline]
    pub fn release(&self, me: Participant) -> Released {
        self.word.release(me, false)
    }

    /// Releases; who acquires next learns that an owner died, as the caller did.
    pub fn release_abandoned(&self, me: Participant) -> Released {
        self.word.release(me, true)
    }

    /// Whether somebody has it.
    pub fn is_held(&self) -> bool {
        self.word.load() & HELD != 0
    }

    /// Whether an owner died and nobody has released it regularly since.
    pub fn is_abandoned(&self) -> bool {
        self.word.load() & ABANDONED != 0
    }

    /// Who has it; `None`: nobody.
    pub fn owner(&self) -> Option<Participant> {
        owner(self.word.load())
    }
}

impl<K: Kernel> Guard for Lock<'_, K> {
    fn release_all(&self, me: Participant) -> Option<u64> {
        (self.release_abandoned(me) == Released::Done).then_some(1)
    }

    fn reacquire(&self, wait: &mut Wait<'_>, _depth: u64) -> Result<Acquired, Stop> {
        self.acquire(wait)
    }
}

#[cfg(not(loom))]
impl<'m> RLock<'m, System> {
    /// The lock at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`](crate::error::Error::WrongSegment) when there is none.
    #[inline]
    pub fn at(mapping: &'m Mapping, offset: usize) -> CoreResult<Self> {
        let cell = Cell::at(mapping, offset, CELL_BYTES, LOCK_KIND)?;
        Ok(RLock {
            word: word_of(cell)?,
            thread: cell.word(offset_of!(LockCell, thread))?,
            depth: cell.word(offset_of!(LockCell, depth))?,
        })
    }
}

/// A thread of this process: any number but zero that no other living thread of it has.
pub type Thread = core::num::NonZeroU64;

impl<'m, K: Kernel> RLock<'m, K> {
    /// A lock on these words.
    pub fn over(word: LockWord<'m, K>, thread: &'m AtomicU64, depth: &'m AtomicU64) -> Self {
        RLock {
            word,
            thread,
            depth,
        }
    }

    /// Whether this thread of this participant has it.
    #[inline]
    pub fn is_mine(&self, me: Participant, thread: Thread) -> bool {
        let seen = self.word.load();
        // While unsettled, the thread is a dead owner's. Relaxed: zero, or the owner's, by
        // the release before or by `settle`; our own number is there only if we wrote it.
        owner(seen) == Some(me)
            && seen & UNSETTLED == 0
            && self.thread.load(Ordering::Relaxed) == thread.get()
    }

    /// Acquires if that takes no waiting; looks after no dead owner.
    #[inline]
    pub fn try_acquire(&self, me: Participant, thread: Thread) -> Option<Acquired> {
        if self.is_held() {
            return self.enter_again(me, thread);
        }
        let acquired = self.word.try_acquire(me)?;
        self.enter(thread, 1);
        Some(acquired)
    }

    /// Acquires, waiting if need be.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`].
    #[inline]
    pub fn acquire(&self, wait: &mut Wait<'_>, thread: Thread) -> Result<Acquired, Stop> {
        if let Some(again) = self.enter_again(wait.me, thread) {
            return Ok(again);
        }
        self.acquire_at(wait, thread, 1)
    }

    /// Releases once.
    #[inline]
    pub fn release(&self, me: Participant, thread: Thread) -> Released {
        self.leave(me, thread, false)
    }

    /// Releases once; if that is the last time, who acquires next learns that an owner
    /// died, as the caller did.
    pub fn release_abandoned(&self, me: Participant, thread: Thread) -> Released {
        self.leave(me, thread, true)
    }

    /// Whether somebody has it.
    pub fn is_held(&self) -> bool {
        self.word.load() & HELD != 0
    }

    /// Whether an owner died and nobody has released it regularly since.
    pub fn is_abandoned(&self) -> bool {
        self.word.load() & ABANDONED != 0
    }

    /// Who has it; `None`: nobody.
    pub fn owner(&self) -> Option<Participant> {
        owner(self.word.load())
    }

    /// How often its owner has acquired it, when that is this thread; else zero.
    pub fn depth(&self, me: Participant, thread: Thread) -> u64 {
        if self.is_mine(me, thread) {
            self.depth.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// For conditions.
    pub fn guard(&self, thread: Thread) -> impl Guard + use<'_, 'm, K> {
        ThreadGuard { lock: self, thread }
    }

    fn enter_again(&self, me: Participant, thread: Thread) -> Option<Acquired> {
        if !self.is_mine(me, thread) {
            return None;
        }
        // Relaxed, here and below: only the owner reads and writes the depth, and one
        // owner's writes are before the next one's by the lock word.
        let depth = self.depth.load(Ordering::Relaxed);
        self.depth.store(depth.saturating_add(1), Ordering::Relaxed);
        Some(Acquired {
            abandoned: self.is_abandoned(),
            inherited: false,
        })
    }

    fn acquire_at(
        &self,
        wait: &mut Wait<'_>,
        thread: Thread,
        depth: u64,
    ) -> Result<Acquired, Stop> {
        let acquired = self.word.acquire(wait)?;
        self.enter(thread, depth);
        Ok(acquired)
    }

    fn enter(&self, thread: Thread, depth: u64) {
        self.depth.store(depth, Ordering::Relaxed);
        self.thread.store(thread.get(), Ordering::Relaxed);
        point("rlock.named");
        if self.word.load() & UNSETTLED != 0 {
            self.word.settle();
        }
    }

    fn leave(&self, me: Participant, thread: Thread, keep_abandoned: bool) -> Released {
        if !self.is_mine(me, thread) {
            return Released::NotHeld;
        }
        let depth = self.depth.load(Ordering::Relaxed);
        if depth > 1 {
            self.depth.store(depth - 1, Ordering::Relaxed);
            return Released::Done;
        }
        // Before the word: whoever sees the lock free, or another's, sees no old thread.
        self.thread.store(0, Ordering::Relaxed);
        point("rlock.cleared");
        self.word.release(me, keep_abandoned)
    }
}

struct ThreadGuard<'l, 'm, K> {
    lock: &'l RLock<'m, K>,
    thread: Thread,
}

impl<K: Kernel> Guard for ThreadGuard<'_, '_, K> {
    fn release_all(&self, me: Participant) -> Option<u64> {
        let depth = self.lock.depth(me, self.thread);
        if depth == 0 {
            return None;
        }
        // Relaxed: ours, as above.
        self.lock.depth.store(1, Ordering::Relaxed);
        self.lock.release_abandoned(me, self.thread);
        Some(depth)
    }

    fn reacquire(&self, wait: &mut Wait<'_>, depth: u64) -> Result<Acquired, Stop> {
        self.lock.acquire_at(wait, self.thread, depth)
    }
}
