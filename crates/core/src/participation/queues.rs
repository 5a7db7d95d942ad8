//! Which queues are open in this process, and who else has them open.
//!
//! Guarantees: a process that has a queue open, through whatever fork, stands in the
//! queue's table of peers from then until it closes it. Who came to it by itself, is in there
//! and does not count any more has died (rule P7); a child is in there from before its birth,
//! as one that has not come yet, for it may never be born or become another program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Hold;
use super::growth::Asking;
use super::registry::{Membership, Registry, lock};
use crate::error::{Error, Result};
use crate::layout::{Packed, Participant, SLOTS, WORD_BYTES};
use crate::mapping::Mapping;
use crate::pool::segment::PoolSegment;
use crate::pool::tokens::Container;
use crate::queue::audit;

/// Somebody died, or memory is short: tokens in queues are to be looked at.
static AUDIT_DUE: AtomicBool = AtomicBool::new(false);

/// A queue that is open here.
#[derive(Debug)]
pub(super) struct OpenQueue {
    family: usize,
    container: Container,
    segment: Arc<PoolSegment>,
    /// Where its table of peers begins in the mapping, if it has one.
    peers: Option<usize>,
    /// How many objects have it open; none: it was closed, and is remembered because
    /// tokens of ours may be in it.
    opens: usize,
}

/// Who else has a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Peers {
    /// Some other process that lives, or may.
    pub(crate) is_some_alive: bool,
    /// A process that died with it open.
    pub(crate) has_one_died: bool,
    /// A handle of it is on its way.
    pub(crate) is_in_flight: bool,
}

/// Who has a queue after it was closed here once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// This process, through another object.
    OpenHere,
    /// Somebody else, perhaps.
    OpenElsewhere,
    /// Nobody.
    Everywhere,
}

impl Membership {
    /// Our slot; a new one in a child that was not counted.
    pub(super) fn ensure_me(&mut self) -> Result<Participant> {
        match self.me {
            Some(me) => Ok(me),
            None => Ok(*self.me.insert(self.family.join()?)),
        }
    }
}

impl Hold {
    /// Says that this process has the queue in this block, whose table of peers begins
    /// `peers` bytes into the mapping; who it is there.
    pub(crate) fn open_queue(&self, peers: usize) -> Result<Participant> {
        let container = self.container()?;
        let mut registry = lock();
        let segment = Arc::clone(registry.holder(self.held.segment)?.segment());
        let local = registry.local(self.held.segment).ok_or(Error::Dropped)?;
        let family = local.family;
        let me = registry.families[family].ensure_me()?;
        write_peer(segment.mapping(), peers, me, HAS_COME)?;
        let known = registry
            .queues
            .iter_mut()
            .find(|it| it.container == container);
        match known {
            Some(known) => known.opens += 1,
            None => registry.queues.push(OpenQueue {
                family,
                container,
                segment,
                peers: Some(peers),
                opens: 1,
            }),
        }
        Ok(me)
    }

    /// In a forked child that has a use for the queue: it has come; who it is there.
    pub(crate) fn come_to_queue(&self) -> Result<Participant> {
        let me = self.me()?;
        let container = self.container()?;
        let registry = lock();
        let mut queues = registry.queues.iter();
        if let Some(queue) = queues.find(|it| it.container == container && it.opens > 0)
            && let Some(peers) = queue.peers
        {
            write_peer(queue.segment.mapping(), peers, me, HAS_COME)?;
        }
        Ok(me)
    }

    /// Takes one [`Hold::open_queue`] back; who has it still.
    pub(crate) fn close_queue(&self) -> Result<Closed> {
        let container = self.container()?;
        let mut registry = lock();
        let known = registry
            .queues
            .iter_mut()
            .find(|it| it.container == container);
        let Some(known) = known.filter(|it| it.opens > 0) else {
            return Ok(Closed::OpenHere);
        };
        known.opens -= 1;
        if known.opens > 0 {
            return Ok(Closed::OpenHere);
        }
        let segment = Arc::clone(&known.segment);
        let (family, Some(peers)) = (known.family, known.peers) else {
            return Ok(Closed::OpenHere);
        };
        let member = &registry.families[family];
        let is_last = leave(segment.mapping(), peers, member)?;
        if is_last && !is_others(&segment, container.place.block, member.me)? {
            return Ok(Closed::Everywhere);
        }
        Ok(Closed::OpenElsewhere)
    }

    /// Remembers the block as what tokens of ours may be in.
    pub(crate) fn remember_container(&self) -> Result<()> {
        let container = self.container()?;
        let mut registry = lock();
        let segment = Arc::clone(registry.holder(self.held.segment)?.segment());
        let local = registry.local(self.held.segment).ok_or(Error::Dropped)?;
        let family = local.family;
        if registry.queues.iter().all(|it| it.container != container) {
            registry.queues.push(OpenQueue {
                family,
                container,
                segment,
                peers: None,
                opens: 0,
            });
        }
        Ok(())
    }

    /// Whether nobody else holds the block, and no token; of two that ask while they let
    /// go, none may be told so.
    pub(crate) fn is_last_holder(&self) -> Result<bool> {
        let mut registry = lock();
        let holder = registry.holder(self.held.segment)?;
        let segment = Arc::clone(holder.segment());
        let holds_once = holder.holds(self.held.block) == 1;
        let local = registry.local(self.held.segment).ok_or(Error::Dropped)?;
        let family = local.family;
        let me = registry.families[family].me()?;
        Ok(holds_once && !is_others(&segment, self.held.block, Some(me))?)
    }

    /// Who else has the queue. Looks for the dead, and stops at the first that lives.
    pub(crate) fn peers(&self, peers: usize) -> Result<Peers> {
        let mut registry = lock();
        let segment = Arc::clone(registry.holder(self.held.segment)?.segment());
        let local = registry.local(self.held.segment).ok_or(Error::Dropped)?;
        let family = local.family;
        let member = &registry.families[family];
        let mut found = Peers::default();
        for slot in 0..SLOTS {
            let Some((who, state)) = peer(segment.mapping(), peers, slot)? else {
                continue;
            };
            if Some(who) == member.me {
                continue;
            }
            if !member.is_gone(who, Asking::WhileWaiting) {
                found.is_some_alive = true;
                return Ok(found);
            }
            found.has_one_died |= state == HAS_COME;
        }
        found.is_in_flight = is_in_flight(&segment, self.held.block)?;
        Ok(found)
    }
}

/// Says that this process is about to end and puts and gets no more: that it ends is no
/// death to those who wait in its queues, and neither are the deaths before it. What it has
/// open stays usable meanwhile.
pub fn leave_queues() {
    let registry = lock();
    for queue in &registry.queues {
        if queue.opens > 0
            && let Some(peers) = queue.peers
        {
            // Fails on a read-only mapping only, which a queue's never is.
            let _ = leave(
                queue.segment.mapping(),
                peers,
                &registry.families[queue.family],
            );
        }
    }
}

/// Takes this process out of a table of peers, and the dead with it: the last one to go did
/// not die. Whether nobody is left.
fn leave(mapping: &Mapping, peers: usize, member: &Membership) -> Result<bool> {
    if let Some(me) = member.me {
        erase_peer(mapping, peers, me)?;
    }
    // Of two that leave at once, both may find that nobody is left.
    crate::sync::fence(Ordering::SeqCst);
    let mut is_last = true;
    for slot in 0..SLOTS {
        if let Some((who, _)) = peer(mapping, peers, slot)? {
            if member.is_gone(who, Asking::WhileWaiting) {
                erase_peer(mapping, peers, who)?;
            } else {
                is_last = false;
            }
        }
    }
    Ok(is_last)
}

impl Registry {
    /// Before a fork: the child has the queues that its parent has, from before it exists.
    /// Allocates nothing.
    pub(super) fn count_child_in_queues(&self, family: usize, child: Participant) {
        for queue in &self.queues {
            if queue.family == family
                && queue.opens > 0
                && let Some(peers) = queue.peers
            {
                // Fails on a read-only mapping only, which a queue's never is.
                let _ = write_peer(queue.segment.mapping(), peers, child, IS_TO_COME);
            }
        }
    }
}

/// Also who has received it a moment ago and not opened it yet.
fn is_held_by_others(segment: &PoolSegment, block: usize, me: Participant) -> Result<bool> {
    for row in 0..segment.rows_high()? {
        if let Some(who) = segment.row_participant(row)?
            && who != me
            && segment.family().counts(who)
            && segment.is_held_by(who, block)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_in_flight(segment: &PoolSegment, block: usize) -> Result<bool> {
    let tokens = segment.tokens_in_flight()?;
    Ok(tokens.iter().any(|token| token.block == block as u64))
}

/// Whether somebody else has a block: holds it, or is to receive it. A hold may move from a
/// token into a row, or on, while this looks: so it looks at both, and once more.
fn is_others(segment: &PoolSegment, block: usize, me: Option<Participant>) -> Result<bool> {
    is_in_either(
        || me.map_or(Ok(false), |me| is_held_by_others(segment, block, me)),
        || is_in_flight(segment, block),
    )
}

fn is_in_either(row: impl Fn() -> Result<bool>, token: impl Fn() -> Result<bool>) -> Result<bool> {
    Ok(row()? || token()? || row()?)
}

// States of a peer word.
/// It has opened the queue, or used it.
const HAS_COME: u64 = 1;
/// Its parent has it, and forked: it may never be born, or call `exec`.
const IS_TO_COME: u64 = 2;

fn peer_word(who: Participant, state: u64) -> u64 {
    let (by, generation) = (who.slot, who.generation);
    Packed {
        state,
        by,
        generation,
    }
    .pack()
}

fn write_peer(mapping: &Mapping, peers: usize, who: Participant, state: u64) -> Result<()> {
    let word = mapping.shared_word(peers + who.slot * WORD_BYTES)?;
    word.store(peer_word(who, state), Ordering::SeqCst);
    Ok(())
}

fn erase_peer(mapping: &Mapping, peers: usize, who: Participant) -> Result<()> {
    let word = mapping.shared_word(peers + who.slot * WORD_BYTES)?;
    for state in [HAS_COME, IS_TO_COME] {
        let seen = peer_word(who, state);
        // Fails when the slot's next life has opened it: that one stays.
        let _ = word.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
    Ok(())
}

fn peer(mapping: &Mapping, peers: usize, slot: usize) -> Result<Option<(Participant, u64)>> {
    let word = mapping.shared_word(peers + slot * WORD_BYTES)?;
    let Packed {
        state,
        by,
        generation,
    } = Packed::unpack(word.load(Ordering::Acquire));
    let is_one = by == slot && matches!(state, HAS_COME | IS_TO_COME);
    Ok(is_one.then_some((Participant { slot, generation }, state)))
}

/// Asks for a look at the tokens in queues, as soon as no lock is held.
pub(super) fn want_audit() {
    AUDIT_DUE.store(true, Ordering::Relaxed);
}

/// Takes that look if it was asked for.
pub(crate) fn audit_if_due() {
    if AUDIT_DUE.load(Ordering::Relaxed) && AUDIT_DUE.swap(false, Ordering::Relaxed) {
        // What cannot be decided now is looked at the next time.
        let _ = audit_all();
    }
}

/// Ends the tokens of this process's segments that are in queues nobody has any more, or
/// that a death left behind; how many.
pub(crate) fn audit_all() -> Result<usize> {
    let (segments, containers) = {
        let mut registry = lock();
        let mut segments = Vec::new();
        for id in registry.ids() {
            segments.push(Arc::clone(registry.holder(id)?.segment()));
        }
        let known = registry.queues.iter();
        let containers: Vec<_> = known.map(|it| Arc::clone(&it.segment)).collect();
        (segments, containers)
    };
    let ended = audit::end_dead_tokens(&segments, &containers)?;
    // Queues that were closed here and in which nothing of ours is left are forgotten.
    let mut in_use = Vec::new();
    for segment in &segments {
        let tokens = segment.tokens_in_flight()?;
        in_use.extend(tokens.into_iter().filter_map(|token| token.container));
    }
    let mut registry = lock();
    let forgotten: Vec<OpenQueue> = registry
        .queues
        .extract_if(.., |it| it.opens == 0 && !in_use.contains(&it.container))
        .collect();
    drop(registry);
    drop(forgotten);
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::is_in_either;

    #[test]
    fn a_hold_that_moves_is_found() {
        for moves_after in 0..4 {
            for is_in_row in [false, true] {
                let (looks, is_in_row) = (Cell::new(0), Cell::new(is_in_row));
                let look = |wants_row: bool| {
                    let found = is_in_row.get() == wants_row;
                    if looks.replace(looks.get() + 1) == moves_after {
                        is_in_row.set(!is_in_row.get());
                    }
                    Ok(found)
                };
                assert_eq!(is_in_either(|| look(true), || look(false)), Ok(true));
            }
        }
    }
}
