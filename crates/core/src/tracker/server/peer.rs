//! A connection, and how far its owner has proved itself.

use std::os::fd::OwnedFd;
use std::time::Instant;

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// Our end.
    pub(super) socket: OwnedFd,
    /// What its owner may do.
    pub(super) stage: Stage,
}

/// | stage | reached by | next |
/// | --- | --- | --- |
/// | `First` | being descriptor 0 of the tracker | HELLO sets address and cookie: `Member` |
/// | `Unproven` | `connect` | HELLO with the cookie: `Member`; else, or after a second: closed |
/// | `Adopted` | ADOPT from a member | HELLO: `Member`; counts as a member already |
/// | `Member` | HELLO | end of file: closed |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The process that started the tracker; it has a second to say so.
    First(Instant),
    /// Anybody of our user; closed at this time.
    Unproven(Instant),
    /// A member's child, in this group.
    Adopted(u64),
    /// In this group.
    Member(u64),
}

impl Stage {
    /// The group that the connection keeps alive.
    pub(super) fn group(self) -> Option<u64> {
        match self {
            Stage::Adopted(group) | Stage::Member(group) => Some(group),
            Stage::First(_) | Stage::Unproven(_) => None,
        }
    }

    /// When its owner must have proved itself.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Stage::First(deadline) | Stage::Unproven(deadline) => Some(deadline),
            Stage::Adopted(_) | Stage::Member(_) => None,
        }
    }
}
