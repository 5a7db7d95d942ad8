//! Names: registered, removed, and cleaned up when their group is over.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::group::{Fate, Group, may_be_same};
use super::{Server, cleanup, words};
use crate::sys::shm::Identity;
use crate::tracker::protocol::{Entry, ResourceType};

/// A name that a connection removed before we had read of its registration.
pub(super) struct RemovedEarly {
    rtype: ResourceType,
    name: Box<[u8]>,
    identity: Identity,
    /// The one group whose registration is meant; all groups' if absent.
    group: Option<u64>,
    /// Who removed it: what it registers afterwards is something new.
    by: u64,
}

impl RemovedEarly {
    fn means(&self, entry: &Entry<'_>, group: u64, peer: u64) -> bool {
        self.rtype == entry.rtype
            && *self.name == *entry.name
            && may_be_same(self.identity, entry.identity)
            && self.group.is_none_or(|own| own == group)
            && self.by != peer
    }
}

impl Server {
    pub(super) fn register(
        &mut self,
        id: u64,
        group: u64,
        entry: &Entry<'_>,
        stderr: Option<OwnedFd>,
    ) {
        let early = self.removed_early.iter().flatten();
        if early.into_iter().any(|early| early.means(entry, group, id)) {
            return;
        }
        self.groups
            .entry(group)
            .or_default()
            .register(entry, stderr);
    }

    /// Removes a registration: of `group`, or of all groups.
    ///
    /// If there is none, its REGISTER may lie unread in another socket: whoever
    /// sent this knew the name, so it was registered before now.
    pub(super) fn remove(&mut self, id: u64, group: Option<u64>, entry: &Entry<'_>) {
        if self.forget(group, entry) {
            return;
        }
        let early = RemovedEarly {
            rtype: entry.rtype,
            name: entry.name.into(),
            identity: entry.identity,
            group,
            by: id,
        };
        if let Some(noted) = &mut self.removed_early {
            return noted.push(early);
        }
        self.removed_early = Some(vec![early]);
        self.drain(Some(id));
        self.removed_early = None;
    }

    fn forget(&mut self, group: Option<u64>, entry: &Entry<'_>) -> bool {
        match group {
            Some(id) => self
                .groups
                .get_mut(&id)
                .is_some_and(|group| group.forget(entry)),
            None => self
                .groups
                .values_mut()
                .fold(false, |found, group| group.forget(entry) | found),
        }
    }

    /// Closes the stderr of groups that have been without names for a while. Reads
    /// everything first: a process that sent no stderr because ours is recent has
    /// its registration in a buffer by now.
    pub(super) fn let_go_of_stderr(&mut self) {
        let now = Instant::now();
        let due = |group: &Group| group.let_go_at().is_some_and(|when| when <= now);
        if self.groups.values().any(due) {
            self.drain_all();
            self.groups.values_mut().for_each(|group| group.let_go(now));
        }
    }

    pub(super) fn look_at_orphans(&mut self) {
        let now = Instant::now();
        if !self.groups.values().any(|group| group.is_due(now)) {
            return;
        }
        // A removal that was sent before the group ended must be known first, and
        // so must a child of the group that is about to join it.
        self.accept_all();
        self.drain_all();
        let over: Vec<u64> = self
            .groups
            .iter_mut()
            .filter_map(|(&id, group)| (group.look(id) == Fate::Over).then_some(id))
            .collect();
        for id in over {
            let Some(group) = self.groups.remove(&id) else {
                continue;
            };
            let outcome = cleanup::clean_up(group.names);
            self.status = self.status.max(outcome.status);
            if let (Some(stderr), false) = (&group.stderr, outcome.text.is_empty()) {
                words::say(stderr, &outcome.text);
            }
        }
    }
}
