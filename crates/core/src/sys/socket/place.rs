//! Where a helper listens, and is found: an abstract name.
//!
//! Guarantees: of those who want a name one gets it; nobody can connect before its owner
//! says so ([`Bound::listen`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::{BACKLOG, connect_to, unconnected};

/// A name that is ours, and at which nobody is let in yet.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
}

/// Others connect here while this lives.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

/// Takes a name.
///
/// # Errors
///
/// `EADDRINUSE` when somebody has it already; the system's else.
pub fn bind(name: &[u8]) -> Result<Bound, Errno> {
    let socket = unconnected()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(Bound { socket })
}

impl Bound {
    /// From now on others can connect. To them this process is at the other end, with the
    /// user that it has now.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn listen(self) -> Result<Listener, Errno> {
        rustix::net::listen(&self.socket, BACKLOG)?;
        Ok(Listener {
            socket: self.socket,
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects to who listens under a name. Never waits.
///
/// # Errors
///
/// `ECONNREFUSED` when nobody listens there, `EAGAIN` when too many others wait
/// to be accepted; the system's else.
pub fn connect(name: &[u8]) -> Result<OwnedFd, Errno> {
    connect_to(&SocketAddrUnix::new_abstract_name(name)?)
}
