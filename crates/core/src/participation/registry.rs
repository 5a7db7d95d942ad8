//! What the process-wide lock guards: families, segments, holds.
//!
//! Guarantees: a segment is attached once, however many handles lead to it; a
//! [`SegmentId`] never means another segment than the one it was given out for; what
//! an owner that died left is unmapped when nothing of it is held here any more.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Options;
use super::growth::{self, Asking, Watch};
use super::queues::OpenQueue;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::Participant;
use crate::members::client::Connection;
use crate::pool::family::Family;
use crate::pool::holder::Holder;
use crate::pool::owner::{Opening, Pool};
use crate::pool::segment::{BlockInfo, PoolSegment};
use crate::sys::fd::CachedFd;
use crate::sys::fork::{ForkGuard, ForkGuarded};
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
    by_key: BTreeMap<Key, SegmentId>,
    /// Queues that are open here, or were.
    pub(super) queues: Vec<OpenQueue>,
}

type Key = (usize, Participant, u64);

/// Names a segment of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentId {
    index: u32,
    serial: u32,
}

/// A place for a segment.
#[derive(Debug)]
pub(super) struct Entry {
    /// How many segments had this place before.
    serial: u32,
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
    own: Vec<SegmentId>,
    pub(super) connection: Option<Arc<Connection>>,
    /// When it was last seen to be open.
    pub(super) looked_at: Option<Instant>,
    /// Why there will be no connection.
    pub(super) no_tracker: Option<String>,
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
            looked_at: None,
            no_tracker: None,
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
        self.me.ok_or(Error::UnknownFamily)
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
            queues: Vec::new(),
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
        let pool = member.pool.as_ref().ok_or(Error::Stale)?;
        let local = Local {
            family,
            owner: member.me()?,
            number: pool.segment(at)?.number(),
            owner_fd: pool.segment_fd_number(at)?,
            is_told: false,
            kind: Kind::Own(at),
        };
        let id = self.insert(local);
        self.families[family].own.push(id);
        Ok(())
    }

    /// The id of a segment of our own pool.
    pub(super) fn own(&self, family: usize, segment: usize) -> Result<SegmentId> {
        let own = &self.families[family].own;
        own.get(segment).copied().ok_or(Error::Stale)
    }

    /// What this process holds of a segment, and the segment.
    pub(super) fn holder(&mut self, id: SegmentId) -> Result<&mut Holder> {
        let entry = self.segments.get_mut(id.index as usize);
        let entry = entry.filter(|entry| entry.serial == id.serial);
        let local = entry.and_then(|entry| entry.local.as_mut());
        let local = local.ok_or(Error::Stale)?;
        match &mut local.kind {
            Kind::Attached { holder, .. } => Ok(holder),
            Kind::Own(segment) => {
                let pool = self.families[local.family].pool.as_mut();
                pool.ok_or(Error::Stale)?.holder(*segment)
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

    /// Ends a hold.
    pub(super) fn release(&mut self, held: HeldBlock) -> Result<()> {
        let HeldBlock {
            segment,
            block,
            since,
        } = held;
        let Some(local) = self.local(segment) else {
            return Ok(()); // let go of as inherited, and the segment with it
        };
        let family = local.family;
        match &mut local.kind {
            Kind::Own(number) => {
                let number = *number;
                let pool = self.families[family].pool.as_mut();
                pool.ok_or(Error::Stale)?.release(number, block)
            }
            Kind::Attached { holder, .. } => {
                if holder.release_since(block, since)? {
                    self.remove_if_unused(segment)?;
                }
                Ok(())
            }
        }
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
    /// given up.
    fn remove_if_unused(&mut self, id: SegmentId) -> Result<()> {
        let Some(local) = self.local(id) else {
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

    // --- Around a fork; no allocation here -----------------------------------------

    /// Before a fork: counts the child wherever this process holds something.
    pub(super) fn count_child(&mut self) {
        for family in 0..self.families.len() {
            self.families[family].child = None;
            if !self.holds_something(family) {
                continue; // the child comes by itself if it ever needs to
            }
            if let Err(_full) = self.count_child_in(family) {
                // Its parent holds for both, and stats() shows it as held.
                self.pin(family);
            }
        }
    }

    fn holds_something(&mut self, family: usize) -> bool {
        let member = &mut self.families[family];
        let own = member.pool.as_ref().is_some_and(Pool::holds_something);
        let mut locals = self.segments.iter().flat_map(|entry| &entry.local);
        own || locals.any(|local| {
            local.family == family
                && matches!(&local.kind, Kind::Attached { holder, .. } if holder.held_blocks() > 0)
        })
    }

    fn count_child_in(&mut self, family: usize) -> Result<()> {
        let member = &mut self.families[family];
        let me = member.me()?;
        if !member.family.counts(me) {
            // Taken for dead: what it held may be others' by now, and is not passed on.
            return Err(Error::Stale);
        }
        let child = match member.family.reserve_for_child(me) {
            Err(Error::Full { .. })
                if growth::make_room(&member.watch, &member.family, member.file, me) =>
            {
                member.family.reserve_for_child(me)?
            }
            other => other?,
        };
        let copied = Self::copy_rows(&self.segments, member, family, me, child);
        if copied.is_err() {
            member.family.declare_dead(child)?;
        } else {
            member.child = Some(child);
            self.count_child_in_queues(family, child);
        }
        copied
    }

    fn copy_rows(
        segments: &[Entry],
        member: &Membership,
        family: usize,
        me: Participant,
        child: Participant,
    ) -> Result<()> {
        if let Some(pool) = &member.pool {
            pool.copy_rows(child)?;
        }
        for local in segments.iter().flat_map(|entry| &entry.local) {
            if local.family == family
                && let Kind::Attached { holder, fd } = &local.kind
                && holder.held_blocks() > 0
                && holder.is_by(me)
            {
                let fd = fd.as_ref().and_then(CachedFd::get);
                holder.segment().copy_row(me, child, fd)?;
            }
        }
        Ok(())
    }

    fn pin(&mut self, family: usize) {
        if let Some(pool) = &mut self.families[family].pool {
            pool.pin();
        }
        for local in self.segments.iter_mut().flat_map(|entry| &mut entry.local) {
            if local.family == family
                && let Kind::Attached { holder, .. } = &mut local.kind
            {
                holder.pin();
            }
        }
    }

    /// After a fork, in the parent.
    pub(super) fn forked(&mut self) {
        point("fork.parted");
        for member in &mut self.families {
            member.child = None;
        }
    }

    /// After a fork, in the child: its own slot, its parent's pool as holds, no connection.
    pub(super) fn become_child(&mut self) {
        point("fork.born");
        for family in 0..self.families.len() {
            let member = &mut self.families[family];
            // Its own end would be read by both.
            member.connection = None;
            member.no_tracker = None;
            let parent = member.me.take();
            let child = member.child.take();
            member.me = match (parent, child) {
                (Some(parent), Some(child)) => {
                    member.family.adopt(child, parent).ok().map(|()| child)
                }
                _ => None,
            };
            if member.me.is_some() {
                point("fork.live");
            }
            // Nobody holds for it: neither its row nor, not knowing of it, its parent.
            let is_lost = child.is_some() && member.me.is_none();
            if let Some(pool) = member.pool.take() {
                self.disown(family, pool);
            }
            self.settle_child(family, is_lost);
        }
    }

    /// The parent's pool becomes segments like any other's.
    fn disown(&mut self, family: usize, pool: Pool) {
        for (at, (holder, fd)) in pool.into_holders().enumerate() {
            if let Ok(id) = self.own(family, at)
                && let Some(local) = self.local(id)
            {
                let fd = Some(fd);
                local.kind = Kind::Attached { holder, fd };
            }
        }
        self.families[family].own.clear();
    }

    fn settle_child(&mut self, family: usize, is_lost: bool) {
        let me = self.families[family].me;
        for index in 0..self.segments.len() {
            let entry = &mut self.segments[index];
            let id = SegmentId {
                index: index as u32,
                serial: entry.serial,
            };
            let Some(local) = &mut entry.local else {
                continue;
            };
            local.is_told = false;
            if local.family != family {
                continue;
            }
            let key = (local.family, local.owner, local.number);
            if let Kind::Attached { holder, .. } = &mut local.kind {
                if holder.held_blocks() == 0 || is_lost {
                    self.remove(id);
                    continue;
                }
                holder.become_child(me);
                if me.is_none() {
                    // Should the segment be met again it is attached anew, with a row.
                    self.by_key.remove(&key);
                }
            }
        }
    }
}
