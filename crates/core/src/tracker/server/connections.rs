//! Connections: who is let in, and how they end.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll;
use rustix::io::Errno;

use super::peer::{Peer, Stage};
use super::{GUARDIAN, Server};
use crate::helper::door::{Came, PROOF_WITHIN, UNPROVEN_MAX};
use crate::sys::process::{self, ProcessId};
use crate::sys::socket::{self, Bound};
use crate::tracker::address::{Address, Token, same_token};
use crate::tracker::marker;
use crate::tracker::protocol::{self, Hello, Malformed, Ready, Status};

impl Server {
    pub(super) fn add_peer(&mut self, socket: OwnedFd, stage: Stage) -> Result<(), Errno> {
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

    pub(super) fn drop_peer(&mut self, id: u64) {
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        if let Some(group) = peer.stage.group().and_then(|id| self.groups.get_mut(&id)) {
            group.disconnected();
        }
        drop(peer);
        self.listen_again();
    }

    pub(super) fn accept_all(&mut self) {
        loop {
            if self.unproven() >= UNPROVEN_MAX {
                return self.door.look_away(&self.epoll);
            }
            match self
                .door
                .next(&self.epoll, |socket| socket::same_user(socket))
            {
                Came::Somebody(socket) => {
                    let deadline = Instant::now() + PROOF_WITHIN;
                    // Fails only for want of memory; the peer sees its end closed.
                    let _ = self.add_peer(socket, Stage::Unproven(deadline));
                }
                Came::Nobody => return,
                Came::OneTooMany(socket) => {
                    self.answer(&socket, Status::Busy, 0, None);
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

    pub(super) fn hello(&mut self, id: u64, stage: Stage, hello: &Hello) -> Result<(), Malformed> {
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
            match socket::bind(&address.socket_name()).and_then(Bound::listen) {
                Ok(listener) => {
                    self.door.open(listener);
                    self.address = hello.address;
                }
                Err(Errno::ADDRINUSE) => return Status::AddressTaken,
                // No place for a socket here: only children that inherit a
                // connection find us.
                Err(_) => {}
            }
        }
        Status::In
    }

    fn answer(&self, to: &OwnedFd, status: Status, group: u64, marker: Option<OwnedFd>) {
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
        let ready = ready.encode();
        // Its first message, so its buffer is empty; and if it is gone, so be it.
        let sent = socket::send(to.as_fd(), ready.as_bytes(), marker);
        if marker.is_some() && sent.is_err() {
            // Too many descriptors of this user are on their way.
            let _ = socket::send(to.as_fd(), ready.as_bytes(), None);
        }
    }
}
