//! Waiting in a queue: for an item, for room, for all to be done.
//!
//! Guarantees: who waits without anything to do costs a look at the end of a slice; of those that
//! sleep one is woken at a time, and wakes the next if there is more; a wait ends when
//! nobody is left who could end it (rule P7).

use core::mem::offset_of;

use super::hint::Hint;
use super::open::Queue;
use super::protocol::announce;
use crate::error::{Error, Result};
use crate::layout::Participant;
use crate::layout::queues::{PEERS, QueueHeader};
use crate::lock::kernel::{Kernel, System, spin};
use crate::lock::wait::{Nap, Naps, Seldom, Stop, Wait};
use crate::participation::{self, Asking};
use crate::sync::{AtomicU64, Ordering};

/// Who may not wait gives the lock, which is held for microseconds, this much time all the
/// same, in nanoseconds: a queue is not full because somebody is putting.
const LOCK_PATIENCE_NS: u64 = 1_000_000_000;

/// What somebody waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'q> {
    /// The word that will change; what is slept on is `waiters`.
    pub(super) word: &'q AtomicU64,
    pub(super) waiters: &'q AtomicU64,
    pub(super) spins: Option<&'q AtomicU64>,
}

/// One call that may wait.
pub(super) struct Waiting<'a> {
    pub(super) me: Participant,
    timeout_ns: Option<u64>,
    end_ns: Option<u64>,
    pub(super) keep_going: &'a mut dyn FnMut() -> bool,
    naps: Option<Naps>,
    /// When to look after the others.
    looks: Seldom,
    has_slept: bool,
    /// Not even for the lock.
    never_sleeps: bool,
    /// The last look after the others found nobody.
    was_alone: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(
        me: Participant,
        timeout_ns: Option<u64>,
        keep_going: &'a mut dyn FnMut() -> bool,
    ) -> Self {
        Waiting {
            me,
            timeout_ns,
            end_ns: None,
            keep_going,
            naps: None,
            looks: Seldom::default(),
            has_slept: false,
            never_sleeps: false,
            was_alone: false,
        }
    }

    /// One that does what can be done without waiting for anything, also for the lock.
    pub(super) fn at_hand(me: Participant, keep_going: &'a mut dyn FnMut() -> bool) -> Self {
        Waiting {
            never_sleeps: true,
            ..Waiting::new(me, Some(0), keep_going)
        }
    }

    fn left_ns(&mut self) -> Option<u64> {
        let timeout_ns = self.timeout_ns?;
        if timeout_ns == 0 {
            return Some(0);
        }
        let now_ns = System.now_ns();
        let end_ns = *self
            .end_ns
            .get_or_insert_with(|| now_ns.saturating_add(timeout_ns));
        Some(end_ns.saturating_sub(now_ns))
    }
}

impl Queue {
    pub(super) fn for_items(&self) -> Result<Place<'_>> {
        Ok(Place {
            word: self.tail()?,
            waiters: self.word(offset_of!(QueueHeader, getters))?,
            spins: Some(self.word(offset_of!(QueueHeader, get_spins))?),
        })
    }

    pub(super) fn for_room(&self) -> Result<Place<'_>> {
        Ok(Place {
            word: self.head()?,
            waiters: self.word(offset_of!(QueueHeader, putters))?,
            spins: Some(self.word(offset_of!(QueueHeader, put_spins))?),
        })
    }

    /// Acquires the lock of putters.
    pub(super) fn acquire(&self, waiting: &mut Waiting<'_>) -> std::result::Result<(), Stop> {
        let lock = self.lock()?;
        if lock.try_acquire(waiting.me).is_some() {
            return Ok(());
        }
        let never_sleeps = waiting.never_sleeps;
        let timeout_ns = match waiting.left_ns() {
            _ if never_sleeps => Some(0),
            left_ns => left_ns.map(|left_ns| left_ns.max(LOCK_PATIENCE_NS)),
        };
        let acquired = lock.acquire(&mut Wait {
            me: waiting.me,
            watch: Some(&self.presence),
            timeout_ns,
            is_gone: &mut |who| self.root.is_gone(who, Asking::WhileWaiting),
            keep_going: waiting.keep_going,
        });
        match acquired {
            Err(Stop::TimedOut) if never_sleeps => return Err(Stop::Interrupted),
            other => other?,
        };
        // Abandoned or not: there is nothing to repair.
        Ok(())
    }

    /// Waits until the word is not `seen` any more, or for a slice.
    pub(super) fn wait(
        &self,
        place: Place<'_>,
        seen: u64,
        waiting: &mut Waiting<'_>,
    ) -> std::result::Result<(), Stop> {
        if waiting.left_ns() == Some(0) {
            return Err(Stop::TimedOut);
        }
        if look_for_a_moment(place, seen) {
            return Ok(());
        }
        let announced = announce(place.waiters);
        if place.word.load(Ordering::Acquire) != seen {
            return Ok(());
        }
        let timeout_ns = waiting.left_ns();
        let mut wait = Wait {
            me: waiting.me,
            watch: Some(&self.presence),
            timeout_ns,
            is_gone: &mut |_| false,
            keep_going: waiting.keep_going,
        };
        let naps = waiting.naps.get_or_insert_with(|| Naps::of(&wait, System));
        let nap = naps.nap(&mut wait, System, place.waiters, announced);
        waiting.has_slept = true;
        match nap? {
            Nap::Look => Ok(()),
            Nap::Rest => self.look_around(place, seen, waiting, Asking::Told),
            Nap::Slice => self.look_around(place, seen, waiting, Asking::WhileWaiting),
        }
    }

    /// Once in a while: is there anybody left?
    fn look_around(
        &self,
        place: Place<'_>,
        seen: u64,
        waiting: &mut Waiting<'_>,
        asked: Asking,
    ) -> std::result::Result<(), Stop> {
        if self.root.is_dropped() {
            return Err(Error::Dropped.into());
        }
        if !waiting.looks.is_due(System) {
            return Ok(());
        }
        let is_alone = self.is_alone_as(asked)?;
        if let Some(naps) = &mut waiting.naps
            && is_alone
        {
            naps.shorten();
        }
        // Twice: somebody may have received a handle and not opened it yet. Whatever the
        // dead did they did before: a last look.
        let was_alone = std::mem::replace(&mut waiting.was_alone, is_alone);
        if is_alone && was_alone && place.word.load(Ordering::Acquire) == seen {
            return Err(Error::PeerDied.into());
        }
        Ok(())
    }

    /// Whether nobody is left who could put or get anything, because the last one died. Who
    /// finds so twice, some time apart, and nothing after that, waits in vain: somebody may
    /// have received a handle and not opened the queue yet.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn is_alone(&self) -> Result<bool> {
        self.is_alone_as(Asking::WhileWaiting)
    }

    fn is_alone_as(&self, asked: Asking) -> Result<bool> {
        let peers = self.root.peers(self.at + PEERS, asked)?;
        participation::queues::audit_if_due();
        Ok(peers.has_one_died && !peers.is_some_alive && !peers.is_in_flight)
    }

    /// At the end of a call that may have slept: a wake-up goes on that may have been meant for
    /// who leaves in vain, for whatever reason.
    #[inline]
    pub(super) fn left<T>(
        &self,
        place: Place<'_>,
        waiting: &Waiting<'_>,
        done: std::result::Result<T, Stop>,
    ) -> std::result::Result<T, Stop> {
        // In a child that let go of it as inherited the memory is not ours to write to.
        if done.is_err() && waiting.has_slept && !self.root.is_dropped() {
            let _ = announce(place.waiters);
            self.wake(place);
        }
        done
    }

    /// After success: who slept may have been woken for all that sleep.
    #[inline]
    pub(super) fn pass_on(&self, place: Place<'_>, waiting: &Waiting<'_>, is_more: bool) {
        if waiting.has_slept {
            let _ = announce(place.waiters);
            if is_more {
                self.wake(place);
            }
        }
    }
}

/// Looks for as long as that was worth it lately; whether the word changed.
fn look_for_a_moment(place: Place<'_>, seen: u64) -> bool {
    let Some(hint_word) = place.spins.filter(|_| System.spins() > 0) else {
        return false;
    };
    // Relaxed, and lost updates do not matter: a hint, and bounded.
    let hint = Hint::of(hint_word.load(Ordering::Relaxed));
    let found = spin(hint.most(), || place.word.load(Ordering::Relaxed) != seen);
    let new = hint.after(found);
    if new != hint {
        hint_word.store(new.word(), Ordering::Relaxed);
    }
    found.is_some()
}
