//! Shared memory without a name: it lives as long as a descriptor or a mapping.
//!
//! Guarantees: descriptors are close-on-exec and have numbers from 3 up; nothing is left in `/dev/shm`, unless
//! the process is killed between the two calls of the last fallback; [`commit`]
//! commits every byte or says that it did not; [`punch`] gives back only pages
//! that lie wholly inside the range.
//!
//! A memfd counts against the memory limit only and not against the size of
//! `/dev/shm`, and can be sealed; the fallbacks cannot.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use super::fd::above_stdio;
use super::feature;
use super::shm::{self, RESERVE_STEP_BYTES};

/// What tools show as the name of the file: `/memfd:shared_numpy`.
const LABEL: &str = "shared_numpy";
const DIRECTORY: &str = "/dev/shm";

/// A new file of `size_bytes` bytes, all zero and not committed.
///
/// # Errors
///
/// The system's (`EMFILE`, `ENOENT` without a `/dev/shm`, `EFBIG`, ...).
pub fn create(size_bytes: u64) -> Result<OwnedFd, Errno> {
    // What the program, or another thread of it, takes for its standard output may be closed.
    let fd = above_stdio(open()?)?;
    shm::set_len(&fd, size_bytes)?;
    Ok(fd)
}

fn open() -> Result<OwnedFd, Errno> {
    if !feature::is_disabled("memfd") {
        match memfd() {
            // No such call, or a sandbox that forbids it.
            Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::INVAL) => {}
            done => return done,
        }
    }
    if !feature::is_disabled("o_tmpfile") {
        match unnamed() {
            // Kernels without O_TMPFILE take it for the opening of a directory.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            done => return done,
        }
    }
    unlinked()
}

fn memfd() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Some systems refuse a memfd that could be executed; old kernels (before 6.3)
    // do not know how to say that this one cannot.
    match rustix::fs::memfd_create(LABEL, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(LABEL, flags),
        done => done,
    }
}

fn unnamed() -> Result<OwnedFd, Errno> {
    // O_EXCL here: the file can never be given a name.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE | OFlags::EXCL;
    rustix::fs::open(DIRECTORY, flags, Mode::RUSR | Mode::WUSR)
}

fn unlinked() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    loop {
        let mut random = [0_u8; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let path = format!("{DIRECTORY}/snp_{:032x}", u128::from_ne_bytes(random));
        match rustix::fs::open(path.as_str(), flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST | Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(fd) => {
                rustix::fs::unlink(path.as_str())?;
                return Ok(fd);
            }
        }
    }
}

/// Fixes the size for ever; `false` where files cannot be sealed.
///
/// # Errors
///
/// The system's.
pub fn seal(fd: impl AsFd) -> Result<bool, Errno> {
    match rustix::fs::fcntl_add_seals(fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL) {
        Ok(()) => Ok(true),
        // Not a memfd: other file systems know no seals, a plain tmpfs file has the one
        // that forbids more.
        Err(Errno::INVAL | Errno::PERM) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Commits memory for `len_bytes` bytes from `offset_bytes`, in steps of at most
/// [`RESERVE_STEP_BYTES`]; what is committed stays so, and costs nothing again.
///
/// `keep_going` is asked after each interrupted or completed step but the last;
/// `false` stops with `ECANCELED`.
///
/// # Errors
///
/// `ENOSPC` or `ENOMEM` when there is no room, `EOPNOTSUPP` where the file
/// system cannot do it. The steps before are kept.
pub fn commit(
    fd: impl AsFd,
    offset_bytes: u64,
    len_bytes: u64,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<(), Errno> {
    let end = offset_bytes.checked_add(len_bytes).ok_or(Errno::INVAL)?;
    let mut at = offset_bytes;
    while at < end {
        let step = RESERVE_STEP_BYTES.min(end - at);
        // KEEP_SIZE: a file that is sealed against growing is never asked to grow.
        match rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, at, step) {
            Ok(()) => at += step,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if at < end && !keep_going() {
            return Err(Errno::CANCELED);
        }
    }
    Ok(())
}

/// Gives back the whole pages among `len_bytes` bytes from `offset_bytes`, and says
/// how many bytes that were. They read as zero then and are not committed.
///
/// # Errors
///
/// The system's.
pub fn punch(fd: impl AsFd, offset_bytes: u64, len_bytes: u64) -> Result<u64, Errno> {
    let page = rustix::param::page_size() as u64;
    let begin = offset_bytes.next_multiple_of(page);
    let end = offset_bytes.saturating_add(len_bytes) / page * page;
    if begin >= end {
        return Ok(0);
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match rustix::fs::fallocate(&fd, flags, begin, end - begin) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(()) => return Ok(end - begin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_gives_memory_without_a_name() {
        for (way, can_seal) in [
            (memfd as fn() -> Result<OwnedFd, Errno>, true),
            (unnamed, false),
            (unlinked, false),
        ] {
            let fd = way().unwrap();
            shm::set_len(&fd, 3 << 20).unwrap();
            assert_eq!(seal(&fd), Ok(can_seal));
            commit(&fd, 1 << 20, 1 << 20, &mut || true).unwrap();
            let status = shm::status(&fd).unwrap();
            assert_eq!(
                (status.size_bytes, status.committed_bytes),
                (3 << 20, 1 << 20)
            );
            // Whole pages inside the range only.
            let page = rustix::param::page_size() as u64;
            assert_eq!(punch(&fd, (1 << 20) + 1, 2 * page), Ok(page));
            assert_eq!(shm::status(&fd).unwrap().committed_bytes, (1 << 20) - page);
            if can_seal {
                assert_eq!(shm::set_len(&fd, 1), Err(Errno::PERM));
            }
            let stat = rustix::fs::fstat(&fd).unwrap();
            assert_eq!(stat.st_nlink, 0);
        }
    }

    #[test]
    fn a_commit_can_be_stopped_between_steps() {
        let fd = create(16 << 20).unwrap();
        let mut steps = 0;
        let stopped = commit(&fd, 0, 16 << 20, &mut || {
            steps += 1;
            steps < 2
        });
        assert_eq!(stopped, Err(Errno::CANCELED));
        let status = shm::status(&fd).unwrap();
        assert_eq!(status.committed_bytes, 2 * RESERVE_STEP_BYTES);
    }
}
