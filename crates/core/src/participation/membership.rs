//! Coming into families: the own one, and those whose handles arrive.
//!
//! Guarantee: a process has one slot in a family, whichever of its threads came first.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::fork::in_one_process;
use super::registry::{Membership, Registry, lock};
use super::{Handle, tracker};
use crate::error::{Error, Result};
use crate::members::client::Connection;
use crate::pool::family::Family;
use crate::sys::fd::CachedFd;
use crate::sys::identity::Identity;
use crate::sys::{fd, shm};

/// Makes sure that this process has a family where it can make arrays: the one it was
/// pointed to, if that is still there, or a new one.
pub(super) fn ensure_home(keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
    in_one_process(keep_going, ensure_home_here)
}

fn ensure_home_here(keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
    let mut registry = lock();
    if registry.home().is_some() {
        return Ok(());
    }
    if let Some(member) = registry.families.first_mut() {
        // A child that was not counted, since it held nothing.
        member.me = Some(member.family.join()?);
        return Ok(());
    }
    let options = registry.options.clone().unwrap_or_default();
    drop(registry);
    if let Some((id, cookie)) = options.hint {
        if !keep_going() {
            return Err(Error::Interrupted);
        }
        match Connection::connect(id, cookie, keep_going) {
            Ok(Some((connection, fd))) => {
                let family = Family::attach(&fd)?;
                match enter(family, fd, cookie, Some(connection), keep_going) {
                    // Who can be no guest there can have a home of its own.
                    Err(Error::Full { .. }) => {}
                    done => return done,
                }
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // A hint only: nobody is there, or somebody who does not answer.
            Ok(None) | Err(_) => {}
        }
    }
    let mut registry = lock();
    if registry.families.is_empty() {
        // Under the lock: two threads that come here make one family, and a fork meets
        // none of it or all.
        let (family, fd) = Family::create()?;
        enter_locked(&mut registry, family, fd, options.cookie)?;
    }
    Ok(()) // another thread was here; the caller looks again
}

/// Joins the family of a handle that [`super::receive`] did not know.
///
/// # Errors
///
/// [`Error::ForeignHandle`] when it cannot be reached from here; [`Error::Full`] when it
/// has no room; [`Error::WrongSegment`] for a program with another version.
pub fn join(handle: &Handle, cookie: [u8; 16], keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
    in_one_process(keep_going, |keep_going| {
        join_here(handle, cookie, keep_going)
    })
}

fn join_here(
    handle: &Handle,
    cookie: [u8; 16],
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<()> {
    if handle.boot != Identity::boot()[0] {
        return Err(Error::ForeignHandle(
            "it was made on another host, or before this one was restarted",
        ));
    }
    let cookie = {
        let mut registry = lock();
        if let Some(known) = registry.family(handle.family) {
            let member = &mut registry.families[known];
            if member.me.is_none() {
                member.me = Some(member.family.join()?);
            }
            return Ok(());
        }
        // Of the family that we were pointed to we know better.
        let hint = registry.options.as_ref().and_then(|options| options.hint);
        match hint {
            Some((id, its_cookie)) if id == handle.family => its_cookie,
            _ => cookie,
        }
    };
    if let Some((connection, fd)) = Connection::connect(handle.family, cookie, keep_going)? {
        let family = Family::attach(&fd)?;
        return enter(family, fd, cookie, Some(connection), keep_going);
    }
    let nowhere = Error::ForeignHandle(
        "it belongs to another program, or to one that has ended or runs as another user",
    );
    let hints = handle.hints;
    let fd = fd::of_process(hints.sender_pid, hints.family_fd).map_err(|errno| {
        let error = Error::os("join a family", "", errno);
        if error.is_shortage() {
            error
        } else {
            nowhere.clone()
        }
    })?;
    match Family::attach(&fd) {
        Ok(family) if family.id() == handle.family => enter(family, fd, cookie, None, keep_going),
        Err(error) if error.is_shortage() => Err(error),
        // The number leads to something else by now.
        _ => Err(nowhere),
    }
}

fn enter(
    family: Family,
    fd: OwnedFd,
    cookie: [u8; 16],
    connection: Option<Connection>,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<()> {
    let known = enter_locked(&mut lock(), family, fd, cookie)?;
    let Some(connection) = connection else {
        return Ok(());
    };
    tracker::announce(known, &connection, keep_going)?;
    let member = &mut lock().families[known];
    member
        .connection
        .get_or_insert_with(|| Arc::new(connection));
    Ok(())
}

/// Becomes a member, if this process is none; the family's place.
fn enter_locked(
    registry: &mut Registry,
    family: Family,
    fd: OwnedFd,
    cookie: [u8; 16],
) -> Result<usize> {
    let os = |errno: Errno| Error::os("join a family", "", errno);
    let file = shm::status(&fd).map_err(os)?.identity;
    let fd = CachedFd::new(fd).map_err(os)?;
    if let Some(known) = registry.family(family.id()) {
        let member = &mut registry.families[known];
        if member.me.is_none() {
            member.me = Some(member.family.join()?);
        }
        return Ok(known);
    }
    // Under the lock: a fork meets a member or none.
    let me = family.join()?;
    let family = Arc::new(family);
    let member = Membership::new(family, file, fd, cookie, me);
    registry.families.push(member);
    Ok(registry.families.len() - 1)
}
