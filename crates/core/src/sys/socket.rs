//! Message sockets between processes of one user.
//!
//! Guarantees: `SOCK_SEQPACKET` (a message arrives whole or not at all, also when
//! forked processes share the socket), close-on-exec, numbers from 3 up, and no
//! call here blocks or raises `SIGPIPE`.

#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::fd::above_stdio;

mod place;

pub use place::{Bound, Listener, bind, connect};

/// How much may wait to be read, as far as the system lets us (it counts some 750
/// bytes for a small message): a burst that finds no room has to wait.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// Two connected ends.
///
/// # Errors
///
/// The system's, `EMFILE` first of all.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (one, other) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok((roomy(above_stdio(one)?), roomy(above_stdio(other)?)))
}

/// The same socket with a larger send buffer, if that can be had.
fn roomy(socket: OwnedFd) -> OwnedFd {
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES);
    socket
}

fn unconnected() -> Result<OwnedFd, Errno> {
    let socket = above_stdio(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)?;
    Ok(roomy(socket))
}

fn connect_to(address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let socket = unconnected()?;
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}

/// Takes the next waiting connection; `None` when there is none.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    loop {
        return match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(fd) => Ok(Some(above_stdio(fd)?)),
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
        };
    }
}

/// Whether the process at the other end runs (or ran, when it connected or
/// listened) under our effective user id.
pub fn same_user(socket: impl AsFd) -> bool {
    peer(socket).is_some_and(|peer| peer.uid == rustix::process::geteuid().as_raw())
}

/// The pid, in our pid namespace, of the process that connected, called `listen` or made
/// the pair; `None` where we cannot see it.
pub fn peer_pid(socket: impl AsFd) -> Option<i32> {
    peer(socket).map(|peer| peer.pid).filter(|&pid| pid > 0)
}

/// Not rustix's: that has no place for the pid 0 of a process outside our namespace.
fn peer(socket: impl AsFd) -> Option<libc::ucred> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `peer`, which has so many, and any
    // bytes are a `ucred`; the descriptor is open while it is borrowed.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    (status == 0 && len as usize == size_of::<libc::ucred>()).then_some(peer)
}

/// Whether `fd` is a message socket as [`pair`] and [`connect`] make them.
pub fn is_message_socket(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    rustix::net::sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && rustix::net::sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET)
}

/// Sends one message, with a descriptor if there is one to send.
///
/// # Errors
///
/// `EAGAIN` when the receiver is behind, `EPIPE` or `ECONNRESET` when it is gone,
/// `EBADF` when the descriptor to send is not open.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    attached: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        let sent = match attached {
            None => rustix::net::send(socket, message, flags),
            Some(fd) => {
                let fds = [fd];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&fds));
                rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, flags)
            }
        };
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What one receive brought.
#[derive(Debug)]
pub enum Received {
    /// A message of so many bytes, and the descriptor that came with it.
    Message(usize, Option<OwnedFd>),
    /// Nothing is there now.
    Nothing,
    /// A message longer than the buffer, or with more descriptors than one.
    TooLong,
    /// The other end is closed (an empty message, which nobody sends, looks alike).
    End,
}

/// Receives one message without waiting. Descriptors that are not returned are closed.
///
/// # Errors
///
/// The system's, other than those that mean "nothing" or "the end".
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Received, Errno> {
    // Room for two, so that a second one is noticed rather than cut off.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut was_reset = false;
    let message = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(&socket, &mut parts, &mut control, flags) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            // Closed by who had not read everything of ours; what it said before that is
            // behind this error, which is told once.
            Err(Errno::CONNRESET) if !was_reset => was_reset = true,
            Err(Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN) => return Ok(Received::End),
            Err(errno) => return Err(errno),
        }
    };
    let mut attached = None;
    let mut surplus = false;
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = item {
            for fd in fds {
                surplus |= attached.is_some();
                // The program may have closed its standard output, say.
                if let Ok(fd) = above_stdio(fd) {
                    attached.get_or_insert(fd);
                }
            }
        }
    }
    // A descriptor that could not be delivered (our table is full) is only missing.
    if surplus || message.flags.contains(ReturnFlags::TRUNC) {
        return Ok(Received::TooLong);
    }
    Ok(match message.bytes {
        0 => Received::End,
        bytes => Received::Message(bytes, attached),
    })
}

/// Whether something can be read, or a process that is watched has ended.
pub fn is_readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let now = Timespec::default();
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::IN)
}

/// Whether the other end has been closed by everybody who held it.
pub fn hung_up(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::empty())];
    let now = Timespec::default();
    poll(&mut fds, Some(&now)).is_ok()
        && fds[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// A message, or the end, can be received.
    Readable,
    /// A message can be sent, or the other end is gone.
    Writable,
}

/// Waits at most `limit`; returns early on a signal.
pub fn wait(socket: impl AsFd, until: Until, limit: Duration) {
    let flags = match until {
        Until::Readable => PollFlags::IN,
        Until::Writable => PollFlags::OUT,
    };
    let mut fds = [PollFd::new(&socket, flags)];
    let _ = poll(&mut fds, Some(&timespec(limit)));
}

/// A time span for the kernel.
pub fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}

/// How long it is until `when`; zero when that is past.
pub fn until(when: Instant) -> Duration {
    when.saturating_duration_since(Instant::now())
}
