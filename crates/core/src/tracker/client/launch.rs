//! Starting the executable.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::io::Errno;

use super::connect::{Found, Start, await_ready};
use super::{PATIENCE, failed, wait_until};
use crate::error::{Error, Result};
use crate::helper::start::{KILL, collect, is_shortage, words};
use crate::sys::fork;
use crate::sys::process::{self, Ended};
use crate::sys::socket;
use crate::tracker::address::Address;
use crate::tracker::protocol::{Message, Status};

/// What became of starting the executable.
pub(super) enum Launch {
    In(Found),
    /// Somebody else has started a tracker at this address.
    AddressTaken,
    /// It can never work.
    Impossible(String),
}

impl Start<'_> {
    /// Starts the executable and waits until it is ready.
    pub(super) fn launch(
        &self,
        address: &Address,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Launch> {
        let program = &self.options.executable;
        let hello = Message::Hello(self.hello(address, !self.client.private)).encode();
        let mut held = self.client.lock();
        let spawned = fork::spawning(&mut held, || -> io::Result<_> {
            let (ours, theirs) = socket::pair()?;
            // It finds the message when it first looks.
            socket::send(ours.as_fd(), hello.as_bytes(), None)?;
            let pid = process::spawn(program, &[], theirs)?;
            Ok((ours, pid))
        });
        drop(held);
        let (socket, child) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => return cannot_start(&error),
        };
        let answer = await_ready(&socket, wait_until(Instant::now() + PATIENCE), keep_going);
        match answer {
            Ok(Some((ready, marker))) if ready.status == Status::In => Ok(Launch::In(Found {
                socket,
                ready,
                marker,
                child: Some(child),
            })),
            Ok(other) => {
                drop(socket);
                let ended = collect(child);
                match other {
                    Some((ready, _)) if ready.status == Status::AddressTaken => {
                        Ok(Launch::AddressTaken)
                    }
                    // Somebody's doing, not the program's: another may live.
                    _ if ended == Some(Ended::Killed(KILL)) => Err(failed(Errno::PIPE)),
                    _ => Ok(Launch::Impossible(format!(
                        "it ended before it was ready ({})",
                        words(ended)
                    ))),
                }
            }
            Err(error) => {
                // It ends by itself when it sees our end closed.
                drop(socket);
                if collect(child).is_none() {
                    // When it gets to it: it is stopped or starved.
                    self.client.lock().dead_child = Some(child);
                }
                Err(error)
            }
        }
    }
}

fn cannot_start(error: &io::Error) -> Result<Launch> {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    // A limit on processes (EAGAIN) is as lasting as a sandbox: memory works without.
    if is_shortage(errno) && errno != Errno::AGAIN {
        return Err(Error::os("start the resource tracker", "", errno));
    }
    Ok(Launch::Impossible(crate::error::words(errno)))
}
