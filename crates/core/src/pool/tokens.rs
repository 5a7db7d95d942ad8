//! Tokens: holds that travel inside other people's pickles (rule P6), or in queues.
//!
//! Guarantees: a token is claimed at most once; while it is `READY` its block is
//! not freed; a maker killed half-way leaves an entry that others give back. The
//! table decides what a token holds, the tokens' row only says where to look.

use core::mem::offset_of;

use super::protocol;
use super::segment::{Place, PoolSegment, bits, clamp};
use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{
    Block, Packed, Participant, Place as BlockPlace, PoolHeader, TOKEN_ROW, Token, WORD_BITS,
};
use crate::sync::{AtomicU64, Ordering};

/// Nobody's.
pub const FREE: u64 = 0;
/// Being filled by its maker.
pub const MAKING: u64 = 1;
/// Holds its block.
pub const READY: u64 = 2;

/// The variable with the seconds after which a dead sender's tokens expire.
pub const IN_FLIGHT_VARIABLE: &str = "SHARED_NUMPY_INFLIGHT_S";
/// Those seconds, if the variable does not tell.
pub const IN_FLIGHT_S: u64 = 600;

/// After how many seconds the tokens of a dead sender expire.
pub fn in_flight_limit_s() -> u64 {
    let told = std::env::var(IN_FLIGHT_VARIABLE).ok();
    told.and_then(|text| text.trim().parse().ok())
        .unwrap_or(IN_FLIGHT_S)
}

/// What travels: which entry, in which of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenName {
    /// Index in the segment's token table.
    pub index: usize,
    /// The entry's generation.
    pub generation: u64,
}

/// The queue that a token's handle is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Container {
    /// Its family's identity, low half.
    pub family: u64,
    /// The owner of its segment.
    pub owner: Participant,
    /// Its segment and block.
    pub place: BlockPlace,
    /// The block's generation.
    pub generation: u64,
}

/// Where a new table of tokens is searched at first; it doubles whenever it is full.
const WINDOW: u64 = 16;
/// Entries are committed so many at a time.
const COMMIT_STEP: usize = 4096;

/// A token in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Which.
    pub name: TokenName,
    /// The block it holds, unchecked.
    pub block: u64,
    /// Who made it; `None` for a word that names nobody.
    pub sender: Option<Participant>,
    /// When, in seconds of the monotonic clock.
    pub made_s: u64,
    /// What it is in, if it is in a queue.
    pub container: Option<Container>,
}

impl PoolSegment {
    /// Makes a token for a block that `me` holds until this returns, and after if it
    /// likes.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when every entry is in flight, or no more can be committed.
    pub(super) fn make_token(
        &self,
        me: Participant,
        block: usize,
        now_s: u64,
        container: Option<&Container>,
        hint: &mut usize,
    ) -> Result<TokenName> {
        let container = match container {
            None => [0; 4],
            Some(it) => [
                it.family,
                it.owner.pack(),
                it.place.pack().ok_or_else(|| Error::Stale)?,
                it.generation,
            ],
        };
        let counted = self.block_tokens(block)?;
        let name = self.claim_entry(me, hint)?;
        point("token.making");
        for (field, value) in [
            (offset_of!(Token, block), block as u64),
            (offset_of!(Token, sender), me.pack()),
            (offset_of!(Token, made_s), now_s),
            (offset_of!(Token, container_family), container[0]),
            (offset_of!(Token, container_owner), container[1]),
            (offset_of!(Token, container_place), container[2]),
            (offset_of!(Token, container_generation), container[3]),
        ] {
            // Relaxed stores; the row's bit and the state are written with release.
            self.mapping()
                .store_u64(self.layout().token(name.index, field), value)?;
        }
        protocol::count_token(counted, name.index);
        point("token.filled");
        let place = Place::of(block);
        protocol::mark_token(self.bits(TOKEN_ROW, place.word)?, place.bit);
        let making = Packed {
            state: MAKING,
            by: me.slot,
            generation: name.generation,
        };
        if !self.swap_token(name.index, making, READY)? {
            return Err(Error::NotAllowed(
                "this process was declared dead while it made a token",
            ));
        }
        point("token.ready");
        Ok(name)
    }

    /// Claims a free entry. Looks from `hint` on in the part that was used before, which
    /// is at least twice as large as what was ever in flight at a time: so it finds one
    /// at the first look or the second.
    fn claim_entry(&self, me: Participant, hint: &mut usize) -> Result<TokenName> {
        let limit = self.layout().tokens;
        let high = self.tokens_high()?;
        let from = if *hint < high { *hint } else { 0 };
        for index in (from..high).chain(0..from) {
            if let Some(name) = self.claim_entry_at(me, index)? {
                *hint = index + 1;
                return Ok(name);
            }
        }
        let mark = self.header(offset_of!(PoolHeader, tokens_high))?;
        for index in high..limit {
            if self.commit_tokens(index + 1).is_err() {
                break;
            }
            // First: an entry above the mark would be overlooked.
            let window = (index as u64 * 2).max(WINDOW);
            let window = window.min(self.tokens_committed()? as u64);
            mark.fetch_max(window.max(index as u64 + 1), Ordering::AcqRel);
            if let Some(name) = self.claim_entry_at(me, index)? {
                *hint = index + 1;
                return Ok(name);
            }
        }
        Err(Error::Full {
            what: "arrays in flight between processes",
            limit: self.tokens_committed()?,
        })
    }

    /// Sees to it that so many entries are committed. Whoever dies in between has committed
    /// what the next one commits again.
    fn commit_tokens(&self, entries: usize) -> Result<()> {
        let committed = self.tokens_committed()?;
        if entries <= committed {
            return Ok(());
        }
        let step = committed.clamp(1, COMMIT_STEP);
        let to = (committed + step).max(entries).min(self.layout().tokens);
        let (from, end) = (
            self.layout().token(committed, 0),
            self.layout().token(to, 0),
        );
        self.mapping().populate(from, end - from)?;
        self.header(offset_of!(PoolHeader, tokens_committed))?
            .fetch_max(to as u64, Ordering::AcqRel);
        Ok(())
    }

    fn tokens_committed(&self) -> Result<usize> {
        let committed = self.header(offset_of!(PoolHeader, tokens_committed))?;
        Ok(clamp(
            committed.load(Ordering::Acquire),
            self.layout().tokens,
        ))
    }

    fn claim_entry_at(&self, me: Participant, index: usize) -> Result<Option<TokenName>> {
        let seen = Packed::unpack(self.token_word(index)?.load(Ordering::Relaxed));
        if seen.state != FREE || seen.generation >= Packed::GENERATION_LAST {
            return Ok(None);
        }
        let mine = Packed {
            state: MAKING,
            by: me.slot,
            generation: seen.generation + 1,
        };
        let is_mine = self.exchange_token(index, seen, mine)?;
        Ok(is_mine.then_some(TokenName {
            index,
            generation: mine.generation,
        }))
    }

    /// Whether a token is in flight and holds this block. For who is about to decide
    /// whose it is, and has set its own bit.
    pub(super) fn is_in_flight(&self, name: TokenName, block: usize) -> Result<bool> {
        if name.index >= self.tokens_high()? {
            return Ok(false);
        }
        let seen = Packed::unpack(self.token_word(name.index)?.load(Ordering::Acquire));
        let holds = self.token_field(name.index, offset_of!(Token, block))?;
        Ok(seen.state == READY && seen.generation == name.generation && holds == block as u64)
    }

    /// Takes a token out of flight; `false` when somebody else did, or it expired, or
    /// it is one for another block. The caller has set its own bit for `block`.
    pub(crate) fn claim_token(&self, name: TokenName, block: usize) -> Result<bool> {
        if name.index >= self.tokens_high()? {
            return Ok(false);
        }
        let seen = Packed::unpack(self.token_word(name.index)?.load(Ordering::Acquire));
        if seen.state != READY || seen.generation != name.generation {
            return Ok(false);
        }
        let Ok(counted) = self.block_tokens(block) else {
            return Ok(false);
        };
        // Belongs to this life if the exchange below succeeds.
        let holds = self.token_field(name.index, offset_of!(Token, block))?;
        let is_mine = holds == block as u64 && self.swap_token(name.index, seen, FREE)?;
        if is_mine {
            point("token.freed");
            protocol::count_end(counted);
        }
        Ok(is_mine)
    }

    /// Ends a token that will reach nobody; `false` when it has ended before.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn withdraw_token(&self, name: TokenName, block: usize) -> Result<bool> {
        let is_mine = self.claim_token(name, block)?;
        if is_mine {
            point("expire.freed");
            let (dirty, bit) = self.dirty(Place::of(block).word)?;
            dirty.fetch_or(bit, Ordering::AcqRel);
        }
        Ok(is_mine)
    }

    /// Drops the tokens that `is_expired` says; how many.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn expire_tokens(&self, mut is_expired: impl FnMut(&InFlight) -> bool) -> Result<usize> {
        let mut expired = 0;
        for index in 0..self.tokens_high()? {
            let Some((seen, token)) = self.token(index)? else {
                continue;
            };
            if is_expired(&token) && self.swap_token(index, seen, FREE)? {
                point("expire.freed");
                expired += 1;
                if let Ok(block) = usize::try_from(token.block)
                    && let Ok(counted) = self.block_tokens(block)
                {
                    protocol::count_end(counted);
                    let (dirty, bit) = self.dirty(Place::of(block).word)?;
                    dirty.fetch_or(bit, Ordering::AcqRel);
                }
            }
        }
        Ok(expired)
    }

    /// Drops the tokens whose sender is dead, if they were made `limit_s` seconds ago or
    /// earlier; how many. `now_s` is the time as [`crate::sys::clock`] tells it.
    ///
    /// # Errors
    ///
    /// As [`PoolSegment::expire_tokens`].
    pub fn expire_tokens_of_the_dead(&self, now_s: u64, limit_s: u64) -> Result<usize> {
        self.expire_tokens(|token| {
            let lives = token.sender.is_some_and(|who| self.family().counts(who));
            // What is in a queue lives as long as the queue has it.
            token.container.is_none() && !lives && now_s.saturating_sub(token.made_s) >= limit_s
        })
    }

    /// The tokens in flight.
    ///
    /// # Errors
    ///
    /// None but those of a mapping that is read-only.
    pub fn tokens_in_flight(&self) -> Result<Vec<InFlight>> {
        let mut all = Vec::new();
        for index in 0..self.tokens_high()? {
            all.extend(self.token(index)?.map(|(_, token)| token));
        }
        Ok(all)
    }

    fn token(&self, index: usize) -> Result<Option<(Packed, InFlight)>> {
        let seen = Packed::unpack(self.token_word(index)?.load(Ordering::Acquire));
        if seen.state != READY {
            return Ok(None);
        }
        let token = InFlight {
            name: TokenName {
                index,
                generation: seen.generation,
            },
            block: self.token_field(index, offset_of!(Token, block))?,
            sender: Participant::unpack(self.token_field(index, offset_of!(Token, sender))?),
            made_s: self.token_field(index, offset_of!(Token, made_s))?,
            container: self.container(index)?,
        };
        Ok(Some((seen, token)))
    }

    fn container(&self, index: usize) -> Result<Option<Container>> {
        let field = |offset| self.token_field(index, offset);
        let owner = Participant::unpack(field(offset_of!(Token, container_owner))?);
        Ok(match owner {
            None => None,
            Some(owner) => Some(Container {
                family: field(offset_of!(Token, container_family))?,
                owner,
                place: BlockPlace::unpack(field(offset_of!(Token, container_place))?),
                generation: field(offset_of!(Token, container_generation))?,
            }),
        })
    }

    /// Gives back entries that the process in `slot` left in `MAKING`, if `is_gone`
    /// says so *after* the entry was read.
    pub(crate) fn abandon_tokens(
        &self,
        slot: usize,
        mut is_gone: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        for index in 0..self.tokens_high()? {
            let seen = Packed::unpack(self.token_word(index)?.load(Ordering::Acquire));
            if seen.state == MAKING && seen.by == slot && is_gone(self)? {
                self.swap_token(index, seen, FREE)?;
            }
        }
        Ok(())
    }

    /// Whether a token is in flight for `block`, if its count or the token that was made last
    /// decides it: mostly they do, however long the table is.
    pub(super) fn counted_tokens(&self, block: usize) -> Result<Option<bool>> {
        let counted = protocol::counted(self.block_tokens(block)?);
        if counted.are_all_ended() {
            return Ok(Some(false));
        }
        if counted.latest < self.tokens_high()? {
            let seen = Packed::unpack(self.token_word(counted.latest)?.load(Ordering::Acquire));
            let holds = self.token_field(counted.latest, offset_of!(Token, block))?;
            if seen.state == READY && holds == block as u64 {
                return Ok(Some(true));
            }
        }
        Ok(None)
    }

    /// Whether a token is in flight for `block`. As [`PoolSegment::find_tokens`].
    pub(super) fn find_token(&self, block: usize) -> Result<bool> {
        let place = Place::of(block);
        Ok(self.find_tokens(place.word, place.bit)? != 0)
    }

    /// The blocks among those `wanted` of a word that tokens are in flight for. A token still
    /// being made counts, and leaves the word dirty, since it may turn out to be for another
    /// block.
    pub(super) fn find_tokens(&self, word: usize, wanted: u64) -> Result<u64> {
        let first = (word * WORD_BITS) as u64;
        let (mut found, mut open) = (0_u64, 0_u64);
        let used = self.blocks_used()?;
        for at in bits(wanted) {
            let block = word * WORD_BITS + at;
            if block >= used {
                continue; // nobody's: a bit that makes no sense
            }
            match self.counted_tokens(block)? {
                Some(is_in_flight) => found |= u64::from(is_in_flight) << at,
                None => open |= 1 << at,
            }
        }
        if open == 0 {
            return Ok(found);
        }
        for index in 0..self.tokens_high()? {
            let seen = Packed::unpack(self.token_word(index)?.load(Ordering::Acquire));
            if seen.state != READY && seen.state != MAKING {
                continue;
            }
            let block = self.token_field(index, offset_of!(Token, block))?;
            let at = block.wrapping_sub(first);
            if at < WORD_BITS as u64 && open >> at & 1 == 1 {
                found |= 1 << at;
                if seen.state == MAKING {
                    let (dirty, bit) = self.dirty(word)?;
                    dirty.fetch_or(bit, Ordering::AcqRel);
                }
            }
        }
        Ok(found)
    }

    /// Sets the tokens' row again from the table, for a closer that takes over.
    pub(super) fn restore_token_row(&self) -> Result<()> {
        for index in 0..self.tokens_high()? {
            let seen = Packed::unpack(self.token_word(index)?.load(Ordering::Acquire));
            let block = self.token_field(index, offset_of!(Token, block))?;
            if (seen.state == READY || seen.state == MAKING) && block < self.layout().blocks as u64
            {
                let place = Place::of(block as usize);
                self.bits(TOKEN_ROW, place.word)?
                    .fetch_or(place.bit, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    /// Every token ever made is below this.
    pub(crate) fn tokens_high(&self) -> Result<usize> {
        let high = self.header(offset_of!(PoolHeader, tokens_high))?;
        // After it: what was committed before the mark was raised.
        let high = high.load(Ordering::Acquire);
        Ok(clamp(high, self.tokens_committed()?))
    }

    /// The word with the count of a block's tokens.
    fn block_tokens(&self, block: usize) -> Result<&AtomicU64> {
        if block >= self.blocks_used()? {
            return Err(Error::Stale);
        }
        let at = self.layout().block(block, offset_of!(Block, tokens));
        self.mapping().shared_word(at)
    }

    pub(crate) fn token_word(&self, index: usize) -> Result<&AtomicU64> {
        self.mapping()
            .shared_word(self.layout().token(index, offset_of!(Token, word)))
    }

    pub(crate) fn token_field(&self, index: usize, field: usize) -> Result<u64> {
        self.mapping().load_u64(self.layout().token(index, field))
    }

    fn swap_token(&self, index: usize, seen: Packed, state: u64) -> Result<bool> {
        self.exchange_token(index, seen, Packed { state, ..seen })
    }

    fn exchange_token(&self, index: usize, from: Packed, to: Packed) -> Result<bool> {
        let word = self.token_word(index)?;
        Ok(word
            .compare_exchange(from.pack(), to.pack(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok())
    }
}
