//! What the helper process does: one thread, one loop, no waiting for anybody.
//!
//! Guarantees:
//!
//! - Each turn of the loop is bounded: so many messages per connection, then the
//!   next; nothing that a process sends, or fails to send or read, stops the others.
//! - A message that is none ends its connection, not the tracker.
//! - Before it says that a name is unknown, and before it cleans up, the tracker
//!   reads what all other connections have sent by then. A name that was
//!   registered on one socket and removed over another is thus never taken for a
//!   leak, in whichever order the two become readable.
//! - It ends when its last group has, with the exit status that the standard
//!   library's tracker has (0 clean, 1 leaks, 2 could not remove, 3 malformed input).
//!
//! [`group`] decides who is left, [`cleanup`] what is done then, [`words`] how it is
//! told; [`peer`] is a connection; [`pace`] says why messages do not wake us.

mod cleanup;
mod group;
mod pace;
mod peer;
mod words;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;

use self::group::{Fate, Group, may_be_same};
use self::pace::Pace;
use self::peer::{PROOF_WITHIN, Peer, Stage, UNPROVEN_MAX};
use super::address::{Address, Token, same_token};
use super::marker;
use super::protocol::{self, Entry, Hello, Malformed, Message, Ready, ResourceType, Status};
use crate::sys::process::{self, ProcessId};
use crate::sys::resident;
use crate::sys::shm::Identity;
use crate::sys::socket::{self, Received};

/// How many messages of one connection are read in a turn.
const TURN_MESSAGES: usize = 256;
/// How many are read when everything that was sent so far must be known. More than
/// a socket buffer holds, so that only what is sent meanwhile can be left.
const DRAIN_MESSAGES: usize = 4096;
/// How many events one look at the kernel brings.
const EVENTS: usize = 64;

/// What an event is about; larger numbers are connections.
const LISTENER: u64 = 0;
const GUARDIAN: u64 = 1;
const MESSAGES: u64 = 2;
const FIRST_PEER: u64 = 3;

/// The exit status when it was started by hand, not by a process of ours.
const USAGE: u8 = 64;

/// Runs the tracker: the whole life of the executable. Returns its exit status.
pub fn run() -> u8 {
    process::ignore_signals();
    let first = match process::take_stdin_and_close_the_rest() {
        Ok(fd) if socket::is_message_socket(&fd) => fd,
        _ => return USAGE,
    };
    process::detach();
    let Ok(mut server) = Server::new(first) else {
        return USAGE;
    };
    server.serve();
    server.exit_status()
}

pub(super) use self::group::STDERR_KEPT;

/// Everything the tracker knows.
struct Server {
    /// What wakes us: new connections, their first message, their end.
    epoll: OwnedFd,
    /// Members that have sent something; `epoll` contains it while we wait for that.
    messages: OwnedFd,
    pace: Pace,
    /// Where others connect; absent if no address could be bound.
    listener: Option<OwnedFd>,
    /// Whether the loop is told of new connections.
    listening: bool,
    /// Given up for a moment to refuse politely when descriptors run out.
    spare: Option<OwnedFd>,
    address: Token,
    cookie: Token,
    peers: BTreeMap<u64, Peer>,
    next_peer: u64,
    groups: BTreeMap<u64, Group>,
    /// While the other connections are being read: what was removed before it
    /// was known.
    removed_early: Option<Vec<RemovedEarly>>,
    status: u8,
    malformed: bool,
}

/// A name that a connection removed before we had read of its registration.
struct RemovedEarly {
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
    fn new(first: OwnedFd) -> Result<Self, Errno> {
        let mut server = Server {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            messages: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            pace: Pace::Waiting,
            listener: None,
            listening: false,
            spare: spare(),
            address: Token::default(),
            cookie: Token::default(),
            peers: BTreeMap::new(),
            next_peer: FIRST_PEER,
            groups: BTreeMap::new(),
            removed_early: None,
            status: 0,
            malformed: false,
        };
        server.add_peer(first, Stage::First(Instant::now() + PROOF_WITHIN))?;
        server.set_pace(Pace::nap(Instant::now()));
        Ok(server)
    }

    fn exit_status(&self) -> u8 {
        match self.status {
            0 if self.malformed => cleanup::MALFORMED,
            status => status,
        }
    }

    fn serve(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let mut settled = false;
        while !self.is_over() {
            self.sleep();
            take_events(&self.epoll, &mut events);
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept_all(),
                    GUARDIAN => self.groups.values_mut().for_each(Group::look_now),
                    MESSAGES => self.set_pace(Pace::nap(Instant::now())),
                    peer => {
                        self.read(peer, TURN_MESSAGES);
                    }
                }
            }
            if self
                .pace
                .until()
                .is_some_and(|until| until <= Instant::now())
            {
                let found = self.read_messages();
                self.set_pace(self.pace.after(found, Instant::now()));
            }
            self.close_the_unproven();
            self.look_at_orphans();
            self.let_go_of_stderr();
            if !std::mem::replace(&mut settled, true) {
                // The first process has its READY; nobody waits for this.
                resident::release_code();
            }
        }
    }

    /// Sleeps until there is something to do.
    fn sleep(&self) {
        let limit = self
            .next_deadline()
            .map(|when| socket::timespec(socket::until(when)));
        let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
        // A signal or a shortage only means another turn.
        let _ = poll(&mut fds, limit.as_ref());
    }

    /// Reads what members have sent, some of it if it is much. Returns how many
    /// messages that were.
    fn read_messages(&mut self) -> usize {
        let mut events = Vec::with_capacity(EVENTS);
        take_events(&self.messages, &mut events);
        events
            .iter()
            .map(|event| self.read(event.data.u64(), TURN_MESSAGES))
            .sum()
    }

    fn set_pace(&mut self, pace: Pace) {
        match (self.pace, pace) {
            (Pace::Napping { .. }, Pace::Waiting) => {
                let data = epoll::EventData::new_u64(MESSAGES);
                let flags = epoll::EventFlags::IN;
                if epoll::add(&self.epoll, &self.messages, data, flags).is_err() {
                    // For want of memory: go on napping.
                    self.pace = Pace::nap(Instant::now());
                    return;
                }
            }
            (Pace::Waiting, Pace::Napping { .. }) => {
                let _ = epoll::delete(&self.epoll, &self.messages);
            }
            _ => {}
        }
        self.pace = pace;
    }

    /// Nobody is connected, nothing is to be waited for. Somebody who is knocking
    /// at this moment is let in.
    fn is_over(&mut self) -> bool {
        if !self.peers.is_empty() || !self.groups.is_empty() {
            return false;
        }
        self.accept_all();
        self.peers.is_empty()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let proofs = self.peers.values().filter_map(|peer| peer.stage.deadline());
        let looks = self.groups.values().filter_map(Group::look_at);
        let releases = self.groups.values().filter_map(Group::let_go_at);
        let others = releases.chain(self.pace.until());
        proofs.chain(looks).chain(others).min()
    }

    // ---- connections ----

    fn add_peer(&mut self, socket: OwnedFd, stage: Stage) -> Result<(), Errno> {
        let id = self.next_peer;
        let data = epoll::EventData::new_u64(id);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, &socket, data, flags)?;
        self.next_peer += 1;
        self.peers.insert(id, Peer { socket, stage });
        if let Some(group) = stage.group() {
            self.groups.entry(group).or_default().connected();
        }
        Ok(())
    }

    fn drop_peer(&mut self, id: u64) {
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        if let Some(group) = peer.stage.group().and_then(|id| self.groups.get_mut(&id)) {
            group.disconnected();
        }
        drop(peer);
        self.listen_again();
    }

    fn accept_all(&mut self) {
        while let Some(listener) = &self.listener {
            if self.unproven() >= UNPROVEN_MAX {
                return self.stop_listening();
            }
            match socket::accept(listener) {
                Ok(Some(socket)) => {
                    if socket::same_user(&socket) {
                        let deadline = Instant::now() + PROOF_WITHIN;
                        // Fails only for want of memory; the peer sees its end closed.
                        let _ = self.add_peer(socket, Stage::Unproven(deadline));
                    }
                }
                Ok(None) => return,
                Err(_) => return self.refuse_politely(),
            }
        }
    }

    fn unproven(&self) -> usize {
        let unproven = |peer: &&Peer| matches!(peer.stage, Stage::Unproven(_));
        self.peers.values().filter(unproven).count()
    }

    fn stop_listening(&mut self) {
        if let Some(listener) = &self.listener
            && std::mem::take(&mut self.listening)
        {
            let _ = epoll::delete(&self.epoll, listener);
        }
    }

    fn listen_again(&mut self) {
        if self.listening || self.unproven() >= UNPROVEN_MAX {
            return;
        }
        if let Some(listener) = &self.listener {
            let data = epoll::EventData::new_u64(LISTENER);
            self.listening = epoll::add(&self.epoll, listener, data, epoll::EventFlags::IN).is_ok();
        }
    }

    /// No descriptor is left for a new connection: take it on the spare one, say so,
    /// and close it. If even that fails, wait until a connection goes.
    fn refuse_politely(&mut self) {
        self.spare = None;
        let refused = match self.listener.as_ref().map(socket::accept) {
            Some(Ok(Some(socket))) => {
                self.answer(&socket, Status::Busy, 0, None);
                true
            }
            _ => false,
        };
        self.spare = spare();
        if !refused {
            self.stop_listening();
        }
    }

    fn close_the_unproven(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.stage
                    .deadline()
                    .is_some_and(|deadline| deadline <= now)
            })
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            self.drop_peer(id);
        }
    }

    // ---- messages ----

    /// Reads up to `limit` messages of one connection. Returns how many came.
    fn read(&mut self, id: u64, limit: usize) -> usize {
        let mut buffer = [0_u8; protocol::MESSAGE_MAX_BYTES];
        for count in 0..limit {
            let Some(peer) = self.peers.get(&id) else {
                return count;
            };
            let handled = match socket::receive(&peer.socket, &mut buffer) {
                Ok(Received::Message(len, attached)) => {
                    self.handle(id, peer.stage, &buffer[..len], attached)
                }
                Ok(Received::Nothing) => return count,
                Ok(Received::TooLong) => Err(Malformed),
                Ok(Received::End) | Err(_) => {
                    self.drop_peer(id);
                    return count;
                }
            };
            if handled.is_err() {
                // What a stranger sends says nothing about our own program.
                self.malformed |= self.peers[&id].stage.group().is_some();
                self.drop_peer(id);
                return count;
            }
        }
        limit
    }

    /// Reads what every connection but `except` has sent by now.
    ///
    /// Not nested: what is met on the way that would need it again is noted in
    /// `removed_early`, and registrations that come after it are passed over.
    fn drain(&mut self, except: Option<u64>) {
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        for id in ids.into_iter().filter(|&id| Some(id) != except) {
            self.read(id, DRAIN_MESSAGES);
        }
    }

    /// [`Server::drain`] of every connection.
    fn drain_all(&mut self) {
        self.removed_early = Some(Vec::new());
        self.drain(None);
        self.removed_early = None;
    }

    fn handle(
        &mut self,
        id: u64,
        stage: Stage,
        bytes: &[u8],
        attached: Option<OwnedFd>,
    ) -> Result<(), Malformed> {
        match (Message::decode(bytes)?, stage) {
            (Message::Hello(hello), _) => self.hello(id, stage, &hello),
            (Message::Register(entry), Stage::Member(group)) => {
                self.register(id, group, &entry, attached);
                Ok(())
            }
            (Message::Unregister(entry), Stage::Member(group)) => {
                self.remove(id, Some(group), &entry);
                Ok(())
            }
            (Message::Gone(entry), Stage::Member(_)) => {
                self.remove(id, None, &entry);
                Ok(())
            }
            (Message::Adopt, Stage::Member(group)) => match attached {
                Some(socket) if socket::is_message_socket(&socket) => {
                    let _ = self.add_peer(socket, Stage::Adopted(group));
                    Ok(())
                }
                // Lost on the way if our descriptors ran out: the sender sees its
                // new end closed, and nobody is to blame.
                None => Ok(()),
                Some(_) => Err(Malformed),
            },
            _ => Err(Malformed),
        }
    }

    fn hello(&mut self, id: u64, stage: Stage, hello: &Hello) -> Result<(), Malformed> {
        let (status, group) = match stage {
            _ if hello.version != protocol::VERSION => (Status::Version, 0),
            Stage::First(_) => (self.settle_at(hello), hello.group),
            Stage::Unproven(_) if !same_token(&self.cookie, &hello.cookie) => (Status::Refused, 0),
            Stage::Unproven(_) => (Status::In, hello.group),
            Stage::Adopted(group) => (Status::In, group),
            Stage::Member(_) => return Err(Malformed),
        };
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if status == Status::In {
            // From now on its messages wait until we look, and its end wakes us.
            let data = epoll::EventData::new_u64(id);
            let quiet = epoll::add(&self.messages, &peer.socket, data, epoll::EventFlags::IN)
                .and_then(|()| {
                    let flags = epoll::EventFlags::RDHUP;
                    epoll::modify(&self.epoll, &peer.socket, data, flags)
                });
            // Without memory for that, each of its messages wakes us.
            let _ = quiet;
            peer.stage = Stage::Member(group);
            let entry = self.groups.entry(group).or_default();
            if stage.group().is_none() {
                entry.connected();
            }
            if let Some((pid, start_ticks)) = hello.guardian
                && let Some(watch) = entry.add_guardian(ProcessId { pid, start_ticks })
            {
                let data = epoll::EventData::new_u64(GUARDIAN);
                let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
                // Without it the guardian is looked at each second.
                let _ = epoll::add(&self.epoll, watch, data, flags);
            }
        }
        let marker = match status {
            Status::In => marker::make(group).ok(),
            _ => None,
        };
        self.answer(&self.peers[&id].socket, status, group, marker);
        if status != Status::In {
            self.drop_peer(id);
        }
        self.listen_again();
        Ok(())
    }

    /// The first HELLO says where we live.
    fn settle_at(&mut self, hello: &Hello) -> Status {
        self.cookie = hello.cookie;
        if hello.bind {
            let address = Address {
                name: hello.address,
                cookie: hello.cookie,
                group: hello.group,
                exporter: 0,
            };
            match socket::listen(&address.socket_name()) {
                Ok(listener) => {
                    self.listener = Some(listener);
                    self.address = hello.address;
                }
                Err(Errno::ADDRINUSE) => return Status::AddressTaken,
                // No such sockets here: only children that inherit a connection
                // find us.
                Err(_) => {}
            }
        }
        Status::In
    }

    fn answer(&self, to: &OwnedFd, status: Status, group: u64, marker: Option<OwnedFd>) {
        use std::os::fd::AsFd;
        let ready = Ready {
            status,
            version: protocol::VERSION,
            pid: process::own_pid(),
            address: self.address,
            cookie: match status {
                Status::In => self.cookie,
                _ => Token::default(),
            },
            group,
        };
        let marker = marker.as_ref().map(AsFd::as_fd);
        // Its first message, so its buffer is empty; and if it is gone, so be it.
        let _ = socket::send(to.as_fd(), ready.encode().as_bytes(), marker);
    }

    // ---- names ----

    fn register(&mut self, id: u64, group: u64, entry: &Entry<'_>, stderr: Option<OwnedFd>) {
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
    fn remove(&mut self, id: u64, group: Option<u64>, entry: &Entry<'_>) {
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

    // ---- the end of groups ----

    /// Closes the stderr of groups that have been without names for a while. Reads
    /// everything first: a process that sent no stderr because ours is recent has
    /// its registration in a buffer by now.
    fn let_go_of_stderr(&mut self) {
        let now = Instant::now();
        let due = |group: &Group| group.let_go_at().is_some_and(|when| when <= now);
        if self.groups.values().any(due) {
            self.drain_all();
            self.groups.values_mut().for_each(|group| group.let_go(now));
        }
    }

    fn look_at_orphans(&mut self) {
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

/// What has happened by now; `events` is empty if nothing has.
fn take_events(epoll: &OwnedFd, events: &mut Vec<epoll::Event>) {
    events.clear();
    let at_once = socket::timespec(Duration::ZERO);
    let _ = epoll::wait(
        epoll,
        rustix::buffer::spare_capacity(events),
        Some(&at_once),
    );
}

fn spare() -> Option<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/null", OFlags::CLOEXEC, Mode::empty()).ok()
}
