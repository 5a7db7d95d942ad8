//! What this process holds of one segment.
//!
//! Guarantees: however many objects use a block, the process's row has one bit for
//! it, set from the first to the last; a handle of an earlier life is refused without
//! touching the row; nothing here waits for another process. What a process holds
//! through its parent, since before a fork, is told apart.
//!
//! Not locked: who shares one between threads has a lock, which must also be held
//! across `fork` (`participation` does both).

use std::sync::Arc;

use super::protocol;
use super::segment::{BlockInfo, Place, PoolSegment};
use super::tokens::{Container, TokenName};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::Participant;
use crate::sync::Ordering;

/// This process's holds on one segment, in which its row is registered.
#[derive(Debug)]
pub struct Holder {
    segment: Arc<PoolSegment>,
    /// `None` in a child that could not be counted: its parent holds for both.
    me: Option<Participant>,
    /// How many forks lie between the first holder of this row's line and us.
    epoch: u32,
    /// What was held since before this epoch was let go.
    dropped_before: u32,
    /// By block; grows up to the highest that was ever held.
    held: Vec<Local>,
    /// How many blocks are held.
    held_blocks: usize,
    /// Where to look for a free entry of the token table.
    token_hint: usize,
}

/// How often this process holds a block, and in which of its lives.
#[derive(Debug, Clone, Copy, Default)]
struct Local {
    generation: u64,
    count: u32,
    /// How many of them are the parent's, if `epoch` is the holder's; else all are.
    inherited: u32,
    epoch: u32,
}

impl Holder {
    /// For a process whose row in `segment` is registered. One for each process and
    /// segment: a second one would clear bits that the first still counts on.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when it is not.
    pub fn new(segment: Arc<PoolSegment>, me: Participant) -> Result<Self> {
        if !segment.is_registered(me)? {
            return Err(Error::NotAllowed(
                "the row of this process is not registered",
            ));
        }
        Ok(Holder {
            segment,
            me: Some(me),
            epoch: 0,
            dropped_before: 0,
            held: Vec::new(),
            held_blocks: 0,
            token_hint: 0,
        })
    }

    /// The segment.
    pub fn segment(&self) -> &Arc<PoolSegment> {
        &self.segment
    }

    /// Takes a block by its handle: what the handle says it is, or nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when the block was given back since.
    pub fn take(&mut self, block: usize, generation: u64) -> Result<BlockInfo> {
        let info = self.segment.block(block)?;
        if !self.is_held(block, generation)? {
            let me = self.living()?;
            let place = Place::of(block);
            let bits = self.segment.bits(me.slot, place.word)?;
            let now = self.segment.generation(block)?;
            let (dirty, dirty_bit) = self.segment.dirty(place.word)?;
            let moves = self.segment.moves()?;
            if !protocol::take(bits, place.bit, now, generation, moves) {
                protocol::withdraw(bits, place.bit, dirty, dirty_bit);
                return Err(Error::Stale);
            }
        }
        self.hold(block, generation)?;
        Ok(BlockInfo { generation, ..info })
    }

    /// Takes the block that a token holds; the first claim ends the token, a later one
    /// is a [`Holder::take`].
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when the token is claimed or expired and the block was given
    /// back since.
    pub fn claim(&mut self, token: TokenName, block: usize, generation: u64) -> Result<BlockInfo> {
        let info = self.segment.block(block)?;
        let was_held = self.is_held(block, generation)?;
        let me = self.living()?;
        let place = Place::of(block);
        let bits = self.segment.bits(me.slot, place.word)?;
        if !was_held {
            bits.fetch_or(place.bit, Ordering::AcqRel);
            point("claim.held");
        }
        let is_mine = self.segment.claim_token(token, block)?;
        if is_mine {
            point("claim.claimed");
        }
        // The token proves the hold, so an even number is that of a closer about to
        // undo. Anything else is not what the sender meant.
        let is_good =
            protocol::is_open(generation) && info.generation.wrapping_sub(generation) <= 1;
        if is_mine && is_good {
            self.hold(block, generation)?;
            return Ok(BlockInfo { generation, ..info });
        }
        if !was_held {
            let (dirty, dirty_bit) = self.segment.dirty(place.word)?;
            protocol::release(bits, place.bit, dirty, dirty_bit);
        }
        self.take(block, generation)
    }

    /// Holds the block that a token holds, and leaves the token as it is: for who decides
    /// next whose it is, and then either ends it or releases the block again.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when the token holds it no more.
    pub fn hold_by_token(
        &mut self,
        token: TokenName,
        block: usize,
        generation: u64,
    ) -> Result<BlockInfo> {
        let info = self.segment.block(block)?;
        let was_held = self.is_held(block, generation)?;
        let me = self.living()?;
        let place = Place::of(block);
        let bits = self.segment.bits(me.slot, place.word)?;
        if !was_held {
            bits.fetch_or(place.bit, Ordering::AcqRel);
        }
        let is_good = self.segment.is_in_flight(token, block)?
            && protocol::is_open(generation)
            // As for a claim: an even number is that of a closer about to undo.
            && info.generation.wrapping_sub(generation) <= 1;
        if is_good {
            self.hold(block, generation)?;
            return Ok(BlockInfo { generation, ..info });
        }
        if !was_held {
            let (dirty, dirty_bit) = self.segment.dirty(place.word)?;
            protocol::release(bits, place.bit, dirty, dirty_bit);
        }
        Err(Error::Stale)
    }

    /// Holds a block once more that this process holds already.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when it does not.
    pub fn retain(&mut self, block: usize) -> Result<()> {
        let generation = self.held_local(block)?.generation;
        self.hold(block, generation)
    }

    /// Holds a block once less; `true` when this was the last and the block may be
    /// free now.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when this process does not hold it.
    pub fn release(&mut self, block: usize) -> Result<bool> {
        self.release_since(block, self.epoch)
    }

    /// As [`Holder::release`], for a hold that was taken in fork epoch `since`.
    ///
    /// # Errors
    ///
    /// As [`Holder::release`].
    pub fn release_since(&mut self, block: usize, since: u32) -> Result<bool> {
        if self.is_dropped(since) {
            return Ok(false);
        }
        let epoch = self.epoch;
        let local = self.held_local(block)?;
        local.settle(epoch);
        if since != epoch {
            local.inherited = local.inherited.saturating_sub(1);
        }
        local.count -= 1;
        // An inherited hold may be released like an own one.
        local.inherited = local.inherited.min(local.count);
        let is_last = local.count == 0;
        if is_last {
            self.held_blocks -= 1;
            self.clear_bit(block)?;
        }
        Ok(is_last)
    }

    /// Makes a token for a block that this process holds.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when it does not hold it; [`Error::Full`].
    pub fn make_token(&mut self, block: usize, now_s: u64) -> Result<TokenName> {
        self.make_token_in(block, now_s, None)
    }

    /// The same for a handle that goes into a queue.
    ///
    /// # Errors
    ///
    /// As [`Holder::make_token`].
    pub fn make_token_in(
        &mut self,
        block: usize,
        now_s: u64,
        container: Option<&Container>,
    ) -> Result<TokenName> {
        self.held_local(block)?;
        let me = self.living()?;
        self.segment
            .make_token(me, block, now_s, container, &mut self.token_hint)
    }

    /// How often this process holds a block.
    pub fn holds(&self, block: usize) -> u32 {
        self.held.get(block).map_or(0, |local| local.count)
    }

    /// How many blocks this process holds.
    pub fn held_blocks(&self) -> usize {
        self.held_blocks
    }

    /// How many of them it holds since before a fork, and their size in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for garbage in the block table.
    pub fn inherited(&self) -> Result<(usize, u64)> {
        let (mut blocks, mut bytes) = (0, 0);
        for (block, local) in self.held.iter().enumerate() {
            if local.inherited_in(self.epoch) > 0 {
                blocks += 1;
                bytes += self.segment.block(block)?.size_bytes as u64;
            }
        }
        Ok((blocks, bytes))
    }

    /// Lets go of all that is held since before a fork; how many blocks.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn drop_inherited(&mut self) -> Result<usize> {
        let epoch = self.epoch;
        self.dropped_before = epoch;
        let mut dropped = 0;
        for block in 0..self.held.len() {
            let local = &mut self.held[block];
            local.settle(epoch);
            let inherited = std::mem::take(&mut local.inherited);
            if inherited == 0 {
                continue;
            }
            dropped += 1;
            local.count = local.count.saturating_sub(inherited);
            if local.count == 0 {
                self.held_blocks -= 1;
                self.clear_bit(block)?;
            }
        }
        Ok(dropped)
    }

    /// Whether a hold that was taken in fork epoch `since` was let go of so.
    pub fn is_dropped(&self, since: u32) -> bool {
        since < self.dropped_before
    }

    /// For the owner: holds a closed block that it is about to open.
    pub(super) fn hold_closed(&mut self, block: usize, generation: u64) -> Result<()> {
        if self.held.get(block).is_some_and(|local| local.count > 0) {
            return Err(Error::Damaged("a closed block that its owner still uses"));
        }
        let me = self.living()?;
        let place = Place::of(block);
        self.segment
            .bits(me.slot, place.word)?
            .fetch_or(place.bit, Ordering::AcqRel);
        self.hold(block, generation)
    }

    /// Holds everything that this process holds once more, and for good: for a parent
    /// whose forked child could not be counted. Allocates nothing.
    pub fn pin(&mut self) {
        let epoch = self.epoch;
        for local in &mut self.held {
            if local.count > 0 {
                local.settle(epoch);
                local.count = local.count.saturating_add(1);
            }
        }
    }

    /// In a forked child: what the parent held is held by the child's own row, which
    /// was copied before the fork, and is dropped there. Without a `child` the row is
    /// the parent's, which has pinned it, and stays as it is; so it is in all further
    /// generations. Takes constant time.
    pub fn become_child(&mut self, child: Option<Participant>) {
        self.me = self.me.and(child);
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Whether the row is this participant's.
    pub fn is_by(&self, who: Participant) -> bool {
        self.me == Some(who)
    }

    /// How many forks lie between the first holder of this row's line and this one.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Bits of a participant that left, or was declared dead, hold nothing.
    fn living(&self) -> Result<Participant> {
        match self.me {
            Some(me) if self.segment.family().counts(me) => Ok(me),
            Some(_) => Err(Error::NotAllowed(
                "this process is no member of its family any more: it left, or was taken for dead",
            )),
            None => Err(Error::NotAllowed(
                "this process was forked when its family had no room for it: it keeps the memory \
                 that it inherited, and can do no more with it",
            )),
        }
    }

    /// Whether the block is held already; refused if it is in another life.
    fn is_held(&self, block: usize, generation: u64) -> Result<bool> {
        match self.held.get(block) {
            Some(local) if local.count > 0 && local.generation != generation => Err(Error::Stale),
            Some(local) => Ok(local.count > 0),
            None => Ok(false),
        }
    }

    /// Counts one hold more, the bit being set.
    fn hold(&mut self, block: usize, generation: u64) -> Result<()> {
        if block >= self.held.len() {
            // The caller has found the block in the table: at most 65536.
            self.held.resize(block + 1, Local::default());
        }
        let local = &mut self.held[block];
        local.settle(self.epoch);
        local.generation = generation;
        local.count = local.count.checked_add(1).ok_or_else(|| Error::Full {
            what: "references to one block in one process",
            limit: u32::MAX as usize,
        })?;
        self.held_blocks += usize::from(local.count == 1);
        Ok(())
    }

    fn held_local(&mut self, block: usize) -> Result<&mut Local> {
        match self.held.get_mut(block) {
            Some(local) if local.count > 0 => Ok(local),
            _ => Err(Error::NotAllowed("this process does not hold that block")),
        }
    }

    fn clear_bit(&self, block: usize) -> Result<()> {
        // Without a row of our own it is the parent's, pinned. Once we left, or were taken
        // for dead, the row holds nothing, and may be the slot's next process's.
        let Some(me) = self.me.filter(|&me| self.segment.family().counts(me)) else {
            return Ok(());
        };
        let place = Place::of(block);
        let (dirty, dirty_bit) = self.segment.dirty(place.word)?;
        let bits = self.segment.bits(me.slot, place.word)?;
        protocol::release(bits, place.bit, dirty, dirty_bit);
        Ok(())
    }
}

impl Local {
    /// How many of the holds are from before a fork.
    fn inherited_in(&self, epoch: u32) -> u32 {
        if self.epoch == epoch {
            self.inherited
        } else {
            self.count
        }
    }

    /// Writes that down, before the count changes.
    fn settle(&mut self, epoch: u32) {
        self.inherited = self.inherited_in(epoch);
        self.epoch = epoch;
    }
}
