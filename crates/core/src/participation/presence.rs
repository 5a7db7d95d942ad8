//! Who this process is where a block lies, and who is still there: what locks ask.
//!
//! Guarantees: somebody is said to be gone only when its slot does not count any more,
//! which the kernel's word (`liveness`) has seen to; and that word is asked for here, at
//! most every 200 ms, so that no wait depends on a tracker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Hold;
use super::registry::lock;
use crate::error::{Error, Result};
use crate::layout::Participant;
use crate::pool::family::Family;
use crate::sys::futex;

/// How far looks are apart.
const LOOK_EVERY_NS: u64 = 200_000_000;

/// When this process last looked after the dead on behalf of a waiter. Relaxed: of two
/// that look at once, one looks in vain.
static LOOKED_NS: AtomicU64 = AtomicU64::new(0);

/// The family of a block.
#[derive(Debug, Clone)]
pub struct Presence {
    family: Arc<Family>,
}

impl Hold {
    /// The family of the block, which never changes.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn presence(&self) -> Result<Presence> {
        let mut registry = lock();
        let local = registry.local(self.held.segment).ok_or(Error::Dropped)?;
        let family = local.family;
        let family = Arc::clone(&registry.families[family].family);
        Ok(Presence { family })
    }

    /// Who this process is in the family of the block; that changes with a fork.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`] when the block was let go of as inherited; [`Error::Full`] when
    /// the family has no room for a child that was not counted.
    pub fn me(&self) -> Result<Participant> {
        let mut registry = lock();
        let local = registry.local(self.held.segment).ok_or(Error::Dropped)?;
        let family = local.family;
        if registry
            .holder(self.held.segment)?
            .is_dropped(self.held.since)
        {
            return Err(Error::Dropped);
        }
        registry.families[family].ensure_me()
    }
}

impl Presence {
    /// Whether a participant is gone, by proof; looks for proof if the last look is long
    /// enough ago. Must not be called with the process-wide lock held.
    pub fn is_gone(&self, who: Participant) -> bool {
        if !self.family.counts(who) {
            return true;
        }
        let (now, last) = (futex::now_ns(), LOOKED_NS.load(Ordering::Relaxed));
        if last != 0 && now.saturating_sub(last) < LOOK_EVERY_NS {
            return false;
        }
        LOOKED_NS.store(now, Ordering::Relaxed);
        let registry = lock();
        // All of them: the next one to ask may be in another.
        for member in &registry.families {
            member.look_for_the_dead();
        }
        drop(registry);
        !self.family.counts(who)
    }
}
