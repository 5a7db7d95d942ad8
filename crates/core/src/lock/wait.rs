//! One wait: who waits, for how long, and what it asks meanwhile.

use super::kernel::{Kernel, Slept};
use super::{LONGEST_SLICE_NS, SLICE_NS};
use crate::error::Error;
use crate::layout::Participant;
use crate::sync::{AtomicU64, Ordering};

/// Who makes deaths known to those who wait.
pub trait Watch {
    /// What changes whenever somebody died or came, so that sleeps end.
    fn news(&self) -> &AtomicU64;
    /// Whether everybody is watched that had come when `news` was this.
    fn is_watched(&self, news: u64) -> bool;
    /// Whether whoever watches is known to live.
    fn holds(&self) -> bool;
    /// Asks that everybody be watched, of whoever watches, without waiting.
    fn remind(&self);
    /// Sees to it that somebody does, who may have to be started first: that takes
    /// milliseconds, or until `keep_going` says no.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when it did, or it took too long; others where there can be
    /// nobody just now.
    fn begin(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<(), Error>;
}

/// Who waits, for how long, and what to ask meanwhile.
///
/// Neither question is asked before the waiter has slept, but `is_gone` once by those
/// who do not wait at all (a timeout of zero).
pub struct Wait<'a> {
    /// Who waits, or acquires.
    pub me: Participant,
    /// Who makes deaths known, so that slices can be long; `None` where nobody does.
    pub watch: Option<&'a dyn Watch>,
    /// How long at most; `None`: for ever.
    pub timeout_ns: Option<u64>,
    /// Whether a participant is *proved* to be gone (rule P4). Asked after slices about
    /// whoever is waited for. Wrongly said, it gives two processes the same lock.
    pub is_gone: &'a mut dyn FnMut(Participant) -> bool,
    /// Whether to go on; asked after each slice and each signal, never while a lock of
    /// this module's own is held. It may fork: the child's wait is interrupted, whatever
    /// it is told here, and leaves everything as its parent has it.
    pub keep_going: &'a mut dyn FnMut() -> bool,
}

impl Wait<'_> {
    /// Whether this only tries.
    pub fn is_try(&self) -> bool {
        self.timeout_ns == Some(0)
    }
}

impl core::fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Wait")
            .field("me", &self.me)
            .field("timeout_ns", &self.timeout_ns)
            .finish_non_exhaustive()
    }
}

/// Why a wait ended without what it was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The time is over.
    TimedOut,
    /// `keep_going` said no.
    Interrupted,
    /// The barrier is broken.
    Broken,
    /// Something is wrong with the memory, the place or the use.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Interrupted => Stop::Interrupted,
            error => Stop::Failed(error),
        }
    }
}

/// How many wake-ups in a row count as a slice: who is woken often and never lucky
/// has to be asked too whether it goes on.
const LOOKS_MAX: u32 = 16;

/// After how many slices that brought nothing (0.4 s) whoever waits is idle enough to begin
/// a watch. A power of two.
const BEGINS_AFTER: u32 = 8;

/// Who came to wait at the same time as others begins so many slices later at most, by its
/// slot: one who begins is enough.
const BEGINS_APART: usize = 8;

/// What must be left of a wait for that, which may take nearly as long where programs start slowly.
const BEGINS_BEFORE_NS: u64 = 500_000_000;

/// Of so many of the longest slices one ends with a look after the dead while a watch holds: for
/// what nobody tells of.
const RESTS: u32 = 4;

/// What a slice of sleep brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nap {
    /// The word changed, or we were woken: look at the word.
    Look,
    /// Time passed, and nobody died who is watched: look at the word, and after what costs no
    /// system call.
    Rest,
    /// Time passed, or somebody died or came: look at the word, and after the dead.
    Slice,
}

/// Acquire: who sees that somebody died sees who.
fn news_of(wait: &Wait<'_>) -> u64 {
    wait.watch
        .map_or(0, |watch| watch.news().load(Ordering::Acquire))
}

/// The sleeps of one wait, which all end at one time.
#[derive(Debug)]
pub(crate) struct Naps {
    end_ns: Option<u64>,
    looks: u32,
    /// As it was before the last look after the dead; whoever died earlier is found by that.
    news: u64,
    /// The length of the next one where all are watched.
    slice_ns: u64,
    /// How many have passed since the last news.
    slices: u32,
    /// Whether this system's sleeps end when somebody died.
    hears_news: bool,
}

impl Naps {
    pub(crate) fn of(wait: &Wait<'_>, kernel: impl Kernel) -> Self {
        let end_ns = match wait.timeout_ns {
            None => None,
            // Who only tries needs no clock.
            Some(0) => Some(0),
            // An end that no clock will reach is none.
            Some(timeout_ns) => kernel.now_ns().checked_add(timeout_ns),
        };
        Naps {
            end_ns,
            looks: 0,
            news: news_of(wait),
            slice_ns: SLICE_NS,
            slices: 0,
            hears_news: false,
        }
    }

    /// Something may be about to happen: the next slices are short.
    pub(crate) fn shorten(&mut self) {
        self.slice_ns = SLICE_NS;
    }

    fn left_ns(&self, kernel: impl Kernel) -> u64 {
        match self.end_ns {
            None => u64::MAX,
            Some(0) => 0,
            Some(end_ns) => end_ns.saturating_sub(kernel.now_ns()),
        }
    }

    fn sleep(
        &mut self,
        wait: &Wait<'_>,
        kernel: impl Kernel,
        (word, seen): (&AtomicU64, u64),
        left_ns: u64,
    ) -> Slept {
        let short_ns = left_ns.min(SLICE_NS);
        let Some(watch) = wait.watch else {
            return kernel.sleep(word, seen, short_ns);
        };
        // Whoever comes after this look changes `news`, and the sleep ends.
        let at_most_ns = match watch.is_watched(self.news) {
            true => left_ns.min(self.slice_ns),
            false => short_ns,
        };
        let slept = kernel.sleep_on_either((word, seen), (watch.news(), self.news), at_most_ns);
        self.hears_news = slept.is_some();
        slept.unwrap_or_else(|| kernel.sleep(word, seen, short_ns))
    }

    /// After a slice that brought nothing; not one cut short by a time that is over, or who asks
    /// again and again would remind each time.
    fn count_slice(
        &mut self,
        wait: &mut Wait<'_>,
        kernel: impl Kernel,
        (word, seen): (&AtomicU64, u64),
    ) -> Result<(), Stop> {
        self.slice_ns = LONGEST_SLICE_NS.min(2 * self.slice_ns);
        self.slices = self.slices.saturating_add(1);
        let Some(watch) = wait.watch else {
            return Ok(());
        };
        let in_vain = self.slices - self.slices.min((wait.me.slot % BEGINS_APART) as u32);
        let is_idle = in_vain >= BEGINS_AFTER && self.left_ns(kernel) >= BEGINS_BEFORE_NS;
        let may_begin = is_idle && self.hears_news;
        // Ever more rarely: it may be that somebody cannot be watched.
        let is_due = if may_begin { in_vain } else { self.slices }.is_power_of_two();
        if !is_due || watch.is_watched(self.news) {
            return Ok(());
        }
        if !may_begin {
            watch.remind();
            return Ok(());
        }
        let (epoch, mut is_refused) = (kernel.epoch(), false);
        let begun = watch.begin(&mut || {
            is_refused = is_refused || !(wait.keep_going)();
            // Not when there is something to do instead.
            let is_idle = word.load(Ordering::Relaxed) == seen && self.left_ns(kernel) > 0;
            !is_refused && is_idle && kernel.epoch() == epoch
        });
        match begun {
            _ if is_refused => Err(Stop::Interrupted),
            // It is for the processor's sake only: without it slices are short.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether a slice that brought nothing was long, and nobody died in it that is watched.
    fn was_rest(&self, wait: &Wait<'_>) -> bool {
        let is_watched = |watch: &dyn Watch| watch.is_watched(self.news) && watch.holds();
        self.hears_news
            && self.slice_ns == LONGEST_SLICE_NS
            && !self.slices.is_multiple_of(RESTS)
            && wait.watch.is_some_and(is_watched)
    }

    /// Sleeps while `word` is `seen`, for one slice.
    ///
    /// It may end by a wake-up that was meant for one of many: who gives up after a nap
    /// must pass that on.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`] without having slept, [`Stop::Interrupted`].
    pub(crate) fn nap(
        &mut self,
        wait: &mut Wait<'_>,
        kernel: impl Kernel,
        word: &AtomicU64,
        seen: u64,
    ) -> Result<Nap, Stop> {
        let left_ns = self.left_ns(kernel);
        if left_ns == 0 {
            return Err(Stop::TimedOut);
        }
        let epoch = kernel.epoch();
        let slept = self.sleep(wait, kernel, (word, seen), left_ns);
        self.looks += 1;
        let news = news_of(wait);
        let is_news = news != self.news;
        let was_called = matches!(slept, Slept::Woken | Slept::Changed);
        if was_called && !is_news && self.looks < LOOKS_MAX {
            return Ok(Nap::Look);
        }
        self.looks = 0;
        self.news = news;
        let mut found = Nap::Slice;
        if is_news {
            self.shorten();
            self.slices = 0;
        } else if slept == Slept::Elapsed && left_ns >= SLICE_NS {
            self.count_slice(wait, kernel, (word, seen))?;
            if self.was_rest(wait) {
                found = Nap::Rest;
            }
        }
        if (wait.keep_going)() && kernel.epoch() == epoch {
            Ok(found)
        } else {
            Err(Stop::Interrupted)
        }
    }
}

/// How far apart looks are that are too dear for each slice.
#[cfg(not(loom))]
const SELDOM_NS: u64 = 200_000_000;

/// Says once in a while that it is time.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    next_ns: u64,
}

#[cfg(not(loom))]
impl Seldom {
    /// Whether it is; then it is not for a while.
    pub(crate) fn is_due(&mut self, kernel: impl Kernel) -> bool {
        let now_ns = kernel.now_ns();
        let is_due = now_ns >= self.next_ns;
        if is_due {
            self.next_ns = now_ns.saturating_add(SELDOM_NS);
        }
        is_due
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
