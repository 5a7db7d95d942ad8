//! A process's pool: a chain of segments, private free lists, blocks recycled with
//! their pages.
//!
//! Guarantees: only the owner allocates; a handle leaves only when its memory is
//! committed; memory that is free is offered again before any is added, last freed
//! first (its pages are mapped and warm); above [`PoolOptions::keep_bytes`] free
//! memory goes back to the system.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chain::Chain;
use super::classes;
use super::family::Family;
use super::holder::Holder;
use crate::error::{Error, Result};
use crate::layout::{Participant, SEGMENT_MAX_BYTES};
use crate::sys::anon;

/// Data of the first segment of a chain, in bytes; each further one doubles.
pub const FIRST_SEGMENT_BYTES: u64 = 64 << 20;
/// Data of the largest segment of a chain, in bytes.
pub const LARGEST_SEGMENT_BYTES: u64 = 1 << 30;
/// Blocks larger than this have a segment of their own. Each segment costs its owner a
/// descriptor, so this is large: a chain holds gigabytes in a handful.
pub const OWN_SEGMENT_ABOVE_BYTES: u64 = LARGEST_SEGMENT_BYTES / 4;
/// How much free memory a pool keeps for recycling, in bytes.
pub const KEEP_BYTES: u64 = 256 << 20;

/// Makes the file of a new segment of so many bytes; where a tracker is told.
pub type Source = Box<dyn FnMut(u64) -> Result<OwnedFd> + Send>;
/// Asked before the pool grows by so many bytes; where limits are checked.
pub type Limit = Box<dyn FnMut(u64) -> Result<()> + Send>;

/// What a pool is made of.
pub struct PoolOptions {
    /// Where files come from.
    pub source: Source,
    /// What may refuse growth.
    pub limit: Limit,
    /// Data of the first segment, in bytes.
    pub first_segment_bytes: u64,
    /// Blocks larger than this have a segment of their own, in bytes.
    pub own_segment_above_bytes: u64,
    /// Free memory above this is given back, in bytes.
    pub keep_bytes: u64,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            source: Box::new(|size_bytes| {
                anon::create(size_bytes)
                    .map_err(|errno| Error::os("create a pool segment", "", errno))
            }),
            limit: Box::new(|_| Ok(())),
            first_segment_bytes: FIRST_SEGMENT_BYTES,
            own_segment_above_bytes: OWN_SEGMENT_ABOVE_BYTES,
            keep_bytes: KEEP_BYTES,
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
    /// Free blocks whose pages were given back.
    pub punched_bytes: u64,
}

/// The pool of this process.
#[derive(Debug)]
pub struct Pool {
    family: Arc<Family>,
    me: Participant,
    state: Mutex<Chain>,
}

impl Pool {
    /// An empty pool of `me`.
    pub fn new(family: Arc<Family>, me: Participant, options: PoolOptions) -> Self {
        let state = Mutex::new(Chain::new(options));
        Pool { family, me, state }
    }

    /// Allocates a block of at least `size_bytes`, held once by this process. Its
    /// bytes are what the last user left in it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], what [`PoolOptions::limit`] said, [`Error::Interrupted`] when
    /// `keep_going` said so, and the system's.
    pub fn allocate(
        &self,
        size_bytes: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<BlockName> {
        if size_bytes > SEGMENT_MAX_BYTES / 2 {
            return Err(Error::NoSpace {
                name: String::new(),
                size_bytes,
                free_bytes: 0,
            });
        }
        let class = classes::class_of(size_bytes);
        let mut state = self.lock();
        let (segment, block) = state.find(class, &self.family, self.me, keep_going)?;
        let owned = &mut state.segments[segment];
        match owned.open(block, keep_going) {
            Ok(generation) => {
                let own = owned.blocks[block];
                Ok(BlockName {
                    segment,
                    block,
                    generation,
                    offset_bytes: own.offset_bytes as usize,
                    size_bytes: classes::class_bytes(usize::from(own.class)) as usize,
                })
            }
            Err(error) => {
                state.push_free(segment, block);
                Err(error)
            }
        }
    }

    /// Drops one hold of this process; the block is free at once if it was the last
    /// of all.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when this process does not hold it.
    pub fn release(&self, segment: usize, block: usize) -> Result<()> {
        if !self.holder(segment)?.release(block)? {
            return Ok(());
        }
        let mut state = self.lock();
        let owned = &mut state.segments[segment];
        // Another thread may have freed it since; and a damaged table may have named a
        // block that this process never described.
        let is_open = owned.blocks.get(block).is_some_and(|own| own.is_open);
        if is_open && owned.closer.close(block)? {
            state.push_free(segment, block);
            let keep_bytes = state.options.keep_bytes;
            if state.recycled_bytes > keep_bytes {
                state.trim_to(keep_bytes)?;
            }
        }
        Ok(())
    }

    /// This process's holds on a segment of the pool.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for a segment that the pool does not have.
    pub fn holder(&self, segment: usize) -> Result<Arc<Holder>> {
        let state = self.lock();
        let owned = state.segments.get(segment).ok_or(Error::Stale)?;
        Ok(Arc::clone(&owned.holder))
    }

    /// A descriptor of a segment, to be given to who attaches it.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for a segment that the pool does not have; the system's.
    pub fn segment_fd(&self, segment: usize) -> Result<OwnedFd> {
        let state = self.lock();
        let owned = state.segments.get(segment).ok_or(Error::Stale)?;
        rustix::io::fcntl_dupfd_cloexec(&owned.fd, 3)
            .map_err(|errno| Error::os("duplicate a descriptor", "", errno))
    }

    /// Counts a child that is about to be forked: copies this process's rows into the
    /// rows of `child`, a slot reserved for it.
    ///
    /// # Errors
    ///
    /// Those of committing a row; this process must then keep what it holds.
    pub fn copy_rows(&self, child: Participant) -> Result<()> {
        let state = self.lock();
        for owned in &state.segments {
            let fd: BorrowedFd<'_> = owned.fd.as_fd();
            owned.segment().copy_row(self.me, child, Some(fd))?;
        }
        Ok(())
    }

    /// Finds what other processes dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in a segment.
    pub fn collect(&self) -> Result<()> {
        self.lock().collect()
    }

    /// Gives all free memory back to the system; how many bytes.
    ///
    /// # Errors
    ///
    /// The system's, and as [`Pool::collect`].
    pub fn trim(&self) -> Result<u64> {
        let mut state = self.lock();
        state.collect()?;
        state.trim_to(0)
    }

    /// What the pool has.
    pub fn stats(&self) -> PoolStats {
        let state = self.lock();
        let mut stats = PoolStats {
            segments: state.segments.len(),
            ..PoolStats::default()
        };
        for own in state.segments.iter().flat_map(|owned| &owned.blocks) {
            let bytes = classes::class_bytes(usize::from(own.class));
            let sum = match (own.is_open, own.is_punched) {
                (true, _) => &mut stats.in_use_bytes,
                (false, false) => &mut stats.recycled_bytes,
                (false, true) => &mut stats.punched_bytes,
            };
            *sum += bytes;
        }
        stats
    }

    fn lock(&self) -> MutexGuard<'_, Chain> {
        // A panic under the lock would at worst have lost a free block.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
