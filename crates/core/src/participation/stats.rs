//! What this process has, and giving it back.

use std::collections::BTreeMap;

use super::queues;
use super::registry::{Kind, Registry, lock};
use crate::error::{Error, Result};
use crate::layout::{Participant, WORD_BITS};
use crate::pool::segment::PoolSegment;
use crate::sync::Ordering;

/// Figures of this process and of the memory that it owns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Segments of our own pool.
    pub segments: usize,
    /// Other processes' segments that are attached here.
    pub attached_segments: usize,
    /// Blocks of our pool that somebody holds, in bytes.
    pub in_use_bytes: u64,
    /// Free blocks that kept their pages, in bytes.
    pub recycled_bytes: u64,
    /// Memory of blocks that is committed, in bytes.
    pub committed_bytes: u64,
    /// Handles of ours on their way, or to memory of ours.
    pub in_flight: usize,
    /// The blocks that this process holds.
    pub held_blocks: usize,
    /// Those of them that it holds since before a fork.
    pub inherited_blocks: usize,
    /// Their size in bytes.
    pub inherited_bytes: u64,
    /// Who holds memory of our pool.
    pub by_holder: Vec<HolderStats>,
}

/// One process that holds memory of our pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderStats {
    /// Its process id; 0 while it is being forked.
    pub pid: u64,
    /// How many blocks.
    pub blocks: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Reads the figures, after a look at what others dropped and who has died.
///
/// # Errors
///
/// [`crate::error::Error::Damaged`] for garbage in a segment.
pub fn stats() -> Result<Stats> {
    let mut registry = lock();
    for member in &mut registry.families {
        member.look_for_the_dead();
        if let Some(pool) = &mut member.pool {
            match pool.collect() {
                // Who was taken for dead frees nothing, but can be told what it has.
                Ok(()) | Err(Error::NotAllowed(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let mut stats = Stats::default();
    let mut holders: BTreeMap<u64, HolderStats> = BTreeMap::new();
    for id in registry.ids() {
        let holder = registry.holder(id)?;
        stats.held_blocks += holder.held_blocks();
        let (blocks, bytes) = holder.inherited()?;
        stats.inherited_blocks += blocks;
        stats.inherited_bytes += bytes;
        let segment = std::sync::Arc::clone(holder.segment());
        let Some(local) = registry.local(id) else {
            continue;
        };
        let family = local.family;
        let is_own = matches!(local.kind, Kind::Own(_));
        let me = registry.families[family].me;
        for token in segment.tokens_in_flight()? {
            stats.in_flight += usize::from(is_own || token.sender == me);
        }
        if is_own {
            note_holders(&segment, &mut holders)?;
        } else {
            stats.attached_segments += 1;
        }
    }
    for pool in registry.families.iter().flat_map(|member| &member.pool) {
        let has = pool.stats();
        stats.segments += has.segments;
        stats.in_use_bytes += has.in_use_bytes;
        stats.recycled_bytes += has.recycled_bytes;
        stats.committed_bytes += has.committed_bytes;
    }
    stats.by_holder = holders.into_values().collect();
    Ok(stats)
}

fn note_holders(segment: &PoolSegment, holders: &mut BTreeMap<u64, HolderStats>) -> Result<()> {
    let used = segment.blocks_used()?;
    for row in 0..segment.rows_high()? {
        let Some(who) = segment.row_participant(row)? else {
            continue;
        };
        if !segment.family().counts(who) {
            continue;
        }
        let (blocks, bytes) = held_by(segment, who, used)?;
        if blocks == 0 {
            continue;
        }
        let identity = segment.family().identity(who);
        let pid = identity.map_or(0, |identity| identity.pid);
        let entry = holders.entry(pid).or_insert(HolderStats {
            pid,
            blocks: 0,
            bytes: 0,
        });
        entry.blocks += blocks;
        entry.bytes += bytes;
    }
    Ok(())
}

fn held_by(segment: &PoolSegment, who: Participant, used: usize) -> Result<(usize, u64)> {
    let (mut blocks, mut bytes) = (0, 0);
    for word in 0..used.div_ceil(WORD_BITS) {
        let bits = segment.bits(who.slot, word)?.load(Ordering::Acquire);
        for at in (0..WORD_BITS).filter(|at| bits >> at & 1 == 1) {
            let block = word * WORD_BITS + at;
            if block < used {
                blocks += 1;
                bytes += segment.block(block)?.size_bytes as u64;
            }
        }
    }
    Ok((blocks, bytes))
}

/// Gives free memory back to the system; how many bytes. With `in_flight` the handles
/// that are on their way are given up first: who receives one later finds it stale.
///
/// # Errors
///
/// [`crate::error::Error::Damaged`] for garbage in a segment; the system's.
pub fn trim(in_flight: bool) -> Result<u64> {
    for member in &lock().families {
        member.look_for_the_dead();
    }
    // Without the dead: a queue that only they have is nobody's.
    queues::audit_all()?;
    let mut registry = lock();
    if in_flight {
        give_up_tokens(&mut registry)?;
    }
    registry.remove_unused()?;
    let mut given_back = 0;
    for member in &mut registry.families {
        if let Some(pool) = &mut member.pool {
            given_back += pool.trim()?;
        }
    }
    Ok(given_back)
}

fn give_up_tokens(registry: &mut Registry) -> Result<()> {
    for id in registry.ids() {
        let segment = std::sync::Arc::clone(registry.holder(id)?.segment());
        let Some(local) = registry.local(id) else {
            continue;
        };
        let family = local.family;
        let is_own = matches!(local.kind, Kind::Own(_));
        let me = registry.families[family].me;
        // What is in a queue is the queue's.
        segment
            .expire_tokens(|token| token.container.is_none() && (is_own || token.sender == me))?;
    }
    Ok(())
}

/// Lets go of everything that this process holds since before a fork; how many blocks.
/// The memory may be another's at once: whoever still has an address must not use it.
///
/// # Errors
///
/// None but those of a mapping that is read-only.
pub fn drop_inherited() -> Result<usize> {
    let mut registry = lock();
    let mut dropped = 0;
    for id in registry.ids() {
        dropped += registry.holder(id)?.drop_inherited()?;
    }
    registry.remove_unused()?;
    Ok(dropped)
}
