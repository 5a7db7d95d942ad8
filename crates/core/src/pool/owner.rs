//! A process's pool: a chain of segments, private free lists, blocks recycled with
//! their pages.
//!
//! Guarantees: only the owner allocates; a handle leaves only when its memory is
//! committed; memory that is free is offered again before any is added, last freed
//! first (its pages are mapped and warm); above [`PoolOptions::keep_bytes`] free
//! memory goes back to the system: what this process freed at once, what others dropped
//! when it was not used for [`PoolOptions::decay_after_s`].

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::backing::Commit;
use super::chain::Chain;
use super::classes;
use super::family::Family;
use super::holder::Holder;
use super::owned::Pages;
use super::segment::PoolSegment;
use crate::error::{Error, Result};
use crate::layout::{Participant, SEGMENT_MAX_BYTES};
use crate::sys::anon;
use crate::sys::fd::CachedFd;

/// Data of the first segment of a chain, in bytes; each further one doubles.
pub const FIRST_SEGMENT_BYTES: u64 = 64 << 20;
/// Data of the largest segment of a chain, in bytes.
pub const LARGEST_SEGMENT_BYTES: u64 = 1 << 30;
/// Blocks larger than this have a segment of their own. Each segment costs its owner a
/// descriptor, so this is large: a chain holds gigabytes in a handful.
pub const OWN_SEGMENT_ABOVE_BYTES: u64 = LARGEST_SEGMENT_BYTES / 4;
/// How much free memory a pool keeps for recycling, in bytes.
pub const KEEP_BYTES: u64 = 256 << 20;
/// How long a pool keeps more than that, if others dropped it and it is not used, in seconds:
/// longer than the turns of most pipelines that send much at a time.
pub const DECAY_AFTER_S: u64 = 5;

/// Makes the file of a new segment of so many bytes; where a tracker is told.
pub type Source = Box<dyn FnMut(u64) -> Result<OwnedFd> + Send>;
/// Asked before so many bytes more are committed, when so many are; where limits are
/// checked.
pub type Limit = Box<dyn FnMut(u64, u64) -> Result<()> + Send>;
/// Asked before the pool grows: whether holders were found dead, so that memory may have
/// become free.
pub type BeforeGrowing = Box<dyn FnMut() -> bool + Send>;

/// What a pool is made of.
pub struct PoolOptions {
    /// Where files come from.
    pub source: Source,
    /// What may refuse growth.
    pub limit: Limit,
    /// What may make growth needless.
    pub before_growing: BeforeGrowing,
    /// Data of the first segment, in bytes.
    pub first_segment_bytes: u64,
    /// Blocks larger than this have a segment of their own, in bytes.
    pub own_segment_above_bytes: u64,
    /// Free memory above this is given back, in bytes.
    pub keep_bytes: u64,
    /// After it was not used for so long, in seconds, if others dropped it; else at once.
    pub decay_after_s: u64,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            source: Box::new(|size_bytes| {
                anon::create(size_bytes)
                    .map_err(|errno| Error::os("create a pool segment", "", errno))
            }),
            limit: Box::new(|_, _| Ok(())),
            before_growing: Box::new(|| false),
            first_segment_bytes: FIRST_SEGMENT_BYTES,
            own_segment_above_bytes: OWN_SEGMENT_ABOVE_BYTES,
            keep_bytes: KEEP_BYTES,
            decay_after_s: DECAY_AFTER_S,
        }
    }
}

impl fmt::Debug for PoolOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolOptions")
            .field("first_segment_bytes", &self.first_segment_bytes)
            .field("keep_bytes", &self.keep_bytes)
            .finish_non_exhaustive()
    }
}

/// Names a block in one of its lives: what a handle carries of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockName {
    /// Number of the segment in the owner's chain.
    pub segment: usize,
    /// Index of the block.
    pub block: usize,
    /// Its generation.
    pub generation: u64,
    /// Where it begins in the segment, in bytes.
    pub offset_bytes: usize,
    /// How long it is, at least what was asked, in bytes.
    pub size_bytes: usize,
}

/// What a pool has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Segments.
    pub segments: usize,
    /// Open blocks: somebody holds them.
    pub in_use_bytes: u64,
    /// Free blocks with their pages.
    pub recycled_bytes: u64,
    /// Free blocks without pages.
    pub punched_bytes: u64,
    /// Memory of blocks that is committed or being committed, free or not. The files have
    /// that, their own tables, and per segment up to 1 MiB that was committed ahead for
    /// small blocks, where a large one after a small one may leave out less than a page.
    pub committed_bytes: u64,
}

/// The pool of this process. Not locked: see [`Holder`].
#[derive(Debug)]
pub struct Pool {
    family: Arc<Family>,
    me: Participant,
    chain: Chain,
}

/// A block that was found and is not open yet: to be passed to [`Pool::finish`] or
/// [`Pool::abandon`].
#[must_use]
#[derive(Debug)]
pub struct Opening {
    segment: usize,
    block: usize,
    /// What must be done before it is finished. It takes long and needs no lock.
    pub commit: Option<Commit>,
    /// That was done.
    pub is_committed: bool,
    /// There was something to be done.
    was_to_commit: bool,
}

impl Opening {
    /// The number of its segment in the pool.
    pub fn segment(&self) -> usize {
        self.segment
    }
}

impl Pool {
    /// An empty pool of `me`.
    pub fn new(family: Arc<Family>, me: Participant, options: PoolOptions) -> Self {
        let chain = Chain::new(options);
        Pool { family, me, chain }
    }

    /// Allocates a block of at least `size_bytes`, held once by this process. Its
    /// bytes are what the last user left in it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], what [`PoolOptions::limit`] said, [`Error::Interrupted`] when
    /// `keep_going` said so, and the system's.
    pub fn allocate(
        &mut self,
        size_bytes: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<BlockName> {
        let mut opening = self.begin(size_bytes)?;
        if let Some(commit) = opening.commit.take() {
            if let Err(error) = commit.run(keep_going) {
                self.abandon(opening);
                return Err(error);
            }
            opening.is_committed = true;
        }
        self.finish(opening)
    }

    /// The first half of [`Pool::allocate`]: finds a block.
    ///
    /// # Errors
    ///
    /// As [`Pool::allocate`].
    pub fn begin(&mut self, size_bytes: u64) -> Result<Opening> {
        if size_bytes > SEGMENT_MAX_BYTES / 2 {
            return Err(Error::NoSpace {
                name: String::new(),
                size_bytes,
                free_bytes: 0,
            });
        }
        let class = classes::class_of(size_bytes);
        let (segment, block) = self.chain.find(class, &self.family, self.me)?;
        match self.chain.begin_commit(segment, block) {
            Ok(commit) => Ok(Opening {
                segment,
                block,
                was_to_commit: commit.is_some(),
                commit,
                is_committed: false,
            }),
            Err(error) => {
                self.chain.push_free(segment, block);
                Err(error)
            }
        }
    }

    /// The second half: opens it, its memory being committed.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in the segment; [`Error::NotAllowed`] when this
    /// process was declared dead.
    pub fn finish(&mut self, opening: Opening) -> Result<BlockName> {
        let Opening { segment, block, .. } = opening;
        if opening.is_committed {
            self.chain.end_commit(segment, block);
        }
        let owned = &mut self.chain.segments[segment];
        match owned.open(block) {
            Ok(generation) => {
                let own = owned.blocks[block];
                self.chain.has_opened(segment, block);
                Ok(BlockName {
                    segment,
                    block,
                    generation,
                    offset_bytes: own.offset_bytes as usize,
                    size_bytes: own.size_bytes() as usize,
                })
            }
            Err(error) => {
                self.chain.push_free(segment, block);
                Err(error)
            }
        }
    }

    /// Instead of the second half: the block is free again, what was committed given back.
    pub fn abandon(&mut self, opening: Opening) {
        let Opening { segment, block, .. } = opening;
        if opening.is_committed {
            self.chain.end_commit(segment, block);
        } else if opening.was_to_commit {
            self.chain.undo_commit(segment, block);
        }
        self.chain.push_free(segment, block);
    }

    /// Drops one hold of this process; the block is free at once if it was the last
    /// of all.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when this process does not hold it.
    pub fn release(&mut self, segment: usize, block: usize) -> Result<()> {
        let owned = self
            .chain
            .segments
            .get_mut(segment)
            .ok_or_else(|| Error::Stale)?;
        if !owned.holder.release(block)? {
            return Ok(());
        }
        // A damaged table may have named a block that this process never described.
        let is_open = owned.blocks.get(block).is_some_and(|own| own.is_open);
        if is_open && owned.closer.close(block)? {
            self.chain.has_closed(segment, block);
            self.chain.trim_after_release()?;
        }
        Ok(())
    }

    /// Somebody has the segment who may close in this process's place while it sleeps: see
    /// [`super::lend`].
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for a segment that the pool does not have.
    pub fn lend(&mut self, segment: usize) -> Result<()> {
        let owned = self
            .chain
            .segments
            .get_mut(segment)
            .ok_or_else(|| Error::Stale)?;
        owned.closer.lend()
    }

    /// This process's holds on a segment of the pool.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for a segment that the pool does not have.
    pub fn holder(&mut self, segment: usize) -> Result<&mut Holder> {
        let owned = self
            .chain
            .segments
            .get_mut(segment)
            .ok_or_else(|| Error::Stale)?;
        Ok(&mut owned.holder)
    }

    /// A segment of the pool.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for a segment that the pool does not have.
    pub fn segment(&self, segment: usize) -> Result<&Arc<PoolSegment>> {
        let owned = self
            .chain
            .segments
            .get(segment)
            .ok_or_else(|| Error::Stale)?;
        Ok(owned.segment())
    }

    /// How many segments the pool has.
    pub fn segments(&self) -> usize {
        self.chain.segments.len()
    }

    /// A descriptor of a segment, to be given to who attaches it.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for a segment that the pool does not have, and for one whose
    /// descriptor somebody closed; the system's.
    pub fn segment_fd(&self, segment: usize) -> Result<OwnedFd> {
        let owned = self
            .chain
            .segments
            .get(segment)
            .ok_or_else(|| Error::Stale)?;
        let fd = owned.backing.fd().ok_or_else(|| Error::Stale)?;
        rustix::io::fcntl_dupfd_cloexec(fd, 3)
            .map_err(|errno| Error::os("duplicate a descriptor", "", errno))
    }

    /// The same, lent; `None` for one whose descriptor somebody closed.
    pub fn borrow_fd(&self, segment: usize) -> Option<BorrowedFd<'_>> {
        self.chain.segments.get(segment)?.backing.fd()
    }

    /// Whether this process holds a block of its pool.
    pub fn holds_something(&self) -> bool {
        let mut segments = self.chain.segments.iter();
        segments.any(|owned| owned.holder.held_blocks() > 0)
    }

    /// The number of that descriptor in this process, for handles.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for a segment that the pool does not have.
    pub fn segment_fd_number(&self, segment: usize) -> Result<i32> {
        let owned = self
            .chain
            .segments
            .get(segment)
            .ok_or_else(|| Error::Stale)?;
        Ok(owned.backing.number())
    }

    /// Counts a child that is about to be forked: copies this process's rows into the
    /// rows of `child`, a slot reserved for it. Allocates nothing.
    ///
    /// # Errors
    ///
    /// Those of committing a row; this process must then keep what it holds.
    pub fn copy_rows(&self, child: Participant) -> Result<()> {
        for owned in &self.chain.segments {
            let fd = owned.backing.fd();
            owned.segment().copy_row(self.me, child, fd)?;
        }
        Ok(())
    }

    /// Keeps what it holds, for good. See [`Holder::pin`].
    pub fn pin(&mut self) {
        for owned in &mut self.chain.segments {
            owned.holder.pin();
        }
    }

    /// In a forked child: what is left of its parent's pool, segment by segment.
    /// Allocates nothing.
    pub fn into_holders(self) -> impl Iterator<Item = (Holder, CachedFd)> {
        let segments = self.chain.segments.into_iter();
        segments.map(|owned| (owned.holder, owned.backing.into_fd()))
    }

    /// Finds what other processes dropped, and what dead ones sent to nobody.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in a segment.
    pub fn collect(&mut self) -> Result<()> {
        self.chain.expire_tokens()?;
        self.chain.collect()
    }

    /// Gives all free memory back to the system; how many bytes.
    ///
    /// # Errors
    ///
    /// The system's, and as [`Pool::collect`].
    pub fn trim(&mut self) -> Result<u64> {
        self.collect()?;
        self.chain.trim_to(0)
    }

    /// What the pool has.
    pub fn stats(&self) -> PoolStats {
        let mut stats = PoolStats {
            segments: self.chain.segments.len(),
            committed_bytes: self.chain.committed_bytes,
            ..PoolStats::default()
        };
        for own in self.chain.segments.iter().flat_map(|owned| &owned.blocks) {
            let sum = match (own.is_open, own.pages) {
                (true, _) => &mut stats.in_use_bytes,
                (false, Pages::Committed) => &mut stats.recycled_bytes,
                (false, _) => &mut stats.punched_bytes,
            };
            *sum += own.size_bytes();
        }
        stats
    }
}
