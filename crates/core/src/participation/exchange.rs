//! Sending handles and receiving them.
//!
//! Guarantees:
//!
//! - Before a handle leaves, its block is held by a token and the tracker has its segment,
//!   or has been told so: the message is on its way before the handle is (rule P3).
//! - Receiving never waits for the sender, and for a tracker five seconds at most.
//! - Before anything is waited for `keep_going` is asked: who must not wait says no, is told
//!   [`Error::Interrupted`], and comes again when it may.
//! - What was received was checked: that the segment is the one meant, that the block has
//!   the generation meant.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::fork::in_one_process;
use super::handle::Handle;
use super::registry::{Kind, Local, SegmentId, lock};
use super::{Hold, membership};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::members::client::{Connection, Fetched, Launched};
use crate::pool::holder::Holder;
use crate::pool::segment::PoolSegment;
use crate::pool::tokens::{TokenName, in_flight_limit_s};
use crate::sys::fd::CachedFd;
use crate::sys::identity::Identity;
use crate::sys::process::ProcessId;
use crate::sys::{clock, fd, feature, fork as process_fork};

/// How often a sender looks whether the tracker is still there: it may have been
/// replaced by one that has not been told of our segments.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A tracker that dies again and again is given up after so many.
const ROUNDS: usize = 3;

/// A handle that is on its way.
#[derive(Debug)]
pub struct Sent {
    segment: Arc<PoolSegment>,
    block: usize,
    token: TokenName,
}

impl Sent {
    /// Declares that the handle reached nobody and never will. Nothing happens if it has.
    pub fn withdraw(&self) {
        // An error is that of a damaged segment, whose tokens mean nothing.
        let _ = self.segment.withdraw_token(self.token, self.block);
    }
}

impl Hold {
    /// A handle to be sent, and its token: the block is held until somebody receives it.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when too many are on their way; [`Error::Dropped`];
    /// [`Error::Interrupted`]; the system's when a tracker cannot be started for want of
    /// memory or descriptors.
    pub fn send(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<(Handle, Sent)> {
        let segment = self.held.segment;
        in_one_process(keep_going, |keep_going| ensure_told(segment, keep_going))?;
        let mut registry = lock();
        let holder = registry.holder(self.held.segment)?;
        if holder.is_dropped(self.held.since) {
            return Err(Error::Dropped);
        }
        let now_s = clock::monotonic_s();
        let mut made = holder.make_token(self.held.block, now_s);
        if let Err(Error::Full { .. }) = made {
            // Perhaps with what the dead have sent, whose time is over.
            let family = registry
                .local(self.held.segment)
                .ok_or(Error::Dropped)?
                .family;
            registry.families[family].make_room();
            let holder = registry.holder(self.held.segment)?;
            let limit_s = in_flight_limit_s();
            if holder.segment().expire_tokens_of_the_dead(now_s, limit_s)? > 0 {
                made = holder.make_token(self.held.block, now_s);
            }
        }
        let token = made?;
        let segment = Arc::clone(registry.holder(self.held.segment)?.segment());
        let block = self.held.block;
        let handle = registry.handle(self.held.segment, block, self.generation, Some(token))?;
        let sent = Sent {
            segment,
            block,
            token,
        };
        Ok((handle, sent))
    }

    /// A handle that holds nothing: good while somebody holds the block. It is the same
    /// whoever makes it.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn handle(&self) -> Result<Handle> {
        lock().handle(self.held.segment, self.held.block, self.generation, None)
    }
}

/// Takes the block that a handle names.
///
/// # Errors
///
/// [`Error::UnknownFamily`]: [`super::join`] it and try again. [`Error::Stale`] when the
/// block was given back; [`Error::TrackerUnavailable`] when its segment is out of reach;
/// [`Error::Damaged`] and [`Error::WrongSegment`] for what is not what it should be.
pub fn receive(handle: &Handle, keep_going: &mut dyn FnMut() -> bool) -> Result<Hold> {
    in_one_process(keep_going, |keep_going| receive_here(handle, keep_going))
}

fn receive_here(handle: &Handle, keep_going: &mut dyn FnMut() -> bool) -> Result<Hold> {
    let block = handle.block as usize;
    for _ in 0..ROUNDS {
        let mut registry = lock();
        let family = registry
            .family(handle.family)
            .filter(|&family| registry.families[family].me.is_some())
            .ok_or(Error::UnknownFamily)?;
        if let Some(id) = registry.find(family, handle.owner, handle.number) {
            let (info, since, segment) =
                registry.take(id, block, handle.generation, handle.token)?;
            let mapping = Arc::clone(segment.mapping());
            return Ok(Hold::new(id, since, info, mapping));
        }
        drop(registry);
        let segment_fd = fetch(family, handle, keep_going)?;
        point("receive.fetched");
        attach(family, handle, segment_fd)?;
    }
    // It is forgotten as often as it is attached: its owner is dead, nothing is held.
    Err(Error::Stale)
}

/// Attaches the segment of a handle, whose family this process is in.
///
/// # Errors
///
/// As [`receive`].
pub(super) fn attach_for(handle: &Handle, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
    let family = {
        let registry = lock();
        let family = registry.family(handle.family).ok_or(Error::UnknownFamily)?;
        if registry.find(family, handle.owner, handle.number).is_some() {
            return Ok(());
        }
        family
    };
    let segment_fd = fetch(family, handle, keep_going)?;
    attach(family, handle, segment_fd)
}

/// Maps a segment and registers a row in it, unless another thread has.
fn attach(family: usize, handle: &Handle, fd: OwnedFd) -> Result<()> {
    let mut registry = lock();
    if registry.find(family, handle.owner, handle.number).is_some() {
        return Ok(());
    }
    let member = &registry.families[family];
    let me = member.me()?;
    let segment = Arc::new(PoolSegment::attach(&fd, Arc::clone(&member.family))?);
    if segment.owner() != handle.owner || segment.number() != handle.number {
        return Err(Error::WrongSegment("it is another than the one meant"));
    }
    // From an earlier attachment, which ended with nothing held.
    if !segment.is_registered(me)? {
        segment.register_row(me, Some(fd.as_fd()))?;
    }
    let holder = Holder::new(Arc::clone(&segment), me)?;
    registry.remove_unused()?;
    // Before Linux 5.14 a fork could not commit a row without it.
    let keep = segment.commit_again(me).is_err();
    let fd = keep.then(|| CachedFd::new(fd).ok()).flatten();
    registry.insert(Local {
        family,
        owner: handle.owner,
        number: handle.number,
        owner_fd: handle.hints.segment_fd,
        is_told: false,
        kind: Kind::Attached { holder, fd },
    });
    Ok(())
}

/// A descriptor of the handle's segment: from the tracker, else from its owner.
fn fetch(family: usize, handle: &Handle, keep_going: &mut dyn FnMut() -> bool) -> Result<OwnedFd> {
    for _ in 0..ROUNDS {
        let Some(connection) = connection(family, false, keep_going)? else {
            break;
        };
        if !keep_going() {
            return Err(Error::Interrupted);
        }
        match connection.fetch(handle.owner, handle.number, keep_going)? {
            Fetched::Fd(fd) => return Ok(fd),
            Fetched::Unknown => break,
            Fetched::Gone => {} // another may have taken its place
        }
    }
    let member_family = Arc::clone(&lock().families[family].family);
    let Ok(owner) = member_family.identity(handle.owner) else {
        // It is dead, and no tracker has what it left.
        return Err(Error::Stale);
    };
    if owner.pid_namespace == Identity::own().pid_namespace
        && let Ok(pid) = u32::try_from(owner.pid)
        && let Ok(fd) = fd::of_process(pid, handle.hints.segment_fd)
        && PoolSegment::attach(&fd, member_family)
            .is_ok_and(|it| it.owner() == handle.owner && it.number() == handle.number)
    {
        return Ok(fd);
    }
    let why = lock().families[family].no_tracker.clone();
    Err(Error::TrackerUnavailable(why.unwrap_or_else(|| {
        "it was killed, or has none of it".to_owned()
    })))
}

/// Sees to it that the tracker has a segment, if there can be a tracker.
pub(super) fn ensure_told(id: SegmentId, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
    for _ in 0..ROUNDS {
        let mut registry = lock();
        let local = registry.local(id).ok_or(Error::Dropped)?;
        let (family, owner, number, is_told) =
            (local.family, local.owner, local.number, local.is_told);
        let member = &registry.families[family];
        if member.no_tracker.is_some() {
            return Ok(());
        }
        let is_fresh = member
            .looked_at
            .is_some_and(|when| when.elapsed() < LOOK_EVERY);
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
            if let Some(local) = registry.local(id) {
                local.is_told = true;
            }
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
fn connection(
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
        member.looked_at = Some(Instant::now());
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
    let (id, cookie) = (member.family.id(), member.cookie);
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
    let mut made = reach(&executable, family_fd.as_ref(), id, cookie, keep_going);
    for _ in 1..ROUNDS {
        let was_killed = |errno| matches!(errno, Errno::PIPE | Errno::CONNRESET);
        if !made
            .as_ref()
            .is_err_and(|error| error.errno().is_some_and(was_killed))
        {
            break;
        }
        // It was killed as it started.
        made = reach(&executable, family_fd.as_ref(), id, cookie, keep_going);
    }
    let made = match made? {
        None => return Ok(None),
        Some(Launched::Up(connection)) => connection,
        Some(Launched::Unavailable(reason)) => {
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
    member.looked_at = Some(Instant::now());
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
    id: [u64; 2],
    cookie: [u8; 16],
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Option<Launched>> {
    if let Some((connection, _family_fd)) = Connection::connect(id, cookie, keep_going)? {
        return Ok(Some(Launched::Up(connection)));
    }
    let Some(family_fd) = family_fd else {
        return Ok(None);
    };
    Connection::launch(executable, family_fd.as_fd(), id, cookie, keep_going).map(Some)
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
