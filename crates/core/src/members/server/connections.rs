//! Connections: who is let in, and how they end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll;
use rustix::io::Errno;

use super::segments::Segments;
use super::sleepers::Sleepers;
use super::slots::Slots;
use super::{Served, Server};
use crate::helper::door::{Came, PROOF_WITHIN, UNPROVEN_MAX};
use crate::helper::start::is_shortage;
use crate::helper::wait::PATIENCE;
use crate::layout::Participant;
use crate::members::protocol::{self, Hello, Ready, Status};
use crate::members::{relatives, socket_name};
use crate::pool::family::Family;
use crate::sys::process::{self, Reach};
use crate::sys::socket;
use crate::tracker::address::same_token;

/// One connection.
pub(super) struct Peer {
    /// Our end.
    pub(super) socket: OwnedFd,
    /// What its owner may do.
    pub(super) stage: Stage,
    /// Its owner's pid in our namespace; `None` where we cannot see it.
    pub(super) pid: Option<i32>,
}

/// | stage | reached by | next |
/// | --- | --- | --- |
/// | `First` | being descriptor 0 of the tracker | HELLO says which family: `Member` |
/// | `Unproven` | `connect` | HELLO with the cookie: `Member`; else or after a second: closed |
/// | `Member(Joining)` | HELLO | JOINED: `Joined`; after five seconds: `Silent` |
/// | `Member(Silent)` | saying nothing | JOINED: `Joined`; end of file: closed |
/// | `Member(Joined)` | JOINED | end of file: closed |
pub(super) enum Stage {
    /// The process that started the tracker; it has a second to say so.
    First(Instant),
    /// Anybody who may come; closed at this time.
    Unproven(Instant),
    /// It knows the cookie.
    Member(Member),
}

/// A process that was let in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Member {
    /// It has the family's descriptor and no slot yet; until then it is waited for.
    Joining(Instant),
    /// It has this slot.
    Joined(Participant),
    /// It took its time; it may stay, and nobody waits for it.
    Silent,
}

impl Member {
    pub(super) fn joined(&mut self, who: Participant) {
        *self = Member::Joined(who);
    }
}

impl Stage {
    /// How long its owner is waited for before the tracker may end; who has proved
    /// nothing is then closed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match *self {
            Stage::First(deadline) | Stage::Unproven(deadline) => Some(deadline),
            Stage::Member(Member::Joining(deadline)) => Some(deadline),
            Stage::Member(Member::Joined(_) | Member::Silent) => None,
        }
    }
}

impl Server {
    pub(super) fn add_peer(&mut self, socket: OwnedFd, stage: Stage) -> Result<(), Errno> {
        let id = self.next_peer;
        let data = epoll::EventData::new_u64(id);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, &socket, data, flags)?;
        self.next_peer += 1;
        let pid = socket::peer_pid(&socket);
        self.peers.insert(id, Peer { socket, stage, pid });
        Ok(())
    }

    pub(super) fn drop_peer(&mut self, id: u64) {
        if let Some(peer) = self.peers.remove(&id)
            && let Stage::Member(Member::Joined(who)) = peer.stage
            && let Some(served) = &mut self.served
        {
            // The end of a connection proves nothing; it is a reason to look.
            served.slots.look_soon(who);
        }
        self.listen_again();
    }

    pub(super) fn accept_all(&mut self) {
        loop {
            if self.unproven() >= UNPROVEN_MAX {
                return self.door.look_away(&self.epoll);
            }
            let family = self.served.as_ref().map(|served| &served.family);
            let may_come =
                |socket: &OwnedFd| family.is_some_and(|family| relatives::may_come(socket, family));
            match self.door.next(&self.epoll, may_come) {
                Came::Somebody(socket) => {
                    let deadline = Instant::now() + PROOF_WITHIN;
                    // Fails only for want of memory; the peer sees its end closed.
                    let _ = self.add_peer(socket, Stage::Unproven(deadline));
                }
                Came::Nobody => return,
                Came::OneTooMany(socket) => {
                    self.answer(&socket, Status::Busy, None);
                    drop(socket);
                    return self.door.refused();
                }
            }
        }
    }

    fn unproven(&self) -> usize {
        let unproven = |peer: &&Peer| matches!(peer.stage, Stage::Unproven(_));
        self.peers.values().filter(unproven).count()
    }

    fn listen_again(&mut self) {
        if self.unproven() < UNPROVEN_MAX {
            self.door.watch(&self.epoll);
        }
    }

    pub(super) fn close_the_unproven(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        for (&id, peer) in &mut self.peers {
            match peer.stage {
                Stage::First(deadline) | Stage::Unproven(deadline) if deadline <= now => {
                    late.push(id);
                }
                Stage::Member(Member::Joining(deadline)) if deadline <= now => {
                    peer.stage = Stage::Member(Member::Silent);
                }
                _ => {}
            }
        }
        for id in late {
            self.drop_peer(id);
        }
    }

    /// Answers a HELLO; whoever is not let in is closed.
    pub(super) fn hello(&mut self, id: u64, hello: &Hello, attached: Option<OwnedFd>) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        // We cannot look at another user's processes, unless we are root.
        let is_stranger = peer
            .pid
            .and_then(|pid| u32::try_from(pid).ok())
            .is_none_or(|pid| process::reach(pid) == Reach::Foreign);
        let (status, is_first) = match (&peer.stage, &self.served) {
            _ if hello.version != protocol::VERSION => (Status::Version, false),
            (Stage::First(_), None) if hello.serve => (self.begin(hello, attached), true),
            (Stage::Unproven(_), Some(served)) if !hello.serve => {
                let is_good =
                    same_token(&served.cookie, &hello.cookie) && served.family.id() == hello.family;
                let status = if is_good { Status::In } else { Status::Refused };
                (status, false)
            }
            _ => return self.drop_peer(id),
        };
        let (Some(peer), served) = (self.peers.get_mut(&id), &mut self.served) else {
            return;
        };
        let mut family = None;
        if status == Status::In
            && let Some(served) = served
        {
            peer.stage = Stage::Member(Member::Joining(Instant::now() + PATIENCE));
            if is_stranger {
                served.slots.stranger_came();
            }
            if !is_first {
                family = Some(served.family_fd.as_fd());
            }
        }
        let answered = answer(&peer.socket, status, hello.family, family);
        if status != Status::In || !answered {
            self.drop_peer(id);
        }
        self.listen_again();
    }

    /// The first HELLO brings the family.
    fn begin(&mut self, hello: &Hello, attached: Option<OwnedFd>) -> Status {
        let Some(family_fd) = attached else {
            return Status::Busy;
        };
        let family = match Family::attach(&family_fd) {
            Ok(family) if family.id() == hello.family => Arc::new(family),
            _ => return Status::Refused,
        };
        // Slots are known first: nobody would give back ours.
        let Ok(slots) = Slots::new(&family_fd) else {
            return Status::Busy;
        };
        let bound = match socket::bind(&socket_name(hello.family)) {
            Ok(bound) => bound,
            Err(Errno::ADDRINUSE) => return Status::AddressTaken,
            Err(errno) if is_shortage(errno) => return Status::Busy,
            Err(_) => return Status::NoAddress,
        };
        // Before anybody can come, who may have to look for it.
        let Ok(me) = family.join_as_tracker() else {
            return Status::Busy;
        };
        let Ok(listener) = bound.listen() else {
            // An error would be that of a slot that does not exist.
            let _ = family.declare_dead(me);
            return Status::NoAddress;
        };
        self.door.open(listener);
        self.served = Some(Served {
            family,
            family_fd,
            cookie: hello.cookie,
            me,
            slots,
            segments: Segments::new(),
            sleepers: Sleepers::new(),
            guardians: Vec::new(),
            stuck_until: None,
        });
        Status::In
    }

    fn answer(&self, to: &OwnedFd, status: Status, family_fd: Option<BorrowedFd<'_>>) {
        let family = self.served.as_ref().map_or([0, 0], |all| all.family.id());
        // If it is gone by now, so be it: it is closed next.
        let _ = answer(to, status, family, family_fd);
    }
}

/// `false` when it could not be sent.
fn answer(
    to: &OwnedFd,
    status: Status,
    family: [u64; 2],
    family_fd: Option<BorrowedFd<'_>>,
) -> bool {
    let ready = Ready {
        status,
        version: protocol::VERSION,
        pid: process::own_pid(),
        family,
    };
    let sent = socket::send(to.as_fd(), ready.encode().as_bytes(), family_fd);
    if family_fd.is_some() && sent.is_err() {
        // Too many descriptors of this user are on their way.
        let busy = Ready {
            status: Status::Busy,
            ..ready
        };
        let _ = socket::send(to.as_fd(), busy.encode().as_bytes(), None);
    }
    sent.is_ok()
}
