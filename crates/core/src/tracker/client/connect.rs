//! Starting a tracker, or finding one.
//!
//! The order: the tracker this process knew, else the one in the environment, else
//! a new one; a new one binds the address of the one that died, so that relatives
//! find it where they look. Who loses that race connects to the winner.
//!
//! One thread does this at a time ([`Link::Starting`]). The lock is held while a
//! socket is made and the process spawned, so that no fork can carry away the
//! tracker's end (the tracker's death would then never show on ours); it is not
//! held while waiting for the reply.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Instant;

use rustix::io::Errno;

use super::launch::Launch;
use super::state::{Connection, Former, Link};
use super::{Client, Options, Outcome, PATIENCE, SLICE, Wait, failed, wait_until};
use crate::error::{Error, Result};
use crate::helper::start::{collect, is_shortage};
use crate::sys::fd::{self, CachedFd};
use crate::sys::fork::ForkGuard;
use crate::sys::process::ProcessId;
use crate::sys::socket::{self, Received, Until};
use crate::tracker::address::{self, Address, Token};
use crate::tracker::client::state::State;
use crate::tracker::marker::{self, Marker};
use crate::tracker::protocol::{self, Entry, Hello, Message, Ready, Status};

/// How often a lost race for an address is taken up again.
const ROUNDS: usize = 4;

/// The one attempt to connect; `Link::Starting` lasts as long as this does.
pub(super) struct Start<'a> {
    pub(super) client: &'a Client,
    pub(super) options: Options,
    former: Former,
    /// Who also keeps the group that we go to.
    guardian: Option<ProcessId>,
    /// Address, whether reachable, and guardian, before we left word where we go.
    before: Option<(Option<Address>, bool, Option<ProcessId>)>,
}

/// A tracker that answered.
pub(super) struct Found {
    pub(super) socket: OwnedFd,
    pub(super) ready: Ready,
    pub(super) marker: Option<OwnedFd>,
    pub(super) child: Option<ProcessId>,
}

/// What became of knocking at an address.
enum Knock {
    In(Found),
    /// Nobody is there.
    Nobody,
    /// Somebody is there whom we cannot or may not use.
    Stranger,
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        let mut state = self.client.lock();
        if matches!(state.link, Link::Starting { .. }) {
            state.link = Link::Down;
            if let Some((address, reachable, guardian)) = self.before.take() {
                // It came to nothing: children forked from now on are on their own.
                state.address = address;
                state.reachable = reachable;
                state.guardian = guardian;
            }
        }
    }
}

impl<'a> Start<'a> {
    /// Makes this thread the one that connects.
    pub(super) fn claim(
        client: &'a Client,
        mut state: ForkGuard<'a, State>,
        options: Options,
    ) -> Self {
        state.link = Link::Starting {
            by: rustix::thread::gettid(),
        };
        Start {
            client,
            options,
            former: state.former,
            guardian: None,
            before: None,
        }
    }

    /// Finds a tracker or, if allowed, starts one.
    pub(super) fn run(
        mut self,
        may_launch: bool,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        let died = self.former == Former::Died;
        let (mut address, known) = self.destination()?;
        let mut try_there = known;
        for _ in 0..ROUNDS {
            self.note(&address);
            if try_there {
                match self.knock(&address, keep_going)? {
                    Knock::In(found) => {
                        let outcome = if died {
                            Outcome::Rejoined
                        } else {
                            Outcome::Joined
                        };
                        return self.settle_in(found, address, outcome, keep_going);
                    }
                    Knock::Nobody => {}
                    Knock::Stranger => {
                        address = elsewhere(&address)?;
                        // A group without our parent in it, who may be of another user.
                        self.guardian = self.guardian.or(self.living_parent());
                    }
                }
            }
            if !may_launch {
                return Ok(Outcome::Unavailable("there is none".to_owned()));
            }
            match self.launch(&address, keep_going)? {
                Launch::In(found) => {
                    let outcome = if died {
                        Outcome::Relaunched
                    } else {
                        Outcome::Launched
                    };
                    return self.settle_in(found, address, outcome, keep_going);
                }
                Launch::AddressTaken => try_there = true,
                Launch::Impossible(reason) => {
                    let executable = self.options.executable.clone();
                    self.client.lock().give_up(executable, reason.clone());
                    return Ok(Outcome::Unavailable(reason));
                }
            }
        }
        Err(failed(Errno::ADDRINUSE))
    }

    /// Where to look, which group to be in, and whether somebody may be there.
    fn destination(&mut self) -> Result<(Address, bool)> {
        let state = self.client.lock();
        if let Some(address) = state.address {
            self.guardian = state.guardian;
            return Ok((address, state.reachable));
        }
        drop(state);
        // A group that we found; one that we join has its own.
        self.guardian = self.living_parent();
        let random = Address {
            name: random()?,
            cookie: random()?,
            group: u64::from_ne_bytes(random()?),
            exporter: 0,
        };
        match self.options.address {
            Some(hint) if !self.client.private => {
                let group = match self.options.parent {
                    // Whether it exported the address itself or was forked from who did.
                    Some(parent)
                        if parent.pid == hint.exporter || marker::shows(hint.group, parent) =>
                    {
                        self.guardian = None;
                        hint.group
                    }
                    _ => random.group,
                };
                Ok((Address { group, ..hint }, true))
            }
            _ => Ok((random, false)),
        }
    }

    /// Leaves word where we are going: a child that is forked meanwhile goes there too.
    fn note(&mut self, address: &Address) {
        let mut state = self.client.lock();
        self.before
            .get_or_insert((state.address, state.reachable, state.guardian));
        state.address = Some(*address);
        state.reachable = !self.client.private;
        state.guardian = self.guardian;
    }

    fn living_parent(&self) -> Option<ProcessId> {
        self.options.parent.filter(|parent| parent.is_alive())
    }

    /// Connects to `address` and proves that we belong there.
    fn knock(&self, address: &Address, keep_going: &mut dyn FnMut() -> bool) -> Result<Knock> {
        let patience = self.client.patience();
        let mut wait = wait_until(Instant::now() + patience);
        let socket = loop {
            match socket::connect(&address.socket_name()) {
                Ok(socket) => break socket,
                // Too many others knock: their second is soon over.
                Err(Errno::AGAIN) => {
                    wait.check(keep_going)?;
                    std::thread::sleep(SLICE / 10);
                }
                Err(errno) if is_shortage(errno) => return Err(failed(errno)),
                // Refused, or no such sockets at all here.
                Err(_) => return Ok(Knock::Nobody),
            }
        };
        if !socket::same_user(&socket) {
            return Ok(Knock::Stranger);
        }
        let hello = Message::Hello(self.hello(address, false)).encode();
        match socket::send(socket.as_fd(), hello.as_bytes(), None) {
            // Whoever has no descriptor for us answers and closes before we have spoken.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(_) => return Ok(Knock::Nobody),
        }
        Ok(match await_ready(&socket, wait, keep_going)? {
            // It ended while we knocked.
            None => Knock::Nobody,
            Some((ready, marker)) if ready.status == Status::In => Knock::In(Found {
                socket,
                ready,
                marker,
                child: None,
            }),
            Some(_) => Knock::Stranger,
        })
    }

    /// Joins the group of the process that handed `number` down.
    pub(super) fn adopt(
        self,
        number: RawFd,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        let inherited = fd::take_number(number).map_err(failed)?;
        if !socket::is_message_socket(&inherited) {
            return Err(failed(Errno::NOTSOCK));
        }
        let held = self.client.lock();
        let (ours, theirs) = socket::pair().map_err(failed)?;
        let adopt = Message::Adopt.encode();
        let mut wait = wait_until(Instant::now() + PATIENCE);
        drop(held);
        while let Err(errno) =
            socket::send(inherited.as_fd(), adopt.as_bytes(), Some(theirs.as_fd()))
        {
            if errno != Errno::AGAIN {
                return Err(failed(errno));
            }
            wait.check(keep_going)?;
            socket::wait(&inherited, Until::Writable, SLICE);
        }
        drop(theirs);
        let nowhere = Address {
            name: Token::default(),
            cookie: Token::default(),
            group: 0,
            exporter: 0,
        };
        let hello = Message::Hello(self.hello(&nowhere, false)).encode();
        socket::send(ours.as_fd(), hello.as_bytes(), None).map_err(failed)?;
        let answer = await_ready(&ours, wait, keep_going)?;
        let Some((ready, marker)) = answer.filter(|(ready, _)| ready.status == Status::In) else {
            return Err(failed(Errno::CONNREFUSED));
        };
        fd::close_duplicate(number, &inherited);
        drop(inherited);
        let found = Found {
            socket: ours,
            ready,
            marker,
            child: None,
        };
        self.settle_in(found, nowhere, Outcome::Joined, keep_going)
    }

    pub(super) fn hello(&self, address: &Address, bind: bool) -> Hello {
        Hello {
            bind,
            version: protocol::VERSION,
            address: address.name,
            cookie: address.cookie,
            group: address.group,
            guardian: self.guardian.map(|parent| (parent.pid, parent.start_ticks)),
        }
    }

    /// Tells a new tracker what the old one knew, and makes the connection usable.
    fn settle_in(
        self,
        found: Found,
        address: Address,
        outcome: Outcome,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        let mut state = self.client.lock();
        let own = state.all_own();
        let stderr = state.stderr;
        let dead_child = state.dead_child.take();
        drop(state);
        if let Some(dead) = dead_child {
            collect(dead);
        }
        let mut wait = wait_until(Instant::now() + PATIENCE);
        for (index, ((rtype, name), identity)) in own.iter().enumerate() {
            let entry = Entry {
                rtype: *rtype,
                name,
                identity: *identity,
                again: true,
            };
            let message = Message::Register(entry).encode();
            if let (0, Some(number)) = (index, stderr) {
                // And once more below: registering twice is registering once.
                let _ = fd::with_number(number, |stderr| {
                    socket::send(found.socket.as_fd(), message.as_bytes(), Some(stderr))
                });
            }
            while let Err(errno) = socket::send(found.socket.as_fd(), message.as_bytes(), None) {
                if errno != Errno::AGAIN {
                    return Err(failed(errno));
                }
                wait.check(keep_going)?;
                socket::wait(&found.socket, Until::Writable, SLICE);
            }
        }
        let marker = found.marker.and_then(|fd| Marker::map(fd).ok());
        let connection = Connection {
            socket: CachedFd::new(found.socket).map_err(failed)?,
            child: found.child,
            _marker: marker,
        };
        let mut state = self.client.lock();
        state.reachable = found.ready.address != Token::default();
        state.address = Some(Address {
            name: if state.reachable {
                found.ready.address
            } else {
                address.name
            },
            cookie: found.ready.cookie,
            group: found.ready.group,
            exporter: 0,
        });
        state.guardian = self.guardian;
        state.up(connection);
        drop(state);
        Ok(outcome)
    }
}

/// Waits for the READY; `None` when the other end is closed, or says nonsense.
pub(super) fn await_ready(
    socket: &OwnedFd,
    mut wait: Wait,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Option<(Ready, Option<OwnedFd>)>> {
    let mut buffer = [0; protocol::MESSAGE_MAX_BYTES];
    loop {
        match socket::receive(socket, &mut buffer).map_err(failed)? {
            Received::Message(len, marker) => {
                return Ok(Ready::decode(&buffer[..len])
                    .ok()
                    .map(|ready| (ready, marker)));
            }
            Received::End | Received::TooLong => return Ok(None),
            Received::Nothing => {}
        }
        wait.check(keep_going)?;
        socket::wait(socket, Until::Readable, SLICE);
    }
}

/// The same group at an address where nobody is.
fn elsewhere(address: &Address) -> Result<Address> {
    Ok(Address {
        name: random()?,
        cookie: random()?,
        ..*address
    })
}

fn random<const N: usize>() -> Result<[u8; N]> {
    address::random().map_err(|errno| Error::os("draw random numbers", "", errno))
}
