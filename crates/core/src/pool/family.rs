//! A family's participants: who is in, and whose holds count.
//!
//! Guarantees: every change of a slot is one compare-and-swap on a word that
//! carries the slot's generation, so it applies to the life it was meant for or to
//! none; identity words are valid while a slot is `LIVE`. The table of states is in
//! `docs/pool_format.md`; what each kill leaves, in `docs/crash_safety.md`.

use core::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::header::{check_file, check_header};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{
    FAMILY_BYTES, FAMILY_MAGIC, FINGERPRINT, FamilyHeader, Packed, Participant, SLOTS, Slot,
    VERSION, slot_offset,
};
use crate::mapping::Mapping;
use crate::recover::recover_all;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::identity::Identity;
use crate::sys::{anon, futex, shm};

/// Nobody's.
pub const FREE: u64 = 0;
/// Claimed, no process yet.
pub const RESERVED: u64 = 1;
/// A process.
pub const LIVE: u64 = 2;
/// Counts for nothing; to be recovered.
pub const DEAD: u64 = 3;
/// Being recovered.
pub const RECOVERING: u64 = 4;

/// A family segment, mapped.
#[derive(Debug)]
pub struct Family {
    mapping: Mapping,
    id: [u64; 2],
}

impl Family {
    /// Makes a family without members; the descriptor is what others attach by.
    ///
    /// # Errors
    ///
    /// The system's, among them `ENOSPC` where there is no room for 132 KiB.
    pub fn create() -> Result<(Self, OwnedFd)> {
        let os = |errno| Error::os("create a family segment", "", errno);
        let fd = anon::create(FAMILY_BYTES as u64).map_err(os)?;
        anon::commit(&fd, 0, FAMILY_BYTES as u64, &mut || true).map_err(os)?;
        anon::seal(&fd).map_err(os)?;
        let mapping = Mapping::new(&fd, FAMILY_BYTES, false).map_err(os)?;
        let mut random = [0_u8; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(os)?;
        let random = u128::from_ne_bytes(random);
        let id = [random as u64, (random >> 64) as u64];
        let header = [
            (offset_of!(FamilyHeader, version), VERSION),
            (offset_of!(FamilyHeader, fingerprint), FINGERPRINT),
            (offset_of!(FamilyHeader, family_low), id[0]),
            (offset_of!(FamilyHeader, family_high), id[1]),
            (offset_of!(FamilyHeader, slots), SLOTS as u64),
        ];
        for (offset, value) in header {
            mapping.store_u64(offset, value)?;
        }
        let magic = mapping.shared_word(offset_of!(FamilyHeader, magic))?;
        magic.store(FAMILY_MAGIC, Ordering::Release);
        Ok((Family { mapping, id }, fd))
    }

    /// Maps an existing family.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`] when it is not one, or one of another version.
    pub fn attach(fd: impl AsFd) -> Result<Self> {
        let os = |errno| Error::os("attach a family segment", "", errno);
        let status = shm::status(&fd).map_err(os)?;
        if !status.is_regular || status.size_bytes != FAMILY_BYTES as u64 {
            return Err(Error::WrongSegment(
                "it has not the size of a family segment",
            ));
        }
        check_file(&fd, FAMILY_MAGIC)?;
        let mapping = Mapping::new(&fd, FAMILY_BYTES, false).map_err(os)?;
        check_header(&mapping, FAMILY_MAGIC)?;
        let id = [
            mapping.load_u64(offset_of!(FamilyHeader, family_low))?,
            mapping.load_u64(offset_of!(FamilyHeader, family_high))?,
        ];
        Ok(Family { mapping, id })
    }

    /// The family's random identity.
    pub fn id(&self) -> [u64; 2] {
        self.id
    }

    /// The state of a slot, read once.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] for an index that no slot has.
    pub fn slot(&self, index: usize) -> Result<Packed> {
        Ok(Packed::unpack(self.word(index)?.load(Ordering::Acquire)))
    }

    /// Whether this participant's bits hold anything.
    #[inline]
    pub fn counts(&self, participant: Participant) -> bool {
        self.slot(participant.slot).is_ok_and(|slot| {
            slot.generation == participant.generation && matches!(slot.state, RESERVED | LIVE)
        })
    }

    /// Who the participant is, while it is `LIVE`.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when it is not.
    pub fn identity(&self, participant: Participant) -> Result<Identity> {
        let base = slot_offset(participant.slot);
        let field = |offset| self.mapping.load_u64(base + offset);
        let is_live = || -> Result<bool> {
            let slot = self.slot(participant.slot)?;
            Ok(slot.generation == participant.generation && slot.state == LIVE)
        };
        let was_live = is_live()?;
        let identity = Identity {
            pid: field(offset_of!(Slot, pid))?,
            start_ticks: field(offset_of!(Slot, start_ticks))?,
            pid_namespace: field(offset_of!(Slot, pid_namespace))?,
            boot: [
                field(offset_of!(Slot, boot_low))?,
                field(offset_of!(Slot, boot_high))?,
            ],
            image: field(offset_of!(Slot, image))?,
        };
        // Unchanged before and after: the words read belong to this life.
        crate::sync::fence(Ordering::Acquire);
        if was_live && is_live()? {
            Ok(identity)
        } else {
            Err(Error::Stale)
        }
    }

    /// Whether the participant is a tracker, while it is `LIVE`.
    ///
    /// # Errors
    ///
    /// As [`Family::identity`].
    pub fn is_tracker(&self, participant: Participant) -> Result<bool> {
        let word = slot_offset(participant.slot) + offset_of!(Slot, is_tracker);
        let is_tracker = self.mapping.load_u64(word)? == 1;
        crate::sync::fence(Ordering::Acquire);
        // If it lives now, the word was this life's: it is written before.
        self.identity(participant).map(|_| is_tracker)
    }

    /// Joins: this process gets a slot of its own. One that it had before it called `exec`
    /// is dead then, and recovered.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when every slot is taken.
    pub fn join(&self) -> Result<Participant> {
        self.join_as(false)
    }

    /// As [`Family::join`], for a tracker.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn join_as_tracker(&self) -> Result<Participant> {
        self.join_as(true)
    }

    fn join_as(&self, is_tracker: bool) -> Result<Participant> {
        let left = self.declare_predecessors_dead()?;
        let me = self.claim(None)?;
        point("join.reserved");
        self.write_identity(me, is_tracker)?;
        point("join.identified");
        self.come_to_live(me, me.slot)?;
        point("join.live");
        self.make_known()?;
        if left > 0 {
            // What it held in segments is for their closers to find, as always.
            recover_all(self, me, &[])?;
        }
        Ok(me)
    }

    /// Whoever had our pid before us is gone: there is one process with that number. Nobody
    /// else could tell an earlier program of this very process from us, once we have the
    /// family mapped: pid and start time are the same. Slots of our own program stay: there
    /// may be two copies of this library in it.
    fn declare_predecessors_dead(&self) -> Result<usize> {
        let own = Identity::own();
        let mut dead = 0;
        for slot in 0..SLOTS {
            let seen = self.slot(slot)?;
            let who = Participant {
                slot,
                generation: seen.generation,
            };
            if seen.state == LIVE
                && self
                    .identity(who)
                    .is_ok_and(|identity| identity.has_become(&own))
            {
                point("bury.proved");
                dead += usize::from(self.declare_dead_if(slot, seen)?);
            }
        }
        Ok(dead)
    }

    /// Claims a slot for a child that `parent` is about to fork. Allocates nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when every slot is taken.
    pub fn reserve_for_child(&self, parent: Participant) -> Result<Participant> {
        let child = self.claim(Some(parent.slot))?;
        point("fork.reserved");
        Ok(child)
    }

    /// In the forked child: makes the slot that `parent` claimed its own. Allocates
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when the slot was taken back meanwhile.
    pub fn adopt(&self, child: Participant, parent: Participant) -> Result<()> {
        let found = self.slot(child.slot)?;
        if found.state != RESERVED || found.generation != child.generation {
            // Taken back while this process slept: its words may be somebody else's.
            return Err(Error::Stale);
        }
        self.write_identity(child, false)?;
        point("fork.identified");
        self.come_to_live(child, parent.slot)?;
        point("fork.live");
        self.make_known()
    }

    /// Ends a participation: its own, or one that is *proved* to have ended (rule
    /// P4). `false` when it had ended before. Everything it held is not held any
    /// more.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] for a slot that does not exist.
    pub fn declare_dead(&self, participant: Participant) -> Result<bool> {
        loop {
            let seen = self.slot(participant.slot)?;
            if seen.generation != participant.generation || !matches!(seen.state, RESERVED | LIVE) {
                return Ok(false);
            }
            if self.declare_dead_if(participant.slot, seen)? {
                return Ok(true);
            }
        }
    }

    /// The same for a slot found in the state `seen`; `false` when it changed since.
    ///
    /// # Errors
    ///
    /// As [`Family::declare_dead`].
    pub fn declare_dead_if(&self, slot: usize, seen: Packed) -> Result<bool> {
        let dead = Packed {
            state: DEAD,
            ..seen
        };
        let is_done = matches!(seen.state, RESERVED | LIVE) && self.swap(slot, seen, dead)?;
        if is_done {
            point("dead.declared");
            self.make_known()?;
        }
        Ok(is_done)
    }

    /// What changes whenever somebody has come to live, or was declared dead.
    ///
    /// # Errors
    ///
    /// None in a mapping of a family.
    pub fn news(&self) -> Result<&AtomicU64> {
        self.mapping.shared_word(offset_of!(FamilyHeader, news))
    }

    fn watched(&self) -> Result<&AtomicU64> {
        self.mapping.shared_word(offset_of!(FamilyHeader, watched))
    }

    /// Whether everybody is watched by the tracker that had come when `news` was this (or only
    /// one was there): a death is declared at once then, unless the tracker dies as well.
    pub fn is_watched(&self, news: u64) -> bool {
        // Relaxed: nothing is read because of it.
        self.watched()
            .is_ok_and(|watched| watched.load(Ordering::Relaxed) == news)
    }

    /// Everybody is watched that had come when `news` was this.
    pub(crate) fn set_watched(&self, news: u64) -> Result<()> {
        self.watched()?.store(news, Ordering::Relaxed);
        Ok(())
    }

    /// Notes that everybody is watched if `me` is the only one there, and whether it is: nobody
    /// else can die then, as long as nobody comes.
    ///
    /// # Errors
    ///
    /// None in a mapping of a family.
    pub fn note_if_alone(&self, me: Participant) -> Result<bool> {
        // Before the look: whoever comes to live after it changes it.
        let news = self.news()?.load(Ordering::Acquire);
        for index in (0..SLOTS).filter(|&index| index != me.slot) {
            if matches!(self.slot(index)?.state, RESERVED | LIVE) {
                return Ok(false);
            }
        }
        self.set_watched(news)?;
        Ok(true)
    }

    /// Wakes all who wait for anything in this family. Where somebody is killed before it nobody
    /// learns of that slot in this way: who waits looks when its slice ends, and the tracker
    /// when it looks at slots that were `RESERVED`. Whoever has just come has acquired nothing.
    fn make_known(&self) -> Result<()> {
        let news = self.news()?;
        // Release: who sees the new number sees the slot.
        news.fetch_add(1, Ordering::Release);
        futex::wake(news, u32::MAX);
        Ok(())
    }

    /// One compare-and-swap on a slot.
    pub(crate) fn swap(&self, index: usize, from: Packed, to: Packed) -> Result<bool> {
        let word = self.word(index)?;
        Ok(word
            .compare_exchange(from.pack(), to.pack(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok())
    }

    /// A joiner that was killed before it wrote who it is.
    #[cfg(test)]
    pub(crate) fn claim_for_test(&self) -> Participant {
        self.claim(None).unwrap()
    }

    fn claim(&self, for_child_of: Option<usize>) -> Result<Participant> {
        // The lowest first: scans of rows end at the highest ever used.
        for slot in 0..SLOTS {
            let seen = self.slot(slot)?;
            if seen.state != FREE || seen.generation >= Packed::GENERATION_LAST {
                continue;
            }
            let mine = Packed {
                state: RESERVED,
                by: for_child_of.unwrap_or(slot),
                generation: seen.generation + 1,
            };
            if self.swap(slot, seen, mine)? {
                return Ok(Participant {
                    slot,
                    generation: mine.generation,
                });
            }
        }
        Err(Error::Full {
            what: "processes that share this memory",
            limit: SLOTS,
        })
    }

    /// To be made known.
    fn come_to_live(&self, who: Participant, by: usize) -> Result<()> {
        let before = Packed {
            state: RESERVED,
            by,
            generation: who.generation,
        };
        let after = Packed {
            state: LIVE,
            by: who.slot,
            ..before
        };
        if self.swap(who.slot, before, after)? {
            Ok(())
        } else {
            Err(Error::Stale)
        }
    }

    fn write_identity(&self, who: Participant, is_tracker: bool) -> Result<()> {
        let own = Identity::own();
        let base = slot_offset(who.slot);
        let words = [
            (offset_of!(Slot, pid), own.pid),
            (offset_of!(Slot, start_ticks), own.start_ticks),
            (offset_of!(Slot, pid_namespace), own.pid_namespace),
            (offset_of!(Slot, boot_low), own.boot[0]),
            (offset_of!(Slot, boot_high), own.boot[1]),
            (offset_of!(Slot, is_tracker), u64::from(is_tracker)),
            (offset_of!(Slot, image), own.image),
        ];
        for (offset, value) in words {
            self.mapping.store_u64(base + offset, value)?;
        }
        Ok(())
    }

    /// A word of the table.
    pub(super) fn shared_word(&self, offset: usize) -> Result<&AtomicU64> {
        self.mapping.shared_word(offset)
    }

    fn word(&self, index: usize) -> Result<&AtomicU64> {
        if index >= SLOTS {
            return Err(Error::Damaged("a slot that does not exist"));
        }
        self.mapping
            .shared_word(slot_offset(index) + offset_of!(Slot, word))
    }
}

/// The errno for a size that does not fit this machine.
pub(super) const TOO_LARGE: Errno = Errno::OVERFLOW;
