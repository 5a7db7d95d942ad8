//! The marker: how the tracker recognises a process that lost its socket.
//!
//! A file without a name on disk, called `shared_numpy.<group>`, which each process
//! of a group maps and never touches. A mapping is inherited by `fork`, dropped by
//! `exec` and by the end of the process, and survives closing every descriptor: so
//! `/proc/<pid>/maps` tells who still belongs to the group when no socket does.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::sys::feature;
use crate::sys::map::Map;
use crate::sys::mappings;
use crate::sys::process::ProcessId;

/// One page everywhere; none of it is ever touched, so none is ever allocated.
const SIZE_BYTES: usize = 4096;

/// What appears in the maps of a group's processes.
pub fn label(group: u64) -> String {
    format!("shared_numpy.{group:016x}")
}

/// Makes the marker file of `group`. Any number of them are equal.
///
/// # Errors
///
/// The system's.
pub fn make(group: u64) -> Result<OwnedFd, Errno> {
    let name = label(group);
    let fd = anonymous(&name).or_else(|_| nameless_in_dev_shm(&name))?;
    rustix::fs::ftruncate(&fd, SIZE_BYTES as u64)?;
    Ok(fd)
}

fn anonymous(name: &str) -> Result<OwnedFd, Errno> {
    if feature::is_disabled("memfd") {
        return Err(Errno::NOSYS);
    }
    // A system may insist on memfds that cannot be executed; an old kernel does
    // not know how to say so.
    let flags = MemfdFlags::CLOEXEC;
    rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
}

/// Before Linux 3.17. The name is there for an instant; a leftover of a tracker
/// that was killed in it is replaced.
fn nameless_in_dev_shm(name: &str) -> Result<OwnedFd, Errno> {
    let path = format!("/dev/shm/{name}");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = rustix::fs::open(&path, flags, mode).or_else(|_| {
        rustix::fs::unlink(&path)?;
        rustix::fs::open(&path, flags, mode)
    })?;
    rustix::fs::unlink(&path)?;
    Ok(fd)
}

/// A mapped marker: while this lives, this process and its forked children count
/// as members of the group.
#[derive(Debug)]
pub struct Marker {
    _map: Map,
}

impl Marker {
    /// Maps the marker that came with a READY.
    ///
    /// # Errors
    ///
    /// The system's; `EINVAL` when the file is too small to be a marker.
    pub fn map(fd: impl AsFd) -> Result<Self, Errno> {
        let size_bytes = rustix::fs::fstat(&fd)?.st_size;
        if size_bytes != SIZE_BYTES as i64 {
            return Err(Errno::INVAL);
        }
        Ok(Marker {
            _map: Map::new(fd, SIZE_BYTES, false)?,
        })
    }
}

/// Processes that have the marker of `group` mapped: some of them if there are any;
/// `None` when that cannot be told now.
pub fn holders(group: u64) -> Option<Vec<ProcessId>> {
    mappings::mapping(label(group).as_bytes())
}

/// Whether that process still has it.
pub fn holds(group: u64, process: ProcessId) -> bool {
    process.is_alive() && shows(group, process)
}

/// Whether the process with that pid has it.
pub fn shows(group: u64, process: ProcessId) -> bool {
    mappings::maps(process.pid, label(group).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_in_the_maps_while_it_is_mapped() {
        let own = crate::sys::process::own_pid();
        for (group, make) in [
            (0xfeed_0001, anonymous as fn(&str) -> Result<OwnedFd, Errno>),
            (0xfeed_0002, nameless_in_dev_shm),
        ] {
            let fd = make(&label(group)).unwrap();
            rustix::fs::ftruncate(&fd, SIZE_BYTES as u64).unwrap();
            assert!(!mappings::maps(own, label(group).as_bytes()));
            let marker = Marker::map(&fd).unwrap();
            drop(fd);
            assert!(mappings::maps(own, label(group).as_bytes()));
            drop(marker);
            assert!(!mappings::maps(own, label(group).as_bytes()));
        }
    }
}
