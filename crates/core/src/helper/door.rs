//! Where processes connect to a helper: who is let in, and what is done when
//! descriptors run out.
//!
//! Guarantees: connections of those who have no business here (another user's, as a rule)
//! are closed at once; at most [`UNPROVEN_MAX`] wait for their owner to prove itself, each
//! for [`PROOF_WITHIN`], others wait in the kernel; without a descriptor for one more, it is
//! told so instead of left waiting.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll;

use crate::sys::socket::{self, Listener};

/// How many connections may be unproven at a time; more wait in the kernel.
pub(crate) const UNPROVEN_MAX: usize = 16;

/// How long a connection may stay unproven.
pub(crate) const PROOF_WITHIN: Duration = Duration::from_secs(1);

/// The listening socket, if there is one.
pub(crate) struct Door {
    listener: Option<Listener>,
    /// Whether the event loop is told of new connections.
    is_watched: bool,
    /// Given up for a moment to refuse politely when descriptors run out.
    spare: Option<OwnedFd>,
    /// What the event loop calls us.
    event: u64,
}

/// Who came.
pub(crate) enum Came {
    /// A process that may come.
    Somebody(OwnedFd),
    /// Nobody, for now.
    Nobody,
    /// Somebody for whom there is no descriptor but the spare one: to be refused on this
    /// socket, and then [`Door::refused`].
    OneTooMany(OwnedFd),
}

impl Door {
    /// A door in a wall: nobody can come before it [opens](Door::open).
    pub(crate) fn new(event: u64) -> Self {
        Door {
            listener: None,
            is_watched: false,
            spare: spare(),
            event,
        }
    }

    /// From now on processes can come here. The event loop is told by [`Door::watch`].
    pub(crate) fn open(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Has the event loop told of who comes.
    pub(crate) fn watch(&mut self, epoll: &OwnedFd) {
        if !self.is_watched
            && let Some(listener) = &self.listener
        {
            let data = epoll::EventData::new_u64(self.event);
            self.is_watched = epoll::add(epoll, listener, data, epoll::EventFlags::IN).is_ok();
        }
    }

    /// Leaves those who come to the kernel.
    pub(crate) fn look_away(&mut self, epoll: &OwnedFd) {
        if let Some(listener) = &self.listener
            && std::mem::take(&mut self.is_watched)
        {
            let _ = epoll::delete(epoll, listener);
        }
    }

    /// The next who came, of those who may.
    pub(crate) fn next(&mut self, epoll: &OwnedFd, may_come: impl Fn(&OwnedFd) -> bool) -> Came {
        while let Some(listener) = &self.listener {
            match socket::accept(listener) {
                Ok(Some(socket)) if may_come(&socket) => return Came::Somebody(socket),
                Ok(Some(_)) => {}
                Ok(None) => return Came::Nobody,
                Err(_) => {
                    self.spare = None;
                    if let Some(Ok(Some(socket))) = self.listener.as_ref().map(socket::accept) {
                        return Came::OneTooMany(socket);
                    }
                    // Not even that: until a connection goes.
                    self.refused();
                    self.look_away(epoll);
                    return Came::Nobody;
                }
            }
        }
        Came::Nobody
    }

    /// The one too many is closed.
    pub(crate) fn refused(&mut self) {
        self.spare = spare();
    }
}

/// A descriptor to give up when there are no more.
fn spare() -> Option<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/null", OFlags::CLOEXEC, Mode::empty()).ok()
}
