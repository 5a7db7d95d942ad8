//! Reading a family and its pools without changing them: one verifier for tests,
//! the soak and the command line, and figures for people.
//!
//! Guarantee: whatever the bytes are, nothing here writes, panics or runs for ever.

use std::fmt;

use crate::error::Result;
use crate::layout::{Packed, Participant, SLOTS, TOKEN_ROW, WORD_BITS};
use crate::pool::family::{DEAD, FREE, Family, LIVE, RECOVERING, RESERVED};
use crate::pool::protocol;
use crate::pool::segment::PoolSegment;
use crate::pool::tokens::{MAKING, READY};
use crate::sync::Ordering;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is true of one segment at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Blocks that are described.
    pub blocks: usize,
    /// Those that are open.
    pub open: usize,
    /// The size of the open ones, in bytes.
    pub open_bytes: u64,
    /// Blocks that some participant or token holds, open or not.
    pub held: usize,
    /// Open blocks without holder: to be closed.
    pub unheld: Vec<usize>,
    /// Tokens in flight.
    pub in_flight: usize,
    /// Participants that count, and how many blocks each holds.
    pub holders: Vec<(Participant, usize)>,
}

/// Checks every invariant of a family that holds at any moment.
///
/// # Errors
///
/// None but those of a mapping that is read-only.
pub fn verify_family(family: &Family) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    for index in 0..SLOTS {
        let slot = family.slot(index)?;
        let mut say = |what: &str| found.push(Violation(format!("slot {index}: {what}: {slot:?}")));
        match slot.state {
            FREE | DEAD => {}
            RESERVED | RECOVERING if slot.by >= SLOTS => say("by nobody"),
            RECOVERING if slot.by == index => say("recovers itself"),
            RESERVED | RECOVERING => {}
            LIVE => {
                let who = Participant {
                    slot: index,
                    generation: slot.generation,
                };
                // Not live any more a moment later is no fault.
                if family.identity(who).is_ok_and(|identity| identity.pid == 0) {
                    say("a process without a number");
                }
            }
            _ => say("no such state"),
        }
        if slot.state != FREE && slot.generation == 0 {
            say("used without having been claimed");
        }
    }
    Ok(found)
}

/// Checks every invariant of a segment that holds at any moment, dead or busy
/// participants or not.
///
/// # Errors
///
/// None but those of a mapping that is read-only.
pub fn verify(segment: &PoolSegment) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    verify_blocks(segment, &mut found)?;
    verify_rows(segment, &mut found)?;
    verify_tokens(segment, &mut found)?;
    Ok(found)
}

/// Checks what holds besides once the closer has collected and nobody runs: nothing
/// leaks, and every token is where the closer looks for it.
///
/// # Errors
///
/// As [`snapshot`].
pub fn verify_settled(segment: &PoolSegment) -> Result<Vec<Violation>> {
    let mut found = verify(segment)?;
    for block in snapshot(segment)?.unheld {
        found.push(Violation(format!(
            "block {block}: open, and nobody holds it"
        )));
    }
    for token in segment.tokens_in_flight()? {
        let index = token.name.index;
        if let Ok(block) = usize::try_from(token.block)
            && block < segment.blocks_used()?
        {
            let bits = segment.bits(TOKEN_ROW, block / WORD_BITS)?;
            if bits.load(Ordering::Acquire) >> (block % WORD_BITS) & 1 == 0 {
                found.push(Violation(format!("token {index}: without its bit")));
            }
        }
    }
    for index in 0..segment.tokens_high()? {
        let token = Packed::unpack(segment.token_word(index)?.load(Ordering::Acquire));
        let maker = segment.row_participant(token.by.min(SLOTS - 1))?;
        if token.state == MAKING && !maker.is_some_and(|maker| segment.family().counts(maker)) {
            found.push(Violation(format!("token {index}: its maker is gone")));
        }
    }
    Ok(found)
}

fn verify_blocks(segment: &PoolSegment, found: &mut Vec<Violation>) -> Result<()> {
    let mut ranges = Vec::new();
    for block in 0..segment.blocks_used()? {
        match segment.block(block) {
            Ok(info) => ranges.push((info.offset_bytes, info.size_bytes, block)),
            Err(error) => found.push(Violation(format!("block {block}: {error}"))),
        }
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let [(offset, size, block), (next_offset, _, next)] = [pair[0], pair[1]];
        if offset + size > next_offset {
            found.push(Violation(format!("blocks {block} and {next} overlap")));
        }
    }
    Ok(())
}

fn verify_rows(segment: &PoolSegment, found: &mut Vec<Violation>) -> Result<()> {
    let used = segment.blocks_used()?;
    for row in 0..segment.rows_high()? {
        let who = match segment.row_participant(row) {
            Ok(Some(who)) => who,
            Ok(None) => continue,
            Err(error) => {
                found.push(Violation(format!("row {row}: {error}")));
                continue;
            }
        };
        let slot = segment.family().slot(row)?;
        if who.generation > slot.generation {
            found.push(Violation(format!(
                "row {row}: registered for a life to come"
            )));
        }
        if segment.family().counts(who) {
            verify_bits(segment, row, used, found)?;
        }
    }
    verify_bits(segment, TOKEN_ROW, used, found)
}

fn verify_bits(
    segment: &PoolSegment,
    row: usize,
    used: usize,
    found: &mut Vec<Violation>,
) -> Result<()> {
    for word in used / WORD_BITS..segment.layout().row_words {
        let bits = segment.bits(row, word)?.load(Ordering::Acquire);
        let first = word * WORD_BITS;
        // In the first word some bits are of blocks in use, in later words none.
        let beyond = bits >> used.saturating_sub(first);
        // A block may have been described since `used` was read.
        if beyond != 0 && segment.blocks_used()? == used {
            found.push(Violation(format!("row {row}: bits beyond block {used}")));
            break;
        }
    }
    Ok(())
}

fn verify_tokens(segment: &PoolSegment, found: &mut Vec<Violation>) -> Result<()> {
    for index in 0..segment.tokens_high()? {
        let token = Packed::unpack(segment.token_word(index)?.load(Ordering::Acquire));
        let mut say = |what| found.push(Violation(format!("token {index}: {what}: {token:?}")));
        if token.state > READY {
            say("no such state");
        } else if token.state == MAKING && token.by >= SLOTS {
            say("made by nobody");
        }
    }
    let used = segment.blocks_used()?;
    for token in segment.tokens_in_flight()? {
        let block = usize::try_from(token.block).unwrap_or(usize::MAX);
        let index = token.name.index;
        if block >= used {
            found.push(Violation(format!(
                "token {index}: block {block} does not exist"
            )));
            continue;
        }
        if token.sender.is_none() {
            found.push(Violation(format!("token {index}: sent by nobody")));
        }
    }
    Ok(())
}

/// Figures of a segment.
///
/// # Errors
///
/// [`crate::error::Error::Damaged`] for garbage in the segment.
pub fn snapshot(segment: &PoolSegment) -> Result<Snapshot> {
    let used = segment.blocks_used()?;
    let in_flight = segment.tokens_in_flight()?;
    let mut snapshot = Snapshot {
        blocks: used,
        in_flight: in_flight.len(),
        ..Snapshot::default()
    };
    let mut held = vec![0_u64; used.div_ceil(WORD_BITS)];
    for row in 0..segment.rows_high()? {
        let Some(who) = segment.row_participant(row)? else {
            continue;
        };
        if !segment.family().counts(who) {
            continue;
        }
        let mut count = 0;
        for (word, all) in held.iter_mut().enumerate() {
            let bits = segment.bits(row, word)?.load(Ordering::Acquire);
            count += bits.count_ones() as usize;
            *all |= bits;
        }
        snapshot.holders.push((who, count));
    }
    for token in in_flight {
        if let Ok(block) = usize::try_from(token.block)
            && block < used
        {
            held[block / WORD_BITS] |= 1 << (block % WORD_BITS);
        }
    }
    for block in 0..used {
        let info = segment.block(block)?;
        let is_held = held[block / WORD_BITS] >> (block % WORD_BITS) & 1 == 1;
        snapshot.held += usize::from(is_held);
        if protocol::is_open(info.generation) {
            snapshot.open += 1;
            snapshot.open_bytes += info.size_bytes as u64;
            if !is_held {
                snapshot.unheld.push(block);
            }
        }
    }
    Ok(snapshot)
}
