//! What a process does with the members tracker.
//!
//! Guarantees: only launching, connecting and fetching wait for an answer, and nothing waits
//! longer than five seconds; between slices of a wait the caller is asked whether to go
//! on, with no lock held; a descriptor that a `closerange` took is never written to; that
//! the tracker is gone is an answer and not an error.
//!
//! A [`Connection`] belongs to the process that made it: a forked child lets go of its copy
//! and connects by itself when it needs to.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::io::Errno;

use super::knock::{Knock, knock};
use super::launch;
use super::protocol::{self, Answer, Encoded, Fetched as Reply, Message, SegmentId};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::helper::wait::{PATIENCE, SLICE, Wait};
use crate::layout::Participant;
use crate::pool::family::Family;
use crate::sys::fd::CachedFd;
use crate::sys::fork;
use crate::sys::process::{self, ProcessId};
use crate::sys::socket::{self, Received, Until};
use crate::tracker::address::Token;

/// What failed, in error messages.
pub(super) const OPERATION: &str = "reach the members tracker";

/// What became of launching.
#[derive(Debug)]
pub enum Launched {
    /// A tracker serves the family, this one's or another's.
    Up(Connection),
    /// There will be none, for this reason.
    Unavailable(String),
}

/// What became of looking for the tracker of a family that we are in.
#[derive(Debug)]
pub enum Reached {
    /// It is there.
    Up(Connection),
    /// None is there.
    Nobody,
    /// Somebody is there whom we cannot use, for this reason.
    Stranger(&'static str),
}

/// What became of asking for a segment.
#[derive(Debug)]
pub enum Fetched {
    /// Here it is.
    Fd(OwnedFd),
    /// The tracker does not know it, or not any more.
    Unknown,
    /// The tracker is gone.
    Gone,
}

/// A connection of this process to the tracker of a family.
#[derive(Debug)]
pub struct Connection {
    socket: CachedFd,
    tracker_pid: u32,
    /// Whose it is: see [`fork::epoch`].
    epoch: u32,
    requests: Mutex<Requests>,
}

/// Requests of this process's threads, whichever of them reads the answers.
#[derive(Debug, Default)]
struct Requests {
    last: u32,
    /// By request: `None` until it is answered.
    waiting: BTreeMap<u32, Option<(Answer, Option<OwnedFd>)>>,
}

impl Connection {
    /// Starts the tracker of a family, or connects to the one it has. The launching process
    /// has a slot already: else the tracker would be the last one, and end.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`]; the system's, when waiting or closing something may help.
    pub fn launch(
        executable: &Path,
        family_fd: BorrowedFd<'_>,
        family: &Family,
        cookie: Token,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Launched> {
        launch::launch(executable, family_fd, family, cookie, keep_going)
    }

    /// Connects to the tracker of a family that this process is in.
    ///
    /// # Errors
    ///
    /// As [`Connection::launch`].
    pub fn reach(
        family: &Family,
        cookie: Token,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Reached> {
        Ok(
            match knock(family.id(), Some(family), cookie, keep_going)? {
                Knock::In(connection, _) => Reached::Up(connection),
                Knock::Nobody => Reached::Nobody,
                Knock::Stranger(why) => Reached::Stranger(why),
            },
        )
    }

    /// Connects to a family's tracker; `None` when nobody listens there, or none of our user
    /// that takes our cookie. The descriptor is the family's.
    ///
    /// # Errors
    ///
    /// As [`Connection::launch`].
    pub fn connect(
        id: [u64; 2],
        cookie: Token,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<(Self, OwnedFd)>> {
        Ok(match knock(id, None, cookie, keep_going)? {
            Knock::In(connection, family_fd) => Some((connection, family_fd)),
            Knock::Nobody | Knock::Stranger(_) => None,
        })
    }

    pub(super) fn new(socket: OwnedFd, tracker_pid: u32) -> Result<Self> {
        Ok(Connection {
            socket: CachedFd::new(socket).map_err(failed)?,
            tracker_pid,
            epoch: fork::epoch(),
            requests: Mutex::default(),
        })
    }

    /// Tells which slot this process has; one way. With it goes a descriptor of this process,
    /// by which a tracker in another pid namespace learns of its end. `false`: the tracker
    /// is gone.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` when the tracker takes nothing; [`Error::Interrupted`].
    pub fn joined(&self, me: Participant, keep_going: &mut dyn FnMut() -> bool) -> Result<bool> {
        let own = process::own_watch();
        let own = own.as_ref().map(AsFd::as_fd);
        self.tell(&Message::Joined(me).encode(), own, keep_going)
    }

    /// Says the same again, at once or not at all, so that the tracker looks who has come.
    pub fn remind(&self, me: Participant) {
        if self.epoch == fork::epoch()
            && let Some(fd) = self.socket.get()
        {
            // Whoever waits reminds it again.
            let _ = socket::send(fd, Message::Joined(me).encode().as_bytes(), None);
        }
    }

    /// Tells who may still receive what this process sent when it has ended: while that one
    /// lives, the tracker keeps what is on its way though nobody is left in the family. One
    /// way. `false`: the tracker is gone.
    ///
    /// # Errors
    ///
    /// As [`Connection::joined`].
    pub fn guarded_by(
        &self,
        guardian: ProcessId,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        self.tell(&Message::Guarded(guardian).encode(), None, keep_going)
    }

    /// Has the tracker keep a segment; one way. `false`: the tracker is gone.
    ///
    /// # Errors
    ///
    /// As [`Connection::joined`]; `EBADF` when the descriptor is not open.
    pub fn register(
        &self,
        owner: Participant,
        number: u64,
        fd: BorrowedFd<'_>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let message = Message::Register(SegmentId { owner, number }).encode();
        point("register.telling");
        let told = self.tell(&message, Some(fd), keep_going)?;
        point("register.told");
        Ok(told)
    }

    /// Tells that much of an owner's memory was dropped; one way, at once or not at all: who
    /// drops waits for nothing, and the next one tells again.
    pub fn dropped(&self, owner: Participant) {
        if self.epoch == fork::epoch()
            && let Some(fd) = self.socket.get()
        {
            let _ = socket::send(fd, Message::Dropped(owner).encode().as_bytes(), None);
            point("surplus.told");
        }
    }

    /// Asks for a segment.
    ///
    /// # Errors
    ///
    /// As [`Connection::joined`]; `EBUSY` when the tracker could not send it just now.
    pub fn fetch(
        &self,
        owner: Participant,
        number: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Fetched> {
        let request = Request::new(self);
        let message = Message::Fetch(request.number, SegmentId { owner, number }).encode();
        if !self.tell(&message, None, keep_going)? {
            return Ok(Fetched::Gone);
        }
        let mut wait = wait();
        loop {
            let Some((fd, is_open)) = self.socket.get().zip(self.take_answers()?) else {
                return Ok(Fetched::Gone);
            };
            match request.answer() {
                Some((Answer::Here, Some(segment))) => return Ok(Fetched::Fd(segment)),
                // Sent, and lost on the way: no descriptor is left here.
                Some((Answer::Here, None)) => return Err(failed(Errno::MFILE)),
                Some((Answer::Unknown, _)) => return Ok(Fetched::Unknown),
                Some((Answer::Busy, _)) => return Err(failed(Errno::BUSY)),
                None if !is_open => return Ok(Fetched::Gone),
                None => {}
            }
            wait.check(keep_going)?;
            socket::wait(fd, Until::Readable, SLICE);
        }
    }

    /// Whether the tracker is there, as far as the connection tells.
    pub fn is_open(&self) -> bool {
        self.socket.get().is_some_and(|fd| !socket::hung_up(fd))
    }

    /// Closes it in a forked child, where other owners of this, threads of the parent's that
    /// waited, do not exist and never let go.
    pub fn close_in_child(&self) {
        self.socket.close();
    }

    /// The tracker's pid, in its own pid namespace.
    pub fn tracker_pid(&self) -> u32 {
        self.tracker_pid
    }

    /// Sends one message; waits while the tracker is behind.
    fn tell(
        &self,
        message: &Encoded,
        attached: Option<BorrowedFd<'_>>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let mut wait = wait();
        loop {
            let Some(fd) = self.socket.get() else {
                return Ok(false);
            };
            match socket::send(fd, message.as_bytes(), attached) {
                Ok(()) => return Ok(true),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Ok(false),
                Err(Errno::AGAIN) => {
                    wait.check(keep_going)?;
                    socket::wait(fd, Until::Writable, SLICE);
                }
                // Too many descriptors of this user are on their way.
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => {
                    wait.check(keep_going)?;
                    std::thread::sleep(SLICE / 10);
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Takes what has come. `None` when our descriptor was taken away, `Some(false)` when
    /// the other end is closed.
    fn take_answers(&self) -> Result<Option<bool>> {
        let mut buffer = [0; protocol::MESSAGE_MAX_BYTES];
        // Held while nothing waits: a receive does not.
        let mut requests = self.requests();
        loop {
            let Some(fd) = self.socket.get() else {
                return Ok(None);
            };
            match socket::receive(fd, &mut buffer).map_err(failed)? {
                Received::Message(len, attached) => {
                    let Ok(reply) = Reply::decode(&buffer[..len]) else {
                        return Ok(Some(false));
                    };
                    // Nobody waits for it: who asked was interrupted.
                    if let Some(place) = requests.waiting.get_mut(&reply.request) {
                        *place = Some((reply.answer, attached));
                    }
                }
                Received::Nothing => return Ok(Some(true)),
                Received::End | Received::TooLong => return Ok(Some(false)),
            }
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        // Nothing under the lock can panic half-way.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that somebody waits for, while this lives.
struct Request<'a> {
    connection: &'a Connection,
    number: u32,
}

impl<'a> Request<'a> {
    fn new(connection: &'a Connection) -> Self {
        let mut requests = connection.requests();
        requests.last = requests.last.wrapping_add(1);
        let number = requests.last;
        requests.waiting.insert(number, None);
        Request { connection, number }
    }

    fn answer(&self) -> Option<(Answer, Option<OwnedFd>)> {
        let mut requests = self.connection.requests();
        requests
            .waiting
            .get_mut(&self.number)
            .and_then(Option::take)
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        // In a child that was forked while we waited another thread of the parent's may have
        // had the lock, for good.
        if self.connection.epoch == fork::epoch() {
            self.connection.requests().waiting.remove(&self.number);
        }
    }
}

pub(super) fn wait() -> Wait {
    Wait::until(Instant::now() + PATIENCE, OPERATION)
}

pub(super) fn failed(errno: Errno) -> Error {
    Error::os(OPERATION, "", errno)
}
