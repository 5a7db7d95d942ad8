//! Who may be at the other end of a connection.
//!
//! Guarantee: nobody else is let in by a tracker, or is sent the cookie by a process. One
//! rule for both sides: a process of our own user, or one that has a slot in the family.
//!
//! The second is for those who change their user after a fork (a server that begins as root
//! and lets others do the work). It leans on this: only members have the family segment
//! mapped, so nobody else can write a slot; a forked child has its slot before it connects;
//! a tracker has its own before anybody can connect to it ([`super::server`]). The cookie is
//! proved by everybody all the same. Slots name pids, and the kernel names the pid of who
//! connected or listens; that it is that process still, its start time tells. So whoever
//! is in another pid namespace, or hidden by `/proc`, is of our own user or a stranger.

use std::os::fd::OwnedFd;

use crate::layout::{Participant, SLOTS};
use crate::pool::family::{Family, LIVE};
use crate::sys::identity::Identity;
use crate::sys::process::ProcessId;
use crate::sys::socket;

/// Whether the process that connected may.
pub(super) fn may_come(socket: &OwnedFd, family: &Family) -> bool {
    is_relative(socket, family, |_| true)
}

/// Whether the process that listens is one to tell the cookie. Without the family it is
/// not known who is in it.
pub(super) fn may_be_told(socket: &OwnedFd, family: Option<&Family>) -> bool {
    match family {
        None => socket::same_user(socket),
        Some(family) => is_relative(socket, family, |who| {
            family.is_tracker(who).unwrap_or(false)
        }),
    }
}

fn is_relative(socket: &OwnedFd, family: &Family, is_meant: impl Fn(Participant) -> bool) -> bool {
    socket::same_user(socket)
        || socket::peer_pid(socket)
            .and_then(|pid| ProcessId::of(u32::try_from(pid).ok()?))
            .is_some_and(|process| has_slot(family, process, is_meant))
}

/// Whether a process of our pid namespace has a slot that `is_meant`.
fn has_slot(family: &Family, process: ProcessId, is_meant: impl Fn(Participant) -> bool) -> bool {
    let own = Identity::own();
    (0..SLOTS).any(|slot| {
        // An error would be that of a slot that does not exist.
        let Ok(seen) = family.slot(slot) else {
            return false;
        };
        let who = Participant {
            slot,
            generation: seen.generation,
        };
        seen.state == LIVE
            && family.identity(who).is_ok_and(|identity| {
                own.pid_namespace != 0
                    && identity.pid_namespace == own.pid_namespace
                    && identity.boot == own.boot
                    && identity.pid == u64::from(process.pid)
                    && identity.start_ticks == process.start_ticks
            })
            && is_meant(who)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_slot_of_this_very_process_counts() {
        let (family, _fd) = Family::create().unwrap();
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(!has_slot(&family, own, |_| true));
        let me = family.join().unwrap();
        assert!(has_slot(&family, own, |who| who == me));
        assert!(!has_slot(&family, own, |who| family
            .is_tracker(who)
            .unwrap()));
        for other in [
            ProcessId {
                start_ticks: own.start_ticks + 1,
                ..own
            },
            ProcessId {
                pid: own.pid + 1,
                ..own
            },
        ] {
            assert!(!has_slot(&family, other, |_| true));
        }
        let tracker = family.join_as_tracker().unwrap();
        assert!(has_slot(&family, own, |who| family
            .is_tracker(who)
            .unwrap()));
        family.declare_dead(me).unwrap();
        family.declare_dead(tracker).unwrap();
        assert!(!has_slot(&family, own, |_| true));
    }
}
