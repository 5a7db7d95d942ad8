//! What a process keeps between its calls to the tracker.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rustix::thread::Pid;

use super::Options;
use crate::sys::fd::CachedFd;
use crate::sys::process::ProcessId;
use crate::sys::shm::Identity;
use crate::sys::socket;
use crate::tracker::address::Address;
use crate::tracker::marker::Marker;
use crate::tracker::protocol::{Encoded, Entry, ResourceType};
use crate::tracker::server::STDERR_KEPT;

/// A connection to the tracker.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: CachedFd,
    /// The tracker if this process, or one it was forked from, started it.
    pub(super) child: Option<ProcessId>,
    /// Keeps this process recognisable when the socket is lost.
    pub(super) _marker: Option<Marker>,
}

/// | state | meaning | next |
/// | --- | --- | --- |
/// | `Down` | not connected; `Former` says what was before | `Starting` |
/// | `Starting` | one thread starts or looks for a tracker, without the lock | `Up`, or `Down` when it failed |
/// | `Up` | connected, as far as known | `Down` when the peer is gone or the descriptor was taken |
///
/// A forked child finds `Starting` as `Down`: the thread is not there.
#[derive(Debug)]
pub(super) enum Link {
    Down,
    Starting { by: Pid },
    Up(Arc<Connection>),
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// There never was one.
    None,
    /// The descriptor was closed by somebody else; the tracker may well live.
    Lost,
    /// The tracker died.
    Died,
}

/// What a look at the connection finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Connected,
    Down,
    StartingHere,
    StartingElsewhere,
}

/// A process's registrations: what a new tracker must be told.
pub(super) type Own = BTreeMap<(ResourceType, Box<[u8]>), Identity>;

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub(super) link: Link,
    pub(super) former: Former,
    /// Where the tracker is, or was, and our group in it.
    pub(super) address: Option<Address>,
    /// Who also keeps that group, if we founded it as somebody's worker.
    pub(super) guardian: Option<ProcessId>,
    /// Whether others can connect to that address.
    pub(super) reachable: bool,
    pub(super) options: Option<Options>,
    /// A tracker that died and is not collected yet.
    pub(super) dead_child: Option<ProcessId>,
    /// The number of the stderr that came with the last registration.
    pub(super) stderr: Option<RawFd>,
    /// The last wait for the tracker was in vain.
    pub(super) is_stuck: bool,
    /// GONE messages that a stuck tracker did not take, in order: first in the queue
    /// for the next one that it takes.
    pub(super) untold: Vec<Encoded>,
    own: Own,
    /// Why this executable cannot be started.
    broken: Option<(PathBuf, String)>,
    /// The fork epoch in which the rest was valid.
    epoch: u32,
    /// When our stderr last travelled over this connection.
    stderr_sent: Option<Instant>,
    /// The last connection, until there is another: without its marker the tracker
    /// would take us for dead while we look for it.
    lost: Option<Arc<Connection>>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    pub(super) const fn new() -> Self {
        State {
            link: Link::Down,
            former: Former::None,
            address: None,
            guardian: None,
            reachable: false,
            options: None,
            dead_child: None,
            stderr: None,
            is_stuck: false,
            untold: Vec::new(),
            own: BTreeMap::new(),
            broken: None,
            epoch: 0,
            stderr_sent: None,
            lost: None,
        }
    }

    /// Makes a forked child's copy its own.
    pub(super) fn settle(&mut self, epoch: u32) {
        if self.epoch == epoch {
            return;
        }
        self.epoch = epoch;
        self.own.clear();
        self.stderr_sent = None;
        self.options = None;
        self.dead_child = None;
        self.untold.clear();
        if matches!(self.link, Link::Starting { .. }) {
            self.link = Link::Down;
        }
    }

    /// Whether we are connected; notices what has happened to the connection.
    pub(super) fn look(&mut self) -> Look {
        let found = match &self.link {
            Link::Down => return Look::Down,
            Link::Starting { by } if *by == rustix::thread::gettid() => return Look::StartingHere,
            Link::Starting { .. } => return Look::StartingElsewhere,
            Link::Up(connection) => match connection.socket.get() {
                None => Former::Lost,
                Some(fd) if socket::hung_up(fd) => Former::Died,
                Some(_) => return Look::Connected,
            },
        };
        self.lose(found);
        Look::Down
    }

    /// The connection is no more.
    pub(super) fn lose(&mut self, why: Former) {
        self.stderr_sent = None;
        if let Link::Up(connection) = std::mem::replace(&mut self.link, Link::Down) {
            if why == Former::Died {
                self.dead_child = connection.child;
                // What a new one is told of may be gone already.
                self.untold.clear();
            }
            self.lost = Some(connection);
        }
        self.former = why;
    }

    /// There is a connection again, with a marker of its own.
    pub(super) fn up(&mut self, connection: Connection) {
        self.former = Former::None;
        self.link = Link::Up(Arc::new(connection));
        self.lost = None;
    }

    /// Forgets everything but how to start.
    pub(super) fn clear(&mut self) {
        self.link = Link::Down;
        self.lost = None;
        self.former = Former::None;
        self.address = None;
        self.stderr_sent = None;
        self.own.clear();
    }

    pub(super) fn connection_number(&self) -> Option<i32> {
        match &self.link {
            Link::Up(connection) => Some(connection.socket.number()),
            _ => None,
        }
    }

    /// Why there will be no tracker, if that is known.
    pub(super) fn unavailable(&self) -> Option<String> {
        let options = self.options.as_ref()?;
        if options.disabled {
            return Some("SHARED_NUMPY_DISABLE says so".to_owned());
        }
        let (executable, reason) = self.broken.as_ref()?;
        (*executable == options.executable).then(|| reason.clone())
    }

    /// The executable cannot be started, now or later.
    pub(super) fn give_up(&mut self, executable: PathBuf, reason: String) {
        self.broken = Some((executable, reason));
        self.own.clear();
    }

    pub(super) fn own(&self, entry: &Entry<'_>) -> Option<Identity> {
        self.own.get(&key(entry)).copied()
    }

    pub(super) fn remember(&mut self, entry: &Entry<'_>) {
        self.own.insert(key(entry), entry.identity);
    }

    pub(super) fn forget(&mut self, entry: &Entry<'_>) {
        self.own.remove(&key(entry));
    }

    pub(super) fn is_last(&self, entry: &Entry<'_>) -> bool {
        self.own.len() == 1 && self.own.contains_key(&key(entry))
    }

    pub(super) fn all_own(&self) -> Own {
        self.own.clone()
    }

    /// Whether the tracker may be without our stderr by now.
    pub(super) fn wants_stderr(&self) -> bool {
        self.stderr_sent
            .is_none_or(|when| when.elapsed() > STDERR_KEPT / 2)
    }

    pub(super) fn stderr_sent(&mut self) {
        self.stderr_sent = Some(Instant::now());
    }
}

fn key(entry: &Entry<'_>) -> (ResourceType, Box<[u8]>) {
    (entry.rtype, entry.name.into())
}
