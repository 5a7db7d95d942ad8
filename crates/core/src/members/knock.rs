//! Connecting to a family's tracker, and proving that one belongs there.
//!
//! Guarantee: the cookie is sent to nobody but who may be told it ([`super::relatives`]).

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::client::{Connection, failed, wait};
use super::protocol::{self, Hello, Message, Ready, Status};
use super::{relatives, socket_name};
use crate::error::Result;
use crate::helper::start::is_shortage;
use crate::helper::wait::{SLICE, Wait};
use crate::pool::family::Family;
use crate::sys::socket::{self, Received, Until};
use crate::tracker::address::Token;

/// What became of knocking at a family's address.
pub(super) enum Knock {
    In(Connection, OwnedFd),
    /// Nobody is there.
    Nobody,
    /// Somebody is there who does not let us in, or who is none to be told the cookie.
    Stranger(&'static str),
}

/// How often a door is knocked at that closes without a word.
const KNOCKS: usize = 3;

/// Why somebody is a stranger.
const DOES_NOT_KNOW_US: &str = "its address is taken by a process that does not know us";
const OTHER_USER: &str = "it runs as another user, and is not known to be of this family";

/// Connects and proves that we belong there; who is in the family brings it.
pub(super) fn knock(
    id: [u64; 2],
    family: Option<&Family>,
    cookie: Token,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Knock> {
    let mut wait = wait();
    let mut knocks_left = KNOCKS - 1;
    let hello = Message::Hello(Hello {
        serve: false,
        version: protocol::VERSION,
        family: id,
        cookie,
    });
    loop {
        let socket = match socket::connect(&socket_name(id)) {
            Ok(socket) => socket,
            // Too many others knock: their second is soon over.
            Err(Errno::AGAIN) => {
                wait.check(keep_going)?;
                std::thread::sleep(SLICE / 10);
                continue;
            }
            Err(errno) if is_shortage(errno) => return Err(failed(errno)),
            // Refused, or no such sockets at all here.
            Err(_) => return Ok(Knock::Nobody),
        };
        // The cookie is not for others.
        if !relatives::may_be_told(&socket, family) {
            return Ok(Knock::Stranger(OTHER_USER));
        }
        // It ended while we knocked; or it closes the door to us.
        let closed = match socket::same_user(&socket) {
            true => Knock::Nobody,
            false => Knock::Stranger(OTHER_USER),
        };
        match socket::send(socket.as_fd(), hello.encode().as_bytes(), None) {
            // Whoever has no descriptor for us answers and closes before we have spoken.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(_) => return Ok(closed),
        }
        return match await_ready(&socket, &mut wait, keep_going)? {
            // Of a tracker that did not get to run for a second we were one who proves nothing.
            None if matches!(closed, Knock::Nobody) && knocks_left > 0 => {
                knocks_left -= 1;
                wait.check(keep_going)?;
                continue;
            }
            None => Ok(closed),
            Some((ready, family)) if ready.status == Status::In && ready.family == id => {
                // Sent, and lost on the way: no descriptor is left here.
                let family_fd = family.ok_or_else(|| failed(Errno::MFILE))?;
                let connection = Connection::new(socket, ready.pid)?;
                Ok(Knock::In(connection, family_fd))
            }
            Some((ready, _)) if ready.status == Status::Busy => {
                wait.check(keep_going)?;
                std::thread::sleep(SLICE / 10);
                continue;
            }
            Some(_) => Ok(Knock::Stranger(DOES_NOT_KNOW_US)),
        };
    }
}

/// Waits for the READY; `None` when the other end is closed, or says nonsense.
pub(super) fn await_ready(
    socket: &OwnedFd,
    wait: &mut Wait,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Option<(Ready, Option<OwnedFd>)>> {
    let mut buffer = [0; protocol::MESSAGE_MAX_BYTES];
    loop {
        match socket::receive(socket, &mut buffer).map_err(failed)? {
            Received::Message(len, attached) => {
                let ready = Ready::decode(&buffer[..len]).ok();
                return Ok(ready.map(|ready| (ready, attached)));
            }
            Received::End | Received::TooLong => return Ok(None),
            Received::Nothing => {}
        }
        wait.check(keep_going)?;
        socket::wait(socket, Until::Readable, SLICE);
    }
}
