//! A queue as this process has it: making, opening, closing.
//!
//! Guarantee: who has a queue open stands in its table of peers; the last one to close it
//! leaves nothing in it.

use core::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use super::mark::Mark;
use super::protocol;
use super::ring::RingMemory;
use super::rings::Known;
use crate::error::{Error, Result};
use crate::layout::Participant;
use crate::layout::queues::{FIRST_RING, PEERS, QUEUE_KIND, QueueHeader, UNIT_BYTES, UNITS_MAX};
use crate::lock::kernel::System;
use crate::lock::word::LockWord;
use crate::mapping::Mapping;
use crate::participation::queues::Closed;
use crate::participation::{self, Handle, Hold, Presence, Sent};
use crate::pool::tokens::Container;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::fork::{self, ForkGuarded};

/// The first ring of a queue, in bytes.
pub const CAPACITY_BYTES: u64 = 256 << 10;
/// Payloads up to this go through the ring, larger ones by a block of their own, in
/// bytes. Through the ring is one copy more; a block costs about a microsecond.
pub const INLINE_MAX_BYTES: u64 = 16 << 10;

/// What a queue is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueOptions {
    /// How many items it has at most; zero: no limit.
    pub maxsize: u64,
    /// The length of its first ring, in bytes; rounded up to a power of two.
    pub capacity_bytes: u64,
    /// Larger payloads go by a block of their own, in bytes; a quarter of the first ring
    /// at most.
    pub inline_max_bytes: u64,
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions {
            maxsize: 0,
            capacity_bytes: CAPACITY_BYTES,
            inline_max_bytes: INLINE_MAX_BYTES,
        }
    }
}

/// A queue, as this process has it. Dropping it closes it.
#[derive(Debug)]
pub struct Queue {
    pub(super) root: Hold,
    pub(super) mapping: Arc<Mapping>,
    /// Where the block begins in it.
    pub(super) at: usize,
    pub(super) container: Container,
    pub(super) presence: Presence,
    pub(super) maxsize: u64,
    pub(super) inline_max: usize,
    pub(super) first: RingMemory,
    /// The number under which the first ring is linked, as last seen.
    pub(super) first_number: AtomicU64,
    pub(super) known: ForkGuarded<Known>,
    /// The first ring in use, as last seen.
    pub(super) seen_first: AtomicU64,
    /// Who this process is, and in which fork epoch that was so.
    pub(super) me: AtomicU64,
    pub(super) epoch: AtomicU32,
    pub(super) is_closed: AtomicBool,
    /// Items that were got through this object and not told to be done.
    pub(super) taken: AtomicU64,
}

impl Queue {
    /// Makes a queue in a block of this process's pool.
    ///
    /// # Errors
    ///
    /// As [`participation::allocate`].
    pub fn create(options: QueueOptions, keep_going: &mut dyn FnMut() -> bool) -> Result<Self> {
        let units = options.capacity_bytes.div_ceil(UNIT_BYTES as u64);
        let units = units.clamp(4, UNITS_MAX).next_power_of_two();
        let ring_bytes = units * UNIT_BYTES as u64;
        let root = participation::allocate(FIRST_RING as u64 + ring_bytes, keep_going)?;
        let (mapping, at) = (root.mapping(), root.offset_bytes());
        mapping.zero_bytes(at, FIRST_RING)?;
        for (field, value) in [
            (offset_of!(QueueHeader, maxsize), options.maxsize),
            (
                offset_of!(QueueHeader, inline_max),
                options.inline_max_bytes.min(ring_bytes / 4),
            ),
            (offset_of!(QueueHeader, units), units),
            // Of the first entry the handle is zero: the first ring.
            (crate::layout::queues::RING_TABLE + 8, units),
        ] {
            mapping.store_u64(at + field, value)?;
        }
        mapping
            .shared_word(at + offset_of!(QueueHeader, kind))?
            .store(QUEUE_KIND, Ordering::Release);
        Queue::open(root)
    }

    /// The queue in a block that was received.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`] when there is none, [`Error::Damaged`] when it cannot be.
    pub fn open(root: Hold) -> Result<Self> {
        let mapping = Arc::clone(root.mapping());
        let at = root.offset_bytes();
        let room = root
            .size_bytes()
            .checked_sub(FIRST_RING)
            .ok_or_else(|| Error::WrongSegment("it is too small for a queue"))?;
        let word = |field| mapping.shared_word(at + field);
        if word(offset_of!(QueueHeader, kind))?.load(Ordering::Acquire) != QUEUE_KIND {
            return Err(Error::WrongSegment("there is no queue in this block"));
        }
        let fixed = |field| mapping.load_u64(at + field);
        let units = fixed(offset_of!(QueueHeader, units))?;
        let first = RingMemory::new(Arc::clone(&mapping), at + FIRST_RING, room, units, None)?;
        let inline_max = fixed(offset_of!(QueueHeader, inline_max))?;
        if inline_max > units * UNIT_BYTES as u64 / 4 {
            return Err(Error::Damaged(
                "a queue that would put too much into a ring",
            ));
        }
        let maxsize = fixed(offset_of!(QueueHeader, maxsize))?;
        let container = root.container()?;
        let me = root.open_queue(at + PEERS)?;
        let presence = root.presence()?;
        Ok(Queue {
            presence,
            mapping,
            at,
            container,
            maxsize,
            // At most 2^27.
            inline_max: inline_max as usize,
            first,
            first_number: AtomicU64::new(0),
            known: ForkGuarded::new(Known::default()),
            seen_first: AtomicU64::new(0),
            me: AtomicU64::new(me.pack()),
            epoch: AtomicU32::new(fork::epoch()),
            is_closed: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            root,
        })
    }

    /// A handle to be sent, as an array's.
    ///
    /// # Errors
    ///
    /// As [`Hold::send`].
    pub fn send(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<(Handle, Sent)> {
        self.root.send(keep_going)
    }

    /// The block.
    pub fn hold(&self) -> &Hold {
        &self.root
    }

    /// How many items there may be; zero: no limit.
    pub fn maxsize(&self) -> u64 {
        self.maxsize
    }

    /// How many items are in it, at one instant.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn size(&self) -> Result<u64> {
        self.check()?;
        Ok(protocol::size(self.head()?, self.tail()?))
    }

    /// Whether it is closed here.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Whether anything was ever put in it; closed ones can be asked as well.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn was_used(&self) -> Result<bool> {
        if self.root.is_dropped() {
            return Err(Error::Dropped);
        }
        Ok(Mark(self.tail()?.load(Ordering::Acquire)) != Mark::START)
    }

    /// Closes it here: this process puts and gets no more, which others that wait take
    /// into account. The last process to close it empties it.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`]; [`Error::Damaged`] for garbage in the queue.
    pub fn close(&self) -> Result<()> {
        if self.is_closed.swap(true, Ordering::AcqRel) || self.root.is_dropped() {
            return Ok(());
        }
        // Threads of ours that wait in it are refused now.
        for waiters in [
            offset_of!(QueueHeader, getters),
            offset_of!(QueueHeader, putters),
            offset_of!(QueueHeader, joiners),
        ] {
            protocol::disturb(self.word(waiters)?, System);
        }
        match self.root.close_queue()? {
            Closed::OpenHere => Ok(()),
            Closed::OpenElsewhere => self.forget_bells(),
            Closed::Everywhere => {
                if self.empty()? {
                    participation::queues::forget_queue(&self.container);
                }
                Ok(())
            }
        }
    }

    /// Ends all tokens that are in it; whether that was all of them.
    fn empty(&self) -> Result<bool> {
        let me = self.me()?;
        while self.discard_one()? {}
        let lock = self.lock()?;
        // Held: somebody has it after all.
        let is_nobodys = lock.try_acquire(me).is_some();
        if is_nobodys {
            let done = self.let_rings_go();
            lock.release(me, false);
            done?;
        }
        self.forget_retired(self.rings_first()?);
        Ok(is_nobodys)
    }

    fn let_rings_go(&self) -> Result<()> {
        let (head, tail) = self.look()?;
        if head == tail {
            // First those that were passed: the first ring may be among them.
            self.retire(head)?;
            self.shrink(tail)?;
        }
        Ok(())
    }

    /// Refuses what was closed here, or let go of.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_closed() {
            return Err(Error::NotAllowed("the queue is closed in this process"));
        }
        self.check_held()
    }

    /// Refuses what was let go of.
    pub(super) fn check_held(&self) -> Result<()> {
        // Only in a forked child may it have been.
        if fork::epoch() != 0 && self.root.is_dropped() {
            return Err(Error::Dropped);
        }
        Ok(())
    }

    /// Says that this process, a forked child, is one that has the queue: from now on its
    /// death is noticed by those who wait. Its first use of the queue says so too.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when it is closed here, [`Error::Dropped`].
    pub fn come(&self) -> Result<()> {
        self.check()?;
        self.me().map(drop)
    }

    /// Whether this process, not only one that it was forked from, has come to the queue.
    pub(super) fn is_known_here(&self) -> bool {
        self.epoch.load(Ordering::Acquire) == fork::epoch()
    }

    /// Who this process is.
    pub(super) fn me(&self) -> Result<Participant> {
        let epoch = fork::epoch();
        if self.is_known_here()
            && let Some(me) = Participant::unpack(self.me.load(Ordering::Relaxed))
        {
            return Ok(me);
        }
        let me = self.root.come_to_queue()?;
        self.taken.store(0, Ordering::Relaxed);
        self.me.store(me.pack(), Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Release);
        Ok(me)
    }

    pub(super) fn word(&self, field: usize) -> Result<&AtomicU64> {
        self.mapping.shared_word(self.at + field)
    }

    pub(super) fn head(&self) -> Result<&AtomicU64> {
        self.word(offset_of!(QueueHeader, head))
    }

    pub(super) fn tail(&self) -> Result<&AtomicU64> {
        self.word(offset_of!(QueueHeader, tail))
    }

    pub(super) fn look(&self) -> Result<(Mark, Mark)> {
        Ok(protocol::look(self.head()?, self.tail()?))
    }

    /// The lock of putters.
    pub(super) fn lock(&self) -> Result<LockWord<'_, System>> {
        Ok(LockWord {
            word: self.word(offset_of!(QueueHeader, lock))?,
            spins: self.word(offset_of!(QueueHeader, lock_spins))?,
            kernel: System,
        })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // An error is that of a damaged queue, in which nothing can be found.
        let _ = self.close();
    }
}
