//! A segment as its owner has it: making it, carving blocks out of it, giving
//! pages back.
//!
//! Guarantees: what is fixed is committed before it is written, a block's data and
//! its table entry before the block is described; a block once described never
//! changes its place or size.

use core::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::classes;
use super::closer::Closer;
use super::family::Family;
use super::holder::Holder;
use super::segment::PoolSegment;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{
    Block, FINGERPRINT, POOL_MAGIC, Participant, PoolHeader, PoolLayout, TOKEN_ROW, VERSION,
    WORD_BYTES,
};
use crate::mapping::Mapping;
use crate::sync::Ordering;
use crate::sys::anon;

/// Data is committed this far ahead, so that small blocks do not cost a call each.
const COMMIT_AHEAD_BYTES: u64 = 1 << 20;
/// Table entries are committed this many bytes at a time.
const TABLE_STEP_BYTES: usize = 32 << 10;

/// What a new segment is to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) number: u64,
    pub(super) blocks: u64,
    pub(super) tokens: u64,
    pub(super) data_bytes: u64,
}

impl Plan {
    pub(super) fn size_bytes(&self) -> Result<u64> {
        let layout = PoolLayout::new(self.blocks, self.tokens)?;
        Ok(layout.data as u64 + self.data_bytes)
    }
}

/// A segment that this process allocates from.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) fd: OwnedFd,
    pub(super) holder: Arc<Holder>,
    pub(super) closer: Closer,
    /// Data before this is carved.
    next: u64,
    /// Data before this was committed once.
    committed: u64,
    /// Table entries before this are committed.
    table_committed: usize,
    /// By block: what the owner needs of it without reading shared memory.
    pub(super) blocks: Vec<OwnBlock>,
}

/// What the owner knows of a block. Private, so nobody can corrupt it.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnBlock {
    pub(super) offset_bytes: u64,
    pub(super) class: u16,
    pub(super) is_punched: bool,
    pub(super) is_open: bool,
}

impl Owned {
    /// Makes a segment over `fd`, a file of the plan's size without a byte in it.
    pub(super) fn create(
        fd: OwnedFd,
        plan: Plan,
        family: &Arc<Family>,
        me: Participant,
    ) -> Result<Self> {
        point("segment.created");
        let os = |errno| Error::os("create a pool segment", "", errno);
        let layout = PoolLayout::new(plan.blocks, plan.tokens)?;
        let size = plan.size_bytes()?;
        let len = usize::try_from(size).map_err(|_| os(Errno::OVERFLOW))?;
        let row_bytes = (layout.row_words * WORD_BYTES) as u64;
        for (offset, bytes) in [
            (0, layout.block_table as u64),
            (layout.row_word(TOKEN_ROW, 0) as u64, row_bytes),
            (layout.row_word(me.slot, 0) as u64, row_bytes),
        ] {
            anon::commit(&fd, offset, bytes, &mut || true)
                .map_err(|errno| no_space(errno, size, &fd))?;
        }
        point("segment.committed");
        anon::seal(&fd).map_err(os)?;
        point("segment.sealed");
        let mapping = Mapping::new(&fd, len, false).map_err(os)?;
        let [family_low, family_high] = family.id();
        for (offset, value) in [
            (offset_of!(PoolHeader, version), VERSION),
            (offset_of!(PoolHeader, fingerprint), FINGERPRINT),
            (offset_of!(PoolHeader, family_low), family_low),
            (offset_of!(PoolHeader, family_high), family_high),
            (offset_of!(PoolHeader, owner), me.pack()),
            (offset_of!(PoolHeader, closer), me.pack()),
            (offset_of!(PoolHeader, segment), plan.number),
            (offset_of!(PoolHeader, size_bytes), size),
            (offset_of!(PoolHeader, blocks), plan.blocks),
            (offset_of!(PoolHeader, tokens), plan.tokens),
        ] {
            mapping.store_u64(offset, value)?;
        }
        mapping
            .shared_word(offset_of!(PoolHeader, magic))?
            .store(POOL_MAGIC, Ordering::Release);
        point("segment.written");
        let segment = Arc::new(PoolSegment::over(Arc::new(mapping), Arc::clone(family))?);
        segment.register_row(me, Some(fd.as_fd()))?;
        Ok(Owned {
            holder: Arc::new(Holder::new(Arc::clone(&segment), me)?),
            closer: Closer::of_owner(segment, me)?,
            fd,
            next: layout.data as u64,
            committed: layout.data as u64,
            table_committed: layout.block_table,
            blocks: Vec::new(),
        })
    }

    pub(super) fn segment(&self) -> &Arc<PoolSegment> {
        self.holder.segment()
    }

    /// Describes a new block of this class; `None` when the segment is used up.
    pub(super) fn carve(
        &mut self,
        class: usize,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<usize>> {
        let segment = Arc::clone(self.segment());
        let layout = segment.layout();
        let size = classes::class_bytes(class);
        let offset = self.next.next_multiple_of(classes::align_of_size(size));
        let limit = segment.mapping().len() as u64;
        let block = self.blocks.len();
        let end = offset.saturating_add(size);
        if end > limit || block >= layout.blocks {
            return Ok(None);
        }
        self.commit_data(end, limit, keep_going)?;
        let table_end = layout.block(block + 1, 0);
        if table_end > self.table_committed {
            let to = (self.table_committed + TABLE_STEP_BYTES).min(layout.rows);
            let len = (to - self.table_committed) as u64;
            self.commit(self.table_committed as u64, len, keep_going)?;
            self.table_committed = to;
        }
        point("allocate.committed");
        for (field, value) in [
            (offset_of!(Block, offset_bytes), offset),
            (offset_of!(Block, size_bytes), size),
        ] {
            segment
                .mapping()
                .store_u64(layout.block(block, field), value)?;
        }
        segment
            .header(offset_of!(PoolHeader, blocks_used))?
            .store(block as u64 + 1, Ordering::Release);
        point("allocate.described");
        self.next = end;
        self.blocks.push(OwnBlock {
            offset_bytes: offset,
            class: class as u16,
            is_punched: false,
            is_open: false,
        });
        Ok(Some(block))
    }

    /// Opens a closed block, held once by this process, and returns its generation.
    pub(super) fn open(
        &mut self,
        block: usize,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<u64> {
        let own = self.blocks[block];
        if own.is_punched {
            let size = classes::class_bytes(usize::from(own.class));
            self.commit(own.offset_bytes, size, keep_going)?;
            self.blocks[block].is_punched = false;
            point("allocate.committed");
        }
        let segment = Arc::clone(self.segment());
        let generation = segment.generation(block)?;
        let closed = generation.load(Ordering::Acquire);
        let opened = closed.wrapping_add(1);
        if !super::protocol::is_open(opened) {
            return Err(Error::Damaged("an open block on its owner's free list"));
        }
        self.holder.hold_closed(block, opened)?;
        point("allocate.held");
        generation.store(opened, Ordering::Release);
        self.blocks[block].is_open = true;
        point("allocate.opened");
        Ok(opened)
    }

    /// Gives the pages of a closed block back; how many bytes.
    pub(super) fn punch(&mut self, block: usize) -> Result<u64> {
        let own = self.blocks[block];
        debug_assert!(!own.is_open);
        let size = classes::class_bytes(usize::from(own.class));
        // Before the call: should it fail half-way the range is committed anew.
        self.blocks[block].is_punched = true;
        let bytes = anon::punch(&self.fd, own.offset_bytes, size)
            .map_err(|errno| Error::os("give back shared memory", "", errno))?;
        point("trim.punched");
        Ok(bytes)
    }

    fn commit_data(
        &mut self,
        end: u64,
        limit: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        if end <= self.committed {
            return Ok(());
        }
        let from = self.committed;
        let ahead = (from + COMMIT_AHEAD_BYTES).min(limit);
        if ahead > end && self.commit(from, ahead - from, keep_going).is_ok() {
            self.committed = ahead;
            return Ok(());
        }
        self.commit(from, end - from, keep_going)?;
        self.committed = end;
        Ok(())
    }

    fn commit(&self, offset: u64, len: u64, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
        anon::commit(&self.fd, offset, len, keep_going)
            .map_err(|errno| no_space(errno, len, &self.fd))
    }
}

/// The error for a commit that failed.
fn no_space(errno: Errno, size_bytes: u64, fd: &OwnedFd) -> Error {
    match errno {
        Errno::NOSPC => Error::NoSpace {
            name: String::new(),
            size_bytes,
            free_bytes: crate::sys::shm::free_bytes(fd).unwrap_or(0),
        },
        Errno::CANCELED => Error::Interrupted,
        errno => Error::os("commit shared memory", "", errno),
    }
}
