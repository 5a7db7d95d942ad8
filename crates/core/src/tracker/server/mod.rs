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
//! Here is the loop and what it reads. `connections` lets processes in, `peer` is
//! one of them; `names` keeps what they register, `group` decides who is left,
//! `cleanup` what is done then, `words` how it is told; `pace` says why messages do
//! not wake us.

mod cleanup;
mod connections;
mod group;
mod names;
mod pace;
mod peer;
mod words;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;

use self::group::Group;
use self::names::RemovedEarly;
use self::pace::Pace;
use self::peer::{Peer, Stage};
use super::address::Token;
use super::protocol::{self, Malformed, Message};
use crate::helper::door::{Door, PROOF_WITHIN};
use crate::helper::events::{DRAIN_MESSAGES, EVENTS, TURN_MESSAGES, take_events};
use crate::sys::process::{self};
use crate::sys::resident;
use crate::sys::socket::{self, Received};

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
    /// Where others connect; nowhere if no address could be bound.
    door: Door,
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

impl Server {
    fn new(first: OwnedFd) -> Result<Self, Errno> {
        let mut server = Server {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            messages: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            pace: Pace::Waiting,
            door: Door::new(LISTENER),
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
}
