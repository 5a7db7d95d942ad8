//! Handles that go through a queue of ours: what the queue needs of this process.
//!
//! Guarantees:
//!
//! - What goes into a queue is held by tokens that name the queue; no message is sent and
//!   nothing is waited for while they are made, so it may be done under a lock.
//! - What comes out is held before the queue's own step decides whose it is, and is let
//!   go of again when it is another's ([`receive_if`]).

use std::sync::Arc;

use super::exchange;
use super::fork::in_one_process;
use super::handle::{Handle, Hints};
use super::registry::{HeldBlock, Kept, Kind, Registry, SegmentId, lock};
use super::tracker::ensure_told;
use super::{Hold, membership};
use crate::error::{Error, Result};
use crate::layout::Place;
use crate::pool::segment::{BlockInfo, PoolSegment};
use crate::pool::tokens::{Container, TokenName};
use crate::sys::identity::Identity;
use crate::sys::{clock, fork};

/// What became of a try to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// They are ours.
    Taken,
    /// They are not: somebody else was quicker.
    Lost,
    /// The segment of the handle with this index is not attached, or its family not joined:
    /// see [`attach_for`].
    Missing(usize),
}

impl Hold {
    /// Names this block as what other blocks' tokens are in.
    pub(crate) fn container(&self) -> Result<Container> {
        let mut registry = lock();
        let local = registry
            .local(self.held.segment)
            .ok_or_else(|| Error::Dropped)?;
        let (family, owner, number) = (local.family, local.owner, local.number);
        Ok(Container {
            family: registry.families[family].family.id()[0],
            owner,
            place: Place {
                block: self.held.block,
                number,
            },
            generation: self.generation,
        })
    }

    /// Sees to it that the tracker has the segment, before a handle leaves.
    pub(crate) fn tell(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
        let segment = self.held.segment;
        in_one_process(keep_going, |keep_going| ensure_told(segment, keep_going))
    }

    /// The same for what blocks are about to be put into: once nobody has it any more the
    /// tracker ends what is in it, also where no owner of that has ever heard of it.
    pub(crate) fn tell_as_container(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
        let segment = self.held.segment;
        let was_received = {
            let mut registry = lock();
            let local = registry.local(segment).ok_or_else(|| Error::Dropped)?;
            matches!(local.kind, Kind::Attached { fd: None, .. })
        };
        if was_received {
            return Ok(()); // by whoever sent it
        }
        self.tell(keep_going)
    }
}

/// Makes tokens for blocks that go into `container`, and appends their handles. On an
/// error none was made.
///
/// # Errors
///
/// [`Error::Full`], [`Error::Dropped`]; [`Error::NotAllowed`] when this process was
/// declared dead.
pub(crate) fn send_within(
    holds: &[&Hold],
    container: &Container,
    handles: &mut Vec<Handle>,
) -> Result<()> {
    let before = handles.len();
    let now_s = clock::monotonic_s();
    let mut registry = lock();
    registry.queues.note_sends(container);
    for hold in holds {
        match send_one(&mut registry, hold, container, now_s) {
            Ok(handle) => handles.push(handle),
            Err(error) => {
                drop(registry);
                end_tokens(&handles[before..]);
                handles.truncate(before);
                return Err(error);
            }
        }
    }
    Ok(())
}

fn send_one(
    registry: &mut Registry,
    hold: &Hold,
    container: &Container,
    now_s: u64,
) -> Result<Handle> {
    let id = hold.held.segment;
    let holder = registry.holder(id)?;
    if holder.is_dropped(hold.held.since) {
        return Err(Error::Dropped);
    }
    let token = holder.make_token_in(hold.held.block, now_s, Some(container))?;
    registry.handle(id, hold.held.block, hold.generation, Some(token))
}

impl Registry {
    /// The handle of a block.
    pub(super) fn handle(
        &mut self,
        id: SegmentId,
        block: usize,
        generation: u64,
        token: Option<TokenName>,
    ) -> Result<Handle> {
        let local = self.local(id).ok_or_else(|| Error::Dropped)?;
        let (family, owner, number, segment_fd) =
            (local.family, local.owner, local.number, local.owner_fd);
        let member = &self.families[family];
        Ok(Handle {
            family: member.family.id(),
            owner,
            number,
            // Both are indexes into tables of 65536.
            block: block as u32,
            generation,
            token,
            boot: Identity::boot()[0],
            // Of the sender; who holds nothing sends nothing.
            hints: match token {
                None => Hints {
                    segment_fd,
                    ..Hints::default()
                },
                Some(_) => Hints {
                    sender_pid: fork::pid(),
                    family_fd: member.fd.number(),
                    segment_fd,
                },
            },
        })
    }
}

/// Ends the tokens of handles that reach nobody, as far as their segments are at hand.
pub(crate) fn end_tokens(handles: &[Handle]) {
    for handle in handles {
        let segment = {
            let mut registry = lock();
            let family = registry.family(handle.family);
            let id = family.and_then(|it| registry.find(it, handle.owner, handle.number));
            id.and_then(|id| registry.holder(id).ok().map(|it| Arc::clone(it.segment())))
        };
        if let (Some(segment), Some(token)) = (segment, handle.token) {
            // An error is that of a damaged segment, whose tokens mean nothing.
            let _ = segment.withdraw_token(token, handle.block as usize);
        }
    }
}

/// The same for handles that others sent, which are thrown away: what is not at hand is
/// attached for it. What is out of reach even so is ended by a look at the container.
pub(crate) fn end_tokens_of_any(handles: &[Handle]) {
    for handle in handles {
        let _kept = attach_for(handle, &mut || true);
        end_tokens(std::slice::from_ref(handle));
    }
}

/// Holds what these handles name, by their tokens, and then asks `commit`, under the
/// process's lock, whether it is ours. Appends the holds if it is, and ends the tokens.
///
/// `commit` must not wait, allocate from a pool or lock anything.
///
/// # Errors
///
/// [`Error::Stale`] when a token holds its block no more, [`Error::Damaged`]; those of `commit`. Nothing is held then.
pub(crate) fn receive_if(
    handles: &[Handle],
    commit: &mut dyn FnMut() -> Result<bool>,
    holds: &mut Vec<Hold>,
) -> Result<Receipt> {
    // Room before the lock: nothing below fails or drops a hold under it.
    holds.reserve(handles.len());
    let mut held: Vec<(HeldBlock, BlockInfo)> = Vec::with_capacity(handles.len());
    let mut registry = lock();
    let mut outcome = Ok(Receipt::Lost);
    for (index, handle) in handles.iter().enumerate() {
        match hold_one(&mut registry, handle) {
            Ok(Some(one)) => held.push(one),
            Ok(None) => {
                outcome = Ok(Receipt::Missing(index));
                break;
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    if held.len() == handles.len() {
        crate::fault::point("get.held");
        outcome = commit().map(|is_ours| {
            if is_ours {
                Receipt::Taken
            } else {
                Receipt::Lost
            }
        });
    }
    let is_ours = outcome == Ok(Receipt::Taken);
    for (at, &(block, info)) in held.iter().enumerate() {
        let holder = registry.holder(block.segment);
        if is_ours && let Ok(holder) = holder {
            let segment = holder.segment();
            if let Some(token) = handles[at].token {
                // Somebody else may have ended it: who looked, and found that no record
                // names it any more.
                let _ = segment.claim_token(token, block.block);
            }
            let mapping = Arc::clone(segment.mapping());
            holds.push(Hold::new(block.segment, block.since, info, mapping));
        } else {
            // An error is that of a damaged segment.
            let _ = registry.release(block);
        }
    }
    outcome
}

fn hold_one(registry: &mut Registry, handle: &Handle) -> Result<Option<(HeldBlock, BlockInfo)>> {
    let token = handle.token.ok_or_else(|| Error::Stale)?;
    let Some(family) = registry.family(handle.family) else {
        return Ok(None);
    };
    let is_member = registry.families[family].me.is_some();
    let id = registry.find(family, handle.owner, handle.number);
    let Some(id) = id.filter(|_| is_member) else {
        return Ok(None);
    };
    let holder = registry.holder(id)?;
    let info = holder.hold_by_token(token, handle.block as usize, handle.generation)?;
    let held = HeldBlock {
        segment: id,
        block: info.block,
        since: holder.epoch(),
    };
    Ok(Some((held, info)))
}

/// Attaches the segment of a handle, and joins its family, if that is still to be done; it
/// stays attached while what this returns lives.
///
/// # Errors
///
/// As [`super::receive`] and [`super::join`].
pub(crate) fn attach_for(handle: &Handle, keep_going: &mut dyn FnMut() -> bool) -> Result<Kept> {
    let cookie = {
        let registry = lock();
        let known = registry.family(handle.family);
        let is_member = known.is_some_and(|it| registry.families[it].me.is_some());
        let options = registry.options.as_ref();
        (!is_member).then(|| options.map_or([0; 16], |options| options.cookie))
    };
    if let Some(cookie) = cookie {
        membership::join(handle, cookie, keep_going)?;
    }
    exchange::attach_for(handle, keep_going)
}

impl Hold {
    /// The block's segment, for those who look into it: tests and figures.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn segment(&self) -> Result<Arc<PoolSegment>> {
        let mut registry = lock();
        let holder = registry.holder(self.held.segment);
        let holder = holder.map_err(|_| Error::Dropped)?;
        Ok(Arc::clone(holder.segment()))
    }
}
