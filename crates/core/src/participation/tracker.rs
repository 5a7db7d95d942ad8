//! This process's connection to the tracker of a family.
//!
//! Guarantees: it is made when it is first needed, and again when the tracker was replaced; a
//! new tracker is told what the old one knew. There may be none at all, which is no error.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::membership;
use super::registry::{SegmentId, lock};
use crate::error::{Error, Result};
use crate::members::client::{Connection, Launched, Reached};
use crate::pool::family::Family;
use crate::sys::process::ProcessId;
use crate::sys::{clock, feature, fork as process_fork};

/// A tracker that dies again and again is given up after so many.
pub(super) const ROUNDS: usize = 3;

/// Sees to it that the tracker has a segment, if there can be a tracker.
pub(super) fn ensure_told(id: SegmentId, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
    for _ in 0..ROUNDS {
        let mut registry = lock();
        let local = registry.local(id).ok_or_else(|| Error::Dropped)?;
        let (family, owner, number, is_told) =
            (local.family, local.owner, local.number, local.is_told);
        let member = &registry.families[family];
        if member.no_tracker.is_some() {
            return Ok(());
        }
        // Once a second: it may have been replaced by one that has not been told.
        let is_fresh = member.looked_at_s == Some(clock::monotonic_s());
        if is_told && is_fresh {
            return Ok(());
        }
        drop(registry);
        let Some(connection) = connection(family, true, keep_going)? else {
            return Ok(());
        };
        let mut registry = lock();
        let Some(local) = registry.local(id) else {
            return Err(Error::Dropped);
        };
        if local.is_told {
            return Ok(()); // by this very connection: a new one would have cleared it
        }
        // A number that is none any more is no shortage.
        let fd = match registry
            .fd(id)
            .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3))
        {
            Some(Err(errno)) if errno != Errno::BADF => {
                return Err(Error::os(
                    "share memory with the members tracker",
                    "",
                    errno,
                ));
            }
            fd => fd.and_then(|fd| fd.ok()),
        };
        drop(registry);
        // Received from somebody: whoever sent it has told the tracker.
        let is_up = match &fd {
            Some(fd) => connection.register(owner, number, fd.as_fd(), keep_going)?,
            None => true,
        };
        let mut registry = lock();
        let member = &registry.families[family];
        let is_same = member
            .connection
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, &connection));
        if is_up && is_same {
            registry.has_told(id)?;
            return Ok(());
        }
        if is_same {
            registry.families[family].connection = None;
        }
    }
    Err(Error::TrackerUnavailable(
        "it was killed as often as it was started".to_owned(),
    ))
}

/// The connection to the family's tracker, made if there is a tracker, which is started
/// if that is wanted. `None` when there is none.
pub(super) fn connection(
    family: usize,
    may_launch: bool,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Option<Arc<Connection>>> {
    let mut registry = lock();
    let executable = registry.options.clone().unwrap_or_default().executable;
    let member = &mut registry.families[family];
    if let Some(connection) = &member.connection
        && connection.is_open()
    {
        let connection = Arc::clone(connection);
        member.looked_at_s = Some(clock::monotonic_s());
        return Ok(Some(connection));
    }
    member.connection = None;
    if feature::is_disabled("tracker") {
        member.no_tracker = Some(format!("{} says so", feature::VARIABLE));
        return Ok(None);
    }
    if member.no_tracker.is_some() {
        return Ok(None);
    }
    let (its_family, cookie) = (Arc::clone(&member.family), member.cookie);
    let family_fd = member
        .fd
        .get()
        .and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok());
    registry.untell(family);
    drop(registry);
    let epoch = process_fork::epoch();
    if !keep_going() {
        return Err(Error::Interrupted);
    }
    let family_fd = family_fd.filter(|_| may_launch);
    let mut try_it = || {
        reach(
            &executable,
            family_fd.as_ref(),
            &its_family,
            cookie,
            keep_going,
        )
    };
    let mut made = try_it();
    for _ in 1..ROUNDS {
        let was_killed = |errno| matches!(errno, Errno::PIPE | Errno::CONNRESET);
        if !made
            .as_ref()
            .is_err_and(|error| error.errno().is_some_and(was_killed))
        {
            break;
        }
        // It was killed as it started.
        made = try_it();
    }
    let made = match made? {
        Found::NotNow(why) => {
            lock().families[family].not_now = why;
            return Ok(None);
        }
        Found::Made(Launched::Up(connection)) => connection,
        Found::Made(Launched::Unavailable(reason)) => {
            lock().families[family].no_tracker = Some(reason);
            return Ok(None);
        }
    };
    announce(family, &made, keep_going)?;
    let made = Arc::new(made);
    let mut registry = lock();
    if process_fork::epoch() != epoch {
        return Err(Error::Interrupted); // it is our parent's
    }
    let member = &mut registry.families[family];
    member.looked_at_s = Some(clock::monotonic_s());
    member.not_now = None;
    // Of two threads the first: what it has told counts.
    let kept = member.connection.get_or_insert(made);
    Ok(Some(Arc::clone(kept)))
}

/// Tells a tracker who we are, and for whom it may have to keep what we send.
pub(super) fn announce(
    family: usize,
    connection: &Connection,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<()> {
    let registry = lock();
    let me = registry.families[family].me;
    let guardian_pid = registry.options.as_ref().and_then(|it| it.guardian_pid);
    drop(registry);
    // That it is gone by now shows at the next use.
    if let Some(me) = me {
        connection.joined(me, keep_going)?;
    }
    if let Some(guardian) = guardian_pid.and_then(ProcessId::of) {
        connection.guarded_by(guardian, keep_going)?;
    }
    Ok(())
}

/// Connects to a family's tracker, or starts one if there is none, and a descriptor of the
/// family to give it. (Where somebody closed that, who has it will start one.)
fn reach(
    executable: &Path,
    family_fd: Option<&OwnedFd>,
    family: &Family,
    cookie: [u8; 16],
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Found> {
    let why = match Connection::reach(family, cookie, keep_going)? {
        Reached::Up(connection) => return Ok(Found::Made(Launched::Up(connection))),
        Reached::Stranger(why) => Some(why),
        Reached::Nobody => None,
    };
    match family_fd {
        Some(family_fd) if why.is_none() => {
            let fd = family_fd.as_fd();
            Connection::launch(executable, fd, family, cookie, keep_going).map(Found::Made)
        }
        _ => Ok(Found::NotNow(why)),
    }
}

/// What [`reach`] found.
enum Found {
    Made(Launched),
    /// None that can be used, perhaps for a reason that we know.
    NotNow(Option<&'static str>),
}

/// Whether the tracker of the home family is known to serve, and how it is found: what
/// children that do not fork need in their environment.
pub fn address() -> Option<([u64; 2], [u8; 16])> {
    let registry = lock();
    let home = registry.families.first()?;
    home.connection.as_ref()?;
    Some((home.family.id(), home.cookie))
}

/// As [`super::membership::ensure_home`], for those who only want to be at home.
///
/// # Errors
///
/// As [`super::allocate`].
pub fn come_home(keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
    membership::ensure_home(keep_going)
}
