//! The fork handlers: what keeps both sides of a fork right.
//!
//! | when | what | killed after it |
//! | --- | --- | --- |
//! | before | for each family in which this process holds something: a slot for the child, `RESERVED`; this process's rows copied into it | the slot's rows hold until somebody finds that there is no such child |
//! | in the parent | the slot is the child's; the tracker is reminded that somebody came | it finds the child later |
//! | in the child | its identity, then `LIVE`; the parent's pool becomes holds; the parent's connection is let go | the child's death, found like any other |
//!
//! If no slot is free, even after a look for the dead (the one thing here that takes long),
//! or a row cannot be committed, the parent keeps what it holds for good, for both of
//! them. A fork that failed leaves a slot that nobody ever adopts; `liveness` finds those.

use super::growth;
use super::registry::{Entry, Kind, Membership, REGISTRY, Registry, SegmentId};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::Participant;
use crate::pool::owner::Pool;
use crate::sys::fd::CachedFd;
use crate::sys::fork::{self, Forking, Hooks};
use crate::sys::identity::Identity;

pub(super) fn install() {
    // Read before there can be a fork: the child must not wait for another's reading.
    Identity::boot();
    fork::install();
    fork::set_hooks(Hooks {
        before,
        in_parent,
        in_child,
    });
}

/// Does `work` in one process from beginning to end. `keep_going` may fork (it runs signal
/// handlers): then the parent goes on, and the child stops at once and begins anew, so
/// that it does not go on with a segment, a connection or a commit of its parent's.
///
/// What `work` gives in a child that forked meanwhile is dropped.
pub(super) fn in_one_process<T>(
    keep_going: &mut dyn FnMut() -> bool,
    mut work: impl FnMut(&mut dyn FnMut() -> bool) -> Result<T>,
) -> Result<T> {
    loop {
        let epoch = fork::epoch();
        let mut is_refused = false;
        let done = work(&mut || {
            is_refused = is_refused || !keep_going();
            !is_refused && fork::epoch() == epoch
        });
        if is_refused || fork::epoch() == epoch {
            return done;
        }
    }
}

fn before(forking: &mut Forking) {
    REGISTRY.in_hook(forking).count_child();
}

fn in_parent(forking: &mut Forking) {
    REGISTRY.in_hook(forking).forked();
}

fn in_child(forking: &mut Forking) {
    REGISTRY.in_hook(forking).become_child();
}

/// Nothing here allocates.
impl Registry {
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
            if let (Some(_), Some(me), Some(connection)) =
                (member.child.take(), member.me, &member.connection)
            {
                connection.remind(me);
            }
        }
    }

    /// After a fork, in the child: its own slot, its parent's pool as holds, no connection.
    pub(super) fn become_child(&mut self) {
        point("fork.born");
        for family in 0..self.families.len() {
            let member = &mut self.families[family];
            // Its own end would be read by both. Threads that are not here may own it too.
            if let Some(connection) = member.connection.take() {
                connection.close_in_child();
            }
            member.no_tracker = None;
            member.not_now = None;
            member.begun_at_s = None;
            let parent = member.me.take();
            let child = member.child.take();
            member.me = match (parent, child) {
                (Some(parent), Some(child)) => {
                    member.family.adopt(child, parent).ok().map(|()| child)
                }
                _ => None,
            };
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
            local.keeps = 0;
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
