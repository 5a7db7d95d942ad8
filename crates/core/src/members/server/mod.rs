//! What the members tracker does: one thread, one loop, no waiting for anybody.
//!
//! Guarantees:
//!
//! - Each turn of the loop is bounded; nothing that a process sends, or fails to send or to
//!   read, stops the others. A message that is none ends its connection, not the tracker.
//! - Before it says that a segment is unknown, it has read what all other connections had
//!   sent by then: a handle may be quicker than its owner's REGISTER.
//! - Garbage in the family or in a segment is worked around or let go, and never waited on.
//! - It sleeps until something happens, except while a slot, an orphaned pool or an owner that
//!   seems to sleep has to be looked at again.
//! - It ends when nobody but itself has a slot, nobody is about to get one, and nobody
//!   lives who may be waiting for what a dead member has sent.
//!
//! Here is the loop and what it reads. `connections` lets processes in; `slots` knows who
//! is in the family and notices who is not any more; `segments` keeps descriptors, and
//! frees in pools whose owner is dead; `sleepers` gives back in the place of owners that sleep.

mod connections;
mod segments;
mod sleepers;
mod slots;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;

use self::connections::{Peer, Stage};
use self::segments::Segments;
use self::sleepers::Sleepers;
use self::slots::Slots;
use super::protocol::{self, Answer, Fetched, Malformed, Message, SegmentId};
use crate::error::Result;
use crate::helper::door::{Door, PROOF_WITHIN};
use crate::helper::events::{DRAIN_MESSAGES, EVENTS, TURN_MESSAGES, take_events};
use crate::layout::{Participant, SLOTS};
use crate::pool::family::Family;
use crate::recover::recover_all;
use crate::sync::Ordering;
use crate::sys::process::{self, ProcessId};
use crate::sys::resident;
use crate::sys::socket::{self, Received};
use crate::tracker::address::Token;

/// What an event is about: the door, a slot's process that ended, or a connection.
const DOOR: u64 = 0;
const FIRST_PEER: u64 = 1;
const SLOT: u64 = 1 << 63;

/// More guardians than a family has members are nobody's.
const GUARDIANS_MAX: usize = SLOTS;
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The exit status when it was started by hand, not by a process of ours.
const USAGE: u8 = 64;
/// The exit status when the system does not let it run.
const CANNOT: u8 = 71;

/// Runs the tracker: the whole life of the executable. Returns its exit status.
///
/// To be called first of all, while there is one thread.
pub fn run() -> u8 {
    process::ignore_signals();
    if process::leave_parent().is_err() {
        return CANNOT;
    }
    let first = match process::take_stdin_and_close_the_rest() {
        Ok(fd) if socket::is_message_socket(&fd) => fd,
        _ => return USAGE,
    };
    process::detach();
    serve(first, resident::release_code)
}

/// The tracker in this very process, for tests: from its first connection to its end.
pub fn run_on(first: OwnedFd) -> u8 {
    serve(first, || ())
}

fn serve(first: OwnedFd, settle: fn()) -> u8 {
    match Server::new(first) {
        Ok(mut server) => {
            server.serve(settle);
            0
        }
        Err(_) => CANNOT,
    }
}

/// Everything the tracker knows.
struct Server {
    epoll: OwnedFd,
    door: Door,
    peers: BTreeMap<u64, Peer>,
    next_peer: u64,
    /// Since the first HELLO.
    served: Option<Served>,
    /// Requests for what was not known when they were read.
    unanswered: Vec<(u64, u32, SegmentId)>,
}

/// The family and what is known of it.
struct Served {
    family: Arc<Family>,
    family_fd: OwnedFd,
    cookie: Token,
    me: Participant,
    slots: Slots,
    segments: Segments,
    sleepers: Sleepers,
    /// Who may receive what members sent that have ended.
    guardians: Vec<ProcessId>,
    /// Something failed that may go better later.
    stuck_until: Option<Instant>,
}

impl Server {
    fn new(first: OwnedFd) -> std::result::Result<Self, Errno> {
        let mut server = Server {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            door: Door::new(DOOR),
            peers: BTreeMap::new(),
            next_peer: FIRST_PEER,
            served: None,
            unanswered: Vec::new(),
        };
        server.add_peer(first, Stage::First(Instant::now() + PROOF_WITHIN))?;
        Ok(server)
    }

    fn serve(&mut self, settle: fn()) {
        let mut events = Vec::with_capacity(EVENTS);
        let mut is_settled = false;
        while !self.is_over() {
            self.sleep();
            take_events(&self.epoll, &mut events);
            for event in &events {
                match event.data.u64() {
                    DOOR => self.accept_all(),
                    slot if slot & SLOT != 0 => self.slot_event((slot & !SLOT) as usize),
                    peer => self.read(peer, TURN_MESSAGES),
                }
            }
            self.answer_the_unanswered();
            self.close_the_unproven();
            self.look_after();
            if self.served.is_some() && !std::mem::replace(&mut is_settled, true) {
                // The first process has its READY; nobody waits for this.
                settle();
            }
        }
        if let Some(served) = &self.served {
            // Nobody is left who could be told of an error.
            let _ = served.family.declare_dead(served.me);
        }
    }

    /// Sleeps until there is something to do.
    fn sleep(&self) {
        let limit = match self.unanswered.is_empty() {
            true => self.next_deadline().map(socket::until),
            false => Some(Duration::ZERO),
        };
        let limit = limit.map(socket::timespec);
        let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
        // A signal or a shortage only means another turn.
        let _ = poll(&mut fds, limit.as_ref());
    }

    fn next_deadline(&self) -> Option<Instant> {
        let peers = self.peers.values().filter_map(|peer| peer.stage.deadline());
        let looks = self.served.as_ref().and_then(Served::look_at);
        peers.chain(looks).min()
    }

    /// Nobody else has a slot, and nobody is about to get one. Somebody who is knocking at
    /// this moment is let in, and what the last one said before it ended is read: it may
    /// have named somebody who needs us.
    fn is_over(&mut self) -> bool {
        if self.is_needed() {
            return false;
        }
        self.accept_all();
        self.read_everybody();
        if self.is_needed() {
            // What was read may have to be looked at, and no event will say so.
            self.look_after();
        }
        !self.is_needed()
    }

    fn is_needed(&self) -> bool {
        let now = Instant::now();
        let is_coming = |peer: &Peer| peer.stage.deadline().is_some_and(|until| until > now);
        self.peers.values().any(is_coming) || self.served.as_ref().is_some_and(Served::is_needed)
    }

    /// Reads up to `limit` messages of one connection.
    fn read(&mut self, id: u64, limit: usize) {
        let mut buffer = [0_u8; protocol::MESSAGE_MAX_BYTES];
        for _ in 0..limit {
            let Some(peer) = self.peers.get(&id) else {
                return;
            };
            let handled = match socket::receive(&peer.socket, &mut buffer) {
                Ok(Received::Message(len, attached)) => self.handle(id, &buffer[..len], attached),
                Ok(Received::Nothing) => return,
                Ok(Received::TooLong) => Err(Malformed),
                Ok(Received::End) | Err(_) => return self.drop_peer(id),
            };
            if handled.is_err() {
                return self.drop_peer(id);
            }
        }
    }

    fn handle(
        &mut self,
        id: u64,
        bytes: &[u8],
        attached: Option<OwnedFd>,
    ) -> std::result::Result<(), Malformed> {
        let message = Message::decode(bytes)?;
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if let Message::Hello(hello) = message {
            self.hello(id, &hello, attached);
            return Ok(());
        }
        let (Stage::Member(member), Some(served)) = (&mut peer.stage, &mut self.served) else {
            return Err(Malformed);
        };
        match message {
            Message::Hello(_) => return Err(Malformed),
            Message::Joined(who) => {
                member.joined(who);
                served.joined(&self.epoll, who, attached, peer.pid);
            }
            Message::Guarded(guardian) => served.guarded_by(guardian),
            Message::Dropped(owner) => {
                served
                    .sleepers
                    .dropped(&served.family, owner, Instant::now());
            }
            // Lost on the way if our descriptors ran out: the segment stays unknown.
            Message::Register(segment) => served.segments.register(segment, attached),
            Message::Fetch(request, segment) => match served.segments.get(segment) {
                Some(_) => self.answer_fetch(id, request, segment),
                None => self.unanswered.push((id, request, segment)),
            },
        }
        Ok(())
    }

    /// Reads what everybody has sent by now, and then answers what was unknown before. What
    /// is asked meanwhile is for the next turn.
    fn answer_the_unanswered(&mut self) {
        let unanswered = std::mem::take(&mut self.unanswered);
        if unanswered.is_empty() {
            return;
        }
        self.read_everybody();
        for (id, request, segment) in unanswered {
            self.answer_fetch(id, request, segment);
        }
    }

    fn read_everybody(&mut self) {
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        for id in ids {
            self.read(id, DRAIN_MESSAGES);
        }
    }

    fn answer_fetch(&mut self, id: u64, request: u32, segment: SegmentId) {
        let (Some(peer), Some(served)) = (self.peers.get(&id), &self.served) else {
            return;
        };
        let tell = |answer, fd| {
            let fetched = Fetched {
                answer,
                request,
                segment,
            };
            socket::send(peer.socket.as_fd(), fetched.encode().as_bytes(), fd)
        };
        let told = match served.segments.get(segment) {
            None => tell(Answer::Unknown, None),
            Some(fd) => match tell(Answer::Here, Some(fd)) {
                // Too many descriptors of this user are on their way.
                Err(Errno::TOOMANYREFS | Errno::NOMEM | Errno::NOBUFS) => tell(Answer::Busy, None),
                told => told,
            },
        };
        if told.is_err() {
            // It does not read its answers, or is gone.
            self.drop_peer(id);
        }
    }

    /// A pidfd says that a slot's process is no more.
    fn slot_event(&mut self, slot: usize) {
        if let Some(served) = &mut self.served {
            // An error is garbage in the family: then looks decide, as for others.
            let _ = served
                .slots
                .process_ended(&served.family, slot, &self.epoll);
        }
    }

    fn look_after(&mut self) {
        if let Some(served) = &mut self.served {
            // What fails here (no slot left for us, garbage in the family) is tried again at
            // the next event, and not in a hurry.
            let failed = served.look_after(&self.epoll).is_err();
            served.stuck_until = failed.then(|| Instant::now() + RETRY);
        }
    }
}

impl Served {
    /// When something has to be looked at next.
    fn look_at(&self) -> Option<Instant> {
        let looks = [
            self.slots.look_at(),
            self.segments.look_at(),
            self.sleepers.look_at(),
        ];
        self.stuck_until
            .or_else(|| looks.into_iter().flatten().min())
    }

    /// Somebody is in the family, or may still come for what is on its way. Looked at each
    /// second meanwhile, as all orphaned pools are.
    fn is_needed(&self) -> bool {
        let is_held = !self.segments.is_empty();
        !self.slots.is_empty() || is_held && self.guardians.iter().any(|each| each.is_alive())
    }

    fn guarded_by(&mut self, guardian: ProcessId) {
        self.guardians.retain(|each| each.is_alive());
        if !self.guardians.contains(&guardian) && self.guardians.len() < GUARDIANS_MAX {
            self.guardians.push(guardian);
        }
    }

    /// Notices who came and who died, recovers the dead, and frees in their place.
    fn look_after(&mut self, epoll: &OwnedFd) -> Result<()> {
        let now = Instant::now();
        if !self.family.counts(self.me) {
            // Somebody took us for dead. Then what we closed is somebody else's to close. If
            // the dead have all slots, it is known at least that nobody else is left.
            self.slots.discover(&self.family, self.me, epoll, now)?;
            self.me = self.family.join_as_tracker()?;
            self.segments.forget_orphans();
        }
        let mut news = self.family.news()?.load(Ordering::Acquire);
        self.slots.discover(&self.family, self.me, epoll, now)?;
        let mut is_news = self.slots.look(&self.family, now)?;
        let orphans = self.segments.orphans();
        is_news |= recover_all(&self.family, self.me, &orphans)? > 0;
        if is_news {
            // Who left has no slot any more.
            news = self.family.news()?.load(Ordering::Acquire);
            self.slots.discover(&self.family, self.me, epoll, now)?;
        }
        if self.slots.are_watched() {
            self.family.set_watched(news)?;
        }
        self.segments.tend(&self.family, self.me, is_news, now);
        self.sleepers
            .tend(&self.family, self.me, &self.segments, now);
        Ok(())
    }

    /// The sender of a JOINED has this slot; `watch` is a descriptor of its process.
    fn joined(
        &mut self,
        epoll: &OwnedFd,
        who: Participant,
        watch: Option<OwnedFd>,
        pid: Option<i32>,
    ) {
        let now = Instant::now();
        // An error is garbage in the family, which the end of this turn meets too.
        if self
            .slots
            .discover(&self.family, self.me, epoll, now)
            .is_ok()
            && let Some(watch) = watch
            && is_its_own(&watch, pid)
        {
            self.slots.watch_by(epoll, who, watch);
        }
    }
}

/// Whether the watch that the process `pid` sent is one of itself, as far as we can see: not
/// that of a process with a longer or shorter life.
fn is_its_own(watch: &OwnedFd, pid: Option<i32>) -> bool {
    let stands_for = process::watched_pid(watch).filter(|&pid| pid > 0);
    process::is_watch(watch)
        && pid
            .zip(stands_for)
            .is_none_or(|(pid, its)| i64::from(pid) == its)
}
