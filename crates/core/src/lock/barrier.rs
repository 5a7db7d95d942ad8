//! A barrier: parties wait until all have arrived.
//!
//! Guarantees: all parties of a phase learn the same of it, that it was passed or that
//! it broke. It breaks when one of them gives up (timeout, Ctrl-C, `abort`, `reset`), when
//! the action fails, and when a party that died inside is found by one that waits.
//!
//! Its fields are written under a robust lock word of its own, which the last party
//! keeps while it runs the action: a death there abandons that lock, and whoever takes it
//! then breaks the barrier, whatever was half written.
//!
//! ```text
//! phase   bit 0      broken
//!         bits 1-31  the number of the phase; with bit 0, what is slept on
//!         bits 32-63 bit 32 + k: the phase k + 1 before this one broke
//! ```

#[cfg(not(loom))]
use core::mem::offset_of;

use super::kernel::Kernel;
use super::wait::{Nap, Naps, Stop, Wait};
use super::word::LockWord;
#[cfg(not(loom))]
use super::{Cell, kernel::System};
#[cfg(not(loom))]
use crate::error::{Error, Result as CoreResult};
use crate::fault::point;
use crate::layout::Participant;
#[cfg(not(loom))]
use crate::layout::cells::{BARRIER_KIND, BarrierCell, CELL_BYTES, PARTIES_MAX};
#[cfg(not(loom))]
use crate::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

const BROKEN: u64 = 1;
const PHASE: u64 = 2;
const NUMBERS: u64 = (1 << 31) - 1;
/// How many ended phases are remembered. Who sleeps through more (its fellow parties
/// going on without it) takes its own for passed.
const REMEMBERED: u64 = 32;

/// Each party has two words, for phases of even and of odd number: who is late to leave
/// one phase does not meet who is early in the next.
const HALVES: usize = 2;
/// In a party's word: nobody is inside.
const NOBODY: u64 = 0;

/// The number of a phase.
const fn number(phase: u64) -> u64 {
    (phase / PHASE) & NUMBERS
}

/// The word after `phase` ended.
const fn next(phase: u64, is_broken: bool) -> u64 {
    let history = phase >> 32 << 1 | is_broken as u64;
    let number = (number(phase) + 1) & NUMBERS;
    (history << 32) | (number * PHASE)
}

/// Whether `phase` broke, now that the word is `now`.
const fn has_broken(phase: u64, now: u64) -> bool {
    let ago = number(now).wrapping_sub(number(phase)) & NUMBERS;
    if ago == 0 {
        now & BROKEN != 0
    } else {
        ago <= REMEMBERED && now >> (31 + ago) & 1 != 0
    }
}

fn outcome(phase: u64, now: u64) -> Result<(), Stop> {
    if has_broken(phase, now) {
        Err(Stop::Broken)
    } else {
        Ok(())
    }
}

/// A barrier.
#[derive(Debug, Clone, Copy)]
pub struct Barrier<'m, K> {
    lock: LockWord<'m, K>,
    phase: &'m AtomicU64,
    arrived: &'m AtomicU64,
    parties: &'m [AtomicU64],
}

/// The words of a barrier.
#[derive(Debug, Clone, Copy)]
pub struct BarrierWords<'m> {
    /// The phase.
    pub phase: &'m AtomicU64,
    /// How many have arrived.
    pub arrived: &'m AtomicU64,
    /// Who is inside: two words for each party.
    pub parties: &'m [AtomicU64],
}

/// How many bytes a barrier for so many parties takes.
///
/// # Errors
///
/// [`Error::NotAllowed`] for none and for more than [`PARTIES_MAX`].
#[cfg(not(loom))]
pub fn size_bytes(parties: u64) -> CoreResult<usize> {
    if parties == 0 || parties > PARTIES_MAX {
        return Err(Error::NotAllowed("a barrier has 1 to 65536 parties"));
    }
    // Small: cannot overflow.
    Ok(CELL_BYTES + parties as usize * HALVES * crate::layout::WORD_BYTES)
}

#[cfg(not(loom))]
impl<'m> Barrier<'m, System> {
    /// Makes one of the [`size_bytes`] at `offset`.
    ///
    /// # Errors
    ///
    /// As [`size_bytes`]; [`Error::OutOfBounds`].
    pub fn create(mapping: &'m Mapping, offset: usize, parties: u64) -> CoreResult<()> {
        let cell = Cell::create(mapping, offset, size_bytes(parties)?)?;
        let count = cell.word(offset_of!(BarrierCell, parties))?;
        count.store(parties, Ordering::Relaxed);
        cell.finish(BARRIER_KIND)
    }

    /// The one at `offset`, in a block of so many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`] when there is none, [`Error::Damaged`] when it cannot be.
    pub fn at(mapping: &'m Mapping, offset: usize, size_bytes: usize) -> CoreResult<Self> {
        let cell = Cell::at(mapping, offset, size_bytes, BARRIER_KIND)?;
        let parties = cell.table(offset_of!(BarrierCell, parties), 1..=PARTIES_MAX, HALVES)?;
        let lock = LockWord {
            word: cell.word(offset_of!(BarrierCell, lock))?,
            spins: cell.word(offset_of!(BarrierCell, spins))?,
            kernel: System,
        };
        let words = BarrierWords {
            phase: cell.word(offset_of!(BarrierCell, phase))?,
            arrived: cell.word(offset_of!(BarrierCell, arrived))?,
            parties,
        };
        Ok(Self::over(lock, words))
    }
}

impl<'m, K: Kernel> Barrier<'m, K> {
    /// One on these words, zero at first.
    pub fn over(lock: LockWord<'m, K>, words: BarrierWords<'m>) -> Self {
        let BarrierWords {
            phase,
            arrived,
            parties,
        } = words;
        Barrier {
            lock,
            phase,
            arrived,
            parties,
        }
    }

    /// How many parties it takes.
    pub fn parties(&self) -> usize {
        self.parties.len() / HALVES
    }

    /// How many have arrived and wait.
    pub fn waiting(&self) -> usize {
        if self.is_broken() {
            return 0;
        }
        self.arrived_now()
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.phase.load(Ordering::Acquire) & BROKEN != 0
    }

    /// Arrives, and waits until all have; tells how many had arrived before. The last to
    /// arrive runs `action` first; if that says no, the barrier breaks.
    ///
    /// # Errors
    ///
    /// [`Stop::Broken`]; [`Stop::TimedOut`] and [`Stop::Interrupted`], which break it, but not
    /// in a child that `keep_going` or the action forked: that is no party, and interrupted.
    pub fn wait(
        &self,
        wait: &mut Wait<'_>,
        action: &mut dyn FnMut() -> bool,
    ) -> Result<usize, Stop> {
        let mut naps = Naps::of(wait, self.lock.kernel);
        let epoch = self.lock.kernel.epoch();
        let is_forked = &|| self.lock.kernel.epoch() != epoch;
        self.enter(wait)?;
        // Relaxed, here and below: under the lock.
        let phase = self.phase.load(Ordering::Relaxed);
        if phase & BROKEN != 0 {
            self.leave(wait.me);
            return Err(Stop::Broken);
        }
        let index = self.arrived_now();
        let half = number(phase) as usize % HALVES * self.parties();
        let inside = &self.parties[half + index];
        inside.store(wait.me.pack(), Ordering::Relaxed);
        let ended = if index + 1 == self.parties() {
            self.be_last(wait.me, phase, action, is_forked)
        } else {
            self.arrived.store(index as u64 + 1, Ordering::Relaxed);
            self.leave(wait.me);
            point("barrier.arrived");
            self.sleep(wait, &mut naps, phase, is_forked)
        };
        if is_forked() {
            return Err(Stop::Interrupted);
        }
        // Relaxed: it only says that we are not inside any more. It may be another's by now.
        let _ =
            inside.compare_exchange(wait.me.pack(), NOBODY, Ordering::Relaxed, Ordering::Relaxed);
        ended.map(|()| index)
    }

    /// Under the lock, which is let go: the last party of `phase` has arrived.
    fn be_last(
        &self,
        me: Participant,
        phase: u64,
        action: &mut dyn FnMut() -> bool,
        is_forked: &dyn Fn() -> bool,
    ) -> Result<(), Stop> {
        point("barrier.last");
        let is_passed = action();
        if is_forked() {
            return Err(Stop::Interrupted);
        }
        if is_passed {
            self.end_phase(phase, false);
            point("barrier.opened");
        } else {
            self.break_now(phase);
        }
        self.leave(me);
        is_passed.then_some(()).ok_or(Stop::Broken)
    }

    fn sleep(
        &self,
        wait: &mut Wait<'_>,
        naps: &mut Naps,
        phase: u64,
        is_forked: &dyn Fn() -> bool,
    ) -> Result<(), Stop> {
        loop {
            // Acquire: after whatever the parties did before they arrived, and the action.
            let now = self.phase.load(Ordering::Acquire);
            if now != phase {
                return outcome(phase, now);
            }
            match naps.nap(wait, self.lock.kernel, self.phase, phase) {
                Ok(Nap::Look | Nap::Rest) => {}
                Ok(Nap::Slice) => {
                    if let Err(stop) = self.look_after_parties(wait) {
                        return self.give_up(wait, phase, stop, is_forked);
                    }
                }
                Err(stop) => return self.give_up(wait, phase, stop, is_forked),
            }
        }
    }

    /// Breaks it, until it is reset.
    ///
    /// # Errors
    ///
    /// [`Stop::Interrupted`].
    pub fn abort(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        self.enter(wait)?;
        self.break_now(self.phase.load(Ordering::Relaxed));
        self.leave(wait.me);
        Ok(())
    }

    /// Makes it new; for those who wait it breaks.
    ///
    /// # Errors
    ///
    /// [`Stop::Interrupted`].
    pub fn reset(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        self.enter(wait)?;
        self.bury(wait);
        self.end_phase(self.phase.load(Ordering::Relaxed), true);
        self.leave(wait.me);
        Ok(())
    }

    /// Acquires the lock of the fields, for as long as that takes: it is held for
    /// moments, and while an action runs. A death in it breaks the barrier.
    fn enter(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        let mut wait = Wait {
            me: wait.me,
            watch: wait.watch,
            timeout_ns: None,
            is_gone: wait.is_gone,
            keep_going: wait.keep_going,
        };
        if self.lock.acquire(&mut wait)?.abandoned {
            self.bury(&mut wait);
            self.break_now(self.phase.load(Ordering::Relaxed));
        }
        Ok(())
    }

    fn leave(&self, me: Participant) {
        self.lock.release(me, false);
    }

    /// Under the lock: this phase is over, the next one begins.
    fn end_phase(&self, phase: u64, is_broken: bool) {
        self.open(next(phase, is_broken));
    }

    /// Under the lock: this phase is broken.
    fn break_now(&self, phase: u64) {
        self.open(phase | BROKEN);
        point("barrier.broke");
    }

    fn open(&self, phase: u64) {
        self.arrived.store(0, Ordering::Relaxed);
        // Release: who sees the new phase sees what was done before.
        self.phase.store(phase, Ordering::Release);
        self.lock.kernel.wake(self.phase, u32::MAX);
    }

    fn arrived_now(&self) -> usize {
        let arrived = self.arrived.load(Ordering::Relaxed);
        // Never all: the last one does not wait. Only garbage is more.
        usize::try_from(arrived).map_or(0, |arrived| arrived.min(self.parties() - 1))
    }

    /// Breaks the barrier if somebody died inside: waiting, or on the way out of the last
    /// phase, or with the lock in hand. Without that party the others would wait for ever.
    fn look_after_parties(&self, wait: &mut Wait<'_>) -> Result<(), Stop> {
        let holder = super::word::owner(self.lock.load());
        let is_left = holder.is_some_and(|who| (wait.is_gone)(who));
        let is_dead = |wait: &mut Wait<'_>| self.dead(wait).next().is_some();
        if is_left || is_dead(wait) {
            self.enter(wait)?;
            if self.bury(wait) {
                self.break_now(self.phase.load(Ordering::Relaxed));
            }
            self.leave(wait.me);
        }
        Ok(())
    }

    /// Words of parties that died inside.
    fn dead(&self, wait: &mut Wait<'_>) -> impl Iterator<Item = (&'m AtomicU64, u64)> {
        let is_gone = &mut *wait.is_gone;
        self.parties.iter().filter_map(move |inside| {
            let seen = inside.load(Ordering::Relaxed);
            let is_dead = seen != NOBODY && Participant::unpack(seen).is_none_or(&mut *is_gone);
            is_dead.then_some((inside, seen))
        })
    }

    /// Under the lock: forgets parties that died inside; whether there were any.
    fn bury(&self, wait: &mut Wait<'_>) -> bool {
        let mut found = false;
        for (inside, seen) in self.dead(wait) {
            // Who forgets and dies before it breaks the barrier is itself one that died
            // inside, or with the lock in hand.
            let _ = inside.compare_exchange(seen, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
            found = true;
        }
        found
    }

    /// A party that waited in vain breaks the phase, unless that is over by now. Not the
    /// child of one: that was forked meanwhile and is no party.
    fn give_up(
        &self,
        wait: &mut Wait<'_>,
        phase: u64,
        stop: Stop,
        is_forked: &dyn Fn() -> bool,
    ) -> Result<(), Stop> {
        if is_forked() {
            return Err(stop);
        }
        let entered = if stop == Stop::Interrupted {
            // Who was interrupted already is not asked again: the phase counts it as arrived
            // and would wait for it for ever.
            self.enter(&mut Wait {
                me: wait.me,
                watch: wait.watch,
                timeout_ns: None,
                is_gone: wait.is_gone,
                keep_going: &mut || true,
            })
        } else {
            self.enter(wait)
        };
        match entered {
            Ok(()) => {}
            Err(other) if stop == Stop::Interrupted => return Err(other),
            Err(other) => return self.give_up(wait, phase, other, is_forked),
        }
        let now = self.phase.load(Ordering::Relaxed);
        if now == phase {
            self.break_now(phase);
        }
        self.leave(wait.me);
        if now != phase && stop == Stop::TimedOut {
            return outcome(phase, now);
        }
        Err(stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_remembered_for_a_while_and_across_the_wrap() {
        for first in [0, (NUMBERS - 1) * PHASE, NUMBERS * PHASE] {
            for is_broken in [false, true] {
                let mut now = next(first, is_broken);
                for _ in 0..REMEMBERED - 1 {
                    assert_eq!(has_broken(first, now), is_broken);
                    now = next(now, !is_broken);
                }
                assert_eq!(has_broken(first, now), is_broken);
                assert!(!has_broken(first, next(now, true)));
            }
        }
        assert!(has_broken(6, 6 | BROKEN));
    }
}
