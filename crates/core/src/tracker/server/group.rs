//! A group: one program's registered names, and whether anybody of it is left.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::sys::process::{self, ProcessId};
use crate::sys::shm::Identity;
use crate::tracker::marker;
use crate::tracker::protocol::{Entry, ResourceType};

/// How soon after its last connection a group is looked at again, first and at most.
/// A process between `fork` and `exec` is gone at the second look or so; a daemon
/// may stay for days.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How long a group's stderr is kept after its last name went. Passing a descriptor
/// costs more than the rest of a registration, so a process passes it again only
/// when half of this is over since it did so last.
pub(crate) const STDERR_KEPT: Duration = Duration::from_secs(1);

/// What is known of a registered name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registered {
    /// The file it was; all zero if not known.
    pub(super) identity: Identity,
    /// It may have been removed without our hearing of it: then say nothing.
    pub(super) may_be_gone: bool,
}

/// Names in the order in which they are reported.
pub(super) type Names = BTreeMap<(ResourceType, Box<[u8]>), Registered>;

/// One program in the tree.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// How many connections belong to it.
    pub(super) connections: usize,
    /// What is to be cleaned up.
    pub(super) names: Names,
    /// Where warnings go. Kept only while there are names and a moment longer, so
    /// that nobody waits for the end of a pipe because of us.
    pub(super) stderr: Option<OwnedFd>,
    /// When the last name went, if there is none.
    nameless_since: Option<Instant>,
    /// Processes whose life also keeps the group, with what wakes us at their end.
    guardians: Vec<(ProcessId, Option<OwnedFd>)>,
    /// Set when the last connection has gone and names are left.
    orphaned: Option<Orphaned>,
}

/// A group that nobody is connected to.
#[derive(Debug)]
struct Orphaned {
    look_at: Instant,
    wait: Duration,
    /// Processes that had the marker mapped at the last look.
    survivors: Vec<ProcessId>,
}

/// What an orphaned group has become.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not to be decided now.
    Lives,
    /// Nobody is left: clean up and forget it.
    Over,
}

impl Group {
    /// Adds or renews a registration.
    pub(super) fn register(&mut self, entry: &Entry<'_>, stderr: Option<OwnedFd>) {
        let known = Registered {
            identity: entry.identity,
            may_be_gone: entry.again || !self.guardians.is_empty(),
        };
        self.names.insert((entry.rtype, entry.name.into()), known);
        self.nameless_since = None;
        if self.stderr.is_none() {
            self.stderr = stderr;
        }
    }

    /// Removes the registration that `entry` means; `false` if there is none.
    pub(super) fn forget(&mut self, entry: &Entry<'_>) -> bool {
        let key = (entry.rtype, Box::from(entry.name));
        let found = self
            .names
            .get(&key)
            .is_some_and(|known| may_be_same(known.identity, entry.identity));
        if found {
            self.names.remove(&key);
            if self.names.is_empty() {
                self.nameless_since = Some(Instant::now());
            }
        }
        found
    }

    /// Whether `guardian` was not known before. Its descriptor, if the kernel gives
    /// one, is for the event loop to wait on.
    pub(super) fn add_guardian(&mut self, guardian: ProcessId) -> Option<&OwnedFd> {
        if self.guardians.iter().any(|(known, _)| *known == guardian) {
            return None;
        }
        let watch = guardian.watch();
        self.guardians.push((guardian, watch));
        self.guardians.last().and_then(|(_, watch)| watch.as_ref())
    }

    /// A connection came.
    pub(super) fn connected(&mut self) {
        self.connections += 1;
        self.orphaned = None;
    }

    /// A connection went.
    pub(super) fn disconnected(&mut self) {
        self.connections = self.connections.saturating_sub(1);
        if self.connections == 0 {
            self.orphaned = Some(Orphaned {
                look_at: Instant::now(),
                wait: FIRST_LOOK,
                survivors: Vec::new(),
            });
        }
    }

    /// When to look at the group again, if it waits for that.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.orphaned.as_ref().map(|orphaned| orphaned.look_at)
    }

    /// When to let go of the stderr, if nothing happens before.
    pub(super) fn let_go_at(&self) -> Option<Instant> {
        self.stderr.as_ref()?;
        self.nameless_since.map(|since| since + STDERR_KEPT)
    }

    /// Lets go of the stderr if its time has come.
    pub(super) fn let_go(&mut self, now: Instant) {
        if self.let_go_at().is_some_and(|when| when <= now) {
            self.stderr = None;
        }
    }

    /// Whether that time has come.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.look_at().is_some_and(|when| when <= now)
    }

    /// Asks for a look now: something that it waited for has happened.
    pub(super) fn look_now(&mut self) {
        if let Some(orphaned) = &mut self.orphaned {
            orphaned.look_at = Instant::now();
        }
    }

    /// Decides about a group whose time to be looked at has come.
    ///
    /// The guardians first (a few small files), then the processes that survived
    /// the last look, and only if none of them is left, every process of the user.
    pub(super) fn look(&mut self, id: u64) -> Fate {
        let Some(orphaned) = &mut self.orphaned else {
            return Fate::Lives;
        };
        if orphaned.look_at > Instant::now() {
            return Fate::Lives;
        }
        if self.names.is_empty() {
            return Fate::Over;
        }
        self.guardians.retain(|(guardian, _)| guardian.is_alive());
        if self.guardians.is_empty() {
            orphaned
                .survivors
                .retain(|&survivor| marker::holds(id, survivor));
            if orphaned.survivors.is_empty() {
                match marker::holders(id) {
                    Some(none) if none.is_empty() => return Fate::Over,
                    // Not to be told now: as if there were some.
                    found => orphaned.survivors = found.unwrap_or_default(),
                }
            }
            // Who called the program may wait for the end of its stderr, and a daemon has
            // let go of it. (A process on its way to exec has, too: not at the first looks.)
            let has_it = |stderr: &OwnedFd| {
                let mut survivors = orphaned.survivors.iter();
                survivors.any(|survivor| process::has_as_stderr(survivor.pid, stderr))
            };
            if orphaned.wait > 8 * FIRST_LOOK
                && !orphaned.survivors.is_empty()
                && !self.stderr.as_ref().is_some_and(has_it)
            {
                self.stderr = None;
            }
        }
        orphaned.look_at = Instant::now() + orphaned.wait;
        orphaned.wait = (orphaned.wait * 2).min(LAST_LOOK);
        Fate::Lives
    }
}

/// Whether two identities can mean one file: they are equal, or one is not known.
pub(super) fn may_be_same(one: Identity, other: Identity) -> bool {
    one == other || one == Identity::default() || other == Identity::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], ino: u64) -> Entry<'_> {
        Entry {
            rtype: ResourceType::SharedMemory,
            name,
            identity: Identity {
                dev: u64::from(ino != 0),
                ino,
            },
            again: false,
        }
    }

    #[test]
    fn only_the_file_that_is_meant_is_forgotten() {
        let mut group = Group::default();
        group.register(&entry(b"a", 1), None);
        assert!(!group.forget(&entry(b"a", 2)));
        assert!(!group.forget(&entry(b"b", 1)));
        assert!(!group.forget(&Entry {
            rtype: ResourceType::Semaphore,
            ..entry(b"a", 1)
        }));
        assert!(group.forget(&entry(b"a", 1)));
        assert!(!group.forget(&entry(b"a", 1)));
        group.register(&entry(b"a", 1), None);
        assert!(group.forget(&entry(b"a", 0)));
        group.register(&entry(b"a", 0), None);
        assert!(group.forget(&entry(b"a", 3)));
    }

    #[test]
    fn a_group_without_names_is_over_with_its_last_connection() {
        let mut group = Group::default();
        group.connected();
        group.connected();
        group.disconnected();
        assert_eq!(group.look(1), Fate::Lives);
        group.disconnected();
        assert_eq!(group.look(1), Fate::Over);
        group.connected();
        assert_eq!(group.look(1), Fate::Lives);
    }

    #[test]
    fn a_guardian_keeps_names() {
        let mut group = Group::default();
        let me = ProcessId::of(crate::sys::process::own_pid()).unwrap();
        let _ = group.add_guardian(me);
        group.register(&entry(b"a", 1), None);
        group.connected();
        group.disconnected();
        assert_eq!(group.look(1), Fate::Lives);
        assert!(group.names.values().all(|known| known.may_be_gone));
        group.guardians[0].0.start_ticks += 1;
        group.look_now();
        assert_eq!(group.look(1), Fate::Over);
    }
}
