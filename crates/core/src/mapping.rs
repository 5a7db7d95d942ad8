//! Mapped bytes, behind bounds-checked access that tolerates other writers.
//!
//! A [`Mapping`] never hands out a reference to shared bytes: other processes, and
//! other threads of this one, write them at any time. Bytes are copied out and in, and
//! single words are read and written whole. What was copied out is the caller's own and
//! can be checked without changing under the check.
//!
//! Where the language's memory model ends. It knows atomics beside atomics, and no race
//! of a plain copy with anything; what another process does it does not know at all. Words
//! that decide something are atomics everywhere. Bytes are copied plainly though others
//! may write them meanwhile, and some of these bytes are words at other times: a getter
//! that was overtaken copies what a putter writes anew in a queue's ring. That is outside the
//! model, and harmless where this runs, for three reasons. A copy is an opaque run of loads or
//! stores of mapped memory, which tears at worst. No code is compiled against what was copied
//! but through `out`, which is read after the copy as ordinary memory. And what was copied
//! beside a writer is thrown away (the queue's `head` has moved, a generation is another),
//! or checked like any input.
//!
//! The memory stays mapped as long as one `Arc<Mapping>` lives; whoever exports
//! the address (a buffer, an array) keeps one.

#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::map::Map;

/// A shared mapping and what may be done with it.
#[derive(Debug)]
pub struct Mapping {
    map: Map,
    read_only: bool,
}

impl Mapping {
    /// Maps the first `len_bytes` bytes of `fd`.
    ///
    /// # Errors
    ///
    /// The system's errno: `ENOMEM`, `EACCES`, `EINVAL` for a length of zero.
    pub fn new(
        fd: impl AsFd,
        len_bytes: usize,
        read_only: bool,
    ) -> std::result::Result<Self, Errno> {
        Ok(Mapping {
            map: Map::new(fd, len_bytes, !read_only)?,
            read_only,
        })
    }

    /// The size in bytes; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether writing is refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The address of the first byte, for exporting the memory as a buffer.
    ///
    /// The address is valid for [`Mapping::len`] bytes while the mapping lives.
    pub fn start(&self) -> NonNull<u8> {
        self.map.start()
    }

    /// The address of the byte at `offset`, as [`Mapping::start`].
    ///
    /// # Panics
    ///
    /// When that is outside the mapping.
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.len(), "an address outside the mapping");
        // SAFETY: inside the mapping, as was just checked.
        unsafe { self.start().add(offset) }
    }

    /// Copies bytes from `offset` into `out`, all of it.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] when the range is not inside the mapping.
    #[inline]
    pub fn read_bytes(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        let from = self.range(offset, out.len())?;
        // SAFETY: `range` checked that `out.len()` bytes from `from` lie inside the
        // mapping, which `self` keeps alive; `out` is ordinary memory of ours, so
        // the two do not overlap. Another process or thread may write meanwhile: then
        // `out` holds a mixture of old and new bytes, which callers throw away or check
        // like any input (see the head of this file).
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Appends `len` bytes from `offset` to `out`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] when the range is not inside the mapping.
    #[inline]
    pub fn append_bytes(&self, offset: usize, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let from = self.range(offset, len)?;
        out.reserve(len);
        let to = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `range` checked that `len` bytes from `from` lie inside the mapping;
        // `reserve` made room for as many from `to` on, in memory of the vector's own.
        // Others may write meanwhile, as in `read_bytes`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, len) };
        // SAFETY: so many more bytes are initialised now.
        unsafe { out.set_len(out.len() + len) };
        Ok(())
    }

    /// Copies `bytes` to `offset`, all of them.
    ///
    /// Who reads there meanwhile, or writes where a structure lets several write (a list's
    /// items), makes a mixture, which readers of that structure expect.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`]; nothing is written then.
    #[inline]
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.writable_range(offset, bytes.len())?;
        // SAFETY: `writable_range` checked that `bytes.len()` bytes from `to` lie
        // inside the mapping and that it is mapped writable. `bytes` is memory of
        // the caller's own, or an array that is being sent, shared memory perhaps; what is
        // written to in that case is a new block, or a ring by who has its lock, and nobody
        // has an array there. So the two do not overlap. Other processes and threads may
        // read the place, or write to `bytes`, meanwhile: a mixture, as in `read_bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Sets `len` bytes from `offset` to zero.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`]; nothing is written then.
    #[inline]
    pub fn zero_bytes(&self, offset: usize, len: usize) -> Result<()> {
        let to = self.writable_range(offset, len)?;
        // SAFETY: `writable_range` checked that `len` bytes from `to` lie inside the
        // mapping and that it is mapped writable. Others that look see a mixture, as in
        // `write_bytes`.
        unsafe { std::ptr::write_bytes(to.as_ptr(), 0, len) };
        Ok(())
    }

    /// Reads the native-endian word at `offset` in one access, never torn.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], also for an offset that is not a multiple of 8.
    #[inline]
    pub fn load_u64(&self, offset: usize) -> Result<u64> {
        // Relaxed: a lone word carries no promise about others; a structure that
        // needs order uses its own words and fences.
        Ok(self.word(offset)?.load(Ordering::Relaxed))
    }

    /// Writes the native-endian word at `offset` in one access.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], also for an offset that is not a multiple of 8;
    /// [`Error::ReadOnly`].
    #[inline]
    pub fn store_u64(&self, offset: usize, value: u64) -> Result<()> {
        // Relaxed: as for `load_u64`.
        self.shared_word(offset)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// The word at `offset`, for structures that several processes write.
    ///
    /// What is loaded from it is whatever some process stored: to be checked.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], also for an offset that is not a multiple of 8;
    /// [`Error::ReadOnly`].
    #[inline]
    pub fn shared_word(&self, offset: usize) -> Result<&AtomicU64> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.word(offset)
    }

    /// `count` words from `offset`, for tables that several processes write.
    ///
    /// # Errors
    ///
    /// As [`Mapping::shared_word`].
    pub fn shared_words(&self, offset: usize, count: usize) -> Result<&[AtomicU64]> {
        let Some(len) = count.checked_mul(8).filter(|_| offset.is_multiple_of(8)) else {
            return Err(self.out_of_bounds(offset, count));
        };
        let from = self.writable_range(offset, len)?.cast::<AtomicU64>();
        // SAFETY: `writable_range` checked that all `len` bytes lie inside the mapping,
        // and `offset` is a multiple of 8: `count` aligned words, each of which may be
        // accessed by others as `word` tells. The slice borrows `self`, which keeps
        // the mapping.
        Ok(unsafe { std::slice::from_raw_parts(from.as_ptr(), count) })
    }

    /// Commits the pages under these bytes, without a descriptor.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]; as [`Error::Os`] `EINVAL` where the kernel cannot do
    /// it (before Linux 5.14) and `EFAULT` or `ENOMEM` when there is no memory.
    pub fn populate(&self, offset: usize, len: usize) -> Result<()> {
        self.writable_range(offset, len)?;
        self.map
            .populate(offset, len)
            .map_err(|errno| Error::os("commit shared memory", "", errno))
    }

    /// Gives back the whole pages under these bytes, without a descriptor; how many
    /// bytes. They read as zero then and are not committed.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`]; the system's.
    pub fn remove(&self, offset: usize, len: usize) -> Result<u64> {
        self.writable_range(offset, len)?;
        self.map
            .remove(offset, len)
            .map_err(|errno| Error::os("give back shared memory", "", errno))
    }

    /// Replaces the word at `offset` by `new` if it is `current`, in one step.
    ///
    /// The inner result tells what was found: `Ok(current)` or `Err(other)`.
    ///
    /// # Errors
    ///
    /// As for [`Mapping::store_u64`].
    #[inline]
    pub fn compare_exchange_u64(
        &self,
        offset: usize,
        current: u64,
        new: u64,
    ) -> Result<std::result::Result<u64, u64>> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        // Relaxed: as for `load_u64`.
        Ok(self
            .word(offset)?
            .compare_exchange(current, new, Ordering::Relaxed, Ordering::Relaxed))
    }

    fn word(&self, offset: usize) -> Result<&AtomicU64> {
        if !offset.is_multiple_of(8) {
            return Err(self.out_of_bounds(offset, 8));
        }
        let at = self.range(offset, 8)?.cast::<u64>();
        // SAFETY: `range` checked that the 8 bytes lie inside the mapping; mappings
        // begin at a page and `offset` is a multiple of 8, so the word is aligned.
        // The reference borrows `self`, which keeps the mapping. Who takes a word for
        // one that decides something accesses it as an atomic, everywhere. That copies run
        // over it at the same time (`read_bytes` of a ring whose place is written anew) is
        // more than `from_ptr` allows; the head of this file says why it is harmless: the
        // word's own accesses are whole in any case, and what was copied is thrown away.
        // On a read-only mapping callers only load, which x86-64 and aarch64 do with a
        // plain read.
        Ok(unsafe { AtomicU64::from_ptr(at.as_ptr()) })
    }

    #[inline]
    fn writable_range(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.range(offset, len)
    }

    #[inline]
    fn range(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => {
                // SAFETY: `offset <= end <= len`, so the result is inside the mapping
                // or one past it, and the mapping is at most `isize::MAX` long.
                Ok(unsafe { self.map.start().add(offset) })
            }
            _ => Err(self.out_of_bounds(offset, len)),
        }
    }

    #[cold]
    fn out_of_bounds(&self, offset: usize, len: usize) -> Error {
        Error::OutOfBounds {
            offset_bytes: offset as u64,
            len_bytes: len as u64,
            size_bytes: self.len() as u64,
        }
    }
}
