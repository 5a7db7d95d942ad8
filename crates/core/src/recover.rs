//! After a death: the only place that repairs what a dead process left.
//!
//! Guarantees: every step may be repeated, by the same process or by another; a
//! process killed here is repaired by whoever recovers *it*; nothing is waited for.
//!
//! There is little to do, because nobody's bits need clearing: a slot that is not
//! `RESERVED` or `LIVE` holds nothing. The steps, and what a kill between them
//! leaves, are in `docs/crash_safety.md`, "Recover".

use std::sync::Arc;

use crate::error::Result;
use crate::fault::point;
use crate::layout::{Packed, Participant, SLOTS};
use crate::pool::family::{DEAD, FREE, Family, RECOVERING};
use crate::pool::segment::PoolSegment;

/// Recovers the slot of `dead`, with the pool segments at hand. `false` when there was
/// nothing to do, or somebody else does it.
///
/// # Errors
///
/// Those of a damaged segment.
pub fn recover(
    family: &Family,
    me: Participant,
    dead: Participant,
    segments: &[Arc<PoolSegment>],
) -> Result<bool> {
    let found = family.slot(dead.slot)?;
    if found.state != DEAD || found.generation != dead.generation {
        return Ok(false);
    }
    let mine = Packed {
        state: RECOVERING,
        by: me.slot,
        ..found
    };
    if !family.swap(dead.slot, found, mine)? {
        return Ok(false);
    }
    point("recover.claimed");
    release_recoveries(family, dead)?;
    point("recover.released");
    for segment in segments {
        // The slot has no new life while it is RECOVERING.
        segment.abandon_tokens(dead.slot, |_| Ok(true))?;
        segment.mark_all_dirty()?;
    }
    point("recover.tokens");
    let free = Packed {
        state: FREE,
        by: 0,
        ..mine
    };
    let is_free = family.swap(dead.slot, mine, free)?;
    point("recover.freed");
    Ok(is_free)
}

/// Recovers every dead slot there is; how many.
///
/// # Errors
///
/// As [`recover`].
pub fn recover_all(
    family: &Family,
    me: Participant,
    segments: &[Arc<PoolSegment>],
) -> Result<usize> {
    let mut recovered = 0;
    // Recovering one may turn others from RECOVERING to DEAD, also lower ones: a
    // chain of dead recoverers is at most as long as the table.
    for _ in 0..SLOTS {
        let before = recovered;
        for slot in 0..SLOTS {
            let found = family.slot(slot)?;
            if found.state == DEAD {
                let dead = Participant {
                    slot,
                    generation: found.generation,
                };
                recovered += usize::from(recover(family, me, dead, segments)?);
            }
        }
        if recovered == before {
            break;
        }
    }
    Ok(recovered)
}

/// Slots that `dead` was recovering are to be recovered by somebody else.
fn release_recoveries(family: &Family, dead: Participant) -> Result<()> {
    for slot in 0..SLOTS {
        let found = family.slot(slot)?;
        if found.state == RECOVERING && found.by == dead.slot && slot != dead.slot {
            let again = Packed {
                state: DEAD,
                ..found
            };
            family.swap(slot, found, again)?;
        }
    }
    Ok(())
}
