//! Starting the executable.
//!
//! It forks as soon as it runs, and the half that was our child ends: so it is collected here
//! and now, and a program that waits for its children never meets the tracker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

use super::client::{Connection, Launched, failed, wait};
use super::knock::{Knock, await_ready, knock};
use super::protocol::{self, Hello, Message, Status};
use crate::error::{Error, Result};
use crate::helper::start::{KILL, collect, collect_within, is_shortage, words};
use crate::helper::wait::SLICE;
use crate::pool::family::Family;
use crate::sys::feature;
use crate::sys::fork::{self, ForkGuarded};
use crate::sys::process::{self, Ended, ProcessId};
use crate::sys::socket;
use crate::tracker::address::Token;

/// What tells the executable which of the two trackers to be.
pub const MODE: &str = "members";

/// How often a lost race for the address, or a start that came to nothing, is taken up again.
const ROUNDS: usize = 4;

/// Why there can be no tracker where the system has no place for its socket.
const NO_PLACE: &str = "there is no place for its socket here: no abstract names, and no directory that is only \
    ours in $XDG_RUNTIME_DIR or /tmp";

/// Children that could not be collected in time (they were stopped): with the next one.
/// Its lock is the one that no fork passes.
static LEFT_OVER: ForkGuarded<Vec<ProcessId>> = ForkGuarded::new(Vec::new());

/// What became of starting the executable.
enum Start {
    Up(Connection),
    /// The family has a tracker.
    AddressTaken,
    /// It can never work.
    Impossible(String),
    /// It ended, and what ended it somebody else was told (a handler of `SIGCHLD`, or that
    /// signal is ignored).
    Lost(Option<Ended>),
}

/// See [`Connection::launch`].
pub(super) fn launch(
    executable: &Path,
    family_fd: BorrowedFd<'_>,
    family: &Family,
    cookie: Token,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Launched> {
    let id = family.id();
    fork::install();
    if feature::is_disabled("tracker") {
        let reason = format!("{} says so", feature::VARIABLE);
        return Ok(Launched::Unavailable(reason));
    }
    let mut ended = None;
    for _ in 0..ROUNDS {
        match knock(id, Some(family), cookie, keep_going)? {
            Knock::In(connection, _) => return Ok(Launched::Up(connection)),
            Knock::Stranger(why) => return Ok(Launched::Unavailable(why.to_owned())),
            Knock::Nobody => {}
        }
        match start(executable, family_fd, id, cookie, keep_going)? {
            Start::Up(connection) => return Ok(Launched::Up(connection)),
            Start::Impossible(reason) => return Ok(Launched::Unavailable(reason)),
            Start::AddressTaken => ended = None,
            // Perhaps it was killed: another may live.
            Start::Lost(how) => ended = how,
        }
    }
    match ended {
        None => Err(failed(Errno::ADDRINUSE)),
        how => Ok(Launched::Unavailable(not_ready(how))),
    }
}

fn start(
    executable: &Path,
    family_fd: BorrowedFd<'_>,
    id: [u64; 2],
    cookie: Token,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Start> {
    let hello = Message::Hello(Hello {
        serve: true,
        version: protocol::VERSION,
        family: id,
        cookie,
    });
    let hello = hello.encode();
    let mut held = LEFT_OVER.lock();
    held.retain(|child| child.reap().is_none());
    // No fork meanwhile: it would carry away the tracker's end of the socket.
    let spawned = fork::spawning(&mut held, || -> io::Result<_> {
        let (ours, theirs) = socket::pair()?;
        // It finds the message when it first looks.
        socket::send(ours.as_fd(), hello.as_bytes(), Some(family_fd))?;
        let child = process::spawn(executable, &[MODE], theirs)?;
        Ok((ours, child))
    });
    drop(held);
    let (socket, child) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => return cannot_start(&error),
    };
    let answer = await_ready(&socket, &mut wait(), keep_going);
    // It ended as soon as it had forked; or it ends because of what happened. Who was
    // interrupted does not wait for that.
    let ended = match answer {
        Ok(_) => collect(child),
        Err(_) => collect_within(child, SLICE / 2),
    };
    if ended.is_none() {
        LEFT_OVER.lock().push(child);
    }
    let Some((ready, _)) = answer? else {
        return match ended {
            // Somebody's doing, not the program's: another may live.
            Some(Ended::Killed(KILL)) => Err(failed(Errno::PIPE)),
            // Its other half was killed before it could answer.
            Some(Ended::Exited(0)) => Err(failed(Errno::PIPE)),
            Some(Ended::NotOurs) => Ok(Start::Lost(ended)),
            _ => Ok(Start::Impossible(not_ready(ended))),
        };
    };
    Ok(match ready.status {
        Status::In => Start::Up(Connection::new(socket, ready.pid)?),
        Status::AddressTaken => Start::AddressTaken,
        Status::Busy => return Err(failed(Errno::BUSY)),
        Status::NoAddress => Start::Impossible(NO_PLACE.to_owned()),
        Status::Refused | Status::Version => Start::Impossible(
            "it does not understand this program; is its executable of another version?".to_owned(),
        ),
    })
}

fn not_ready(ended: Option<Ended>) -> String {
    format!("it ended before it was ready ({})", words(ended))
}

fn cannot_start(error: &io::Error) -> Result<Start> {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    // A limit on processes (EAGAIN) is as lasting as a sandbox: memory works without.
    if is_shortage(errno) && errno != Errno::AGAIN {
        return Err(Error::os("start the members tracker", "", errno));
    }
    Ok(Start::Impossible(crate::error::words(errno)))
}
