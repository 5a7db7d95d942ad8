//! The chain of a pool's segments and its free lists.
//!
//! Guarantees: memory that is free is offered before any is added, last freed first
//! (its pages are mapped and warm); a free block is on exactly one list; private to
//! the owner, so nobody can corrupt it, and gone with it.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use rustix::io::Errno;

use super::backing::Commit;
use super::classes::{self, CLASSES};
use super::family::Family;
use super::owned::{Owned, Pages, Plan};
use super::owner::{LARGEST_SEGMENT_BYTES, PoolOptions};
use super::surplus::FreeMemory;
use super::tokens::in_flight_limit_s;
use crate::error::{Error, Result};
use crate::layout::{BLOCKS_MAX, Participant, TOKENS_MAX};
use crate::sys::clock;

/// A new segment of a chain has room for so many blocks like the one it is made for.
const ROOM_FOR_BLOCKS: u64 = 4;
/// Blocks up to so many classes larger are taken before new memory is.
const LARGER_CLASSES: usize = 2;
/// The pool looks for blocks that others dropped when a list is empty, and anyway
/// once in this many allocations.
const COLLECT_EVERY: u32 = 32;
/// For blocks of these sizes it looks first if others may have dropped some: what was dropped
/// last is in the processor's caches, and filling one that is not costs more than a look.
/// Larger ones do not stay there.
const COLLECT_FIRST_BYTES: RangeInclusive<u64> = 256 << 10..=8 << 20;
/// A look costs so much for each segment.
const COLLECT_FIRST_SEGMENTS: usize = 16;

/// Capacities of a segment: of blocks, and of tokens. Pages of tables that are not used are
/// not there, so most tables are as long as they can be.
type Tables = (u64, u64);
const CHAIN_TABLES: Tables = (BLOCKS_MAX, TOKENS_MAX);
/// For a single block and those that follow it.
const SINGLE_TABLES: Tables = (64, TOKENS_MAX);
/// Where files or the address space are limited: 2 MiB, instead of 27.
const SMALL_TABLES: Tables = (BLOCKS_MAX / 16, TOKENS_MAX / 16);
/// Where [`CHAIN_TABLES`] would be larger than the data they are for.
const SMALL_SEGMENT_BYTES: u64 = 16 << 20;

/// Closed blocks of a class: segment, block. Two lists, so that neither allocating nor
/// trimming walks past what it is not looking for.
#[derive(Debug, Clone, Default)]
struct FreeList {
    /// With their pages, the last freed at the back.
    committed: VecDeque<(usize, usize)>,
    /// To be committed before use.
    bare: Vec<(usize, usize)>,
    /// How many blocks of the class are open.
    open: usize,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) options: PoolOptions,
    pub(super) segments: Vec<Owned>,
    /// The segment of the chain that is being carved.
    current: Option<usize>,
    next_segment_bytes: u64,
    free: Vec<FreeList>,
    /// Free memory that is committed.
    pub(super) recycled: FreeMemory,
    /// Memory of blocks that is committed or being committed, free or not.
    pub(super) committed_bytes: u64,
    until_collect: u32,
    /// When [`Chain::expire_tokens`] was last called, in seconds of the monotonic clock.
    expired_s: u64,
    scratch: Vec<usize>,
}

impl Chain {
    pub(super) fn new(options: PoolOptions) -> Self {
        Chain {
            segments: Vec::new(),
            current: None,
            next_segment_bytes: options.first_segment_bytes,
            free: vec![FreeList::default(); CLASSES],
            recycled: FreeMemory::new(options.keep_bytes, options.decay_after_s),
            committed_bytes: 0,
            until_collect: COLLECT_EVERY,
            expired_s: 0,
            scratch: Vec::new(),
            options,
        }
    }

    /// A block of at least this class, closed and perhaps not committed: one that is
    /// free, or a new one.
    pub(super) fn find(
        &mut self,
        class: usize,
        family: &Arc<Family>,
        me: Participant,
    ) -> Result<(usize, usize)> {
        family.is_awake(me)?;
        self.until_collect -= 1;
        if self.until_collect == 0 || self.is_worth_a_look(class) {
            self.collect()?;
        }
        if let Some(found) = self.pop_committed(class) {
            return Ok(found);
        }
        self.collect()?;
        if let Some(found) = self.pop_free(class) {
            return Ok(found);
        }
        let is_due = self.expired_s != clock::monotonic_s();
        if (self.options.before_growing)() | (is_due && self.expire_tokens()? > 0) {
            self.collect()?;
            if let Some(found) = self.pop_free(class) {
                return Ok(found);
            }
        }
        self.grow(class, family, me)
    }

    fn is_worth_a_look(&self, class: usize) -> bool {
        COLLECT_FIRST_BYTES.contains(&classes::class_bytes(class))
            && self.free[class].open > 0
            && self.segments.len() <= COLLECT_FIRST_SEGMENTS
    }

    /// A block was opened.
    pub(super) fn has_opened(&mut self, segment: usize, block: usize) {
        let class = self.segments[segment].blocks[block].class;
        self.free[usize::from(class)].open += 1;
    }

    fn pop_free(&mut self, class: usize) -> Option<(usize, usize)> {
        let found = self.pop_committed(class);
        found.or_else(|| {
            self.free[near(class)]
                .iter_mut()
                .find_map(|list| list.bare.pop())
        })
    }

    fn pop_committed(&mut self, class: usize) -> Option<(usize, usize)> {
        let lists = &mut self.free[near(class)];
        let (segment, block) = lists
            .iter_mut()
            .find_map(|list| list.committed.pop_back())?;
        self.recycled
            .take(self.segments[segment].blocks[block].size_bytes());
        Some((segment, block))
    }

    pub(super) fn push_free(&mut self, segment: usize, block: usize) {
        let own = &mut self.segments[segment].blocks[block];
        let list = &mut self.free[usize::from(own.class)];
        list.open -= usize::from(own.is_open);
        own.is_open = false;
        if own.pages == Pages::Committed {
            self.recycled.add(own.size_bytes());
            list.committed.push_back((segment, block));
        } else {
            list.bare.push((segment, block));
        }
    }

    /// A block in use was closed. One that a borrower closed has no pages any more, or not
    /// for long: it may have been killed before it came to that.
    pub(super) fn has_closed(&mut self, segment: usize, block: usize) {
        let owned = &mut self.segments[segment];
        if owned.closer.was_closed_by_another(block)
            && owned.blocks[block].pages == Pages::Committed
        {
            self.committed_bytes -= owned.blocks[block].own_pages_bytes();
            // Where the system does not take them back they are committed as they are.
            let _ = owned.punch_closed(block);
        }
        self.push_free(segment, block);
    }

    /// Finds what others dropped; and of what was found before gives back what nobody
    /// needed.
    pub(super) fn collect(&mut self) -> Result<()> {
        self.until_collect = COLLECT_EVERY;
        for segment in 0..self.segments.len() {
            let mut freed = std::mem::take(&mut self.scratch);
            freed.clear();
            let owned = &mut self.segments[segment];
            let result = owned.closer.collect(&mut freed);
            for &block in &freed {
                // The table may name more blocks than this process described: garbage.
                let is_ours = self.segments[segment]
                    .blocks
                    .get(block)
                    .is_some_and(|own| own.is_open);
                if is_ours {
                    self.has_closed(segment, block);
                }
            }
            self.scratch = freed;
            result?;
        }
        self.recycled.has_collected();
        if let Some(keep_bytes) = self.recycled.limit_after_collection(clock::monotonic_s) {
            // An error is not that of who allocates: what the system does not take back now
            // is committed anew when it is used, and trimming says why.
            let _ = self.trim_to(keep_bytes);
        }
        Ok(())
    }

    /// This process freed a block: what is above the limit goes at once.
    pub(super) fn trim_after_release(&mut self) -> Result<()> {
        if let Some(keep_bytes) = self.recycled.limit_after_release() {
            self.trim_to(keep_bytes)?;
        }
        Ok(())
    }

    /// Drops tokens that dead senders left in our segments long enough ago; how many.
    pub(super) fn expire_tokens(&mut self) -> Result<usize> {
        self.expired_s = clock::monotonic_s();
        let limit_s = in_flight_limit_s();
        let mut expired = 0;
        for owned in &self.segments {
            let segment = owned.closer.segment();
            expired += segment.expire_tokens_of_the_dead(self.expired_s, limit_s)?;
        }
        Ok(expired)
    }

    /// Asks whether the pool may grow by a block that is to be committed, and begins with
    /// it: what is left to do without a lock, if anything. From here on it is counted.
    pub(super) fn begin_commit(&mut self, segment: usize, block: usize) -> Result<Option<Commit>> {
        let owned = &mut self.segments[segment];
        if owned.blocks[block].pages == Pages::Committed {
            return Ok(None);
        }
        let missing_bytes = owned.blocks[block].missing_bytes();
        let begun = self.ask_for(missing_bytes).and_then(|()| {
            let first = self.segments[segment].prepare_pages(block);
            match first {
                Err(Error::NoSpace { .. }) if self.trim_to(0)? > 0 => {
                    self.segments[segment].prepare_pages(block)
                }
                first => first,
            }
        });
        match begun {
            Ok(_) => self.committed_bytes += missing_bytes,
            Err(_) => self.segments[segment].not_committed(block),
        }
        begun
    }

    /// Asks the limit for so many bytes. What nobody uses is not worth an error.
    fn ask_for(&mut self, bytes: u64) -> Result<()> {
        let Err(mut refused) = (self.options.limit)(bytes, self.committed_bytes) else {
            return Ok(());
        };
        self.collect()?;
        for keep_bytes in [self.recycled.bytes().saturating_sub(bytes), 0] {
            if self.trim_to(keep_bytes)? > 0 {
                match (self.options.limit)(bytes, self.committed_bytes) {
                    Ok(()) => return Ok(()),
                    Err(again) => refused = again,
                }
            }
        }
        Err(refused)
    }

    /// What [`Chain::begin_commit`] left to do was done.
    pub(super) fn end_commit(&mut self, segment: usize, block: usize) {
        self.segments[segment].is_committed(block);
    }

    /// It was not, or not to the end.
    pub(super) fn undo_commit(&mut self, segment: usize, block: usize) {
        let owned = &mut self.segments[segment];
        self.committed_bytes -= owned.blocks[block].missing_bytes();
        owned.undo_commit(block);
    }

    /// Makes a new block: in the current segment, or in a new one.
    fn grow(
        &mut self,
        class: usize,
        family: &Arc<Family>,
        me: Participant,
    ) -> Result<(usize, usize)> {
        let size = classes::class_bytes(class);
        let is_single = size > self.options.own_segment_above_bytes;
        if !is_single
            && let Some(current) = self.current
            && let Some(block) = self.segments[current].carve(class)?
        {
            return Ok((current, block));
        }
        let mut owned = if is_single {
            self.create(SINGLE_TABLES, size, family, me)?
        } else {
            self.create_in_chain(size, family, me)?
        };
        let block = owned.carve(class)?;
        let number = self.segments.len();
        self.segments.push(owned);
        if !is_single {
            self.current = Some(number);
        }
        let block = block.ok_or_else(|| Error::Damaged("a new segment without room"))?;
        Ok((number, block))
    }

    /// Makes the chain's next segment, for blocks of `size` bytes: as large as is its turn,
    /// or smaller where the address space (`ulimit -v`) has no room for that, or files may
    /// not be so large (`ulimit -f`).
    fn create_in_chain(
        &mut self,
        size: u64,
        family: &Arc<Family>,
        me: Participant,
    ) -> Result<Owned> {
        let wanted = self.next_segment_bytes.max(size * ROOM_FOR_BLOCKS);
        let mut data_bytes = wanted.min(LARGEST_SEGMENT_BYTES).max(size);
        let mut tables = CHAIN_TABLES;
        loop {
            let is_too_large =
                |error: &Error| matches!(error.errno(), Some(Errno::NOMEM | Errno::FBIG));
            match self.create(tables, data_bytes, family, me) {
                Err(error)
                    if is_too_large(&error) && (data_bytes > size || tables == CHAIN_TABLES) =>
                {
                    data_bytes = (data_bytes / 2).max(size);
                    if data_bytes == size || data_bytes < SMALL_SEGMENT_BYTES {
                        tables = SMALL_TABLES;
                    }
                }
                Err(error) => return Err(error),
                Ok(owned) => {
                    self.next_segment_bytes = (data_bytes * 2).min(LARGEST_SEGMENT_BYTES);
                    return Ok(owned);
                }
            }
        }
    }

    fn create(
        &mut self,
        (blocks, tokens): Tables,
        data_bytes: u64,
        family: &Arc<Family>,
        me: Participant,
    ) -> Result<Owned> {
        let plan = Plan {
            number: self.segments.len() as u64,
            blocks,
            tokens,
            data_bytes,
        };
        let fd = (self.options.source)(plan.size_bytes()?)?;
        Owned::create(fd, plan, family, me)
    }

    /// Punches free blocks, the largest first, until no more than `keep_bytes` are free
    /// and committed; how many bytes went.
    pub(super) fn trim_to(&mut self, keep_bytes: u64) -> Result<u64> {
        let mut given_back = 0;
        for class in (0..CLASSES).rev() {
            // Smaller blocks share pages with others.
            if classes::class_bytes(class) < 4096 || self.recycled.bytes() <= keep_bytes {
                break;
            }
            // The oldest first: the others are warm.
            while self.recycled.bytes() > keep_bytes
                && let Some((segment, block)) = self.free[class].committed.pop_front()
            {
                let owned = &mut self.segments[segment];
                let own = owned.blocks[block];
                self.recycled.take(own.size_bytes());
                self.committed_bytes -= own.own_pages_bytes();
                let punched = owned.punch(block);
                self.free[class].bare.push((segment, block));
                given_back += punched?;
            }
        }
        Ok(given_back)
    }
}

/// The classes whose blocks serve a request for this one.
fn near(class: usize) -> RangeInclusive<usize> {
    class..=(class + LARGER_CLASSES).min(CLASSES - 1)
}
