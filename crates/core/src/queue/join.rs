//! Knowing that all items were done with.
//!
//! Guarantee: an item counts from the instant when it is in the queue until somebody tells
//! that it is done with; both counts are exact, whoever dies. Who has closed the queue can
//! still tell, and wait for it.

use core::mem::offset_of;

use super::mark::{self, Mark};
use super::open::Queue;
use super::protocol::wake_all;
use super::waiting::{Place, Waiting};
use crate::error::{Error, Result};
use crate::layout::queues::QueueHeader;
use crate::lock::kernel::System;
use crate::lock::wait::Stop;
use crate::sync::{AtomicU64, Ordering};

impl Queue {
    fn done(&self) -> Result<&AtomicU64> {
        self.word(offset_of!(QueueHeader, done))
    }

    /// How many items were put and are not done with.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn unfinished(&self) -> Result<u64> {
        self.check_held()?;
        // The older count first: never too few.
        let done = self.done()?.load(Ordering::Acquire);
        Ok(mark::unfinished(
            Mark(self.tail()?.load(Ordering::Acquire)),
            done,
        ))
    }

    /// Tells that one item is done with.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when all are already.
    pub fn task_done(&self) -> Result<()> {
        self.check_held()?;
        let word = self.done()?;
        let mut done = word.load(Ordering::Acquire);
        let left = loop {
            let tail = Mark(self.tail()?.load(Ordering::Acquire));
            let left = mark::unfinished(tail, done);
            if left == 0 {
                return Err(Error::NotAllowed("task_done() called too many times"));
            }
            // Release: who joins sees what was done.
            match word.compare_exchange(
                done,
                done.wrapping_add(1),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break left - 1,
                Err(now) => done = now,
            }
        };
        // Relaxed: a figure of this process.
        let less = |taken: u64| taken.checked_sub(1);
        let _ = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if left == 0 {
            wake_all(self.word(offset_of!(QueueHeader, joiners))?, System);
        }
        Ok(())
    }

    /// Waits until all items were done with, also if the queue is closed here; one that is
    /// closed meanwhile is refused.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`]; [`Error::PeerDied`] when nobody is left
    /// who could do what is to be done; [`Error::NotAllowed`] in a child that was forked
    /// after the queue was closed.
    pub fn join(
        &self,
        timeout_ns: Option<u64>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> std::result::Result<(), Stop> {
        let was_closed = self.is_closed();
        if was_closed && !self.is_known_here() {
            self.check()?; // it is not to be come to again
        }
        let waiting = &mut Waiting::new(self.me()?, timeout_ns, keep_going);
        let place = Place {
            word: self.done()?,
            waiters: self.word(offset_of!(QueueHeader, joiners))?,
            spins: None,
        };
        let joined = self.join_at(place, was_closed, waiting);
        if joined.is_ok() {
            // Who left before may have been woken for all.
            self.pass_on(place, waiting, true);
        }
        self.left(place, waiting, joined)
    }

    fn join_at(
        &self,
        place: Place<'_>,
        was_closed: bool,
        waiting: &mut Waiting<'_>,
    ) -> std::result::Result<(), Stop> {
        loop {
            if !was_closed {
                self.check()?;
            }
            let done = place.word.load(Ordering::Acquire);
            if self.unfinished()? == 0 {
                return Ok(());
            }
            match self.wait(place, done, waiting) {
                // Threads of ours may be at it.
                Err(Stop::Failed(Error::PeerDied)) if self.is_busy_here() => {}
                other => other?,
            }
        }
    }

    fn is_busy_here(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > 0
    }
}
