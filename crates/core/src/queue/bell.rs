//! Waiting without a thread: bells.
//!
//! Guarantee: who has set its bell's bit, and found nothing after that, is rung at the next
//! change, or another waiter is in its place, which passes on what it leaves. A bell that
//! rings for nothing costs a look. Where bells cannot reach (another network namespace, a
//! table that is full) a look each slice does instead: callers set a timer. An entry goes with
//! its bell ([`forget_bell`]); one that stayed all the same is its process's to use again.

use core::mem::{offset_of, size_of};

use super::open::Queue;
use super::protocol::{announce_bell, wake_one};
use super::waiting::Place;
use crate::error::{Error, Result};
use crate::layout::Participant;
use crate::layout::queues::{BELL_TABLE, BELLS, Bell, PEERS};
use crate::lock::kernel::System;
use crate::participation::Asking;
use crate::participation::queues::for_each_open;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::doorbell::{self, Doorbell, Name};

/// Takes a bell out of all queues that are open here, before it ends.
pub fn forget_bell(bell: &Doorbell) {
    for_each_open(&mut |mapping, peers, me| {
        let Some(at) = peers.checked_sub(PEERS) else {
            return;
        };
        for index in 0..BELLS {
            let entry = at + BELL_TABLE + index * size_of::<Bell>();
            let name = mapping.shared_word(entry + offset_of!(Bell, name));
            if name.is_ok_and(|name| name.load(Ordering::Acquire) == bell.name().0)
                && let Ok(owner) = mapping.shared_word(entry + offset_of!(Bell, owner))
            {
                // Fails for that of a parent who has the same bell.
                let _ = owner.compare_exchange(me.pack(), 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    });
}

impl Queue {
    /// Asks for a ring when there may be an item; `false` when there is one already.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when too many processes wait so.
    pub fn ring_for_items(&self, bell: &Doorbell) -> Result<bool> {
        self.check()?;
        self.ask(self.for_items()?, bell)?;
        let (head, tail) = self.look()?;
        Ok(head == tail)
    }

    /// Asks for a ring when there may be room; `false` when there is some already.
    ///
    /// # Errors
    ///
    /// As [`Queue::ring_for_items`].
    pub fn ring_for_room(&self, bell: &Doorbell) -> Result<bool> {
        self.check()?;
        self.ask(self.for_room()?, bell)?;
        Ok(self.maxsize > 0 && self.size()? >= self.maxsize)
    }

    /// To be called by who was rung and has done what it could, or nothing: others that
    /// wait for the same are woken if there is more.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn pass_on_ring(&self) -> Result<()> {
        self.check()?;
        let size = self.size()?;
        if size > 0 {
            self.wake(self.for_items()?);
        }
        if self.maxsize > 0 && size < self.maxsize {
            self.wake(self.for_room()?);
        }
        Ok(())
    }

    fn ask(&self, place: Place<'_>, bell: &Doorbell) -> Result<()> {
        let me = self.me()?;
        let index = self.bell(me, bell.name())?;
        announce_bell(place.waiters, index);
        Ok(())
    }

    /// The entry of a bell; if it has none that of one of ours which is no more, a free one,
    /// or a dead participant's.
    fn bell(&self, me: Participant, name: Name) -> Result<usize> {
        let mut ours = Vec::new();
        for index in 0..BELLS {
            let owner = self.bell_owner(index)?.load(Ordering::Acquire);
            if owner == me.pack() {
                let seen = self.bell_name(index)?.load(Ordering::Acquire);
                if seen == name.0 {
                    return Ok(index);
                }
                ours.push((index, seen));
            }
        }
        // Only of ours: others may be in a network namespace that we do not see.
        for (index, seen) in ours {
            // By the name, so that of two threads one has it.
            if !doorbell::exists(Name(seen))
                && self
                    .bell_name(index)?
                    .compare_exchange(seen, name.0, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            {
                return Ok(index);
            }
        }
        let mut free = None;
        for index in 0..BELLS {
            let owner = self.bell_owner(index)?.load(Ordering::Acquire);
            let is_free = match Participant::unpack(owner) {
                Some(who) => who != me && self.root.is_gone(who, Asking::Once),
                None => true,
            };
            if is_free {
                free = Some((index, owner));
                break;
            }
        }
        let full = Error::Full {
            what: "processes that wait for a queue without a thread",
            limit: BELLS,
        };
        let (index, owner) = free.ok_or(full.clone())?;
        let word = self.bell_owner(index)?;
        let is_ours = word
            .compare_exchange(owner, me.pack(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if !is_ours {
            return Err(full); // somebody else was quicker: as good as full, for a slice
        }
        self.bell_name(index)?.store(name.0, Ordering::Release);
        Ok(index)
    }

    /// Wakes one that waits for what has just changed.
    #[inline]
    pub(super) fn wake(&self, place: Place<'_>) {
        if let Some(bell) = wake_one(place.waiters, System) {
            self.ring_or_next(place, bell);
        }
    }

    #[cold]
    fn ring_or_next(&self, place: Place<'_>, mut bell: usize) {
        // Each turn takes one bit away.
        for _ in 0..BELLS {
            if self.bell_name(bell).is_ok_and(|name| {
                let name = Name(name.load(Ordering::Acquire));
                doorbell::ring(name)
            }) {
                return;
            }
            match wake_one(place.waiters, System) {
                Some(next) => bell = next,
                None => return,
            }
        }
    }

    /// Gives back this process's bells.
    pub(super) fn forget_bells(&self) -> Result<()> {
        let me = self.me()?;
        for index in 0..BELLS {
            // Fails for those of others.
            let _ = self.bell_owner(index)?.compare_exchange(
                me.pack(),
                0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
        Ok(())
    }

    fn bell_owner(&self, index: usize) -> Result<&AtomicU64> {
        self.word(BELL_TABLE + index * size_of::<Bell>() + offset_of!(Bell, owner))
    }

    fn bell_name(&self, index: usize) -> Result<&AtomicU64> {
        self.word(BELL_TABLE + index * size_of::<Bell>() + offset_of!(Bell, name))
    }
}
