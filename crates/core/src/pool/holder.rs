//! What this process holds of one segment.
//!
//! Guarantees: however many threads and objects use a block, the process's row has
//! one bit for it, set from the first to the last; a handle of an earlier life is
//! refused without touching the row; nothing here waits for another process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protocol;
use super::segment::{BlockInfo, Place, PoolSegment};
use super::tokens::TokenName;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::Participant;
use crate::sync::Ordering;

/// This process's holds on one segment, in which its row is registered.
#[derive(Debug)]
pub struct Holder {
    segment: Arc<PoolSegment>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    me: Participant,
    /// By block; grows up to the highest that was ever held.
    held: Vec<Local>,
}

/// How often this process holds a block, and in which of its lives.
#[derive(Debug, Clone, Copy, Default)]
struct Local {
    generation: u64,
    count: u32,
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
        let state = State {
            me,
            held: Vec::new(),
        };
        Ok(Holder {
            segment,
            state: Mutex::new(state),
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
    pub fn take(&self, block: usize, generation: u64) -> Result<BlockInfo> {
        let mut state = self.lock();
        self.take_locked(&mut state, block, generation)
    }

    fn take_locked(&self, state: &mut State, block: usize, generation: u64) -> Result<BlockInfo> {
        let info = self.segment.block(block)?;
        let me = state.me;
        let local = state.local(block, generation)?;
        if local.count == 0 {
            self.check_alive(me)?;
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
        local.hold(generation)?;
        Ok(BlockInfo { generation, ..info })
    }

    /// Takes the block that a token holds; the first claim ends the token, a later one
    /// is a [`Holder::take`].
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when the token is claimed or expired and the block was given
    /// back since.
    pub fn claim(&self, token: TokenName, block: usize, generation: u64) -> Result<BlockInfo> {
        let mut state = self.lock();
        let info = self.segment.block(block)?;
        let me = state.me;
        let local = state.local(block, generation)?;
        let place = Place::of(block);
        let bits = self.segment.bits(me.slot, place.word)?;
        if local.count == 0 {
            self.check_alive(me)?;
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
            local.hold(generation)?;
            return Ok(BlockInfo { generation, ..info });
        }
        if local.count == 0 {
            let (dirty, dirty_bit) = self.segment.dirty(place.word)?;
            protocol::release(bits, place.bit, dirty, dirty_bit);
        }
        self.take_locked(&mut state, block, generation)
    }

    /// Holds a block once more that this process holds already.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when it does not.
    pub fn retain(&self, block: usize) -> Result<()> {
        let mut state = self.lock();
        let local = state.held_local(block)?;
        local.hold(local.generation)
    }

    /// Holds a block once less; `true` when this was the last and the block may be
    /// free now.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when this process does not hold it.
    pub fn release(&self, block: usize) -> Result<bool> {
        let mut state = self.lock();
        let me = state.me;
        let local = state.held_local(block)?;
        local.count -= 1;
        let is_last = local.count == 0;
        if is_last {
            let place = Place::of(block);
            let (dirty, dirty_bit) = self.segment.dirty(place.word)?;
            let bits = self.segment.bits(me.slot, place.word)?;
            protocol::release(bits, place.bit, dirty, dirty_bit);
        }
        Ok(is_last)
    }

    /// Makes a token for a block that this process holds.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when it does not hold it; [`Error::Full`].
    pub fn make_token(&self, block: usize, now_s: u64) -> Result<TokenName> {
        let mut state = self.lock();
        let me = state.me;
        // Checked under the lock, which keeps other threads from dropping it meanwhile.
        state.held_local(block)?;
        self.segment.make_token(me, block, now_s)
    }

    /// How many blocks this process holds.
    pub fn held_blocks(&self) -> usize {
        let state = self.lock();
        state.held.iter().filter(|local| local.count > 0).count()
    }

    /// For the owner: holds a closed block that it is about to open.
    pub(super) fn hold_closed(&self, block: usize, generation: u64) -> Result<()> {
        let mut state = self.lock();
        let me = state.me;
        let local = state.local(block, generation)?;
        if local.count != 0 {
            return Err(Error::Damaged("a closed block that its owner still uses"));
        }
        self.check_alive(me)?;
        let place = Place::of(block);
        self.segment
            .bits(me.slot, place.word)?
            .fetch_or(place.bit, Ordering::AcqRel);
        local.hold(generation)
    }

    /// Holds everything that this process holds once more, and for good: for a parent
    /// whose forked child could not be counted. Allocates nothing.
    pub fn pin(&self) {
        for local in &mut self.lock().held {
            if local.count > 0 {
                local.count = local.count.saturating_add(1);
            }
        }
    }

    /// In a forked child: what the parent held is held by the child's own row, which
    /// was copied before the fork, and is dropped there.
    pub fn become_child(&self, child: Participant) {
        self.lock().me = child;
    }

    /// Bits of a participant that left, or was declared dead, hold nothing.
    fn check_alive(&self, me: Participant) -> Result<()> {
        if self.segment.family().counts(me) {
            Ok(())
        } else {
            Err(Error::NotAllowed(
                "this process is no member of its family any more: it left, or was taken for dead",
            ))
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is under the lock is changed only where nothing can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The count of a block, refused if it is held in another life.
    fn local(&mut self, block: usize, generation: u64) -> Result<&mut Local> {
        if block >= self.held.len() {
            // The caller has found the block in the table: at most 65536.
            self.held.resize(block + 1, Local::default());
        }
        let local = &mut self.held[block];
        if local.count > 0 && local.generation != generation {
            return Err(Error::Stale);
        }
        Ok(local)
    }

    fn held_local(&mut self, block: usize) -> Result<&mut Local> {
        match self.held.get_mut(block) {
            Some(local) if local.count > 0 => Ok(local),
            _ => Err(Error::NotAllowed("this process does not hold that block")),
        }
    }
}

impl Local {
    fn hold(&mut self, generation: u64) -> Result<()> {
        self.generation = generation;
        self.count = self.count.checked_add(1).ok_or(Error::Full {
            what: "references to one block in one process",
            limit: u32::MAX as usize,
        })?;
        Ok(())
    }
}
