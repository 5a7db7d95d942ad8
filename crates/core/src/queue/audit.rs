//! What holds the tokens in queues: the look that decides which of them still count.
//!
//! Guarantee: a token is ended only when no record, no ring and no putter at work can
//! lead to it any more, or nobody has its queue; what cannot be seen counts. Anybody may
//! look at any time, with no lock held. The rule and why it is enough: `docs/queue.md`,
//! "What a container holds".

use core::mem::{offset_of, size_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::mark::Mark;
use super::ring::RingMemory;
use crate::error::Result;
use crate::layout::latest::{FRAME_TABLE, FRAMES, Frame, LATEST_KIND, LatestHeader};
use crate::layout::queues::{
    FIRST_RING, HANDLE_BYTES, QUEUE_KIND, QueueHeader, RING_TABLE, RINGS, Ring,
};
use crate::layout::{Participant, Place, WORD_BITS};
use crate::lock::word::owner;
use crate::participation::Handle;
use crate::pool::protocol::is_open;
use crate::pool::segment::{BlockInfo, PoolSegment};
use crate::pool::tokens::{Container, InFlight, TokenName};
use crate::sync::Ordering;

/// How often a walk that was overtaken is done again.
const WALKS: usize = 8;

/// A token, wherever it is: family, owner and number of its segment, and its name.
type Name = (u64, Participant, u64, usize, u64);

/// Ends the tokens in `segments` that are in queues and do not count any more; how many.
/// `more` are segments where queues and rings may be besides.
///
/// # Errors
///
/// None but those of a mapping that is read-only.
pub fn end_dead_tokens(segments: &[Arc<PoolSegment>], more: &[Arc<PoolSegment>]) -> Result<usize> {
    let mut by_container: BTreeMap<Container, Vec<(&Arc<PoolSegment>, InFlight)>> = BTreeMap::new();
    for segment in segments {
        for token in segment.tokens_in_flight()? {
            if let Some(container) = token.container {
                by_container
                    .entry(container)
                    .or_default()
                    .push((segment, token));
            }
        }
    }
    let mut known = BTreeMap::new();
    for segment in segments.iter().chain(more) {
        known.insert(segment_key(segment), segment);
    }
    let mut ended = 0;
    // After the tokens were read: the order that the page asks for.
    for (container, tokens) in by_container {
        // Before the look: what a sender put that is dead by now is seen by it.
        let lives: Vec<bool> = tokens.iter().map(|(of, token)| lives(of, token)).collect();
        let wanted = tokens.iter().map(|(segment, token)| name(segment, token));
        let Some(alive) = alive(&container, &known, wanted.collect()) else {
            continue;
        };
        for ((segment, token), lives) in tokens.into_iter().zip(lives) {
            let counts = match &alive {
                Alive::Nothing => false,
                Alive::Of { putter, unnamed } => {
                    !unnamed.contains(&name(segment, &token))
                        || putter.is_some_and(|putter| {
                            lives && may_be_of(putter, &container, segment, &token)
                        })
                }
            };
            if !counts && let Ok(block) = usize::try_from(token.block) {
                ended += usize::from(segment.withdraw_token(token.name, block)?);
            }
        }
    }
    Ok(ended)
}

/// Whether a token's sender lives, as its family knows it.
fn lives(segment: &PoolSegment, token: &InFlight) -> bool {
    let sender = token.sender;
    sender.is_some_and(|sender| segment.family().counts(sender))
}

/// Whether a token may be made by who is putting. A process has another name in each family:
/// where the block's is not the queue's, whoever is putting may be its sender.
fn may_be_of(
    putter: Participant,
    container: &Container,
    segment: &PoolSegment,
    token: &InFlight,
) -> bool {
    let (family, ..) = segment_key(segment);
    family != container.family || token.sender == Some(putter)
}

fn name(segment: &PoolSegment, token: &InFlight) -> Name {
    let (family, owner, number) = segment_key(segment);
    let TokenName { index, generation } = token.name;
    (family, owner, number, index, generation)
}

fn segment_key(segment: &PoolSegment) -> (u64, Participant, u64) {
    (segment.family().id()[0], segment.owner(), segment.number())
}

/// Which tokens of a container count.
enum Alive {
    /// None: nobody has the queue.
    Nothing,
    /// All but these; of these, those that may be of who is putting.
    Of {
        putter: Option<Participant>,
        unnamed: BTreeSet<Name>,
    },
}

type Known<'s> = BTreeMap<(u64, Participant, u64), &'s Arc<PoolSegment>>;

/// Which of the tokens `wanted`, all of them read before this, count; `None` when it cannot
/// be told.
fn alive(container: &Container, known: &Known<'_>, wanted: BTreeSet<Name>) -> Option<Alive> {
    let Place { block, number } = container.place;
    let segment = known.get(&(container.family, container.owner, number))?;
    let info = segment.block(block).ok()?;
    if info.generation != container.generation {
        // Closed; or about to be, or to be opened again, by a closer that is at it.
        let is_settled = info.generation.wrapping_sub(container.generation) > 1;
        let is_closed = is_settled || is_free(segment, block, container)?;
        return is_closed.then_some(Alive::Nothing);
    }
    if is_free(segment, block, container)? {
        return Some(Alive::Nothing);
    }
    let queue = View {
        segment,
        info,
        known,
    };
    // The dead have put what they have put; who dies only after this may put meanwhile.
    let living = |who: Option<Participant>| who.filter(|&who| segment.family().counts(who));
    let (putter, unnamed) = match queue.word(0)? {
        QUEUE_KIND => {
            let putter = living(owner(queue.word(offset_of!(QueueHeader, lock))?));
            (putter, queue.unnamed(&wanted)?)
        }
        LATEST_KIND => {
            let writer = queue.word(offset_of!(LatestHeader, writer))?;
            let writer = living(Participant::unpack(writer));
            (writer, queue.in_no_frame(wanted)?)
        }
        _ => return None,
    };
    Some(Alive::Of { putter, unnamed })
}

/// Whether nobody holds a block but by tokens that are in itself; `None` if that cannot be
/// told.
fn is_free(segment: &PoolSegment, block: usize, container: &Container) -> Option<bool> {
    let held = segment.is_held_at_once(block, || {
        let Some(held) = segment.scan(block / WORD_BITS)? else {
            return Ok(None);
        };
        let is_in_row = held.by_rows >> (block % WORD_BITS) & 1 == 1;
        Ok(Some(is_in_row || is_in_others(segment, block, container)?))
    });
    Some(!held.ok()??)
}

/// Whether a token holds a block that is not in this same block.
fn is_in_others(segment: &PoolSegment, block: usize, container: &Container) -> Result<bool> {
    let tokens = segment.tokens_in_flight()?;
    let mut of_it = tokens.iter().filter(|it| it.block == block as u64);
    Ok(of_it.any(|it| it.container.as_ref() != Some(container)))
}

/// A queue as somebody sees it who need not have it.
struct View<'s> {
    segment: &'s PoolSegment,
    info: BlockInfo,
    known: &'s Known<'s>,
}

impl View<'_> {
    fn word(&self, field: usize) -> Option<u64> {
        let word = self
            .segment
            .mapping()
            .shared_word(self.info.offset_bytes + field);
        Some(word.ok()?.load(Ordering::Acquire))
    }

    /// The tokens among `wanted` that no record and no ring named, at one moment.
    fn unnamed(&self, wanted: &BTreeSet<Name>) -> Option<BTreeSet<Name>> {
        for _ in 0..WALKS {
            let head = self.word(offset_of!(QueueHeader, head))?;
            let mut unnamed = wanted.clone();
            let walked = self.walk(Mark(head), &mut unnamed);
            // Those are named, or were a moment ago: they may wait for the next look.
            if unnamed.is_empty() {
                return Some(unnamed);
            }
            crate::sync::fence(Ordering::Acquire);
            if self.word(offset_of!(QueueHeader, head))? == head {
                return walked.map(|()| unnamed);
            }
        }
        None
    }

    /// The tokens among `unnamed` that no frame of a channel names. An entry that is half written is its writer's, who
    /// lives and is spared, or died and has published nothing by it.
    fn in_no_frame(&self, mut unnamed: BTreeSet<Name>) -> Option<BTreeSet<Name>> {
        for index in 0..FRAMES {
            let entry = FRAME_TABLE + index * size_of::<Frame>();
            let number = self.word(entry + offset_of!(Frame, number))?;
            let mut bytes = [0; HANDLE_BYTES];
            let at = self.info.offset_bytes + entry + offset_of!(Frame, handle);
            self.segment.mapping().read_bytes(at, &mut bytes).ok()?;
            if number != 0
                && let Ok(handle) = Handle::from_bytes(&bytes)
            {
                note(&handle, &mut unnamed);
            }
        }
        Some(unnamed)
    }

    /// Takes out of `unnamed` what rings and records name, until nothing is left in it: a
    /// long queue of items without blocks is not walked for the sake of its rings.
    fn walk(&self, head: Mark, unnamed: &mut BTreeSet<Name>) -> Option<()> {
        let tail = Mark(self.word(offset_of!(QueueHeader, tail))?);
        let first = self.word(offset_of!(QueueHeader, rings_first))?;
        let last = self.word(offset_of!(QueueHeader, rings_last))?;
        let count = last.wrapping_sub(first).checked_add(1)?;
        if count > RINGS as u64 {
            return None;
        }
        let entry_of = |step: u64| {
            let number = first.wrapping_add(step);
            RING_TABLE + (number % RINGS as u64) as usize * size_of::<Ring>()
        };
        for step in 0..count {
            if let Some(handle) = self.ring_handle(entry_of(step))? {
                note(&handle, unnamed);
            }
        }
        let mut at = head;
        for step in 0..count {
            let entry = entry_of(step);
            let end = if step + 1 == count {
                tail
            } else {
                Mark(self.word(entry_of(step + 1) + offset_of!(Ring, base))?)
            };
            if unnamed.is_empty() {
                break;
            }
            let ring = self.ring(entry)?;
            while at != end && end.has_reached(at) && !unnamed.is_empty() {
                let (shape, next) = ring.record(at, end).ok()?;
                let mut handles = Vec::new();
                ring.handles(at, shape, &mut handles).ok()?;
                for handle in &handles {
                    note(handle, unnamed);
                }
                at = next;
            }
        }
        Some(())
    }

    /// The handle of a ring's block; the inner `None`: it is the first ring.
    fn ring_handle(&self, entry: usize) -> Option<Option<Handle>> {
        let mut bytes = [0; HANDLE_BYTES];
        let at = self.info.offset_bytes + entry + offset_of!(Ring, handle);
        self.segment.mapping().read_bytes(at, &mut bytes).ok()?;
        if bytes == [0; HANDLE_BYTES] {
            return Some(None);
        }
        Handle::from_bytes(&bytes).ok().map(Some)
    }

    fn ring(&self, entry: usize) -> Option<RingMemory> {
        let units = self.word(entry + offset_of!(Ring, units))?;
        let Some(handle) = self.ring_handle(entry)? else {
            let room = self.info.size_bytes.checked_sub(FIRST_RING)?;
            let mapping = Arc::clone(self.segment.mapping());
            let at = self.info.offset_bytes + FIRST_RING;
            return RingMemory::new(mapping, at, room, units, None).ok();
        };
        let segment = self
            .known
            .get(&(handle.family[0], handle.owner, handle.number))?;
        let info = segment.block(handle.block as usize).ok()?;
        if info.generation != handle.generation || !is_open(info.generation) {
            return None;
        }
        let mapping = Arc::clone(segment.mapping());
        RingMemory::new(mapping, info.offset_bytes, info.size_bytes, units, None).ok()
    }
}

/// This one is named.
fn note(handle: &Handle, unnamed: &mut BTreeSet<Name>) {
    if let Some(token) = handle.token {
        unnamed.remove(&(
            handle.family[0],
            handle.owner,
            handle.number,
            token.index,
            token.generation,
        ));
    }
}

#[cfg(test)]
mod tests;
