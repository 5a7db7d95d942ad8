//! Turning system features off, so that every fallback can be tested.

use std::sync::atomic::{AtomicU8, Ordering};

/// The variable that lists them, separated by commas: `memfd`, `o_tmpfile`, `pidfd`,
/// `populate` (`MADV_POPULATE_WRITE`), `tracker`, `abstract` (names of the trackers' sockets),
/// `memory_check`, `waitv` (`futex_waitv`).
pub const VARIABLE: &str = "SHARED_NUMPY_DISABLE";

/// Whether `feature` is to be treated as missing: a debugging aid, and how tests force
/// fallbacks.
pub fn is_disabled(feature: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|listed| listed.split(',').any(|each| each.trim() == feature))
}

/// A feature that is looked up once; after that, asking allocates nothing.
#[derive(Debug)]
pub struct Switch {
    feature: &'static str,
    /// 0 before the first look, 1 on, 2 off. No lock, which a fork could find taken.
    seen: AtomicU8,
}

impl Switch {
    /// For this feature.
    pub const fn new(feature: &'static str) -> Self {
        Switch {
            feature,
            seen: AtomicU8::new(0),
        }
    }

    /// As [`is_disabled`] was at the first look.
    pub fn is_off(&self) -> bool {
        // Relaxed: all who look see the same, and nothing else depends on it.
        match self.seen.load(Ordering::Relaxed) {
            0 => {
                let is_off = is_disabled(self.feature);
                self.seen.store(1 + u8::from(is_off), Ordering::Relaxed);
                is_off
            }
            seen => seen == 2,
        }
    }
}
