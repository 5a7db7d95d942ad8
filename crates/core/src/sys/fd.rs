//! File descriptors that somebody else may take away.
//!
//! A program can close descriptors it does not know (a daemon's `closerange`) and
//! the kernel then gives the numbers to the program's own files. A [`CachedFd`]
//! therefore asks the kernel, before each use, whether its number still leads to
//! the file it was made from; if not, it forgets the number without closing it.

#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// The lowest number a cached descriptor may have: 0, 1 and 2 belong to the
/// program, even while it has them closed.
const LOWEST: RawFd = 3;

/// A descriptor kept over a long time, with what identifies its file.
#[derive(Debug)]
pub struct CachedFd {
    fd: ManuallyDrop<OwnedFd>,
    dev: u64,
    ino: u64,
}

impl CachedFd {
    /// Keeps `fd`, under a number of at least 3 and closed on exec.
    ///
    /// # Errors
    ///
    /// The system's; `EMFILE` when no number is left.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let fd = above_stdio(fd)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(CachedFd {
            fd: ManuallyDrop::new(fd),
            dev: stat.st_dev,
            ino: stat.st_ino,
        })
    }

    /// The descriptor, if its number still leads to the same file.
    ///
    /// Another thread can still close the number between this look and its use;
    /// that window cannot be shut from here.
    pub fn get(&self) -> Option<BorrowedFd<'_>> {
        let stat = rustix::fs::fstat(self.fd.as_fd()).ok()?;
        (stat.st_dev == self.dev && stat.st_ino == self.ino).then(|| self.fd.as_fd())
    }

    /// Closes the descriptor, if its number still leads to the same file; from then on there
    /// is none. For a forked child: what its parent's other threads shared of this has no
    /// owner there who would ever drop it.
    ///
    /// Must not be called while a descriptor that [`CachedFd::get`] gave is in use.
    pub fn close(&self) {
        if self.get().is_some() {
            // SAFETY: open, and ours, as just seen. Nobody uses it (the caller's duty), and
            // nobody will: `get` and `drop` look first, and find the number closed, or
            // another file under it.
            unsafe { rustix::io::close(self.number()) };
        }
    }

    /// The bare number, unchecked: for telling, not for using.
    pub fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for CachedFd {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: the field is dropped here and nowhere else, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}

/// Moves `fd` out of the way of standard input, output and error.
///
/// # Errors
///
/// `EMFILE` when no number is left.
pub fn above_stdio(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= LOWEST {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, LOWEST)
}

/// Runs `work` with a descriptor that is known by its number only.
///
/// # Errors
///
/// `EBADF` when the number is not open.
pub fn with_number<R>(number: RawFd, work: impl FnOnce(BorrowedFd<'_>) -> R) -> Result<R, Errno> {
    // SAFETY: asks about a number, which need not be open for that.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(Errno::BADF);
    }
    // SAFETY: open, as just seen, so not -1. Another thread of the program may close it
    // while it is used; no call made with it can do more then than fail, or reach whatever
    // file has the number by that time, which is what the caller asked for by naming a
    // number: nothing here takes a borrowed descriptor for the only way to its file.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(work(fd))
}

/// Takes over a descriptor that this process was handed by number.
///
/// # Errors
///
/// `EBADF` when the number is not open.
pub fn take_number(number: RawFd) -> Result<OwnedFd, Errno> {
    with_number(number, |fd| rustix::io::fcntl_dupfd_cloexec(fd, LOWEST))?
}

/// Opens the file that another process of our user has as descriptor `number`, if that is
/// a regular file (opening another kind could do things).
///
/// # Errors
///
/// `ENOENT` when there is no such process or descriptor, `EACCES` when we may not look,
/// `EINVAL` for another kind of file.
pub fn of_process(pid: u32, number: RawFd) -> Result<OwnedFd, Errno> {
    use rustix::fs::{FileType, Mode, OFlags};
    let path = format!("/proc/{pid}/fd/{number}");
    let stat = rustix::fs::stat(path.as_str())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    above_stdio(rustix::fs::open(path.as_str(), flags, Mode::empty())?)
}

/// Closes `number` if it leads to the same open file as `kept` does.
pub fn close_duplicate(number: RawFd, kept: impl AsFd) {
    let same = with_number(number, |fd| {
        let one = rustix::fs::fstat(fd).ok()?;
        let other = rustix::fs::fstat(kept.as_fd()).ok()?;
        Some(one.st_dev == other.st_dev && one.st_ino == other.st_ino)
    });
    if number != kept.as_fd().as_raw_fd() && same == Ok(Some(true)) {
        // SAFETY: the number was given to us to keep, and just now led to the
        // file it was given for, so closing it takes nothing from anybody else.
        unsafe { rustix::io::close(number) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap()
    }

    #[test]
    fn what_was_closed_is_used_no_more_and_closed_once() {
        let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
        let cached = CachedFd::new(left.into()).unwrap();
        cached.close();
        assert!(cached.get().is_none());
        // The other end sees it.
        let read = std::io::Read::read(&mut &right, &mut [0]);
        assert_eq!(read.unwrap(), 0);
        cached.close();
    }

    #[test]
    fn a_number_that_changed_hands_is_neither_used_nor_closed() {
        let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
        let cached = CachedFd::new(left.into()).unwrap();
        assert!(cached.get().is_some());
        let stranger = null();
        // What a daemon does: the number goes, and then leads to its own file.
        // SAFETY: dup2 onto a number that `cached` alone uses.
        let taken = unsafe { libc::dup2(stranger.as_raw_fd(), cached.number()) };
        assert_eq!(taken, cached.number());
        let number = cached.number();
        assert!(cached.get().is_none());
        drop(cached);
        assert_eq!(with_number(number, |_| ()), Ok(()));
        // SAFETY: the duplicate made above.
        unsafe { rustix::io::close(number) };
    }
}
