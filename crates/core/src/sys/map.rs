//! A mapping of a file that unmaps itself.
//!
//! Guarantees: never mapped at an address the caller chose, never zero long,
//! left out of core dumps from [`DUMP_BELOW_BYTES`] up (a core of an untouched
//! shared mapping would commit every page of it), and unmapped exactly once, when
//! the [`Map`] is dropped.

#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::feature::Switch;

/// Smaller mappings stay in core dumps: they cost little there, and asking the
/// kernel to leave one out takes as long as mapping it.
pub const DUMP_BELOW_BYTES: usize = 1 << 20;

/// `MADV_POPULATE_WRITE`, which kernels before 5.14 do not know.
static POPULATE: Switch = Switch::new("populate");

/// An owned, shared mapping of `len` bytes at `start`.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread: any thread may
// read its address and unmap it. `Map` gives no reference to the bytes.
unsafe impl Send for Map {}
// SAFETY: as above; `&Map` only tells the address and the length.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `len` bytes of `fd`, shared, readable, and writable if asked.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length of zero; the system's else (`ENOMEM`, `EACCES`, ...).
    pub fn new(fd: impl AsFd, len: usize, writable: bool) -> Result<Self, Errno> {
        if len == 0 || isize::try_from(len).is_err() {
            return Err(Errno::INVAL);
        }
        // Here, because `populate` is called where nothing may be allocated.
        POPULATE.is_off();
        let mut protection = ProtFlags::READ;
        if writable {
            protection |= ProtFlags::WRITE;
        }
        // SAFETY: the address hint is null and MAP_FIXED is not given, so the
        // kernel chooses a free range and no existing mapping changes.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let map = Map {
            start: NonNull::new(start.cast()).ok_or(Errno::FAULT)?,
            len,
        };
        if len >= DUMP_BELOW_BYTES {
            // Advice that an old kernel may not know; nothing depends on it.
            // SAFETY: the range is the mapping made above, and this advice changes
            // no bytes and no protection.
            let _ = unsafe { rustix::mm::madvise(start, len, Advice::LinuxDontDump) };
        }
        Ok(map)
    }

    /// The first byte's address. Valid for [`Map::len`] bytes while `self` lives.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Commits the pages that `len` bytes from `offset` touch, as if written to.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a range outside the mapping and on kernels before 5.14;
    /// `EFAULT` or `ENOMEM` when there is no memory for them.
    pub fn populate(&self, offset: usize, len: usize) -> Result<(), Errno> {
        let page = rustix::param::page_size();
        let begin = offset / page * page;
        let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
        if end > self.len || len == 0 {
            return Err(Errno::INVAL);
        }
        if POPULATE.is_off() {
            return Err(Errno::INVAL); // as kernels that do not know it
        }
        // SAFETY: `begin <= offset < end <= self.len`: inside the mapping.
        let at = unsafe { self.start.add(begin) };
        loop {
            // SAFETY: the range lies in the mapping, up to the end of its last page,
            // and this advice faults pages in without changing their bytes.
            match unsafe {
                rustix::mm::madvise(at.as_ptr().cast(), end - begin, Advice::LinuxPopulateWrite)
            } {
                Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// Gives back the whole pages among `len` bytes from `offset`, in the file too, and
    /// says how many bytes that were. They read as zero then and are not committed.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a range outside the mapping; the system's.
    pub fn remove(&self, offset: usize, len: usize) -> Result<u64, Errno> {
        let page = rustix::param::page_size();
        let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
        if end > self.len {
            return Err(Errno::INVAL);
        }
        let (begin, end) = (offset.next_multiple_of(page), end / page * page);
        if begin >= end {
            return Ok(0);
        }
        // SAFETY: `offset <= begin < end <= self.len`: inside the mapping.
        let at = unsafe { self.start.add(begin) };
        loop {
            // SAFETY: whole pages of the mapping. Their bytes become zero, as if somebody
            // had written that; nobody has a Rust reference to them.
            match unsafe {
                rustix::mm::madvise(at.as_ptr().cast(), end - begin, Advice::LinuxRemove)
            } {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok(()) => return Ok((end - begin) as u64),
            }
        }
    }

    /// The length in bytes; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is unmapped only here; whoever
        // used its address promised to keep the `Map` alive meanwhile.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}
