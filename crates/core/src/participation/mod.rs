//! This process as a participant: the families it is in, its pool, what it holds.
//!
//! Guarantees:
//!
//! - A [`Hold`] keeps its block's memory, in this process and in any child forked from
//!   it, until it is dropped there or the process ends, however it ends.
//! - A fork at any moment, from any thread and from C, leaves parent and child with
//!   what both see; neither waits for the other (rule P5). The handlers are
//!   `pthread_atfork`'s and talk to nobody; how long they take depends on how many
//!   segments there are, not on how many arrays. The child's allocates nothing; the
//!   parent's does only when all slots are taken, to look for the dead.
//! - Nothing here is waited for with the lock held, and `keep_going`, which may run any
//!   code of the user's, is never called with it.
//! - The tracker is started when the first handle leaves the process, or when somebody waits
//!   for long (for the sake of the processor: the tracker tells of deaths), and not needed by
//!   what does neither. When it is gone, owners are still found through `/proc`.
//!
//! A tour: [`handle`] (what travels), `registry` (what the lock guards), `fork` (the
//! handlers), `membership` (joining families), `exchange` (sending and receiving),
//! `tracker` (who keeps what was sent), [`contained`] (what queues need), `queues` (which
//! queues are open here), `peers` (who else has them), `presence` (what locks ask), `growth` (what pools ask before they
//! grow), [`stats`].
//!
//! Where this differs from the design's rule P5: no socket is passed in the handlers. The
//! tracker sees a forked child in the family's slots, which the parent writes before the
//! child exists; that costs no descriptor, cannot fail for want of one, and is the same
//! with a tracker, without, and after its death.

pub mod contained;
mod exchange;
mod fork;
mod growth;
pub mod handle;
mod membership;
mod peers;
mod presence;
pub(crate) mod queues;
mod registry;
pub mod stats;
mod tracker;

use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

pub use self::exchange::{Sent, receive};
pub(crate) use self::growth::Asking;
pub use self::handle::Handle;
pub use self::membership::join;
pub use self::presence::Presence;
pub use self::queues::leave_queues;
use self::registry::{HeldBlock, SegmentId, lock};
pub use self::stats::{drop_inherited, stats, trim};
pub use self::tracker::{address, come_home};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::pool::idle::LARGE_BYTES;
use crate::sys::fork as process_fork;

/// How this process finds its family.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The tracker's executable: an absolute path.
    pub executable: PathBuf,
    /// What relatives prove themselves with.
    pub cookie: [u8; 16],
    /// For a `multiprocessing` child the pid of its parent, which may receive what this
    /// process sends when it has ended.
    pub guardian_pid: Option<u32>,
    /// A family to be at home in, if it is still there: its identity and its cookie.
    pub hint: Option<([u64; 2], [u8; 16])>,
}

/// Says how to find or found a family; to be called before anything else, and again
/// when something of it has changed.
pub fn configure(options: Options) {
    fork::install();
    lock().options = Some(options);
}

/// One hold of this process on one block. Dropping it lets go.
#[derive(Debug)]
pub struct Hold {
    held: HeldBlock,
    generation: u64,
    mapping: Arc<Mapping>,
    offset_bytes: usize,
    size_bytes: usize,
}

impl Hold {
    /// The memory that the block is a part of.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Where the block begins in it, in bytes.
    pub fn offset_bytes(&self) -> usize {
        self.offset_bytes
    }

    /// The size of the block, at least what was asked for, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The address of the block. Valid for [`Hold::size_bytes`] while a mapping or a
    /// hold lives.
    pub fn start(&self) -> NonNull<u8> {
        self.mapping.at(self.offset_bytes)
    }

    /// Whether it was inherited and [`drop_inherited`] has let it go: the memory is
    /// another's by now.
    pub fn is_dropped(&self) -> bool {
        let mut registry = lock();
        match registry.holder(self.held.segment) {
            Ok(holder) => holder.is_dropped(self.held.since),
            Err(_) => true,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut registry = lock();
        // An error would be that of a damaged segment: the block is not ours any more.
        let is_last = registry.release(self.held).unwrap_or(false);
        let size_bytes = self.size_bytes as u64;
        if is_last
            && size_bytes >= LARGE_BYTES
            && let Some((tracker, owner)) = registry.note_dropped(self.held, size_bytes)
        {
            drop(registry);
            tracker.dropped(owner);
        }
    }
}

/// Allocates a block of at least `size_bytes`. Its bytes are what its last user left.
///
/// # Errors
///
/// [`Error::NoSpace`], [`Error::Limit`], [`Error::Interrupted`] when `keep_going` said so;
/// the system's.
pub fn allocate(size_bytes: u64, keep_going: &mut dyn FnMut() -> bool) -> Result<Hold> {
    fork::in_one_process(keep_going, |keep_going| {
        allocate_here(size_bytes, keep_going)
    })
}

fn allocate_here(size_bytes: u64, keep_going: &mut dyn FnMut() -> bool) -> Result<Hold> {
    let mut is_trimmed = false;
    loop {
        let mut registry = lock();
        let Some(home) = registry.home() else {
            drop(registry);
            membership::ensure_home(keep_going)?;
            continue;
        };
        let mut opening = registry.begin(home, size_bytes)?;
        let mut done = Ok(());
        if let Some(commit) = opening.commit.take() {
            let epoch = process_fork::epoch();
            drop(registry);
            done = commit.run(keep_going);
            registry = lock();
            if process_fork::epoch() != epoch {
                return Err(Error::Interrupted); // `keep_going` forked: the pool is our parent's
            }
            opening.is_committed = done.is_ok();
        }
        let member = &mut registry.families[home];
        let pool = member.pool.as_mut().ok_or_else(|| Error::Stale)?;
        if let Err(error) = done {
            pool.abandon(opening);
            // What nobody uses may be what is missing.
            let is_full = matches!(error, Error::NoSpace { .. });
            if is_full && !std::mem::replace(&mut is_trimmed, true) && pool.trim()? > 0 {
                continue;
            }
            return Err(error);
        }
        let name = pool.finish(opening)?;
        let mapping = Arc::clone(pool.segment(name.segment)?.mapping());
        let held = HeldBlock {
            segment: registry.own(home, name.segment)?,
            block: name.block,
            since: 0,
        };
        drop(registry);
        queues::audit_if_due();
        return Ok(Hold {
            held,
            generation: name.generation,
            mapping,
            offset_bytes: name.offset_bytes,
            size_bytes: name.size_bytes,
        });
    }
}

impl Hold {
    fn new(
        segment: SegmentId,
        since: u32,
        info: crate::pool::segment::BlockInfo,
        mapping: Arc<Mapping>,
    ) -> Self {
        Hold {
            held: HeldBlock {
                segment,
                block: info.block,
                since,
            },
            generation: info.generation,
            mapping,
            offset_bytes: info.offset_bytes,
            size_bytes: info.size_bytes,
        }
    }
}
