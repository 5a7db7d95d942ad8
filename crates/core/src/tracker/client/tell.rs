//! Telling the tracker: one attempt under the lock, and what to do when it fails.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::state::{Connection, Former, Link};
use super::{Client, Outcome, SLICE, failed, wait_until};
use crate::error::{Error, Result};
use crate::sys::shm::Identity;
use crate::sys::socket::{self, Until};
use crate::tracker::protocol::{Entry, Message, NAME_MAX_BYTES, ResourceType};

/// What became of an attempt to send.
pub(super) enum Sent {
    /// Done; or there was nothing to do.
    Yes,
    /// The socket's buffer is full.
    Full(Arc<Connection>),
    /// Nobody is connected.
    NotConnected,
    /// There will be no tracker.
    Unavailable(String),
}

/// What to tell.
#[derive(Clone, Copy)]
pub(super) enum Verb<'a> {
    Register(Option<BorrowedFd<'a>>),
    Unregister,
    Gone,
}

impl Client {
    pub(super) fn tell(
        &self,
        verb: Verb<'_>,
        rtype: ResourceType,
        name: &[u8],
        identity: Identity,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        let entry = entry(rtype, name, identity)?;
        let told = self.insist(verb, &entry, keep_going);
        let Err(error) = &told else {
            return told;
        };
        if error.errno() == Some(Errno::TIMEDOUT) {
            let mut state = self.lock();
            state.is_stuck = true;
            if matches!(verb, Verb::Gone) {
                // What is gone is gone; at worst the tracker warns of it.
                state.untold.push(Message::Gone(entry).encode());
                return Ok(Outcome::Unavailable("it does not answer".to_owned()));
            }
        }
        told
    }

    /// Tries until it is told, or that cannot be.
    fn insist(
        &self,
        verb: Verb<'_>,
        entry: &Entry<'_>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        let mut wait = wait_until(Instant::now() + self.patience());
        let mut outcome = Outcome::Running;
        // A tracker that dies again and again is given up after a few rounds.
        let mut starts = 0;
        loop {
            match self.try_tell(verb, entry)? {
                Sent::Yes => return Ok(outcome),
                Sent::Unavailable(reason) => return Ok(Outcome::Unavailable(reason)),
                Sent::Full(connection) => {
                    wait.check(keep_going)?;
                    if let Some(fd) = connection.socket.get() {
                        socket::wait(fd, Until::Writable, SLICE);
                    }
                }
                Sent::NotConnected => {
                    starts += 1;
                    if starts > 3 {
                        return Err(failed(Errno::PIPE));
                    }
                    let may_launch = !matches!(verb, Verb::Gone);
                    match self.connected(may_launch, keep_going)? {
                        none @ (Outcome::Unavailable(_) | Outcome::NotConfigured) => {
                            return Ok(none);
                        }
                        // What was found first is the news.
                        found if outcome == Outcome::Running => outcome = found,
                        _ => {}
                    }
                }
            }
        }
    }

    /// One attempt, under the lock.
    pub(super) fn try_tell(&self, verb: Verb<'_>, entry: &Entry<'_>) -> Result<Sent> {
        let mut state = self.lock();
        let known = state.own(entry);
        match verb {
            Verb::Unregister if known.is_none() => return Ok(Sent::Yes),
            // The file is no more, whether or not the tracker hears of it.
            Verb::Gone => state.forget(entry),
            _ => {}
        }
        if matches!(state.link, Link::Down)
            && let Some(reason) = state.unavailable()
        {
            return Ok(Sent::Unavailable(reason));
        }
        let connection = match &state.link {
            Link::Up(connection) => Arc::clone(connection),
            _ => return Ok(Sent::NotConnected),
        };
        let Some(fd) = connection.socket.get() else {
            state.lose(Former::Lost);
            return Ok(Sent::NotConnected);
        };
        while let Some(message) = state.untold.first() {
            match socket::send(fd, message.as_bytes(), None) {
                Ok(()) => drop(state.untold.remove(0)),
                Err(Errno::AGAIN) => return Ok(Sent::Full(connection)),
                // The message below meets the same.
                Err(_) => state.untold.clear(),
            }
        }
        let (message, attached) = match verb {
            Verb::Register(stderr) => {
                // From here on it counts as ours: a restarted tracker is told of it.
                let wanted = state.wants_stderr();
                state.remember(entry);
                state.stderr = stderr.map(|fd| fd.as_raw_fd());
                (Message::Register(*entry), stderr.filter(|_| wanted))
            }
            Verb::Unregister => {
                let identity = known.unwrap_or_default();
                (Message::Unregister(Entry { identity, ..*entry }), None)
            }
            Verb::Gone => (Message::Gone(*entry), None),
        };
        let message = message.encode();
        let mut sent = socket::send(fd, message.as_bytes(), attached);
        if attached.is_some() && matches!(sent, Err(Errno::BADF | Errno::TOOMANYREFS)) {
            // The stderr cannot travel; the name matters more.
            sent = socket::send(fd, message.as_bytes(), None);
        }
        match sent {
            Ok(()) => {
                state.is_stuck = false;
                if matches!(verb, Verb::Unregister) {
                    state.forget(entry);
                }
                if attached.is_some() {
                    state.stderr_sent();
                }
                Ok(Sent::Yes)
            }
            Err(Errno::AGAIN) => Ok(Sent::Full(connection)),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                state.lose(Former::Died);
                if matches!(verb, Verb::Unregister) && state.is_last(entry) {
                    // Nothing is left that a new tracker should know.
                    state.forget(entry);
                    return Ok(Sent::Yes);
                }
                Ok(Sent::NotConnected)
            }
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// The entry of a name that can be one.
pub(super) fn entry(rtype: ResourceType, name: &[u8], identity: Identity) -> Result<Entry<'_>> {
    let bad = |reason| Error::BadName {
        name: String::from_utf8_lossy(name).into_owned(),
        reason,
    };
    match name {
        [] => Err(bad("it is empty")),
        _ if name.contains(&0) => Err(bad("embedded null character")),
        _ if name.len() > NAME_MAX_BYTES => Err(bad("it is longer than 256 bytes")),
        _ => Ok(Entry {
            rtype,
            name,
            identity,
            again: false,
        }),
    }
}
