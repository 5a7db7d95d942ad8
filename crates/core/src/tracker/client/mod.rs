//! What a process does with the tracker: start or find it, tell it names.
//!
//! Guarantees:
//!
//! - The one-way calls cost a system call or two and return without waiting; only
//!   when the tracker is behind by a whole socket buffer, or must be started or
//!   found, do they wait, five seconds at most, in slices between which the caller
//!   is asked whether to go on.
//! - A tracker that died is noticed at the next call and replaced, at the same
//!   address, and told again what this process has registered.
//! - What a process registered is its own: a forked child starts with an empty
//!   list, so that its clean-up code cannot unregister its parent's names.
//! - A descriptor that a `closerange` took is never written to; the process finds
//!   the tracker again by its address and stays in its group.
//! - A fork at any moment leaves parent and child with a usable client.
//!
//! [`shared`] is the client that the whole process uses; a separate [`Client`] has
//! a tracker of its own that nobody else can find (the standard library's tests
//! make such trackers). `tell` sends, `connect` finds a tracker, `launch`
//! starts one, `state` is what is kept between calls.

mod connect;
mod launch;
mod state;
mod tell;

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use self::connect::Start;
use self::state::{Link, Look, State};
use self::tell::{Sent, Verb, entry};
use super::address::Address;
use super::protocol::ResourceType;
use crate::error::{Error, Result};
pub use crate::helper::wait::PATIENCE;
use crate::helper::wait::{SLICE, Wait};
use crate::sys::feature;
use crate::sys::fork::{self, ForkGuard, ForkGuarded};
use crate::sys::process::{self, Ended, ProcessId};
use crate::sys::shm::Identity;

/// What failed, in error messages.
const OPERATION: &str = "reach the resource tracker";

/// How to start or find a tracker.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The tracker's executable: an absolute path, since directories change.
    pub executable: PathBuf,
    /// The address from the environment, if there is one.
    pub address: Option<Address>,
    /// For a `multiprocessing` child, its parent, which may be gone by now: it belongs
    /// to the parent's group if the address is the parent's or leads to the parent's
    /// group, else its names last as long as the parent.
    pub parent: Option<ProcessId>,
    /// Do without; taken from `SHARED_NUMPY_DISABLE=tracker`.
    pub disabled: bool,
}

impl Options {
    /// Options as this process's environment has them.
    ///
    /// `parent_pid` is given by a `multiprocessing` child only.
    pub fn from_environment(executable: impl Into<OsString>, parent_pid: Option<u32>) -> Self {
        Options {
            executable: PathBuf::from(executable.into()),
            address: Address::from_environment(),
            parent: parent_pid.map(ProcessId::or_zombie),
            disabled: feature::is_disabled("tracker"),
        }
    }
}

/// Where a call found the tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was connected already.
    Running,
    /// This call started it.
    Launched,
    /// This call connected to one that runs.
    Joined,
    /// It had died; this call started another.
    Relaunched,
    /// It had died; somebody else had started another, which this call joined.
    Rejoined,
    /// There is none and there will be none, for this reason.
    Unavailable(String),
    /// There is none, and [`Client::configure`] has not been called in this process:
    /// what its parent was told does not hold for a forked child.
    NotConfigured,
}

/// A process's side of a tracker.
#[derive(Debug, Default)]
pub struct Client {
    state: ForkGuarded<State>,
    /// Whether its tracker is for itself alone.
    private: bool,
}

static SHARED: Client = Client {
    state: ForkGuarded::new(State::new()),
    private: false,
};

/// The client of this process. To be called first before other threads fork.
pub fn shared() -> &'static Client {
    fork::install();
    &SHARED
}

impl Client {
    /// A client with a tracker of its own, not started yet.
    pub fn private() -> Self {
        fork::install();
        Client {
            state: ForkGuarded::new(State::new()),
            private: true,
        }
    }

    fn lock(&self) -> ForkGuard<'_, State> {
        let mut state = self.state.lock();
        state.settle(fork::epoch());
        state
    }

    /// Makes sure that a tracker runs and this process is connected to it.
    ///
    /// `keep_going` is called about ten times a second while this waits, with no
    /// lock held; `false` ends the wait.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`]; [`Error::Os`] with `ETIMEDOUT` when the tracker says
    /// nothing for five seconds, `EDEADLK` when `keep_going` calls back into this,
    /// and what a shortage causes (`EMFILE`, `ENFILE`, `ENOMEM`, `EAGAIN`). That a
    /// tracker cannot be started at all is an [`Outcome`], not an error.
    pub fn ensure_running(
        &self,
        options: &Options,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        self.configure(options);
        self.connected(true, keep_going)
    }

    /// [`Client::ensure_running`] as configured before.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn ensure_configured(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<Outcome> {
        self.connected(true, keep_going)
    }

    /// Joins the tracker that the environment names, if it runs: its group then lasts at
    /// least as long as this process. Never starts one.
    ///
    /// # Errors
    ///
    /// As [`Client::ensure_running`].
    pub fn join(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<Outcome> {
        self.connected(false, keep_going)
    }

    /// How long to wait for a tracker that runs: who waited in vain waits a slice only
    /// before it has been seen to work again.
    fn patience(&self) -> Duration {
        if self.lock().is_stuck {
            Duration::ZERO
        } else {
            PATIENCE
        }
    }

    /// Says how a tracker is to be started or found when one is needed.
    pub fn configure(&self, options: &Options) {
        self.lock().options = Some(options.clone());
    }

    /// Whether a call to [`Client::ensure_running`] would return at once.
    pub fn is_running(&self) -> bool {
        matches!(self.lock().look(), Look::Connected)
    }

    fn connected(&self, may_launch: bool, keep_going: &mut dyn FnMut() -> bool) -> Result<Outcome> {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let mut state = self.lock();
            match state.look() {
                Look::Connected => return Ok(Outcome::Running),
                Look::StartingHere => return Err(failed(Errno::DEADLK)),
                Look::StartingElsewhere => {}
                Look::Down => {
                    if let Some(reason) = state.unavailable() {
                        return Ok(Outcome::Unavailable(reason));
                    }
                    let Some(options) = state.options.clone() else {
                        return Ok(Outcome::NotConfigured);
                    };
                    let start = Start::claim(self, state, options);
                    return start.run(may_launch, keep_going);
                }
            }
            drop(state);
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            if Instant::now() > deadline {
                return Err(failed(Errno::TIMEDOUT));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks the tracker to unlink `name` when this process's group is gone.
    ///
    /// `stderr` is where a warning shall go; a copy of it travels when the tracker
    /// may not have one.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] for an empty name, one with a NUL, or one longer than
    /// 256 bytes; else as [`Client::ensure_running`].
    pub fn register(
        &self,
        rtype: ResourceType,
        name: &[u8],
        identity: Identity,
        stderr: Option<BorrowedFd<'_>>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        self.tell(Verb::Register(stderr), rtype, name, identity, keep_going)
    }

    /// Takes a registration of this process back. A name that this process did not
    /// register is passed over in silence: code that only attached a segment often
    /// unregisters it.
    ///
    /// # Errors
    ///
    /// As [`Client::register`].
    pub fn unregister(
        &self,
        rtype: ResourceType,
        name: &[u8],
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        let identity = Identity::default();
        self.tell(Verb::Unregister, rtype, name, identity, keep_going)
    }

    /// Tells that `name`, which led to the file `identity`, has been unlinked, so
    /// that nobody who registered it need clean it up. Never starts a tracker: if
    /// there is none ([`Outcome::Unavailable`]), nobody will clean it up. The same
    /// if it does not answer: it will find the name gone.
    ///
    /// # Errors
    ///
    /// As [`Client::register`], but not `ETIMEDOUT`.
    pub fn gone(
        &self,
        rtype: ResourceType,
        name: &[u8],
        identity: Identity,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        self.tell(Verb::Gone, rtype, name, identity, keep_going)
    }

    /// [`Client::register`] if it can be done without waiting; `false` if it cannot.
    ///
    /// # Errors
    ///
    /// As [`Client::register`].
    pub fn try_register(
        &self,
        rtype: ResourceType,
        name: &[u8],
        identity: Identity,
        stderr: Option<BorrowedFd<'_>>,
    ) -> Result<bool> {
        let sent = self.try_tell(Verb::Register(stderr), &entry(rtype, name, identity)?)?;
        Ok(matches!(sent, Sent::Yes))
    }

    /// [`Client::unregister`] if it can be done without waiting.
    ///
    /// # Errors
    ///
    /// As [`Client::register`].
    pub fn try_unregister(&self, rtype: ResourceType, name: &[u8]) -> Result<bool> {
        let entry = entry(rtype, name, Identity::default())?;
        Ok(matches!(
            self.try_tell(Verb::Unregister, &entry)?,
            Sent::Yes
        ))
    }

    /// [`Client::gone`] if it can be done without waiting.
    ///
    /// # Errors
    ///
    /// As [`Client::register`].
    pub fn try_gone(&self, rtype: ResourceType, name: &[u8], identity: Identity) -> Result<bool> {
        let sent = self.try_tell(Verb::Gone, &entry(rtype, name, identity)?)?;
        Ok(matches!(sent, Sent::Yes))
    }

    /// What descendants need to find the tracker, for their environment; `None`
    /// while there is none, or where only inheriting a connection leads to it.
    pub fn address(&self) -> Option<String> {
        let state = self.lock();
        if self.private || !matches!(state.link, Link::Up(_)) {
            return None;
        }
        let address = state.address.filter(|_| state.reachable)?;
        let exporter = process::own_pid();
        Some(
            Address {
                exporter,
                ..address
            }
            .to_string(),
        )
    }

    /// The tracker's pid, if this process or one that it was forked from started
    /// it; a tracker that was found has a parent elsewhere.
    pub fn pid(&self) -> Option<u32> {
        match &self.lock().link {
            Link::Up(connection) => connection.child.map(|child| child.pid),
            _ => None,
        }
    }

    /// The number of the socket, for handing to a child; `None` if there is none.
    pub fn fd(&self) -> Option<RawFd> {
        match &self.lock().link {
            Link::Up(connection) => connection.socket.get().map(|_| connection.socket.number()),
            _ => None,
        }
    }

    /// Whether the connection stands and somebody is at its other end.
    pub fn check_alive(&self) -> bool {
        self.is_running()
    }

    /// Takes over a socket that the parent process handed down, `number`, and joins
    /// the parent's group over it. Closes `number` when that has worked.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `EBADF` and `ENOTSOCK` when the number leads elsewhere, in
    /// which case it is left alone; else as [`Client::ensure_running`].
    pub fn adopt(&self, number: RawFd, keep_going: &mut dyn FnMut() -> bool) -> Result<Outcome> {
        let mut state = self.lock();
        if matches!(state.look(), Look::Connected) && state.connection_number() == Some(number) {
            return Ok(Outcome::Running);
        }
        if matches!(state.link, Link::Starting { .. }) {
            return Err(failed(Errno::DEADLK));
        }
        let Some(options) = state.options.clone() else {
            return Ok(Outcome::NotConfigured);
        };
        Start::claim(self, state, options).adopt(number, keep_going)
    }

    /// Leaves the tracker. If this process started it, waits until it has ended
    /// (it may have other members: five seconds at most) and returns its exit status.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub fn stop(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<Option<i32>> {
        let mut state = self.lock();
        let Link::Up(connection) = std::mem::replace(&mut state.link, Link::Down) else {
            return Ok(None);
        };
        state.clear();
        drop(state);
        let child = connection.child;
        drop(connection);
        let Some(child) = child else {
            return Ok(None);
        };
        let deadline = Instant::now() + PATIENCE;
        let mut nap = Duration::from_micros(200);
        while Instant::now() < deadline {
            match child.reap() {
                Some(Ended::Exited(status)) => return Ok(Some(status)),
                Some(Ended::Killed(signal)) => return Ok(Some(-signal)),
                Some(Ended::NotOurs) => return Ok(None),
                None => {}
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(SLICE);
            if !keep_going() {
                return Err(Error::Interrupted);
            }
        }
        Ok(None)
    }
}

fn wait_until(deadline: Instant) -> Wait {
    Wait::until(deadline, OPERATION)
}

fn failed(errno: Errno) -> Error {
    Error::os(OPERATION, "", errno)
}
