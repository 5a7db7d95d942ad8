//! Putting items.
//!
//! Guarantees: an item is in the queue, whole, from one store on, and after that
//! whatever becomes of its putter; before it nothing that anybody must repair. The lock is
//! never held while anything is waited for or allocated.

use super::get::is_for_good;
use super::mark::Mark;
use super::open::Queue;
use super::protocol;
use super::ring::{HANDLES_MAX, RingMemory, Shape};
use super::rings::{NewRing, RingRef};
use super::waiting::Waiting;
use crate::error::{Error, Result};
use crate::fault::point;
use crate::lock::wait::Stop;
use crate::participation::contained::{end_tokens, send_within};
use crate::participation::{self, Handle, Hold};

/// How many items, and how many bytes, are put while the lock is held once.
const ITEMS_AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = 64 << 10;

/// What is put: bytes, in parts that are joined, and blocks.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// The bytes.
    pub parts: &'a [&'a [u8]],
    /// Blocks that the receiver is to hold.
    pub holds: &'a [&'a Hold],
}

impl Item<'_> {
    fn bytes(&self) -> Result<usize> {
        self.parts
            .iter()
            .try_fold(0_usize, |sum, part| sum.checked_add(part.len()))
            .ok_or_else(|| Error::Full {
                what: "bytes in one item of a queue",
                limit: usize::MAX,
            })
    }
}

/// An item's payload in a block of its own.
#[derive(Debug)]
struct Payload {
    hold: Hold,
}

/// What a turn with the lock came to.
enum Turn {
    /// So many items are in the queue.
    Put(usize),
    /// There are as many as may be, as long as `head` is this.
    Full(Mark),
    /// This ring, of this many units, has no room for an item of so many.
    NoRoom { last: u64, ring: u64, units: u64 },
    /// This ring must be mapped first.
    Unknown(u64),
    /// The table of tokens has no room for the payload's.
    NoToken,
}

/// The lock, while it is held.
struct Locked<'q>(&'q Queue, crate::layout::Participant);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // The words were there a moment ago: no error is possible.
        if let Ok(lock) = self.0.lock() {
            lock.release(self.1, false);
            point("put.released");
        }
    }
}

impl Queue {
    /// Puts an item, waiting for room if `maxsize` demands it.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`]: it is full. [`Stop::Interrupted`]. [`Stop::Failed`]: the
    /// memory's errors, and [`Error::PeerDied`].
    pub fn put(
        &self,
        item: Item<'_>,
        timeout_ns: Option<u64>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> std::result::Result<(), Stop> {
        self.put_many(&[item], timeout_ns, keep_going).1
    }

    /// Puts items in this order; how many it has put when it ends, for whatever reason.
    pub fn put_many(
        &self,
        items: &[Item<'_>],
        timeout_ns: Option<u64>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> (usize, std::result::Result<(), Stop>) {
        let mut put = 0;
        let result = self.check().and_then(|()| self.me());
        let result = result.map_err(Stop::from).and_then(|me| {
            let waiting = &mut Waiting::new(me, timeout_ns, keep_going);
            let done = self.put_all(items, &mut put, waiting);
            self.left(self.for_room()?, waiting, done)
        });
        (put, result)
    }

    /// As [`Queue::put_many`], where nothing is waited for, not even the lock: for callers
    /// that keep others waiting meanwhile.
    ///
    /// [`Stop::TimedOut`]: it is full. [`Stop::Interrupted`]: something must be waited for.
    pub fn put_at_hand(&self, items: &[Item<'_>]) -> (usize, std::result::Result<(), Stop>) {
        let mut put = 0;
        let result = self.check().and_then(|()| self.me());
        let result = result.map_err(Stop::from).and_then(|me| {
            let keep_going = &mut || false;
            let waiting = &mut Waiting::at_hand(me, keep_going);
            self.put_all(items, &mut put, waiting)
        });
        (put, result)
    }

    fn put_all(
        &self,
        items: &[Item<'_>],
        put: &mut usize,
        waiting: &mut Waiting<'_>,
    ) -> std::result::Result<(), Stop> {
        let mut new_ring: Option<NewRing> = None;
        let mut payload = None;
        // Larger than this goes by a block.
        let mut inline_max = self.inline_max;
        for item in items {
            for hold in item.holds {
                hold.tell(waiting.keep_going)?;
            }
        }
        if items.iter().any(|item| !item.holds.is_empty()) {
            self.root.tell_as_container(waiting.keep_going)?;
        }
        while *put < items.len() {
            let next = &items[*put..];
            if payload.is_none() && next[0].bytes()? > inline_max {
                payload = Some(copy(&next[0], waiting.keep_going)?);
                self.root.tell_as_container(waiting.keep_going)?;
            }
            let turn =
                self.take_turn(next, payload.as_ref(), inline_max, &mut new_ring, waiting)?;
            match turn {
                Turn::Put(count) => {
                    *put += count;
                    payload = None;
                    inline_max = self.inline_max;
                    let place = self.for_items()?;
                    self.wake(place);
                }
                Turn::Full(head) => {
                    self.wait(self.for_room()?, head.0, waiting)?;
                    // The room may be that which the last close has made.
                    self.check()?;
                }
                Turn::NoRoom { last, ring, units } => {
                    new_ring = Some(self.make_ring(last, ring, units, waiting.keep_going)?);
                }
                Turn::Unknown(number) => match self.ring(number, waiting.keep_going) {
                    Ok(_) => {}
                    // Retired meanwhile, or out of reach: then another one comes after it.
                    Err(error) if is_for_good(&error) => {
                        let ring = self.first.units();
                        new_ring = Some(self.make_ring(number, ring, 1, waiting.keep_going)?);
                    }
                    Err(error) => return Err(error.into()),
                },
                Turn::NoToken => {
                    // It has room in a ring.
                    payload = None;
                    inline_max = usize::MAX;
                }
            }
        }
        if self.maxsize > 0 {
            // Also if it was closed meanwhile: all is put.
            let is_more = protocol::size(self.head()?, self.tail()?) < self.maxsize;
            self.pass_on(self.for_room()?, waiting, is_more);
        }
        Ok(())
    }

    /// Acquires the lock and puts what can be put while it is held.
    fn take_turn(
        &self,
        items: &[Item<'_>],
        payload: Option<&Payload>,
        inline_max: usize,
        new_ring: &mut Option<NewRing>,
        waiting: &mut Waiting<'_>,
    ) -> std::result::Result<Turn, Stop> {
        // What was done since the last turn may have forked: the lock is to be the child's.
        waiting.me = self.me()?;
        self.acquire(waiting)?;
        let locked = Locked(self, waiting.me);
        point("put.locked");
        let turn = self.put_locked(items, payload, inline_max, new_ring);
        drop(locked);
        // What is left of it was not needed.
        *new_ring = None;
        self.forget_retired(self.rings_first()?);
        Ok(turn?)
    }

    fn put_locked(
        &self,
        items: &[Item<'_>],
        payload: Option<&Payload>,
        inline_max: usize,
        new_ring: &mut Option<NewRing>,
    ) -> Result<Turn> {
        let (mut head, tail) = self.look()?;
        let (first, last) = self.rings()?;
        if first != last {
            self.retire(head)?;
        }
        // Counts under the lock: `head` only moves on, so there is at least this much room.
        let mut room = match self.maxsize {
            0 => ITEMS_AT_ONCE,
            maxsize => {
                let left = maxsize.saturating_sub(tail.items_since(head));
                usize::try_from(left).map_or(ITEMS_AT_ONCE, |left| left.min(ITEMS_AT_ONCE))
            }
        };
        if room == 0 {
            return Ok(Turn::Full(head));
        }
        room = room.min(items.len());
        if head == tail && !matches!(self.known_ring(last), Some(RingRef::First(_))) {
            self.shrink(tail)?;
        }
        if let Some(new) = new_ring.take_if(|new| new.after == self.rings_last().ok()) {
            self.link_new(tail, new)?;
        } // else somebody else was quicker
        let (_, last) = self.rings()?;
        let Some(ring) = self.known_ring(last) else {
            return Ok(Turn::Unknown(last));
        };
        let base = self.entry(last)?.base;
        let mut at = tail;
        let mut count = 0;
        let mut bytes = 0;
        let mut scratch = Vec::new();
        while count < room {
            let item = &items[count];
            let payload = payload.filter(|_| count == 0);
            let len = item.bytes()?;
            if payload.is_none() && len > inline_max {
                break; // its payload is to be copied first
            }
            let shape = Shape {
                bytes: len,
                handles: item.holds.len() + usize::from(payload.is_some()),
                is_in_block: payload.is_some(),
            };
            let units = shape.units()?;
            if !has_room(&ring, base, head, at, units) {
                head = self.look()?.0;
                if !has_room(&ring, base, head, at, units) {
                    if count == 0 {
                        let ring = ring.units();
                        return Ok(Turn::NoRoom { last, ring, units });
                    }
                    break;
                }
            }
            match self.write(&ring, at, shape, item, payload, &mut scratch) {
                Err(Error::Full { .. }) if payload.is_some() => {
                    return Ok(Turn::NoToken);
                }
                Err(error) if count == 0 => return Err(error),
                // The next turn meets it first.
                Err(_) => break,
                Ok(()) => {}
            }
            at = at.after(units);
            count += 1;
            bytes += len;
            if bytes >= BYTES_AT_ONCE {
                break;
            }
        }
        if count > 0 {
            protocol::commit(self.tail()?, at);
        }
        Ok(Turn::Put(count))
    }

    fn write(
        &self,
        ring: &RingMemory,
        at: Mark,
        shape: Shape,
        item: &Item<'_>,
        payload: Option<&Payload>,
        handles: &mut Vec<Handle>,
    ) -> Result<()> {
        handles.clear();
        if shape.handles > 0 {
            if let Some(payload) = payload {
                send_within(&[&payload.hold], &self.container, handles)?;
            }
            if let Err(error) = send_within(item.holds, &self.container, handles) {
                end_tokens(handles);
                return Err(error);
            }
            point("put.tokens");
        }
        if let Err(error) = ring.write_record(at, shape, handles, item.parts) {
            end_tokens(handles);
            return Err(error);
        }
        point("put.written");
        Ok(())
    }
}

/// Whether a ring has room for a record of so many units.
fn has_room(ring: &RingMemory, base: Mark, head: Mark, at: Mark, units: u64) -> bool {
    let begin = if head.has_reached(base) { head } else { base };
    at.units_since(begin) + units <= ring.units()
}

/// Copies an item's payload into a block of its own.
fn copy(item: &Item<'_>, keep_going: &mut dyn FnMut() -> bool) -> Result<Payload> {
    if item.holds.len() >= HANDLES_MAX {
        return Err(Error::Full {
            what: "arrays in one item of a queue",
            limit: HANDLES_MAX,
        });
    }
    let hold = participation::allocate(item.bytes()? as u64, keep_going)?;
    let mut at = hold.offset_bytes();
    for part in item.parts {
        hold.mapping().write_bytes(at, part)?;
        at += part.len();
    }
    hold.tell(keep_going)?;
    point("put.copied");
    Ok(Payload { hold })
}
