//! The file under a segment, as its owner reaches it: committing and giving back.
//!
//! Guarantee: works by the descriptor, or, once somebody has closed that (a daemon
//! closes all it finds), through the mapping.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::sys::fd::CachedFd;
use crate::sys::shm::RESERVE_STEP_BYTES;
use crate::sys::{anon, shm};

/// A segment's file.
#[derive(Debug)]
pub(super) struct Backing {
    fd: CachedFd,
    mapping: Arc<Mapping>,
}

impl Backing {
    pub(super) fn new(fd: OwnedFd, mapping: Arc<Mapping>) -> Result<Self> {
        let fd = CachedFd::new(fd).map_err(|errno| Error::os("keep a descriptor", "", errno))?;
        Ok(Backing { fd, mapping })
    }

    /// The descriptor, unless somebody closed it.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.get()
    }

    pub(super) fn into_fd(self) -> CachedFd {
        self.fd
    }

    /// The number of the descriptor, for handles.
    pub(super) fn number(&self) -> i32 {
        self.fd.number()
    }

    /// What is to be done to commit these bytes, without holding on to `self`.
    pub(super) fn commit_later(&self, offset_bytes: u64, len_bytes: u64) -> Commit {
        // Without a descriptor to spare, the mapping does.
        let fd = self.fd.get();
        let fd = fd.and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok());
        Commit {
            fd,
            mapping: Arc::clone(&self.mapping),
            offset_bytes,
            len_bytes,
        }
    }

    pub(super) fn commit(&self, offset_bytes: u64, len_bytes: u64) -> Result<()> {
        commit(
            self.fd.get(),
            &self.mapping,
            offset_bytes,
            len_bytes,
            &mut || true,
        )
    }

    /// Gives the pages in a range back; how many bytes.
    pub(super) fn punch(&self, offset_bytes: u64, len_bytes: u64) -> Result<u64> {
        match self.fd.get() {
            Some(fd) => anon::punch(fd, offset_bytes, len_bytes)
                .map_err(|errno| Error::os("give back shared memory", "", errno)),
            // Both lie in the mapping, whose length is a usize.
            None => self
                .mapping
                .remove(offset_bytes as usize, len_bytes as usize),
        }
    }
}

/// Memory to be committed; no lock is needed for it, and it may take long.
#[derive(Debug)]
pub struct Commit {
    fd: Option<OwnedFd>,
    mapping: Arc<Mapping>,
    offset_bytes: u64,
    len_bytes: u64,
}

impl Commit {
    /// Commits, in steps between which `keep_going` is asked.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::Interrupted`] and the system's. Steps before are kept.
    pub fn run(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
        commit(
            self.fd.as_ref().map(AsFd::as_fd),
            &self.mapping,
            self.offset_bytes,
            self.len_bytes,
            keep_going,
        )
    }
}

fn commit(
    fd: Option<BorrowedFd<'_>>,
    mapping: &Mapping,
    offset_bytes: u64,
    len_bytes: u64,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<()> {
    if let Some(fd) = fd {
        return anon::commit(fd, offset_bytes, len_bytes, keep_going)
            .map_err(|errno| no_space(errno, len_bytes, fd));
    }
    let end = offset_bytes + len_bytes;
    let mut at = offset_bytes;
    while at < end {
        let step = RESERVE_STEP_BYTES.min(end - at);
        mapping.populate(at as usize, step as usize)?;
        at += step;
        if at < end && !keep_going() {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

/// The error for a commit that failed.
pub(super) fn no_space(errno: Errno, size_bytes: u64, fd: impl AsFd) -> Error {
    match errno {
        Errno::NOSPC => Error::NoSpace {
            name: String::new(),
            size_bytes,
            free_bytes: shm::free_bytes(fd).unwrap_or(0),
        },
        Errno::CANCELED => Error::Interrupted,
        errno => Error::os("commit shared memory", "", errno),
    }
}
