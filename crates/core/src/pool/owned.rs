//! A segment as its owner has it: making it, carving blocks out of it, giving
//! pages back.
//!
//! Guarantees: what is fixed is committed before it is written, a block's table entry
//! before the block is described, its data before it is opened; a block once described
//! never changes its place or size.

use core::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::backing::{Backing, Commit, no_space};
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
/// So many tokens are committed at first; who makes tokens commits more.
const FIRST_TOKENS: u64 = 1024;
/// So many where it could not, before Linux 5.14, having no descriptor.
const ONLY_TOKENS: u64 = 8192;

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
    pub(super) backing: Backing,
    pub(super) holder: Holder,
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
    pub(super) pages: Pages,
    pub(super) is_open: bool,
}

/// Whether a block's pages are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    /// Nobody asked for them yet; they may have been committed with a neighbour's.
    New,
    Committed,
    /// Committing them was refused or failed: what `committed` says is not true of it.
    Missing,
    /// They were given back, except those that it shares with a neighbour.
    Punched,
}

impl OwnBlock {
    pub(super) fn size_bytes(&self) -> u64 {
        classes::class_bytes(usize::from(self.class))
    }

    /// The pages that are this block's alone, in bytes: what punching it gives back.
    pub(super) fn own_pages_bytes(&self) -> u64 {
        let page = rustix::param::page_size() as u64;
        let end = (self.offset_bytes + self.size_bytes()) / page * page;
        end.saturating_sub(self.offset_bytes.next_multiple_of(page))
    }

    /// What committing it adds to the memory that the pool counts.
    pub(super) fn missing_bytes(&self) -> u64 {
        match self.pages {
            Pages::New | Pages::Missing => self.size_bytes(),
            Pages::Committed => 0,
            Pages::Punched => self.own_pages_bytes(),
        }
    }
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
        let tokens_end = |tokens: u64| layout.token(tokens.min(plan.tokens) as usize, 0) as u64;
        let fixed_bytes = tokens_end(FIRST_TOKENS) + 2 * row_bytes;
        for (offset, bytes) in [
            (0, tokens_end(FIRST_TOKENS)),
            (layout.row_word(TOKEN_ROW, 0) as u64, row_bytes),
            (layout.row_word(me.slot, 0) as u64, row_bytes),
        ] {
            anon::commit(&fd, offset, bytes, &mut || true)
                .map_err(|errno| no_space(errno, fixed_bytes, &fd))?;
        }
        point("segment.committed");
        anon::seal(&fd).map_err(os)?;
        point("segment.sealed");
        let mapping = Mapping::new(&fd, len, false).map_err(os)?;
        let mut tokens = FIRST_TOKENS.min(plan.tokens);
        if mapping.populate(0, size_of::<PoolHeader>()).is_err() {
            tokens = ONLY_TOKENS.min(plan.tokens);
            anon::commit(&fd, 0, tokens_end(tokens), &mut || true)
                .map_err(|errno| no_space(errno, fixed_bytes, &fd))?;
        }
        let [family_low, family_high] = family.id();
        for (offset, value) in [
            (offset_of!(PoolHeader, version), VERSION),
            (offset_of!(PoolHeader, fingerprint), FINGERPRINT),
            (offset_of!(PoolHeader, family_low), family_low),
            (offset_of!(PoolHeader, family_high), family_high),
            (offset_of!(PoolHeader, owner), me.pack()),
            (offset_of!(PoolHeader, closer), me.pack_busy()),
            (offset_of!(PoolHeader, segment), plan.number),
            (offset_of!(PoolHeader, size_bytes), size),
            (offset_of!(PoolHeader, blocks), plan.blocks),
            (offset_of!(PoolHeader, tokens), plan.tokens),
            (offset_of!(PoolHeader, tokens_committed), tokens),
        ] {
            mapping.store_u64(offset, value)?;
        }
        mapping
            .shared_word(offset_of!(PoolHeader, magic))?
            .store(POOL_MAGIC, Ordering::Release);
        point("segment.written");
        let mapping = Arc::new(mapping);
        let segment = Arc::new(PoolSegment::over(Arc::clone(&mapping), Arc::clone(family))?);
        segment.register_row(me, Some(fd.as_fd()))?;
        Ok(Owned {
            holder: Holder::new(Arc::clone(&segment), me)?,
            closer: Closer::of_owner(segment, me)?,
            backing: Backing::new(fd, mapping)?,
            next: layout.data as u64,
            committed: layout.data as u64,
            table_committed: layout.block_table,
            blocks: Vec::new(),
        })
    }

    pub(super) fn segment(&self) -> &Arc<PoolSegment> {
        self.holder.segment()
    }

    /// Describes a new block of this class; `None` when the segment is used up. Its data
    /// is committed by what [`Owned::prepare_pages`] says.
    pub(super) fn carve(&mut self, class: usize) -> Result<Option<usize>> {
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
        let table_end = layout.block(block + 1, 0);
        if table_end > self.table_committed {
            let to = (self.table_committed + TABLE_STEP_BYTES).min(layout.rows);
            let len = (to - self.table_committed) as u64;
            self.backing.commit(self.table_committed as u64, len)?;
            self.table_committed = to;
        }
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
        self.closer.has_described(block);
        point("allocate.described");
        self.next = end;
        self.blocks.push(OwnBlock {
            offset_bytes: offset,
            class: class as u16,
            pages: Pages::New,
            is_open: false,
        });
        Ok(Some(block))
    }

    /// Commits a small block at once, together with what is likely to be asked for next;
    /// for a large one says what is to be done, which takes long.
    pub(super) fn prepare_pages(&mut self, block: usize) -> Result<Option<Commit>> {
        let own = self.blocks[block];
        if own.pages == Pages::Committed {
            return Ok(None);
        }
        let size = own.size_bytes();
        let end = own.offset_bytes + size;
        if size > COMMIT_AHEAD_BYTES / 4 {
            return Ok(Some(self.backing.commit_later(own.offset_bytes, size)));
        }
        if end > self.committed {
            let limit = self.segment().mapping().len() as u64;
            // From the block on: what lies between was a large block's, or is padding.
            let ahead = (own.offset_bytes + COMMIT_AHEAD_BYTES).min(limit);
            if self
                .backing
                .commit(own.offset_bytes, ahead - own.offset_bytes)
                .is_ok()
            {
                self.committed = ahead;
            } else {
                self.backing.commit(own.offset_bytes, size)?;
            }
        } else if own.pages != Pages::New {
            self.backing.commit(own.offset_bytes, size)?;
        }
        self.is_committed(block);
        Ok(None)
    }

    /// Whatever of the block's pages was committed is not to be relied on.
    pub(super) fn not_committed(&mut self, block: usize) {
        let pages = &mut self.blocks[block].pages;
        if *pages == Pages::New {
            *pages = Pages::Missing;
        }
    }

    /// Gives back what a commit that did not end well left of a block.
    pub(super) fn undo_commit(&mut self, block: usize) {
        self.not_committed(block);
        let own = self.blocks[block];
        // Where this fails so does trimming, which says so; these pages are the block's own
        // and will be committed with it.
        let _ = self.backing.punch(own.offset_bytes, own.size_bytes());
    }

    /// The block's pages are there.
    pub(super) fn is_committed(&mut self, block: usize) {
        self.blocks[block].pages = Pages::Committed;
        point("allocate.committed");
    }

    /// Opens a closed and committed block, held once by this process, and returns its
    /// generation.
    pub(super) fn open(&mut self, block: usize) -> Result<u64> {
        debug_assert!(self.blocks[block].pages == Pages::Committed);
        let segment = Arc::clone(self.segment());
        let generation = segment.generation(block)?;
        let closed = generation.load(Ordering::Acquire);
        let opened = closed.wrapping_add(1);
        if !super::protocol::is_open(opened) {
            return Err(Error::Damaged("an open block on its owner's free list"));
        }
        self.holder.hold_closed(block, opened)?;
        point("allocate.held");
        self.closer.has_opened(block);
        generation.store(opened, Ordering::Release);
        self.blocks[block].is_open = true;
        point("allocate.opened");
        Ok(opened)
    }

    /// Gives the pages of a free block back; how many bytes.
    pub(super) fn punch(&mut self, block: usize) -> Result<u64> {
        debug_assert!(!self.blocks[block].is_open);
        self.punch_closed(block)
    }

    /// The same for one that is closed, and on no list yet.
    pub(super) fn punch_closed(&mut self, block: usize) -> Result<u64> {
        let own = &mut self.blocks[block];
        let (offset, size) = (own.offset_bytes, own.size_bytes());
        // Before the call: should it fail half-way the range is committed anew.
        own.pages = Pages::Punched;
        let bytes = self.backing.punch(offset, size)?;
        point("trim.punched");
        Ok(bytes)
    }
}
