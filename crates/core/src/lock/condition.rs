//! A condition: wait until somebody says that it is worth looking again.
//!
//! Guarantees: a notify wakes those who wait, never one who comes later; it is told to
//! so many of them as it says; what a waiter that died had been told, and had not got to
//! see with the lock in hand, is told to another (rule P8), who may have come later.
//!
//! Each waiter has a *place*, a word of its own, on which it sleeps:
//!
//! ```text
//! bits 0-3        0 free, 1 waiting, 2 notified
//! 4-15, 16-63     the waiter's slot and generation, as in every participant's word
//! ```
//!
//! The caller holds the condition's lock when it registers and when it notifies; that
//! keeps notifies in step with what they are about. The places alone would stand it.

#[cfg(not(loom))]
use core::mem::offset_of;

use super::kernel::Kernel;
use super::mutex::Guard;
use super::spin::look;
use super::wait::{Nap, Naps, Stop, Wait};
#[cfg(not(loom))]
use super::{Cell, kernel::System};
use crate::error::Error;
#[cfg(not(loom))]
use crate::error::Result as CoreResult;
use crate::fault::point;
#[cfg(not(loom))]
use crate::layout::cells::{CELL_BYTES, CONDITION_KIND, ConditionCell, PLACES_MAX};
use crate::layout::{Packed, Participant};
#[cfg(not(loom))]
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

const FREE: u64 = 0;
const WAITING: u64 = 1;
const NOTIFIED: u64 = 2;

/// A condition.
#[derive(Debug, Clone, Copy)]
pub struct Condition<'m, K> {
    high: &'m AtomicU64,
    cursor: &'m AtomicU64,
    places: &'m [AtomicU64],
    spins: Option<&'m AtomicU64>,
    kernel: K,
}

/// How a wait for a condition ended; the lock is held again if `lock` is `Ok`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// Whether it was notified, or why it was not.
    pub notified: Result<(), Stop>,
    /// Whether the lock was acquired again, and whether its owner had died; the wait for
    /// it has no end but [`Stop::Interrupted`].
    pub lock: Result<super::word::Acquired, Stop>,
    /// How deep it was held before, for [`Guard::reacquire`].
    pub depth: u64,
}

/// How many bytes a condition for so many waiters takes.
///
/// # Errors
///
/// [`Error::NotAllowed`] for none and for more than [`PLACES_MAX`].
#[cfg(not(loom))]
pub fn size_bytes(places: u64) -> CoreResult<usize> {
    if places == 0 || places > PLACES_MAX {
        return Err(Error::NotAllowed("a condition has 1 to 65536 waiters"));
    }
    // Small: cannot overflow.
    Ok(CELL_BYTES + places as usize * crate::layout::WORD_BYTES)
}

#[cfg(not(loom))]
impl<'m> Condition<'m, System> {
    /// Makes one of the [`size_bytes`] at `offset`.
    ///
    /// # Errors
    ///
    /// As [`size_bytes`]; [`Error::OutOfBounds`].
    pub fn create(mapping: &'m Mapping, offset: usize, places: u64) -> CoreResult<()> {
        let cell = Cell::create(mapping, offset, size_bytes(places)?)?;
        let count = cell.word(offset_of!(ConditionCell, places))?;
        count.store(places, Ordering::Relaxed);
        cell.finish(CONDITION_KIND)
    }

    /// The one at `offset`, in a block of so many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`] when there is none, [`Error::Damaged`] when it cannot be.
    pub fn at(mapping: &'m Mapping, offset: usize, size_bytes: usize) -> CoreResult<Self> {
        let cell = Cell::at(mapping, offset, size_bytes, CONDITION_KIND)?;
        let places = cell.table(offset_of!(ConditionCell, places), 1..=PLACES_MAX, 1)?;
        Ok(Condition {
            high: cell.word(offset_of!(ConditionCell, high))?,
            cursor: cell.word(offset_of!(ConditionCell, cursor))?,
            places,
            spins: Some(cell.word(offset_of!(ConditionCell, spins))?),
            kernel: System,
        })
    }
}

const fn place(state: u64, who: Participant) -> u64 {
    Packed {
        state,
        by: who.slot,
        generation: who.generation,
    }
    .pack()
}

/// The waiter in a place that is in `state`; `None`: it is in another.
fn waiter(seen: u64, state: u64) -> Option<Participant> {
    let packed = Packed::unpack(seen);
    if packed.state != state {
        return None;
    }
    Some(Participant {
        slot: packed.by,
        generation: packed.generation,
    })
}

impl<'m, K: Kernel> Condition<'m, K> {
    /// One on these words, zero at first.
    pub fn over(
        high: &'m AtomicU64,
        cursor: &'m AtomicU64,
        places: &'m [AtomicU64],
        kernel: K,
    ) -> Self {
        Condition {
            high,
            cursor,
            places,
            spins: None,
            kernel,
        }
    }

    /// How many wait and are not notified; those that died included.
    pub fn waiting(&self) -> usize {
        let waiting = |place: &&AtomicU64| waiter(place.load(Ordering::Relaxed), WAITING).is_some();
        self.in_use().iter().filter(waiting).count()
    }

    /// Lets go of `guard`, which the caller holds, sleeps until notified, and acquires it
    /// again. The timeout is for the notify; an interruption ends that wait, and a second
    /// one the wait for the lock.
    ///
    /// In a child that `keep_going` forked both results are [`Stop::Interrupted`]: the place
    /// and the lock are its parent's, and untouched.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when `guard` is not held, [`Error::Full`] when there is no
    /// place; nothing is done then and the guard is held as before.
    pub fn wait(&self, guard: &impl Guard, wait: &mut Wait<'_>) -> Result<Waited, Error> {
        let epoch = self.kernel.epoch();
        let own = self.register(wait)?;
        let Some(depth) = guard.release_all(wait.me) else {
            if !self.leave(own, wait.me, WAITING) {
                self.tell_another(own, wait);
            }
            return Err(Error::NotAllowed(
                "cannot wait on a condition whose lock is not held",
            ));
        };
        let is_forked = || self.kernel.epoch() != epoch;
        let slept = self.sleep(own, wait, &is_forked);
        let in_child = Waited {
            notified: Err(Stop::Interrupted),
            lock: Err(Stop::Interrupted),
            depth,
        };
        if is_forked() {
            return Ok(in_child);
        }
        let mut again = Wait {
            me: wait.me,
            watch: wait.watch,
            timeout_ns: None,
            is_gone: wait.is_gone,
            keep_going: wait.keep_going,
        };
        let mut lock = guard.reacquire(&mut again, depth);
        let is_interrupted = lock == Err(Stop::Interrupted);
        if is_interrupted && slept != Err(Stop::Interrupted) && !is_forked() {
            // Whoever waits believes to have the lock when an exception ends the wait.
            lock = guard.reacquire(&mut again, depth);
        }
        if is_forked() {
            return Ok(in_child);
        }
        let notified = match slept {
            Ok(told) if is_interrupted => {
                // The caller is told of the interruption, not of the notify.
                self.tell_another(told, wait);
                Err(Stop::Interrupted)
            }
            Ok(told) => {
                point("condition.reacquired");
                self.leave(told, wait.me, NOTIFIED);
                Ok(())
            }
            Err(stop) => Err(stop),
        };
        Ok(Waited {
            notified,
            lock,
            depth,
        })
    }

    /// Tells up to `count` of those who wait; how many it told. The caller holds the
    /// condition's lock. Waiters that `is_gone` are passed over and their places freed.
    pub fn notify(&self, count: usize, is_gone: &mut dyn FnMut(Participant) -> bool) -> usize {
        let len = self.in_use().len();
        if len == 0 {
            return 0;
        }
        let start = (self.cursor.load(Ordering::Relaxed) % len as u64) as usize;
        let mut told = 0;
        for index in (start..len).chain(0..start) {
            if told == count {
                break;
            }
            let seen = self.places[index].load(Ordering::Relaxed);
            let Some(who) = waiter(seen, WAITING) else {
                continue;
            };
            if is_gone(who) {
                // Relaxed: nothing follows from a free place.
                let _ = self.swap(index, seen, FREE);
                continue;
            }
            if self.swap(index, seen, place(NOTIFIED, who)) {
                told += 1;
                self.cursor.store(index as u64 + 1, Ordering::Relaxed);
                point("condition.notified");
                self.kernel.wake(&self.places[index], 1);
            }
        }
        told
    }

    /// Places that were ever used.
    fn in_use(&self) -> &'m [AtomicU64] {
        // Acquire: with `register`; what is above was never anybody's.
        let high = self.high.load(Ordering::Acquire);
        let high =
            usize::try_from(high).map_or(self.places.len(), |high| high.min(self.places.len()));
        &self.places[..high]
    }

    /// Every change of a place. AcqRel: what a notifier did is before what the waiter
    /// does, also when the notify went through other hands.
    fn swap(&self, index: usize, from: u64, to: u64) -> bool {
        self.places[index]
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    fn register(&self, wait: &mut Wait<'_>) -> Result<usize, Error> {
        let mine = place(WAITING, wait.me);
        let free = |index: &usize| {
            self.places[*index].load(Ordering::Relaxed) == FREE && self.swap(*index, FREE, mine)
        };
        let found = (0..self.places.len()).find(free).or_else(|| {
            // Full: places of the dead. What they were told is told to us then, at once.
            (0..self.places.len()).find(|&index| {
                let seen = self.places[index].load(Ordering::Relaxed);
                [WAITING, NOTIFIED].into_iter().any(|state| {
                    waiter(seen, state).is_some_and(|who| (wait.is_gone)(who))
                        && self.swap(index, seen, place(state, wait.me))
                })
            })
        });
        let index = found.ok_or_else(|| Error::Full {
            what: "waiters on one condition",
            limit: self.places.len(),
        })?;
        // Release: with `in_use`.
        self.high.fetch_max(index as u64 + 1, Ordering::Release);
        point("condition.registered");
        Ok(index)
    }

    /// Sleeps until told; the place where it was told, which is still ours.
    fn sleep(
        &self,
        own: usize,
        wait: &mut Wait<'_>,
        is_forked: &dyn Fn() -> bool,
    ) -> Result<usize, Stop> {
        let mine = place(WAITING, wait.me);
        let mut naps = Naps::of(wait, self.kernel);
        if !wait.is_try() {
            let is_over = || self.places[own].load(Ordering::Relaxed) != mine;
            look(self.kernel, self.spins, is_over);
        }
        loop {
            if self.places[own].load(Ordering::Acquire) != mine {
                point("condition.woken");
                return Ok(own);
            }
            match naps.nap(wait, self.kernel, &self.places[own], mine) {
                Ok(Nap::Look | Nap::Rest) => {}
                Ok(Nap::Slice) => {
                    if let Some(told) = self.inherit(wait) {
                        // Told twice, if one came to our own place meanwhile.
                        if !self.leave(own, wait.me, WAITING) {
                            self.tell_another(own, wait);
                        }
                        return Ok(told);
                    }
                }
                Err(stop) if is_forked() => return Err(stop),
                Err(stop) => {
                    if self.leave(own, wait.me, WAITING) {
                        point("condition.left");
                        return Err(stop);
                    }
                    // Told at the last moment.
                    if stop == Stop::TimedOut {
                        return Ok(own);
                    }
                    self.tell_another(own, wait);
                    return Err(stop);
                }
            }
        }
    }

    /// Takes over what a dead waiter was told.
    fn inherit(&self, wait: &mut Wait<'_>) -> Option<usize> {
        (0..self.in_use().len()).find(|&index| {
            let seen = self.places[index].load(Ordering::Relaxed);
            let is_left = waiter(seen, NOTIFIED).is_some_and(|who| (wait.is_gone)(who))
                && self.swap(index, seen, place(NOTIFIED, wait.me));
            if is_left {
                point("condition.inherited");
            }
            is_left
        })
    }

    /// Passes on what we were told at `own` and do not need. First the other is told: a
    /// death in between tells one too many, not one too few.
    fn tell_another(&self, own: usize, wait: &mut Wait<'_>) {
        self.notify(1, wait.is_gone);
        self.leave(own, wait.me, NOTIFIED);
    }

    /// Frees a place of ours that is in `state`.
    fn leave(&self, index: usize, me: Participant, state: u64) -> bool {
        self.swap(index, place(state, me), FREE)
    }
}
