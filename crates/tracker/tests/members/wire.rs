//! The protocol, spoken by hand. `keeping` does it well and badly, `letting_in` also not at all.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{is_collected, runs, tracker, wait_until};

use shared_numpy_core::layout::{Participant, PoolHeader};
use shared_numpy_core::members::protocol::{
    Answer, Fetched, Hello, MESSAGE_MAX_BYTES, Message, Ready, SegmentId, Status, VERSION,
};
use shared_numpy_core::members::{MODE, socket_name};
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::sys::socket::{self, Received};
use shared_numpy_core::sys::{anon, process, shm};

pub(crate) const COOKIE: [u8; 16] = [9; 16];

/// A tracker started by hand, and the connection that it was started with. This process is
/// the family's one member.
pub(crate) struct Wire {
    pub(crate) family: std::sync::Arc<Family>,
    pub(crate) family_fd: OwnedFd,
    pub(crate) me: Participant,
    pub(crate) tracker: u32,
    pub(crate) first: OwnedFd,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let (family, family_fd) = Family::create().unwrap();
        let me = family.join().unwrap();
        let first = start();
        let hello = Hello {
            serve: true,
            ..hello(&family)
        };
        socket::send(
            first.as_fd(),
            Message::Hello(hello).encode().as_bytes(),
            Some(family_fd.as_fd()),
        )
        .unwrap();
        let (ready, _) = ready(&first).unwrap();
        assert_eq!((ready.status, ready.family), (Status::In, family.id()));
        Wire {
            family: std::sync::Arc::new(family),
            family_fd,
            me,
            tracker: ready.pid,
            first,
        }
    }

    pub(crate) fn connect(&self) -> OwnedFd {
        socket::connect(&socket_name(self.family.id())).unwrap()
    }

    pub(crate) fn member(&self) -> OwnedFd {
        let socket = self.connect();
        send(&socket, &Message::Hello(hello(&self.family)));
        let (ready, family_fd) = ready(&socket).unwrap();
        assert_eq!(ready.status, Status::In);
        let same = |fd: &OwnedFd| shm::status(fd).unwrap().identity;
        assert_eq!(same(&family_fd.unwrap()), same(&self.family_fd));
        socket
    }

    pub(crate) fn segment(&self, number: u64) -> SegmentId {
        SegmentId {
            owner: self.me,
            number,
        }
    }

    /// Leaves, and sees the tracker end.
    pub(crate) fn ends(self) {
        self.family.declare_dead(self.me).unwrap();
        drop(self.first);
        let tracker = self.tracker;
        wait_until("the tracker ends", || !runs(tracker));
    }
}

/// The executable, and our end of its socket.
pub(crate) fn start() -> OwnedFd {
    let (ours, theirs) = socket::pair().unwrap();
    let child = process::spawn(Path::new(tracker()), &[MODE], theirs).unwrap();
    is_collected(child);
    ours
}

pub(crate) fn hello(family: &Family) -> Hello {
    Hello {
        serve: false,
        version: VERSION,
        family: family.id(),
        cookie: COOKIE,
    }
}

pub(crate) fn send(socket: &OwnedFd, message: &Message) {
    socket::send(socket.as_fd(), message.encode().as_bytes(), None).unwrap();
}

pub(crate) fn register(socket: &OwnedFd, segment: SegmentId, fd: &OwnedFd) {
    let message = Message::Register(segment).encode();
    wait_until("there is room", || {
        socket::send(socket.as_fd(), message.as_bytes(), Some(fd.as_fd())).is_ok()
    });
}

/// The next message; `None` at the end.
pub(crate) fn receive(socket: &OwnedFd) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = [0; MESSAGE_MAX_BYTES];
    let mut message = None;
    wait_until("something comes", || {
        match socket::receive(socket, &mut buffer) {
            Ok(Received::Message(len, fd)) => {
                message = Some((buffer[..len].to_vec(), fd));
                true
            }
            Ok(Received::Nothing) => false,
            Ok(Received::End) => true,
            other => panic!("{other:?}"),
        }
    });
    message
}

pub(crate) fn ready(socket: &OwnedFd) -> Option<(Ready, Option<OwnedFd>)> {
    receive(socket).map(|(bytes, fd)| (Ready::decode(&bytes).unwrap(), fd))
}

pub(crate) fn fetch(socket: &OwnedFd, segment: SegmentId) -> (Answer, Option<OwnedFd>) {
    send(socket, &Message::Fetch(5, segment));
    let (bytes, fd) = receive(socket).unwrap();
    let fetched = Fetched::decode(&bytes).unwrap();
    assert_eq!((fetched.request, fetched.segment), (5, segment));
    (fetched.answer, fd)
}

pub(crate) fn file() -> OwnedFd {
    anon::create(size_of::<PoolHeader>() as u64).unwrap()
}

pub(crate) fn ino(fd: &OwnedFd) -> u64 {
    shm::status(fd).unwrap().identity.ino
}
