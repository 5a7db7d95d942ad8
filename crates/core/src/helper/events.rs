//! A helper's one loop: how much of what it does in a turn.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll;

use crate::sys::socket;

/// How many messages of one connection are read in a turn.
pub(crate) const TURN_MESSAGES: usize = 256;
/// How many are read when everything that was sent so far must be known. More than
/// a socket buffer holds, so that only what is sent meanwhile can be left.
pub(crate) const DRAIN_MESSAGES: usize = 4096;
/// How many events one look at the kernel brings.
pub(crate) const EVENTS: usize = 64;

/// What has happened by now; `events` is empty if nothing has.
pub(crate) fn take_events(epoll: &OwnedFd, events: &mut Vec<epoll::Event>) {
    events.clear();
    let at_once = socket::timespec(Duration::ZERO);
    let _ = epoll::wait(
        epoll,
        rustix::buffer::spare_capacity(events),
        Some(&at_once),
    );
}
