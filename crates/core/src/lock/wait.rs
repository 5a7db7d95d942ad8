//! One wait: who waits, for how long, and what it asks meanwhile.

use super::SLICE_NS;
use super::kernel::{Kernel, Slept};
use crate::error::Error;
use crate::layout::Participant;
use crate::sync::AtomicU64;

/// Who waits, for how long, and what to ask meanwhile.
///
/// Neither question is asked before the waiter has slept, but `is_gone` once by those
/// who do not wait at all (a timeout of zero).
pub struct Wait<'a> {
    /// Who waits, or acquires.
    pub me: Participant,
    /// How long at most; `None`: for ever.
    pub timeout_ns: Option<u64>,
    /// Whether a participant is *proved* to be gone (rule P4). Asked about once a slice for
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

/// What a slice of sleep brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nap {
    /// The word changed, or we were woken: look at the word.
    Look,
    /// Time passed: look at the word, and after the dead.
    Slice,
}

/// The sleeps of one wait, which all end at one time.
#[derive(Debug)]
pub(crate) struct Naps {
    end_ns: Option<u64>,
    looks: u32,
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
        Naps { end_ns, looks: 0 }
    }

    fn left_ns(&self, kernel: impl Kernel) -> u64 {
        match self.end_ns {
            None => u64::MAX,
            Some(0) => 0,
            Some(end_ns) => end_ns.saturating_sub(kernel.now_ns()),
        }
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
        let slept = kernel.sleep(word, seen, left_ns.min(SLICE_NS));
        self.looks += 1;
        if matches!(slept, Slept::Woken | Slept::Changed) && self.looks < LOOKS_MAX {
            return Ok(Nap::Look);
        }
        self.looks = 0;
        let epoch = kernel.epoch();
        if (wait.keep_going)() && kernel.epoch() == epoch {
            Ok(Nap::Slice)
        } else {
            Err(Stop::Interrupted)
        }
    }
}
