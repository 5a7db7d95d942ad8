//! Getting items.
//!
//! Guarantees: an item goes to the one whose step on `head` succeeds, which it takes when
//! it holds everything; until then nothing has changed that the next one could notice. No
//! lock is held between processes, and nobody waits for another getter.

use super::mark::Mark;
use super::open::Queue;
use super::protocol;
use super::ring::Shape;
use super::rings::RingRef;
use super::waiting::Waiting;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::lock::wait::Stop;
use crate::participation::contained::{Receipt, attach_for, end_tokens_of_any, receive_if};
use crate::participation::{Handle, Hold};
use crate::sync::Ordering;

/// A buffer for more handles than these does not stay.
const HANDLES_KEPT: usize = 64;

/// What was got. Made to be used again: its buffers stay.
#[derive(Debug, Default)]
pub struct Message {
    bytes: Vec<u8>,
    payload: Option<(Hold, usize)>,
    holds: Vec<Hold>,
    shape: Option<Shape>,
    /// Of all items of one call, in the first message.
    handles: Vec<Handle>,
}

impl Message {
    /// The payload, if it came inline; empty otherwise.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The payload's block and its length in bytes, if it came so.
    pub fn payload(&self) -> Option<(&Hold, usize)> {
        self.payload.as_ref().map(|(hold, len)| (hold, *len))
    }

    /// The same, taken out.
    pub fn take_payload(&mut self) -> Option<(Hold, usize)> {
        self.payload.take()
    }

    /// The blocks that came with it.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// One of them, taken out; the others are let go of.
    pub fn take_hold(&mut self, index: usize) -> Option<Hold> {
        let hold = (index < self.holds.len()).then(|| self.holds.swap_remove(index));
        self.holds.clear();
        hold
    }

    /// All of them, taken out.
    pub fn take_holds(&mut self) -> Vec<Hold> {
        std::mem::take(&mut self.holds)
    }

    /// The payload, copied, wherever it is.
    ///
    /// # Errors
    ///
    /// None: the block was checked.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        match &self.payload {
            None => Ok(self.bytes.clone()),
            Some((hold, len)) => {
                let mut bytes = Vec::new();
                hold.mapping()
                    .append_bytes(hold.offset_bytes(), *len, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// Forgets what it brought; its buffers stay.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.payload = None;
        self.holds.clear();
        self.shape = None;
        if self.handles.capacity() > HANDLES_KEPT {
            self.handles = Vec::new();
        }
    }
}

/// What a try came to.
enum Tried {
    Got(usize),
    /// There was nothing; `tail` was this.
    Empty(Mark),
    /// Somebody else was quicker.
    Lost,
    /// The ring of the items between these marks must be mapped first.
    Unknown {
        number: u64,
        from: Mark,
        to: Mark,
    },
    /// Some handle cannot be received: its segment is to be attached, or it never can be.
    Stuck(Box<Stuck>),
}

struct Stuck {
    /// What is to be attached, or why there is no use.
    why: std::result::Result<Handle, Error>,
    /// The items that were tried, and their handles.
    from: Mark,
    to: Mark,
    handles: Vec<Handle>,
}

impl Queue {
    /// Gets the next item into `message`, waiting for one if need be.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`]: it is empty. [`Stop::Interrupted`]. [`Stop::Failed`]: the item's
    /// memory cannot be had ([`Error::Stale`], ...): the item is gone, the queue is usable;
    /// or [`Error::PeerDied`].
    pub fn get(
        &self,
        message: &mut Message,
        timeout_ns: Option<u64>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> std::result::Result<(), Stop> {
        self.get_many(std::slice::from_mut(message), timeout_ns, keep_going)
            .map(|_| ())
    }

    /// Gets what there is, up to as many items as there are messages, waiting for the
    /// first one; how many.
    ///
    /// # Errors
    ///
    /// As [`Queue::get`]; nothing else was got then.
    pub fn get_many(
        &self,
        messages: &mut [Message],
        timeout_ns: Option<u64>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> std::result::Result<usize, Stop> {
        self.check()?;
        if messages.is_empty() {
            return Ok(0);
        }
        let waiting = &mut Waiting::new(self.me()?, timeout_ns, keep_going);
        let got = self.get_all(messages, waiting);
        self.left(self.for_items()?, waiting, got)
    }

    fn get_all(
        &self,
        messages: &mut [Message],
        waiting: &mut Waiting<'_>,
    ) -> std::result::Result<usize, Stop> {
        let mut most = messages.len();
        let mut tries = 0_u32;
        // What an item's blocks are in stays attached until all of it is.
        let mut attached = Vec::new();
        loop {
            match self.try_get(&mut messages[..most])? {
                Tried::Got(count) => {
                    self.taken.fetch_add(count as u64, Ordering::Relaxed);
                    let (head, tail) = self.look()?;
                    self.pass_on(self.for_items()?, waiting, head != tail);
                    return Ok(count);
                }
                Tried::Empty(tail) => {
                    attached.clear();
                    self.wait(self.for_items()?, tail.0, waiting)?;
                    self.check()?;
                }
                Tried::Lost => {
                    // Somebody got on; but a signal is to be heard even so.
                    tries = tries.wrapping_add(1);
                    if tries.is_multiple_of(1000) && !(waiting.keep_going)() {
                        return Err(Stop::Interrupted);
                    }
                }
                Tried::Unknown { number, from, to } => {
                    if let Err(error) = self.ring(number, waiting.keep_going) {
                        if !is_for_good(&error) {
                            return Err(error.into());
                        }
                        // Retired meanwhile, or out of reach, and its items with it.
                        if protocol::take(self.head()?, from, to) {
                            self.after_taking(to)?;
                            return Err(error.into());
                        }
                    }
                }
                Tried::Stuck(stuck) => {
                    let Stuck {
                        why,
                        from,
                        to,
                        handles,
                    } = *stuck;
                    let error = match why {
                        Err(error) => error,
                        Ok(handle) => match attach_for(&handle, waiting.keep_going) {
                            Ok(kept) => {
                                attached.push(kept);
                                continue;
                            }
                            Err(error) => error,
                        },
                    };
                    if !is_for_good(&error) {
                        return Err(error.into());
                    }
                    if most > 1 {
                        // Which one it is will be seen.
                        most = 1;
                    } else if protocol::take(self.head()?, from, to) {
                        end_tokens_of_any(&handles);
                        self.taken.fetch_add(1, Ordering::Relaxed);
                        self.after_taking(to)?;
                        return Err(error.into());
                    }
                }
            }
        }
    }

    fn try_get(&self, messages: &mut [Message]) -> Result<Tried> {
        let (head, tail) = self.look()?;
        if head == tail {
            return Ok(Tried::Empty(tail));
        }
        let located = self.locate(head)?;
        let end = located.end.unwrap_or(tail);
        let Some(ring) = self.known_ring(located.number) else {
            return Ok(Tried::Unknown {
                number: located.number,
                from: head,
                to: end,
            });
        };
        let mut handles = std::mem::take(&mut messages[0].handles);
        handles.clear();
        let (count, next) = match copy(&ring, messages, &mut handles, head, end) {
            Ok(copied) => copied,
            Err(error) => {
                // Garbage counts only if nobody has taken it meanwhile.
                crate::sync::fence(Ordering::Acquire);
                return if self.look()?.0 == head {
                    Err(error)
                } else {
                    Ok(Tried::Lost)
                };
            }
        };
        point("get.copied");
        if handles.is_empty() {
            if !protocol::take(self.head()?, head, next) {
                return Ok(Tried::Lost);
            }
        } else {
            let word = self.head()?;
            let mut commit = || Ok(protocol::take(word, head, next));
            let why = match receive_if(&handles, &mut commit, &mut messages[0].holds) {
                Ok(Receipt::Taken) => {
                    hand_out(&mut messages[..count]);
                    None
                }
                Ok(Receipt::Lost) => return Ok(Tried::Lost),
                Ok(Receipt::Missing(index)) => Some(Ok(handles[index])),
                Err(error) => Some(Err(error)),
            };
            if let Some(why) = why {
                return Ok(Tried::Stuck(Box::new(Stuck {
                    why,
                    from: head,
                    to: next,
                    handles,
                })));
            }
            point("get.ended");
        }
        messages[0].handles = handles;
        self.after_taking(next)?;
        Ok(Tried::Got(count))
    }

    /// `head` is ours to have moved to `next`.
    fn after_taking(&self, next: Mark) -> Result<()> {
        if self.maxsize > 0 {
            let place = self.for_room()?;
            self.wake(place);
        }
        let (first, last) = self.rings()?;
        if first != last {
            self.retire_if_free(next)?;
        }
        self.forget_retired(first);
        Ok(())
    }

    /// Retires what was emptied if the lock can be had at once; else who has it will.
    #[cold]
    fn retire_if_free(&self, head: Mark) -> Result<()> {
        let (first, _) = self.rings()?;
        if self.locate(head)?.number == first {
            return Ok(());
        }
        let me = self.me()?;
        let lock = self.lock()?;
        if lock.try_acquire(me).is_some() {
            let done = self.retire(head);
            lock.release(me, false);
            done?;
        }
        self.forget_retired(self.rings_first()?);
        Ok(())
    }

    /// Takes an item to throw it away; `false` when there is none.
    pub(super) fn discard_one(&self) -> Result<bool> {
        loop {
            let (head, tail) = self.look()?;
            if head == tail {
                return Ok(false);
            }
            let located = self.locate(head)?;
            let ring = match self.ring(located.number, &mut || true) {
                Ok(ring) => ring,
                Err(Error::Stale) if self.look()?.0 != head => continue,
                Err(error) => return Err(error),
            };
            let (shape, next) = ring.record(head, located.end.unwrap_or(tail))?;
            let mut handles = Vec::new();
            ring.handles(head, shape, &mut handles)?;
            if protocol::take(self.head()?, head, next) {
                end_tokens_of_any(&handles);
                return Ok(true);
            }
        }
    }
}

/// Whether a handle will never be received: its item is in the way of the others.
pub(super) fn is_for_good(error: &Error) -> bool {
    matches!(
        error,
        Error::Stale
            | Error::UnknownFamily
            | Error::ForeignHandle(_)
            | Error::TrackerUnavailable(_)
            | Error::WrongSegment(_)
            | Error::Damaged(_)
    )
}

/// Copies records into messages, and their handles; how many, and the mark after them.
fn copy(
    ring: &RingRef<'_>,
    messages: &mut [Message],
    handles: &mut Vec<Handle>,
    head: Mark,
    end: Mark,
) -> Result<(usize, Mark)> {
    let mut at = head;
    let mut count = 0;
    for message in messages {
        if at == end {
            break;
        }
        let (shape, next) = ring.record(at, end)?;
        message.clear();
        message.shape = Some(shape);
        ring.handles(at, shape, handles)?;
        ring.payload(at, shape, &mut message.bytes)?;
        at = next;
        count += 1;
    }
    Ok((count, at))
}

/// Gives each message the holds of its handles, all of which are the first one's so far.
fn hand_out(messages: &mut [Message]) {
    if let [Message { shape, .. }] = messages
        && shape.is_some_and(|shape| !shape.is_in_block)
    {
        return;
    }
    let holds = messages.first_mut().map(Message::take_holds);
    let mut holds = holds.unwrap_or_default().into_iter();
    for message in messages {
        let Some(shape) = message.shape else { continue };
        let mut count = shape.handles;
        if shape.is_in_block {
            // A length beyond the block's is a lie: then there is less.
            message.payload = holds.next().map(|hold| {
                let len = shape.bytes.min(hold.size_bytes());
                (hold, len)
            });
            count -= 1;
        }
        message.holds.extend(holds.by_ref().take(count));
    }
}
