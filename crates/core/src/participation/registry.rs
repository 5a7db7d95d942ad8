//! What the process-wide lock guards: families, segments, holds.
//!
//! Guarantees: a segment is attached once, however many handles lead to it; a
//! [`SegmentId`] never means another segment than the one it was given out for; what
//! an owner that died left is unmapped when nothing of it is held here any more.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use super::Options;
use super::growth::{self, Asking, Watch};
use super::queues::Queues;
use crate::error::{Error, Result};
use crate::layout::Participant;
use crate::members::client::Connection;
use crate::pool::family::Family;
use crate::pool::holder::Holder;
use crate::pool::owner::{Opening, Pool};
use crate::pool::segment::{BlockInfo, PoolSegment};
use crate::sys::fd::CachedFd;
use crate::sys::fork::{self, ForkGuard, ForkGuarded};
use crate::sys::shm::Identity;

pub(super) static REGISTRY: ForkGuarded<Registry> = ForkGuarded::new(Registry::new());

/// The lock, for microseconds: nothing is waited for under it, no Python called.
pub(super) fn lock() -> ForkGuard<'static, Registry> {
    REGISTRY.lock()
}

/// Everything this process is and has.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) options: Option<Options>,
    /// The families it is in; places never change. The first one is home: new arrays
    /// are made there.
    pub(super) families: Vec<Membership>,
    pub(super) segments: Vec<Entry>,
    /// Family, owner, number of the segment.
    pub(super) by_key: BTreeMap<Key, SegmentId>,
    /// Queues that are open here, or were.
    pub(super) queues: Queues,
}

type Key = (usize, Participant, u64);

/// Keeps a segment from being forgotten while this lives: who attaches several to take a block
/// of each would else lose one to the next. Not to be dropped under the registry's lock.
#[derive(Debug)]
#[must_use]
pub(crate) struct Kept {
    segment: SegmentId,
    /// The process that it counts in: see [`fork::epoch`].
    epoch: u32,
}

impl Kept {
    pub(super) fn segment(&self) -> SegmentId {
        self.segment
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut registry = lock();
        if self.epoch == fork::epoch()
            && let Some(local) = registry.local(self.segment)
        {
            local.keeps -= 1;
            // An error is that of a damaged segment, which then stays.
            let _ = registry.remove_if_unused(self.segment);
        }
    }
}

/// Names a segment of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// A place for a segment.
#[derive(Debug)]
pub(super) struct Entry {
    /// How many segments had this place before.
    pub(super) serial: u32,
    pub(super) local: Option<Local>,
}

/// A segment, as this process has it.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) family: usize,
    pub(super) owner: Participant,
    pub(super) number: u64,
    /// The number of its descriptor in its owner.
    pub(super) owner_fd: i32,
    /// The tracker has it, as far as we know.
    pub(super) is_told: bool,
    /// How many [`Kept`] there are.
    pub(super) keeps: u32,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Of our pool: the segment of this number.
    Own(usize),
    /// Somebody else's, our parent's perhaps.
    Attached {
        holder: Holder,
        /// Kept for an inherited segment, which nobody else may be able to pass on,
        /// and where rows cannot be committed without.
        fd: Option<CachedFd>,
    },
}

/// This process in one family.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) family: Arc<Family>,
    /// The family segment's file, which shows in the maps of all members.
    pub(super) file: Identity,
    pub(super) fd: CachedFd,
    pub(super) cookie: [u8; 16],
    /// Our slot; `None` in a child that was not counted, until it needs one.
    pub(super) me: Option<Participant>,
    /// Looks for the dead. Under the one lock only: its own is never waited for.
    pub(super) watch: Arc<Mutex<Watch>>,
    /// Made when it is needed.
    pub(super) pool: Option<Pool>,
    /// The segments of the pool.
    pub(super) own: Vec<SegmentId>,
    pub(super) connection: Option<Arc<Connection>>,
    /// In which second it was last seen to be open.
    pub(super) looked_at_s: Option<u64>,
    /// Why there will be no connection.
    pub(super) no_tracker: Option<String>,
    /// Why there was none that we could use at the last look.
    pub(super) not_now: Option<&'static str>,
    /// In which second somebody who waits last began a watch.
    pub(super) begun_at_s: Option<u64>,
    /// While a fork is under way: the child's slot.
    pub(super) child: Option<Participant>,
}

impl Membership {
    pub(super) fn new(
        family: Arc<Family>,
        file: Identity,
        fd: CachedFd,
        cookie: [u8; 16],
        me: Participant,
    ) -> Self {
        Membership {
            family,
            file,
            fd,
            cookie,
            me: Some(me),
            watch: Watch::new(),
            pool: None,
            own: Vec::new(),
            connection: None,
            looked_at_s: None,
            no_tracker: None,
            not_now: None,
            begun_at_s: None,
            child: None,
        }
    }

    /// Finds who has died, now.
    pub(super) fn look_for_the_dead(&self) {
        if let Some(me) = self.me {
            growth::look_for_the_dead(&self.watch, &self.family, self.file, me);
        }
    }

    /// The same, if the last look is long enough ago.
    pub(super) fn make_room(&self) {
        if let Some(me) = self.me {
            growth::make_room(&self.watch, &self.family, self.file, me);
        }
    }

    /// Whether this participant is gone, by proof.
    pub(super) fn is_gone(&self, who: Participant, asked: Asking) -> bool {
        growth::is_gone(&self.watch, &self.family, self.file, who, asked)
    }

    /// Our slot.
    pub(super) fn me(&self) -> Result<Participant> {
        self.me.ok_or_else(|| Error::UnknownFamily)
    }
}

/// A block that is held, and by which hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldBlock {
    pub(super) segment: SegmentId,
    pub(super) block: usize,
    pub(super) since: u32,
}

impl Registry {
    pub(super) const fn new() -> Self {
        Registry {
            options: None,
            families: Vec::new(),
            segments: Vec::new(),
            by_key: BTreeMap::new(),
            queues: Queues::new(),
        }
    }

    /// The family where new arrays are made, if this process has a slot in it.
    pub(super) fn home(&self) -> Option<usize> {
        self.families.first()?.me.map(|_| 0)
    }

    pub(super) fn family(&self, id: [u64; 2]) -> Option<usize> {
        self.families.iter().position(|each| each.family.id() == id)
    }

    pub(super) fn find(&self, family: usize, owner: Participant, number: u64) -> Option<SegmentId> {
        self.by_key.get(&(family, owner, number)).copied()
    }

    /// Keeps a segment.
    pub(super) fn keep(&mut self, segment: SegmentId) -> Result<Kept> {
        self.local(segment).ok_or_else(|| Error::Dropped)?.keeps += 1;
        let epoch = fork::epoch();
        Ok(Kept { segment, epoch })
    }

    pub(super) fn local(&mut self, id: SegmentId) -> Option<&mut Local> {
        let entry = self.segments.get_mut(id.index as usize)?;
        (entry.serial == id.serial)
            .then_some(entry.local.as_mut())
            .flatten()
    }

    pub(super) fn insert(&mut self, local: Local) -> SegmentId {
        let key = (local.family, local.owner, local.number);
        let free = self.segments.iter().position(|entry| entry.local.is_none());
        let index = free.unwrap_or_else(|| {
            self.segments.push(Entry {
                serial: 0,
                local: None,
            });
            self.segments.len() - 1
        });
        let entry = &mut self.segments[index];
        entry.serial = entry.serial.wrapping_add(1);
        entry.local = Some(local);
        let id = SegmentId {
            // A process has a few segments, thousands at most.
            index: index as u32,
            serial: entry.serial,
        };
        self.by_key.insert(key, id);
        id
    }

    /// The pool's half of an allocation that found a block; see [`Pool::begin`].
    pub(super) fn begin(&mut self, family: usize, size_bytes: u64) -> Result<Opening> {
        let member = &mut self.families[family];
        let me = member.me()?;
        let pool = match &mut member.pool {
            Some(pool) => pool,
            none => {
                let options = growth::options(&member.watch, &member.family, member.file, me);
                none.insert(Pool::new(Arc::clone(&member.family), me, options))
            }
        };
        let opening = pool.begin(size_bytes)?;
        while self.families[family].own.len() < opening.segment() {
            self.note_own_segment(family)?;
        }
        if self.families[family].own.len() == opening.segment() {
            self.note_own_segment(family)?;
        }
        Ok(opening)
    }

    /// The pool has a segment more.
    fn note_own_segment(&mut self, family: usize) -> Result<()> {
        let member = &self.families[family];
        let at = member.own.len();
        let pool = member.pool.as_ref().ok_or_else(|| Error::Stale)?;
        let local = Local {
            family,
            owner: member.me()?,
            number: pool.segment(at)?.number(),
            owner_fd: pool.segment_fd_number(at)?,
            is_told: false,
            keeps: 0,
            kind: Kind::Own(at),
        };
        let id = self.insert(local);
        self.families[family].own.push(id);
        Ok(())
    }

    /// The id of a segment of our own pool.
    pub(super) fn own(&self, family: usize, segment: usize) -> Result<SegmentId> {
        let own = &self.families[family].own;
        own.get(segment).copied().ok_or_else(|| Error::Stale)
    }

    /// What this process holds of a segment, and the segment.
    pub(super) fn holder(&mut self, id: SegmentId) -> Result<&mut Holder> {
        let entry = self.segments.get_mut(id.index as usize);
        let entry = entry.filter(|entry| entry.serial == id.serial);
        let local = entry.and_then(|entry| entry.local.as_mut());
        let local = local.ok_or_else(|| Error::Stale)?;
        match &mut local.kind {
            Kind::Attached { holder, .. } => Ok(holder),
            Kind::Own(segment) => {
                let pool = self.families[local.family].pool.as_mut();
                pool.ok_or_else(|| Error::Stale)?.holder(*segment)
            }
        }
    }

    /// A descriptor of the segment, if this process has one.
    pub(super) fn fd(&self, id: SegmentId) -> Option<BorrowedFd<'_>> {
        let local = self.segments.get(id.index as usize)?.local.as_ref()?;
        match &local.kind {
            Kind::Attached { fd, .. } => fd.as_ref()?.get(),
            Kind::Own(segment) => {
                let pool = self.families[local.family].pool.as_ref()?;
                pool.borrow_fd(*segment)
            }
        }
    }

    /// Takes a block of a segment that is attached: by a token, if there is one.
    pub(super) fn take(
        &mut self,
        id: SegmentId,
        block: usize,
        generation: u64,
        token: Option<crate::pool::tokens::TokenName>,
    ) -> Result<(BlockInfo, u32, Arc<PoolSegment>)> {
        let holder = self.holder(id)?;
        let info = match token {
            Some(token) => holder.claim(token, block, generation)?,
            None => holder.take(block, generation)?,
        };
        Ok((info, holder.epoch(), Arc::clone(holder.segment())))
    }

    /// Ends a hold; whether it was this process's last one of somebody else's block.
    pub(super) fn release(&mut self, held: HeldBlock) -> Result<bool> {
        let HeldBlock {
            segment,
            block,
            since,
        } = held;
        let Some(local) = self.local(segment) else {
            return Ok(false); // let go of as inherited, and the segment with it
        };
        let family = local.family;
        match &mut local.kind {
            Kind::Own(number) => {
                let number = *number;
                let pool = self.families[family].pool.as_mut();
                pool.ok_or_else(|| Error::Stale)?.release(number, block)?;
                Ok(false)
            }
            Kind::Attached { holder, .. } => {
                let is_last = holder.release_since(block, since)?;
                if is_last {
                    self.remove_if_unused(segment)?;
                }
                Ok(is_last)
            }
        }
    }

    /// A large block of somebody else's was dropped: unless another process has it still, it
    /// is counted where its owner sees it. If the tracker is to hear of it, how, and whose it
    /// was; without the lock.
    pub(super) fn note_dropped(
        &mut self,
        held: HeldBlock,
        size_bytes: u64,
    ) -> Option<(Arc<Connection>, Participant)> {
        let local = self.local(held.segment)?;
        let (family, owner) = (local.family, local.owner);
        let holder = self.holder(held.segment).ok()?;
        // What travels again and again, and stays with who sends it, is told to nobody.
        if holder.segment().is_in_a_row(held.block).ok()? {
            return None;
        }
        let member = &self.families[family];
        // A dead owner has an heir.
        if !member.family.counts(owner) || !member.family.has_dropped(owner, size_bytes).ok()? {
            return None;
        }
        member.connection.clone().map(|to| (to, owner))
    }

    /// Forgets an attached segment: it is unmapped when its last array is gone.
    pub(super) fn remove(&mut self, id: SegmentId) {
        let entry = self.segments.get_mut(id.index as usize);
        if let Some(entry) = entry.filter(|entry| entry.serial == id.serial)
            && let Some(local) = entry.local.take()
        {
            let key = (local.family, local.owner, local.number);
            if self.by_key.get(&key) == Some(&id) {
                self.by_key.remove(&key);
            }
        }
    }

    /// Forgets the segments of dead owners of which nothing is held here.
    pub(super) fn remove_unused(&mut self) -> Result<()> {
        for id in self.ids() {
            self.remove_if_unused(id)?;
        }
        Ok(())
    }

    /// One that handles of ours are still on their way to is kept, so that they can be
    /// given up; and one of which something is about to be taken.
    fn remove_if_unused(&mut self, id: SegmentId) -> Result<()> {
        let Some(local) = self.local(id).filter(|local| local.keeps == 0) else {
            return Ok(());
        };
        let (family, owner) = (local.family, local.owner);
        let Kind::Attached { holder, .. } = &local.kind else {
            return Ok(());
        };
        if holder.held_blocks() > 0 {
            return Ok(());
        }
        let segment = Arc::clone(holder.segment());
        let member = &self.families[family];
        if member.family.counts(owner) {
            return Ok(());
        }
        let me = member.me;
        let mut tokens = segment.tokens_in_flight()?.into_iter();
        if !tokens.any(|token| me.is_some() && token.sender == me) {
            self.remove(id);
        }
        Ok(())
    }

    /// The tracker has a segment. One of ours it may look after while we sleep.
    pub(super) fn has_told(&mut self, id: SegmentId) -> Result<()> {
        let Some(local) = self.local(id) else {
            return Ok(());
        };
        local.is_told = true;
        let family = local.family;
        if let Kind::Own(number) = local.kind
            && let Some(pool) = &mut self.families[family].pool
        {
            pool.lend(number)?;
        }
        Ok(())
    }

    /// The tracker is gone: what it had must be told again.
    pub(super) fn untell(&mut self, family: usize) {
        for local in self.segments.iter_mut().flat_map(|entry| &mut entry.local) {
            local.is_told &= local.family != family;
        }
    }

    /// All segments there are.
    pub(super) fn ids(&self) -> Vec<SegmentId> {
        let entries = self.segments.iter().enumerate();
        entries
            .filter(|(_, entry)| entry.local.is_some())
            .map(|(index, entry)| SegmentId {
                index: index as u32,
                serial: entry.serial,
            })
            .collect()
    }
}
