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
use std::sync::Arc;

use rustix::io::Errno;

use super::Hold;
use super::fork::in_one_process;
use super::handle::Handle;
use super::registry::{Kept, Kind, Local, lock};
use super::tracker::{ROUNDS, connection, ensure_told};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::members::client::Fetched;
use crate::pool::holder::Holder;
use crate::pool::segment::PoolSegment;
use crate::pool::tokens::{TokenName, in_flight_limit_s};
use crate::sys::fd::CachedFd;
use crate::sys::identity::Identity;
use crate::sys::{clock, fd};

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
                .ok_or_else(|| Error::Dropped)?
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
    let kept = attach_for(handle, keep_going)?;
    let id = kept.segment();
    let taken = lock().take(id, block, handle.generation, handle.token);
    let (info, since, segment) = taken?;
    Ok(Hold::new(id, since, info, Arc::clone(segment.mapping())))
}

/// Attaches the segment of a handle, whose family this process is in, and keeps it attached
/// while what this returns lives.
///
/// # Errors
///
/// As [`receive`].
pub(super) fn attach_for(handle: &Handle, keep_going: &mut dyn FnMut() -> bool) -> Result<Kept> {
    let family = {
        let mut registry = lock();
        let family = registry
            .family(handle.family)
            .filter(|&family| registry.families[family].me.is_some())
            .ok_or_else(|| Error::UnknownFamily)?;
        if let Some(id) = registry.find(family, handle.owner, handle.number) {
            return registry.keep(id);
        }
        family
    };
    let segment_fd = fetch(family, handle, keep_going)?;
    point("receive.fetched");
    attach(family, handle, segment_fd)
}

/// Maps a segment and registers a row in it, unless another thread has.
fn attach(family: usize, handle: &Handle, fd: OwnedFd) -> Result<Kept> {
    let mut registry = lock();
    if let Some(id) = registry.find(family, handle.owner, handle.number) {
        return registry.keep(id);
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
    let id = registry.insert(Local {
        family,
        owner: handle.owner,
        number: handle.number,
        owner_fd: handle.hints.segment_fd,
        is_told: false,
        keeps: 0,
        kind: Kind::Attached { holder, fd },
    });
    registry.keep(id)
}

/// Why `/proc` does not lead to a segment without the tracker.
const OWNER_IS_HIDDEN: &str =
    "it was killed, or has none of it, and the owner runs as another user, or has changed its own";

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
    let mut its_user = None;
    if owner.pid_namespace == Identity::own().pid_namespace
        && let Ok(pid) = u32::try_from(owner.pid)
    {
        match fd::of_process(pid, handle.hints.segment_fd) {
            Ok(fd) => match PoolSegment::attach(&fd, member_family) {
                Ok(it) if it.owner() == handle.owner && it.number() == handle.number => {
                    return Ok(fd);
                }
                Err(error) if error.is_shortage() => return Err(error),
                // The number leads to something else by now.
                _ => {}
            },
            Err(Errno::ACCESS | Errno::PERM) => its_user = Some(OWNER_IS_HIDDEN),
            Err(errno) => {
                let error = Error::os("attach to shared memory", "", errno);
                if error.is_shortage() {
                    return Err(error);
                }
            }
        }
    }
    let member = &lock().families[family];
    let why = member.no_tracker.as_deref().or(member.not_now).or(its_user);
    let why = why.unwrap_or("it was killed, or has none of it");
    Err(Error::TrackerUnavailable(why.to_owned()))
}
