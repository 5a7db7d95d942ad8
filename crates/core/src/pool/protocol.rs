//! Take, drop and close on bare words: the part that is argued and model-checked.
//!
//! Guarantee (rule P1): when [`close`] says [`Closed::Free`], no participant holds
//! the block and no [`take`] with its generation will succeed any more. The proof
//! is in `docs/crash_safety.md`, "Why nothing is freed early"; `tests/loom_pool.rs`
//! runs these very functions through their interleavings.
//!
//! ```text
//! take   set own bit   fence   read generation
//! close  scan          bump generation   fence   scan: zero = free, else undo
//! scan   moves   rows   tokens' row last   moves again: changed = start over
//! lend   the word `closer`: owner -> busy -> owner; owner -> borrower -> owner
//! ```
//!
//! Orderings. The two sequentially consistent fences decide between take and close:
//! each side writes one word and then reads the other's. Everything else is release
//! and acquire: bits are cleared with release and read with acquire, so that who sees
//! a hold gone also sees the trace of where it went (`moves`, a token's bit), which was
//! written before. Maker and closer meet on the word with the token's bit: whichever
//! comes second sees what the first did before. The model fails when any of these is taken
//! away. So do an owner and who borrows its role, on the word `closer`: there the fence of each
//! close would do in place of the release.

use crate::fault::point;
use crate::layout::BlockTokens;
use crate::sync::{AtomicU64, Ordering, fence};

/// How often a scan starts over before it gives up; more than once is rare.
const SCAN_TRIES: usize = 16;

/// Whether a block with this generation is open: handles with it are good.
pub const fn is_open(generation: u64) -> bool {
    generation % 2 == 1
}

/// Sets the own bit and asks whether the block still has the generation `expected`.
///
/// On `false` the caller must call [`withdraw`] with the same words.
#[must_use]
pub fn take(
    bits: &AtomicU64,
    bit: u64,
    generation: &AtomicU64,
    expected: u64,
    moves: &AtomicU64,
) -> bool {
    bits.fetch_or(bit, Ordering::AcqRel);
    point("take.bit_set");
    fence(Ordering::SeqCst);
    let is_good = is_open(expected) && generation.load(Ordering::Acquire) == expected;
    if is_good {
        // The trace for scans: before the hold that this one follows can go.
        point("take.checked");
        moves.fetch_add(1, Ordering::AcqRel);
    }
    is_good
}

/// Takes back the bit of a [`take`] that failed.
pub fn withdraw(bits: &AtomicU64, bit: u64, dirty: &AtomicU64, dirty_bit: u64) {
    point("take.refused");
    release(bits, bit, dirty, dirty_bit);
}

/// Ends a hold: clears the own bit and tells the closer where to look.
pub fn release(bits: &AtomicU64, bit: u64, dirty: &AtomicU64, dirty_bit: u64) {
    bits.fetch_and(!bit, Ordering::AcqRel);
    point("drop.bit_cleared");
    dirty.fetch_or(dirty_bit, Ordering::AcqRel);
    point("drop.marked");
}

/// Reads many words as if at one instant.
///
/// `read` reads all rows that count and then the tokens' row, each with acquire.
/// `None` when holds kept moving; the caller looks again later.
///
/// # Errors
///
/// Those of `read`.
pub fn scan<T, E>(
    moves: &AtomicU64,
    mut read: impl FnMut() -> Result<T, E>,
) -> Result<Option<T>, E> {
    for _ in 0..SCAN_TRIES {
        let before = moves.load(Ordering::Acquire);
        let seen = read()?;
        // Relaxed: it follows what `read` acquired, and cannot be older than that.
        if moves.load(Ordering::Relaxed) == before {
            return Ok(Some(seen));
        }
    }
    Ok(None)
}

/// What became of an attempt to close a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Somebody holds it; nothing was changed.
    Held,
    /// Somebody took it meanwhile; nothing is changed any more.
    Undone,
    /// Nobody holds it and nobody can take it.
    Free,
}

/// Closes a block of generation `open`, unless it is held. For its closer only.
///
/// `is_held` is a whole [`scan`] that answers `true` when in doubt.
///
/// # Errors
///
/// Those of `is_held`; the block is open then.
pub fn close<E>(
    generation: &AtomicU64,
    open: u64,
    mut is_held: impl FnMut() -> Result<bool, E>,
) -> Result<Closed, E> {
    debug_assert!(is_open(open));
    if is_held()? {
        return Ok(Closed::Held);
    }
    generation.store(open.wrapping_add(1), Ordering::Release);
    point("close.bumped");
    fence(Ordering::SeqCst);
    // An error is doubt: the block stays open.
    let held = is_held();
    if matches!(held, Ok(false)) {
        point("close.closed");
        return Ok(Closed::Free);
    }
    generation.store(open, Ordering::Release);
    point("close.undone");
    held.map(|_| Closed::Undone)
}

/// Whether a block is free that the caller found closed: for a new closer, whose
/// predecessor may have died between its bump and its fence.
///
/// # Errors
///
/// Those of `is_held`, a whole [`scan`] that answers `true` when in doubt.
pub fn is_free_since<E>(is_held: impl FnOnce() -> Result<bool, E>) -> Result<bool, E> {
    // Stands in for the fence of the dead: a take that read the number from before the
    // bump has its fence, and so its bit, before this.
    fence(Ordering::SeqCst);
    is_held().map(|held| !held)
}

/// Counts a token that is being made, in the word of its block. For makers: after the entry
/// names the block, before [`mark_token`].
pub fn count_token(tokens: &AtomicU64, index: usize) {
    change_tokens(tokens, |seen| seen.made(index));
}

/// Counts a token that has ended: after its entry is free.
pub fn count_end(tokens: &AtomicU64) {
    change_tokens(tokens, BlockTokens::ended);
}

/// What the word of a block says of its tokens. When all have ended none is in flight: each
/// was counted as made before it was ready, and as ended after it was free.
pub fn counted(tokens: &AtomicU64) -> BlockTokens {
    BlockTokens::unpack(tokens.load(Ordering::Acquire))
}

fn change_tokens(tokens: &AtomicU64, change: impl Fn(BlockTokens) -> BlockTokens) {
    let mut seen = tokens.load(Ordering::Relaxed);
    loop {
        let new = change(BlockTokens::unpack(seen)).pack();
        // Release: who sees the count sees what was counted, and the bit that a claimer had
        // set before. Acquire: who adds to a count passes on what others did before it.
        match tokens.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => seen = other,
        }
    }
}

/// Passes the role of closer from one word to another; the word that is there instead when it
/// was not `from`.
///
/// # Errors
///
/// That word.
pub fn pass_closer(closer: &AtomicU64, from: u64, to: u64) -> Result<(), u64> {
    // Release: what was closed until now is seen by the next, and acquire by us.
    closer
        .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
        .map(|_| ())
}

/// Ends the turn of an owner that is marked busy: nobody else changes the word meanwhile, so
/// a store will do. (Who was taken for dead and replaced meanwhile writes the name of somebody
/// dead, which is replaced again.)
pub fn end_turn(closer: &AtomicU64, owner: u64) {
    closer.store(owner, Ordering::Release);
}

/// Says in the tokens' row that a token may hold the block. For makers: after the
/// entry names the block and is counted, before it is ready.
pub fn mark_token(token_bits: &AtomicU64, bit: u64) {
    token_bits.fetch_or(bit, Ordering::AcqRel);
    point("token.marked");
}

/// Whether a token holds the block, by the table (`found`); clears the bit if not.
/// For the closer only, which scans anew after `false`.
///
/// # Errors
///
/// Those of `found`.
pub fn settle_token<E>(
    token_bits: &AtomicU64,
    bit: u64,
    mut found: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    let found = |_| found().map(|found| if found { bit } else { 0 });
    settle_tokens(token_bits, bit, found).map(|held| held != 0)
}

/// The same for several blocks of one word, of which `found` tells those that tokens hold,
/// of those that it is asked about: so that the table is searched twice at most for all.
///
/// # Errors
///
/// Those of `found`.
pub fn settle_tokens<E>(
    token_bits: &AtomicU64,
    bits: u64,
    mut found: impl FnMut(u64) -> Result<u64, E>,
) -> Result<u64, E> {
    let held = found(bits)? & bits;
    let gone = bits & !held;
    if gone == 0 {
        return Ok(held);
    }
    token_bits.fetch_and(!gone, Ordering::AcqRel);
    point("tokens.cleared");
    let again = found(gone);
    let back = again.as_ref().map_or(gone, |again| again & gone);
    if back != 0 {
        token_bits.fetch_or(back, Ordering::AcqRel);
    }
    again.map(|again| held | again & gone)
}
