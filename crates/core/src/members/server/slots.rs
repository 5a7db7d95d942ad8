//! Who is in the family, and who is not any more.
//!
//! Guarantees: every slot that is taken is known at the end of the turn in which it is first
//! seen; a death is noticed at once where there is a pidfd, else within a second or so; an
//! `exec` within moments of its likely time, which is soon after the slot was taken, or
//! when a connection ends, and else when something else happens.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use super::SLOT;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{Packed, Participant, SLOTS};
use crate::liveness::Undertaker;
use crate::pool::family::{Family, LIVE, RESERVED};
use crate::sys::process::ProcessId;
use crate::sys::shm;
use crate::sys::socket;

/// How soon after a slot was first seen it is looked at, for `exec`.
const FIRST_LOOK: Duration = Duration::from_millis(5);
/// Looks become rarer up to this; then one comes only when something else happens.
const LAST_LOOK: Duration = Duration::from_secs(10);
/// How often a process without a pidfd is looked at.
const LOOK_UNWATCHED: Duration = Duration::from_secs(1);
/// How often a slot without a process is looked at, so many times; then ever more rarely.
const LOOK_RESERVED: Duration = Duration::from_millis(260);
const LOOKS_RESERVED: u32 = 50;

/// See the module.
pub(super) struct Slots {
    undertaker: Undertaker,
    known: BTreeMap<usize, Known>,
    /// Somebody who was known has gone since the last look.
    has_lost: bool,
}

/// A slot that is taken.
struct Known {
    seen: Packed,
    /// Becomes readable at the end of its process.
    watch: Option<OwnedFd>,
    /// Whether its pid means anything to us.
    can_judge: bool,
    is_tracker: bool,
    look_at: Option<Instant>,
    looked: Instant,
    wait: Duration,
    looks: u32,
}

impl Slots {
    pub(super) fn new(family_fd: &OwnedFd) -> Result<Self> {
        let file = shm::status(family_fd)
            .map_err(|errno| Error::os("look at a family segment", "", errno))?
            .identity;
        Ok(Slots {
            undertaker: Undertaker::of_tracker((file.dev, file.ino)),
            known: BTreeMap::new(),
            has_lost: false,
        })
    }

    /// Nobody has a slot but trackers: another one may serve this family in another network
    /// namespace, and two must not stay for each other's sake.
    pub(super) fn is_empty(&self) -> bool {
        self.known.values().all(|known| known.is_tracker)
    }

    pub(super) fn stranger_came(&mut self) {
        self.undertaker.stranger_came();
    }

    /// When a slot has to be looked at next.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.known.values().filter_map(|known| known.look_at).min()
    }

    /// Reads the family's table.
    pub(super) fn discover(
        &mut self,
        family: &Family,
        me: Participant,
        epoll: &OwnedFd,
        now: Instant,
    ) -> Result<()> {
        for slot in 0..SLOTS {
            let seen = family.slot(slot)?;
            let is_taken = matches!(seen.state, LIVE | RESERVED)
                && (slot, seen.generation) != (me.slot, me.generation);
            match self.known.get(&slot) {
                Some(known) if is_taken && known.seen == seen => continue,
                None if !is_taken => continue,
                known => {
                    // Perhaps without us: others recover the dead as well.
                    self.has_lost |=
                        known.is_some_and(|it| !is_taken || it.seen.generation != seen.generation);
                    self.forget(slot, epoll);
                }
            }
            if is_taken {
                let known = self.meet(family, slot, seen, now);
                self.known.insert(slot, known);
                self.add_watch(slot, epoll);
            }
        }
        Ok(())
    }

    fn meet(&self, family: &Family, slot: usize, seen: Packed, now: Instant) -> Known {
        let who = Participant {
            slot,
            generation: seen.generation,
        };
        // Stale for a slot that changed already, or has no process yet.
        let identity = family.identity(who).ok();
        let judged = identity.filter(|identity| self.undertaker.can_judge(identity));
        let watch = judged.and_then(|identity| {
            let pid = u32::try_from(identity.pid).ok()?;
            let start_ticks = identity.start_ticks;
            ProcessId { pid, start_ticks }.watch()
        });
        Known {
            seen,
            watch,
            can_judge: judged.is_some() || seen.state == RESERVED,
            is_tracker: family.is_tracker(who).unwrap_or(false),
            look_at: Some(now + FIRST_LOOK),
            looked: now,
            wait: FIRST_LOOK,
            looks: 0,
        }
    }

    fn add_watch(&mut self, slot: usize, epoll: &OwnedFd) {
        if let Some(known) = self.known.get_mut(&slot)
            && let Some(watch) = &known.watch
        {
            let data = epoll::EventData::new_u64(SLOT | slot as u64);
            if epoll::add(epoll, watch, data, epoll::EventFlags::IN).is_err() {
                // For want of memory: it is looked at.
                known.watch = None;
            }
        }
    }

    fn forget(&mut self, slot: usize, epoll: &OwnedFd) {
        if let Some(known) = self.known.remove(&slot)
            && let Some(watch) = &known.watch
        {
            // Closing would not do: who sent it may have it open still.
            let _ = epoll::delete(epoll, watch);
        }
    }

    /// Whether the end of everybody that lives will be told of.
    pub(super) fn are_watched(&self) -> bool {
        let mut living = self.known.values().filter(|it| it.seen.state == LIVE);
        living.all(|known| known.watch.is_some() || known.is_tracker)
    }

    /// A process sent a descriptor of itself.
    pub(super) fn watch_by(&mut self, epoll: &OwnedFd, who: Participant, watch: OwnedFd) {
        if let Some(known) = self.known.get_mut(&who.slot)
            && known.seen.state == LIVE
            && known.seen.generation == who.generation
            && known.watch.is_none()
        {
            known.watch = Some(watch);
            self.add_watch(who.slot, epoll);
        }
    }

    /// There is a reason to look at this participant.
    pub(super) fn look_soon(&mut self, who: Participant) {
        if let Some(known) = self.known.get_mut(&who.slot)
            && known.seen.generation == who.generation
        {
            known.look_at = Some(Instant::now());
            known.wait = FIRST_LOOK;
        }
    }

    /// The watch of a slot's process is readable: it is gone for good.
    pub(super) fn process_ended(
        &mut self,
        family: &Family,
        slot: usize,
        epoll: &OwnedFd,
    ) -> Result<()> {
        let Some(known) = self.known.get_mut(&slot) else {
            return Ok(());
        };
        // The event may be that of an earlier watch of this slot.
        if let Some(watch) = known.watch.take_if(|watch| socket::is_readable(watch)) {
            let _ = epoll::delete(epoll, watch);
            point("bury.proved");
            family.declare_dead_if(slot, known.seen)?;
        }
        Ok(())
    }

    /// Looks at those whose time has come; whether somebody was found dead, or had gone.
    pub(super) fn look(&mut self, family: &Family, now: Instant) -> Result<bool> {
        let mut is_news = std::mem::take(&mut self.has_lost);
        let due: Vec<usize> = self
            .known
            .iter()
            .filter(|(_, known)| known.is_due(now))
            .map(|(&slot, _)| slot)
            .collect();
        for slot in due {
            let Some(known) = self.known.get_mut(&slot) else {
                continue;
            };
            let seen = known.seen;
            known.schedule(now);
            is_news |= self.undertaker.bury_one(family, slot, seen)?;
        }
        Ok(is_news)
    }
}

impl Known {
    /// Without a time for it, whatever brings us here is a good moment.
    fn is_due(&self, now: Instant) -> bool {
        let long_ago = || now.saturating_duration_since(self.looked) >= LAST_LOOK;
        self.look_at.map_or_else(long_ago, |when| when <= now)
    }

    /// When to look again after this look.
    fn schedule(&mut self, now: Instant) {
        self.looked = now;
        self.looks = self.looks.saturating_add(1);
        self.wait = match self.seen.state {
            RESERVED if self.looks < LOOKS_RESERVED => LOOK_RESERVED,
            RESERVED => (self.wait * 2).min(LAST_LOOK),
            _ if self.watch.is_none() => (self.wait * 2).min(LOOK_UNWATCHED),
            _ => self.wait * 2,
        };
        let is_last = self.wait > LAST_LOOK || !self.can_judge;
        self.look_at = (!is_last).then(|| now + self.wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(state: u64, has_watch: bool, can_judge: bool) -> Known {
        let watch = has_watch.then(|| crate::sys::process::own_watch().unwrap());
        Known {
            seen: Packed {
                state,
                by: 1,
                generation: 1,
            },
            watch,
            can_judge,
            is_tracker: false,
            look_at: None,
            looked: Instant::now(),
            wait: FIRST_LOOK,
            looks: 0,
        }
    }

    /// How often it is looked at in the first minutes, and how far apart at the end.
    fn looks(mut known: Known) -> (u32, Option<Duration>) {
        let mut now = Instant::now();
        let end = now + Duration::from_secs(600);
        known.schedule(now);
        while let Some(at) = known.look_at.filter(|&at| at < end) {
            now = at;
            assert!(known.is_due(now));
            known.schedule(now);
            assert!(!known.is_due(now));
        }
        (known.looks, known.look_at.map(|at| at - now))
    }

    #[test]
    fn looks_become_rarer_and_cease_only_where_something_else_tells() {
        let (count, last) = looks(known(LIVE, true, true));
        assert_eq!((count, last), (11, None));
        let (count, last) = looks(known(LIVE, false, true));
        assert_eq!(last, Some(LOOK_UNWATCHED));
        assert!(count > 500);
        let (count, last) = looks(known(LIVE, false, false));
        assert_eq!((count, last), (1, None));
        let (count, last) = looks(known(RESERVED, false, true));
        assert_eq!(last, Some(LAST_LOOK));
        assert!((LOOKS_RESERVED..200).contains(&count));
    }

    #[test]
    fn who_was_not_looked_at_for_long_is_when_anything_happens() {
        let mut known = known(LIVE, true, true);
        assert!(!known.is_due(known.looked));
        assert!(known.is_due(known.looked + LAST_LOOK));
        known.schedule(Instant::now());
        assert!(!known.is_due(known.looked));
    }
}
