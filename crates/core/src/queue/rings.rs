//! The chain of rings: which ring holds which items, linking and retiring.
//!
//! Guarantees: an entry does not change from its linking until `rings_first` has passed
//! it, which happens when `head` has passed its items; a ring's memory is held by its
//! token from before it is linked, and by each process that has it mapped.

use core::mem::{offset_of, size_of};
use std::ops::Deref;
use std::sync::Arc;

use super::mark::Mark;
use super::open::Queue;
use super::ring::RingMemory;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::queues::{
    HANDLE_BYTES, QueueHeader, RING_TABLE, RINGS, Ring, UNIT_BYTES, UNITS_MAX,
};
use crate::participation::contained::{end_tokens, send_within};
use crate::participation::{self, Handle};
use crate::sync::Ordering;

/// A ring in use.
#[derive(Debug)]
pub(super) enum RingRef<'q> {
    /// In the queue's own block.
    First(&'q RingMemory),
    /// In a block of its own.
    Own(Arc<RingMemory>),
}

impl Deref for RingRef<'_> {
    type Target = RingMemory;

    fn deref(&self) -> &RingMemory {
        match self {
            RingRef::First(ring) => ring,
            RingRef::Own(ring) => ring,
        }
    }
}

/// What this process remembers of rings. Guarded by the process's lock: what is taken out
/// of here is dropped after that was released.
#[derive(Debug, Default)]
pub(super) struct Known {
    rings: Vec<(u64, Arc<RingMemory>)>,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) base: Mark,
    units: u64,
    /// `None`: the first ring.
    pub(super) handle: Option<Handle>,
}

/// The ring of a mark.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) number: u64,
    /// Where the next ring's items begin, if there is one.
    pub(super) end: Option<Mark>,
}

impl Queue {
    pub(super) fn rings_first(&self) -> Result<u64> {
        let word = self.word(offset_of!(QueueHeader, rings_first))?;
        Ok(word.load(Ordering::Acquire))
    }

    pub(super) fn rings_last(&self) -> Result<u64> {
        let word = self.word(offset_of!(QueueHeader, rings_last))?;
        Ok(word.load(Ordering::Acquire))
    }

    /// First and last ring.
    pub(super) fn rings(&self) -> Result<(u64, u64)> {
        // In this order: the last is never before the first.
        let first = self.rings_first()?;
        let last = self.rings_last()?;
        if last.wrapping_sub(first) >= RINGS as u64 {
            return Err(Error::Damaged("a queue with too many rings"));
        }
        Ok((first, last))
    }

    fn entry_offset(number: u64) -> usize {
        RING_TABLE + (number % RINGS as u64) as usize * size_of::<Ring>()
    }

    fn base_of(&self, number: u64) -> Result<Mark> {
        let base = self.word(Self::entry_offset(number) + offset_of!(Ring, base))?;
        Ok(Mark(base.load(Ordering::Acquire)))
    }

    pub(super) fn entry(&self, number: u64) -> Result<Entry> {
        let at = Self::entry_offset(number);
        let mut bytes = [0; HANDLE_BYTES];
        let from = self.at + at + offset_of!(Ring, handle);
        self.mapping.read_bytes(from, &mut bytes)?;
        let handle = if bytes == [0; HANDLE_BYTES] {
            None
        } else {
            Some(Handle::from_bytes(&bytes)?)
        };
        Ok(Entry {
            base: self.base_of(number)?,
            units: self
                .word(at + offset_of!(Ring, units))?
                .load(Ordering::Relaxed),
            handle,
        })
    }

    /// The ring where the item at `mark` is, which has been committed.
    pub(super) fn locate(&self, mark: Mark) -> Result<Located> {
        let (first, last) = self.rings()?;
        if first == last {
            return Ok(Located {
                number: last,
                end: None,
            });
        }
        let mut number = last;
        let mut end = None;
        loop {
            let base = self.base_of(number)?;
            if mark.has_reached(base) || number == first {
                return Ok(Located { number, end });
            }
            end = Some(base);
            number = number.wrapping_sub(1);
        }
    }

    /// A ring that is mapped here already.
    pub(super) fn known_ring(&self, number: u64) -> Option<RingRef<'_>> {
        // Relaxed: a copy of what this process has read.
        if self.first_number.load(Ordering::Relaxed) == number {
            return Some(RingRef::First(&self.first));
        }
        let known = self.known.lock();
        let found = known.rings.iter().find(|(each, _)| *each == number);
        found.map(|(_, ring)| RingRef::Own(Arc::clone(ring)))
    }

    /// A ring, mapped.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when it was retired meanwhile, and as
    /// [`participation::receive`].
    pub(super) fn ring(
        &self,
        number: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<RingRef<'_>> {
        if let Some(ring) = self.known_ring(number) {
            return Ok(ring);
        }
        let entry = self.entry(number)?;
        // What was read is the ring's if it is in use after that.
        crate::sync::fence(Ordering::Acquire);
        if self.rings_first()?.wrapping_sub(number) as i64 > 0 {
            return Err(Error::Stale);
        }
        let Some(mut handle) = entry.handle else {
            self.first_number.store(number, Ordering::Relaxed);
            return Ok(RingRef::First(&self.first));
        };
        // The token is the queue's.
        handle.token = None;
        let hold = match participation::receive(&handle, keep_going) {
            Err(Error::UnknownFamily) => {
                let _kept = participation::contained::attach_for(&handle, keep_going)?;
                participation::receive(&handle, keep_going)?
            }
            other => other?,
        };
        let ring = RingMemory::new(
            Arc::clone(hold.mapping()),
            hold.offset_bytes(),
            hold.size_bytes(),
            entry.units,
            Some(hold),
        )?;
        let ring = Arc::new(ring);
        self.remember(number, &ring)?;
        Ok(RingRef::Own(ring))
    }

    fn remember(&self, number: u64, ring: &Arc<RingMemory>) -> Result<()> {
        let first = self.rings_first()?;
        let mut retired = Vec::with_capacity(RINGS);
        let mut known = self.known.lock();
        retired.extend(known.take_retired(first));
        if known.rings.iter().all(|(each, _)| *each != number) {
            known.rings.push((number, Arc::clone(ring)));
        }
        drop(known);
        drop(retired);
        Ok(())
    }

    /// Lets go of rings that were retired.
    #[inline]
    pub(super) fn forget_retired(&self, first: u64) {
        // Relaxed: a hint of when to look.
        if self.seen_first.load(Ordering::Relaxed) != first {
            self.seen_first.store(first, Ordering::Relaxed);
            let mut known = self.known.lock();
            let retired: Vec<_> = known.take_retired(first).collect();
            drop(known);
            drop(retired);
        }
    }

    /// Under the lock: makes a ring the last one.
    pub(super) fn link(&self, tail: Mark, units: u64, handle: Option<&Handle>) -> Result<()> {
        let (first, last) = self.rings()?;
        if last.wrapping_sub(first) + 1 >= RINGS as u64 {
            return Err(Error::Full {
                what: "rings of a queue",
                limit: RINGS,
            });
        }
        let number = last.wrapping_add(1);
        let at = Self::entry_offset(number);
        let bytes = handle.map_or([0; HANDLE_BYTES], Handle::to_bytes);
        let to = self.at + at + offset_of!(Ring, handle);
        self.mapping.write_bytes(to, &bytes)?;
        self.word(at + offset_of!(Ring, units))?
            .store(units, Ordering::Relaxed);
        self.word(at + offset_of!(Ring, base))?
            .store(tail.0, Ordering::Release);
        point("grow.written");
        // Before any tail beyond it.
        self.word(offset_of!(QueueHeader, rings_last))?
            .store(number, Ordering::Release);
        point("grow.linked");
        Ok(())
    }

    /// Under the lock: whether the first ring is in use.
    fn is_first_ring_in_use(&self) -> Result<bool> {
        let (first, last) = self.rings()?;
        let mut number = first;
        loop {
            if self.entry(number)?.handle.is_none() {
                return Ok(true);
            }
            if number == last {
                return Ok(false);
            }
            number = number.wrapping_add(1);
        }
    }

    /// Under the lock, the queue being empty: back to the first ring.
    pub(super) fn shrink(&self, tail: Mark) -> Result<bool> {
        if self.is_first_ring_in_use()? {
            return Ok(false);
        }
        self.link(tail, self.first.units(), None)?;
        self.retire(tail)?;
        Ok(true)
    }

    /// Under the lock: lets go of the rings that `head` has passed.
    pub(super) fn retire(&self, head: Mark) -> Result<()> {
        let (mut first, last) = self.rings()?;
        while first != last && head.has_reached(self.base_of(first.wrapping_add(1))?) {
            let entry = self.entry(first)?;
            first = first.wrapping_add(1);
            self.word(offset_of!(QueueHeader, rings_first))?
                .store(first, Ordering::Release);
            point("retire.passed");
            end_tokens(entry.handle.as_slice());
            point("retire.ended");
        }
        Ok(())
    }

    /// Not under the lock: a ring with room for `units`, larger than one of `than`.
    pub(super) fn make_ring(
        &self,
        after: u64,
        than: u64,
        units: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<NewRing> {
        let units = (than * 2).max(units.next_power_of_two() * 2).min(UNITS_MAX);
        let hold = participation::allocate(units * UNIT_BYTES as u64, keep_going)?;
        hold.tell(keep_going)?;
        self.root.tell_as_container(keep_going)?;
        let after = Some(after);
        Ok(NewRing { after, units, hold })
    }

    /// Under the lock: links a new ring.
    pub(super) fn link_new(&self, tail: Mark, new: NewRing) -> Result<()> {
        let NewRing { units, hold, .. } = new;
        let mut handles = Vec::with_capacity(1);
        send_within(&[&hold], &self.container, &mut handles)?;
        point("grow.token");
        if let Err(error) = self.link(tail, units, handles.first()) {
            end_tokens(&handles);
            return Err(error);
        }
        let number = self.rings_last()?;
        let ring = RingMemory::new(
            Arc::clone(hold.mapping()),
            hold.offset_bytes(),
            hold.size_bytes(),
            units,
            Some(hold),
        )?;
        self.remember(number, &Arc::new(ring))
    }
}

impl Known {
    /// Takes out the rings before `first`.
    fn take_retired(&mut self, first: u64) -> impl Iterator<Item = (u64, Arc<RingMemory>)> {
        self.rings.extract_if(.., move |(number, _)| {
            first.wrapping_sub(*number) as i64 > 0
        })
    }
}

/// A ring that is about to be linked.
#[derive(Debug)]
pub(super) struct NewRing {
    /// To be linked only while this is the last one.
    pub(super) after: Option<u64>,
    units: u64,
    hold: participation::Hold,
}
