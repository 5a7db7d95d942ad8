//! Looking for a moment before sleeping.
//!
//! Guarantees: nobody looks longer than [`Kernel::spins`] allows, some thirty microseconds,
//! and not at all where there is one processor; a wait that turns out long costs half a
//! microsecond of looking, on most occasions.
//!
//! How long is learned per object, in a word of its own (a *hint*, where anything may stand):
//!
//! ```text
//! bits 0-15   how many looks were worth it lately
//! bits 16-31  counts waits
//! ```
//!
//! One wait in 64 looks as long as is allowed. That finds the pair of processes which would
//! answer each other in a microsecond and are put to sleep, each time, just before the other
//! wakes up: a sleeper takes longer to wake than either looks.

use super::kernel::{Kernel, spin};
use crate::sync::{AtomicU64, Ordering};

/// The smallest number of looks.
const LOOKS_MIN: u64 = 16;
/// Every so many waits one looks as long as is allowed.
const TRIAL: u64 = 64;
const WORTH: u64 = 0xffff;
const WAIT: u64 = WORTH + 1;

/// Looks whether a wait is over before it has begun.
pub(super) fn look(kernel: impl Kernel, hint: Option<&AtomicU64>, is_over: impl FnMut() -> bool) {
    let allowed = u64::from(kernel.spins());
    let Some(hint) = hint.filter(|_| allowed > 0) else {
        return;
    };
    // Relaxed, and lost updates do not matter: a hint, and bounded here.
    let seen = hint.load(Ordering::Relaxed);
    let worth = (seen & WORTH).min(allowed);
    let waits = (seen / WAIT) & WORTH;
    let limit = if waits % TRIAL == TRIAL - 1 {
        allowed
    } else {
        allowed.min(2 * worth + LOOKS_MIN)
    };
    // At most what is allowed, which is a u32.
    let worth = match spin(limit as u32, is_over).map(u64::from) {
        Some(count) if count >= worth => worth + (count - worth) * 3 / 4,
        Some(count) => worth - (worth - count) / 8,
        None => worth - worth.div_ceil(8),
    };
    let waits = (waits + 1) & WORTH;
    hint.store((waits * WAIT) | worth, Ordering::Relaxed);
}
