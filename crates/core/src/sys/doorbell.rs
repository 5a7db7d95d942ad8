//! Datagram sockets that wake a process which waits without a thread.
//!
//! Guarantees: close-on-exec, numbers from 3 up; no call here waits. What arrives means
//! nothing but "look": anybody in the same network namespace can send to an abstract name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::fd::above_stdio;

/// The name of a doorbell in one word: up to seven bytes, their number in the last one.
/// Those that the kernel gives have five.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name(pub u64);

impl Name {
    const BYTES_MAX: usize = 7;

    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > Self::BYTES_MAX {
            return None;
        }
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        word[7] = bytes.len() as u8;
        Some(Name(u64::from_le_bytes(word)))
    }

    fn address(self) -> Result<SocketAddrUnix, Errno> {
        let word = self.0.to_le_bytes();
        let len = usize::from(word[7]);
        if len == 0 || len > Self::BYTES_MAX {
            return Err(Errno::INVAL);
        }
        SocketAddrUnix::new_abstract_name(&word[..len])
    }
}

/// A socket to wait on, and its name.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
    name: Name,
}

fn socket() -> Result<OwnedFd, Errno> {
    above_stdio(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

impl Doorbell {
    /// One with a name of its own, which the kernel chooses.
    ///
    /// # Errors
    ///
    /// The system's, `EMFILE` first of all.
    pub fn new() -> Result<Self, Errno> {
        let fd = socket()?;
        rustix::net::bind(&fd, &SocketAddrUnix::new_unnamed())?;
        let address = SocketAddrUnix::try_from(rustix::net::getsockname(&fd)?)?;
        let name = address.abstract_name().and_then(Name::of);
        Ok(Doorbell {
            fd,
            name: name.ok_or(Errno::OPNOTSUPP)?,
        })
    }

    /// Its name.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Forgets that it was rung; whether it was.
    pub fn hush(&self) -> bool {
        let mut byte = [0_u8; 1];
        let mut was_rung = false;
        // Bounded: somebody may ring as fast as we listen.
        for _ in 0..64 {
            match rustix::net::recv(&self.fd, &mut byte, RecvFlags::DONTWAIT) {
                Ok(_) => was_rung = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        was_rung
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Rings; `false` when nobody has a bell of this name any more, or it cannot be reached.
pub fn ring(name: Name) -> bool {
    // For each ring: a descriptor that is kept is one more that can be closed under us.
    let (Ok(socket), Ok(address)) = (socket(), name.address()) else {
        return false;
    };
    loop {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        return match rustix::net::sendto(&socket, &[1], flags, &address) {
            // It has been rung, more than it could hear.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => true,
            Err(Errno::INTR) => continue,
            Err(_) => false,
        };
    }
}

/// Whether somebody has a bell of this name, as far as can be seen from here. It is not rung.
pub fn exists(name: Name) -> bool {
    let Ok(address) = name.address() else {
        return false; // not the name of any
    };
    let Ok(socket) = socket() else {
        return true; // cannot be told, for want of descriptors
    };
    rustix::net::connect(&socket, &address) != Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_is_rung_by_its_name() {
        let bell = Doorbell::new().unwrap();
        let other = Doorbell::new().unwrap();
        assert_ne!(bell.name(), other.name());
        assert!(!bell.hush());
        for _ in 0..1000 {
            assert!(ring(bell.name()), "never waits");
        }
        assert!(bell.hush());
        assert!(!other.hush());
        let gone = other.name();
        assert!(exists(gone) && !other.hush());
        drop(other);
        assert!(!ring(gone) && !exists(gone));
        assert!(!ring(Name(0)) && !ring(Name(u64::MAX)));
    }
}
