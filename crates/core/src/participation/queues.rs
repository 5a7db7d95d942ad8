//! Which queues are open in this process, and who else has them open.
//!
//! Guarantees: a process that has a queue open, through whatever fork, stands in the
//! queue's table of peers from then until it closes it. Who came to it by itself, is in there
//! and does not count any more has died (rule P7); a child is in there from before its birth,
//! as one that has not come yet, for it may never be born or become another program. What was
//! closed is remembered only while tokens of ours may be in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Hold;
use super::growth::Asking;
use super::peers::{HAS_COME, IS_TO_COME, leave, peer, write_peer};
use super::registry::{Membership, Registry, lock};
use crate::error::{Error, Result};
use crate::layout::{Participant, SLOTS};
use crate::mapping::Mapping;
use crate::pool::protocol;
use crate::pool::segment::PoolSegment;
use crate::pool::tokens::Container;
use crate::queue::audit;

/// Somebody died, or memory is short: tokens in queues are to be looked at.
static AUDIT_DUE: AtomicBool = AtomicBool::new(false);

/// Below this many queues none is worth an audit of its own.
const FEW: usize = 64;

/// The queues and channels that are open here, or were.
#[derive(Debug)]
pub(super) struct Queues {
    known: BTreeMap<Container, OpenQueue>,
    /// How many there were after the last audit.
    after_audit: usize,
}

/// A queue or channel that is open here.
#[derive(Debug)]
struct OpenQueue {
    family: usize,
    segment: Arc<PoolSegment>,
    /// Where its table of peers begins in the mapping, if it has one.
    peers: Option<usize>,
    /// How many objects have it open; none: it was closed, and is remembered because
    /// tokens of ours may be in it.
    opens: usize,
    /// How often tokens were made that are in it.
    sends: u64,
}

impl Queues {
    pub(super) const fn new() -> Self {
        Queues {
            known: BTreeMap::new(),
            after_audit: 0,
        }
    }

    /// Tokens are about to be made that are in this one.
    pub(super) fn note_sends(&mut self, container: &Container) {
        if let Some(known) = self.known.get_mut(container) {
            known.sends += 1;
        }
    }

    /// Closed ones that were sent to stay until an audit: it comes before they are many.
    fn note_growth(&self) {
        if self.known.len() > FEW.max(2 * self.after_audit) {
            want_audit();
        }
    }
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
        let local = registry
            .local(self.held.segment)
            .ok_or_else(|| Error::Dropped)?;
        let family = local.family;
        let me = registry.families[family].ensure_me()?;
        write_peer(segment.mapping(), peers, me, HAS_COME)?;
        registry.open(container, family, segment, Some(peers));
        Ok(me)
    }

    /// Says that this process has the channel in this block: tokens of ours may be in it.
    pub(crate) fn open_channel(&self) -> Result<()> {
        let container = self.container()?;
        let mut registry = lock();
        let segment = Arc::clone(registry.holder(self.held.segment)?.segment());
        let local = registry
            .local(self.held.segment)
            .ok_or_else(|| Error::Dropped)?;
        let family = local.family;
        registry.open(container, family, segment, None);
        Ok(())
    }

    /// In a forked child that has a use for the queue: it has come; who it is there.
    pub(crate) fn come_to_queue(&self) -> Result<Participant> {
        let me = self.me()?;
        let container = self.container()?;
        let registry = lock();
        let queue = registry.queues.known.get(&container);
        if let Some(queue) = queue.filter(|it| it.opens > 0)
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
        let known = registry.queues.known.get_mut(&container);
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
        let forgotten = registry.forget_unless_sent_to(&container);
        drop(registry);
        drop(forgotten);
        Ok(Closed::OpenElsewhere)
    }

    /// Whether nobody else holds the block, and no token; of two that ask while they let
    /// go, none may be told so.
    pub(crate) fn is_last_holder(&self) -> Result<bool> {
        let mut registry = lock();
        let holder = registry.holder(self.held.segment)?;
        let segment = Arc::clone(holder.segment());
        let holds_once = holder.holds(self.held.block) == 1;
        let local = registry
            .local(self.held.segment)
            .ok_or_else(|| Error::Dropped)?;
        let family = local.family;
        let me = registry.families[family].me()?;
        Ok(holds_once && !is_others(&segment, self.held.block, Some(me))?)
    }

    /// Who else has the queue. Looks for the dead, and stops at the first that lives.
    pub(crate) fn peers(&self, peers: usize, asked: Asking) -> Result<Peers> {
        let mut registry = lock();
        let segment = Arc::clone(registry.holder(self.held.segment)?.segment());
        let local = registry
            .local(self.held.segment)
            .ok_or_else(|| Error::Dropped)?;
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
            if !member.is_gone(who, asked) {
                found.is_some_alive = true;
                return Ok(found);
            }
            found.has_one_died |= state == HAS_COME;
        }
        found.is_in_flight = is_in_flight(&segment, self.held.block)?;
        Ok(found)
    }
}

/// Takes one [`Hold::open_channel`] back.
pub(crate) fn close_channel(container: &Container) {
    let mut registry = lock();
    if let Some(known) = registry.queues.known.get_mut(container) {
        known.opens = known.opens.saturating_sub(1);
    }
    let forgotten = registry.forget_unless_sent_to(container);
    drop(registry);
    drop(forgotten);
}

/// Forgets a queue that was closed everywhere and in which nothing is left.
pub(crate) fn forget_queue(container: &Container) {
    let mut registry = lock();
    let known = registry.queues.known.get(container);
    let is_closed = known.is_some_and(|it| it.opens == 0);
    let forgotten = is_closed.then(|| registry.queues.known.remove(container));
    drop(registry);
    drop(forgotten);
}

/// Calls `work` for each queue that is open here, with its memory, where its table of peers
/// begins, and who this process is there. Under the lock: it must not lock, wait or fail.
pub(crate) fn for_each_open(work: &mut dyn FnMut(&Mapping, usize, Participant)) {
    let registry = lock();
    for queue in registry.queues.known.values() {
        if queue.opens > 0
            && let Some(peers) = queue.peers
            && let Some(me) = registry.families[queue.family].me
        {
            work(queue.segment.mapping(), peers, me);
        }
    }
}

/// Says that this process is about to end and puts and gets no more: that it ends is no
/// death to those who wait in its queues, and neither are the deaths before it. What it has
/// open stays usable meanwhile.
pub fn leave_queues() {
    let registry = lock();
    for queue in registry.queues.known.values() {
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

impl Registry {
    fn open(
        &mut self,
        container: Container,
        family: usize,
        segment: Arc<PoolSegment>,
        peers: Option<usize>,
    ) {
        let known = self.queues.known.entry(container);
        let known = known.or_insert(OpenQueue {
            family,
            segment,
            peers,
            opens: 0,
            sends: 0,
        });
        known.opens += 1;
        self.queues.note_growth();
    }

    /// Forgets what is closed and was never sent to; to be dropped without the lock.
    fn forget_unless_sent_to(&mut self, container: &Container) -> Option<OpenQueue> {
        let known = self.queues.known.get(container)?;
        let is_needed = known.opens > 0 || known.sends > 0;
        if is_needed {
            return None;
        }
        self.queues.known.remove(container)
    }

    /// Before a fork: the child has the queues that its parent has, from before it exists.
    /// Allocates nothing.
    pub(super) fn count_child_in_queues(&self, family: usize, child: Participant) {
        for queue in self.queues.known.values() {
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

/// Also who has received it a moment ago and not opened it yet. Who has no row itself is
/// nobody in the rows: whoever holds it there is another.
fn is_held_by_others(segment: &PoolSegment, block: usize, me: Option<Participant>) -> Result<bool> {
    for row in 0..segment.rows_high()? {
        if let Some(who) = segment.row_participant(row)?
            && Some(who) != me
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

/// Whether somebody else has a block: holds it, or is to receive it. In doubt somebody has.
fn is_others(segment: &PoolSegment, block: usize, me: Option<Participant>) -> Result<bool> {
    let held = segment.is_held_at_once(block, || {
        let look = || is_held_by_others(segment, block, me);
        match protocol::scan(segment.moves()?, look)? {
            Some(false) => is_in_flight(segment, block).map(Some),
            seen => Ok(seen),
        }
    })?;
    Ok(held.unwrap_or(true))
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
    let (segments, containers, closed) = {
        let mut registry = lock();
        let mut segments = Vec::new();
        for id in registry.ids() {
            segments.push(Arc::clone(registry.holder(id)?.segment()));
        }
        let known = &registry.queues.known;
        let containers: Vec<_> = known.values().map(|it| Arc::clone(&it.segment)).collect();
        let closed = known.iter().filter(|(_, it)| it.opens == 0);
        let closed: Vec<_> = closed.map(|(name, it)| (*name, it.sends)).collect();
        (segments, containers, closed)
    };
    let ended = audit::end_dead_tokens(&segments, &containers)?;
    // Queues that were closed here and in which nothing of ours is left are forgotten.
    let mut in_use = BTreeSet::new();
    for segment in &segments {
        let tokens = segment.tokens_in_flight()?;
        in_use.extend(tokens.into_iter().filter_map(|token| token.container));
    }
    let mut registry = lock();
    let mut forgotten = Vec::new();
    for (container, sends) in closed {
        let known = registry.queues.known.get(&container);
        // What was sent to it since is not among the tokens that were read.
        let is_as_before = known.is_some_and(|it| (it.opens, it.sends) == (0, sends));
        if is_as_before && !in_use.contains(&container) {
            forgotten.extend(registry.queues.known.remove(&container));
        }
    }
    registry.queues.after_audit = registry.queues.known.len();
    drop(registry);
    drop(forgotten);
    Ok(ended)
}

#[cfg(test)]
mod tests;
