//! Named shared memory: files on the tmpfs at `/dev/shm`.
//!
//! Guarantees: descriptors are close-on-exec; a symbolic link is never followed;
//! [`reserve`] either commits every byte or fails with `ENOSPC`, and calls its
//! `keep_going` between steps, so that a signal can stop a long one.

use std::os::fd::{AsFd, OwnedFd};

pub use rustix::fs::OFlags as OpenFlags;
use rustix::fs::{FallocateFlags, Mode};
use rustix::io::Errno;

use crate::name::SegmentName;

/// Which file a name led to: device and inode. tmpfs does not give an inode
/// number out twice while it can help it, so equal means the same segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// Device number of the file system.
    pub dev: u64,
    /// Inode number within it.
    pub ino: u64,
}

/// What `fstat` tells of an open segment.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Which file it is.
    pub identity: Identity,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How much memory it has committed, in bytes.
    pub committed_bytes: u64,
    /// Whether it is a regular file (a fifo or a device can stand at the name).
    pub is_regular: bool,
    /// The user it belongs to.
    pub uid: u32,
}

impl Status {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Status {
            identity: Identity {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            committed_bytes: u64::try_from(stat.st_blocks)
                .unwrap_or(0)
                .saturating_mul(512),
            is_regular: rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file(),
            uid: stat.st_uid,
        }
    }
}

/// The user whose files are ours: the effective one.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Where the C library keeps what `shm_open` makes.
const DIRECTORY: &[u8] = b"/dev/shm/";

/// How many bytes one `fallocate` commits. Before Linux 6.11 a pending signal
/// undoes the whole call, so the steps bound what is lost and how long Ctrl-C waits.
pub const RESERVE_STEP_BYTES: u64 = 4 << 20;

/// Opens `name` with these flags, plus close-on-exec, no-follow and non-blocking
/// (a fifo at the name must not hang us; a segment does not care).
///
/// # Errors
///
/// The system's: `EEXIST` for an exclusive create of a taken name, `ENOENT` for
/// an absent one, `EACCES`, `EMFILE`, ...
pub fn open(name: &SegmentName, flags: OpenFlags, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | OpenFlags::CLOEXEC | OpenFlags::NOFOLLOW | OpenFlags::NONBLOCK;
    loop {
        match rustix::fs::open(path(name).as_slice(), flags, Mode::from_raw_mode(mode)) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn path(name: &SegmentName) -> Vec<u8> {
    [DIRECTORY, name.as_bytes()].concat()
}

/// Gives the file exactly `mode`, whatever the umask took away at creation.
///
/// # Errors
///
/// The system's.
pub fn set_mode(fd: impl AsFd, mode: u32) -> Result<(), Errno> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
}

/// Removes the name. Mappings live on.
///
/// # Errors
///
/// `ENOENT` when there is no such segment, `EACCES` when it is another user's.
pub fn unlink(name: &SegmentName) -> Result<(), Errno> {
    rustix::fs::unlink(path(name).as_slice())
}

/// Which file the name leads to now.
///
/// # Errors
///
/// `ENOENT` when there is no such segment.
pub fn identity(name: &SegmentName) -> Result<Identity, Errno> {
    Ok(status_of(name)?.identity)
}

/// What stands at the name now; a symbolic link is not followed.
///
/// # Errors
///
/// `ENOENT` when there is nothing.
pub fn status_of(name: &SegmentName) -> Result<Status, Errno> {
    Ok(Status::of(&rustix::fs::lstat(path(name).as_slice())?))
}

/// What file this is and how large.
///
/// # Errors
///
/// The system's.
pub fn status(fd: impl AsFd) -> Result<Status, Errno> {
    Ok(Status::of(&rustix::fs::fstat(fd)?))
}

/// Writes `bytes` at the beginning of the file, which grows if need be.
///
/// # Errors
///
/// The system's: `ENOSPC`, ...
pub fn write_start(fd: impl AsFd, bytes: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(&fd, &bytes[done..], done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Reads the beginning of the file into `bytes`; says how many it had.
///
/// # Errors
///
/// The system's.
pub fn read_start(fd: impl AsFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(&fd, &mut bytes[done..], done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Sets the size; new bytes read as zero and are not committed.
///
/// # Errors
///
/// The system's: `EFBIG`, `EINVAL`, ...
pub fn set_len(fd: impl AsFd, size_bytes: u64) -> Result<(), Errno> {
    loop {
        match rustix::fs::ftruncate(&fd, size_bytes) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Commits memory for the first `size_bytes` bytes, in steps; the file grows to
/// that size as it goes.
///
/// `keep_going` is asked whenever a signal arrived and between steps; `false`
/// stops with `ECANCELED`. What was committed stays: the caller removes the file.
///
/// # Errors
///
/// `ENOSPC` when the file system or the memory limit is full; `EOPNOTSUPP`
/// where the file system cannot reserve.
pub fn reserve(
    fd: impl AsFd,
    size_bytes: u64,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<(), Errno> {
    let mut done_bytes = 0;
    while done_bytes < size_bytes {
        let step = RESERVE_STEP_BYTES.min(size_bytes - done_bytes);
        match rustix::fs::fallocate(&fd, FallocateFlags::empty(), done_bytes, step) {
            Ok(()) => done_bytes += step,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if done_bytes < size_bytes && !keep_going() {
            return Err(Errno::CANCELED);
        }
    }
    Ok(())
}

/// How much the file system of an open segment can still take, in bytes.
///
/// A tmpfs without a size limit reports none; that is told as `u64::MAX`.
///
/// # Errors
///
/// The system's.
pub fn free_bytes(fd: impl AsFd) -> Result<u64, Errno> {
    let stat = rustix::fs::fstatvfs(fd)?;
    if stat.f_blocks == 0 {
        return Ok(u64::MAX);
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Removes at `name` only the file that `expected` describes.
///
/// The look and the removal are two calls: somebody who replaces the file in
/// between loses theirs. The system offers nothing better for names.
///
/// # Errors
///
/// `ENOENT` when the name is gone, `ESTALE` when it leads to another file.
pub fn unlink_if(name: &SegmentName, expected: Identity) -> Result<(), Errno> {
    if identity(name)? != expected {
        return Err(Errno::STALE);
    }
    unlink(name)
}
