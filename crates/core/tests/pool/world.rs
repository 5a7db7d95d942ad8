//! Several participants in one process, each with a mapping of its own.

use std::os::fd::AsFd;
use std::sync::Arc;

use shared_numpy_core::error::{Error, Result};
use shared_numpy_core::layout::Participant;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::holder::Holder;
use shared_numpy_core::pool::owner::{BlockName, Pool, PoolOptions};
use shared_numpy_core::pool::segment::PoolSegment;

/// A family with one owner; others join it.
pub(crate) struct World {
    pub(crate) family: Arc<Family>,
    pub(crate) me: Participant,
    pub(crate) pool: Pool,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(PoolOptions {
            first_segment_bytes: 1 << 20,
            ..PoolOptions::default()
        })
    }

    pub(crate) fn with(options: PoolOptions) -> Self {
        let (family, _fd) = Family::create().unwrap();
        let family = Arc::new(family);
        let me = family.join().unwrap();
        let pool = Pool::new(Arc::clone(&family), me, options);
        World { family, me, pool }
    }

    pub(crate) fn allocate(&mut self, size_bytes: u64) -> BlockName {
        self.pool.allocate(size_bytes, &mut || true).unwrap()
    }

    /// What another process would do with the descriptor of a segment.
    pub(crate) fn attach(&self, segment: usize) -> (Participant, Holder) {
        let who = self.family.join().unwrap();
        (who, self.attach_as(who, segment))
    }

    pub(crate) fn attach_as(&self, who: Participant, segment: usize) -> Holder {
        let fd = self.pool.segment_fd(segment).unwrap();
        let segment = PoolSegment::attach(&fd, Arc::clone(&self.family)).unwrap();
        segment.register_row(who, Some(fd.as_fd())).unwrap();
        Holder::new(Arc::new(segment), who).unwrap()
    }

    pub(crate) fn release(&mut self, name: BlockName) {
        self.pool.release(name.segment, name.block).unwrap();
    }

    pub(crate) fn in_use(&mut self) -> u64 {
        self.pool.collect().unwrap();
        self.pool.stats().in_use_bytes
    }
}

pub(crate) fn is_stale<T: std::fmt::Debug>(result: Result<T>) -> bool {
    result.unwrap_err() == Error::Stale
}
