//! A latest-value channel: one writer, any number of readers, each gets the newest frame.
//!
//! Guarantees:
//!
//! - The writer waits for nobody but memory: each frame is a block of its pool that nobody
//!   holds, so what readers do with older frames does not matter to it.
//! - A reader has a whole frame, and keeps it, unchanged, as long as it likes, without a
//!   copy: the block is held like any other.
//! - A writer that dies leaves the newest frame that it had published; another may take
//!   its place. Frames go with the channel.
//! - Who waits learns that the writer has died, or has stopped and nobody took its place.
//!
//! The bytes, the steps and what a kill between them leaves: `docs/latest.md`.

use core::mem::{offset_of, size_of};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::Participant;
use crate::layout::latest::{FRAME_TABLE, FRAMES, Frame, LATEST_BYTES, LATEST_KIND, LatestHeader};
use crate::layout::queues::HANDLE_BYTES;
use crate::lock::kernel::System;
use crate::lock::wait::{Nap, Naps, Seldom, Stop, Wait};
use crate::mapping::Mapping;
use crate::participation::contained::{attach_for, end_tokens, end_tokens_of_any, send_within};
use crate::participation::{self, Asking, Handle, Hold, Presence, Sent};
use crate::pool::tokens::Container;
use crate::queue::protocol;
use crate::sync::{AtomicU64, Ordering, fence};

/// A channel, as this process has it.
#[derive(Debug)]
pub struct Latest {
    root: Hold,
    mapping: Arc<Mapping>,
    at: usize,
    container: Container,
    presence: Presence,
}

/// A frame that was received.
#[derive(Debug)]
pub struct Received {
    /// The block that it is.
    pub hold: Hold,
    /// The length of its bytes, which begin at the block's beginning.
    pub bytes: usize,
    /// Its number: 1 for the first frame ever, and so on without gaps.
    pub number: u64,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Nobody,
    Lives,
    Died,
}

/// An entry as it was read.
struct Entry {
    number: u64,
    bytes: u64,
    handle: Handle,
}

impl Latest {
    /// Makes a channel without a frame.
    ///
    /// # Errors
    ///
    /// As [`participation::allocate`].
    pub fn create(keep_going: &mut dyn FnMut() -> bool) -> Result<Self> {
        let root = participation::allocate(LATEST_BYTES as u64, keep_going)?;
        let (mapping, at) = (root.mapping(), root.offset_bytes());
        mapping.zero_bytes(at, LATEST_BYTES)?;
        mapping
            .shared_word(at + offset_of!(LatestHeader, kind))?
            .store(LATEST_KIND, Ordering::Release);
        Latest::open(root)
    }

    /// The channel in a block that was received.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSegment`] when there is none.
    pub fn open(root: Hold) -> Result<Self> {
        let mapping = Arc::clone(root.mapping());
        let at = root.offset_bytes();
        let kind = mapping.shared_word(at)?.load(Ordering::Acquire);
        if root.size_bytes() < LATEST_BYTES || kind != LATEST_KIND {
            return Err(Error::WrongSegment("there is no channel in this block"));
        }
        let container = root.container()?;
        let presence = root.presence()?;
        root.open_channel()?;
        Ok(Latest {
            root,
            mapping,
            at,
            container,
            presence,
        })
    }

    /// A handle to be sent, as an array's.
    ///
    /// # Errors
    ///
    /// As [`Hold::send`].
    pub fn send(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<(Handle, Sent)> {
        self.root.send(keep_going)
    }

    /// The block.
    pub fn hold(&self) -> &Hold {
        &self.root
    }

    /// Makes this process the writer, in place of nobody or of one that is gone; `false`
    /// when it was already.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when there is another.
    pub fn become_writer(&self) -> Result<bool> {
        let me = self.root.me()?;
        let word = self.writer()?;
        let seen = word.load(Ordering::Acquire);
        let before = Participant::unpack(seen);
        if before == Some(me) {
            return Ok(false);
        }
        if before.is_some_and(|before| !self.root.is_gone(before, Asking::Once))
            || word
                .compare_exchange(seen, me.pack(), Ordering::AcqRel, Ordering::Acquire)
                .is_err()
        {
            return Err(Error::NotAllowed("the channel has another writer"));
        }
        Ok(true)
    }

    /// Whether there is a writer, and it is not known to be gone.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn has_writer(&self) -> Result<bool> {
        if self.root.is_dropped() {
            return Err(Error::Dropped);
        }
        Ok(self.writer_state()? == Writer::Lives)
    }

    /// Whether this process is the writer.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn is_writer(&self) -> Result<bool> {
        let me = self.root.me()?;
        Ok(self.writer()?.load(Ordering::Acquire) == me.pack())
    }

    /// The number of the newest frame; zero: there is none yet.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn number(&self) -> Result<u64> {
        if self.root.is_dropped() {
            return Err(Error::Dropped);
        }
        Ok(self.newest()?.load(Ordering::Acquire))
    }

    /// Ends being the writer; nothing happens if this process is not. Who waits is told
    /// that the writer has ended, not that it died, unless another takes its place soon.
    ///
    /// # Errors
    ///
    /// As [`Hold::is_dropped`] tells: [`Error::Dropped`].
    pub fn stop_writing(&self) -> Result<()> {
        let me = self.root.me()?;
        // Fails when it is another's: nothing to end.
        let ended =
            self.writer()?
                .compare_exchange(me.pack(), 0, Ordering::AcqRel, Ordering::Relaxed);
        if ended.is_ok() {
            protocol::wake_all(self.readers()?, System);
        }
        Ok(())
    }

    /// Does what [`Latest::publish`] might have to wait for, for this block.
    ///
    /// # Errors
    ///
    /// As [`Hold::send`].
    pub fn prepare(&self, frame: &Hold, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
        frame.tell(keep_going)?;
        self.root.tell_as_container(keep_going)
    }

    /// Publishes a block that the caller has filled, the first `bytes` of it, as the newest
    /// frame; its number. Nobody may write to it from now on. Calls of several threads are
    /// to be made one after the other.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] when this process is not the writer; as [`Hold::send`].
    pub fn publish(
        &self,
        frame: &Hold,
        bytes: usize,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<u64> {
        if bytes > frame.size_bytes() {
            return Err(Error::NotAllowed("a frame is longer than its block"));
        }
        self.check_writer()?;
        self.prepare(frame, keep_going)?;
        // It may have forked: then this is a child, and its parent the writer.
        self.check_writer()?;
        let number = self
            .newest()?
            .load(Ordering::Relaxed)
            .wrapping_add(1)
            .max(1);
        let at = entry_offset(number);
        let old = self.entry(at)?;
        let mut handles = Vec::with_capacity(1);
        send_within(&[frame], &self.container, &mut handles)?;
        point("latest.token");
        let word = self.word(at + offset_of!(Frame, number))?;
        word.store(0, Ordering::Relaxed);
        // Who reads a part of what follows reads the zero afterwards.
        fence(Ordering::Release);
        let handle = handles[0].to_bytes();
        self.mapping
            .write_bytes(self.at + at + offset_of!(Frame, handle), &handle)?;
        self.word(at + offset_of!(Frame, bytes))?
            .store(bytes as u64, Ordering::Relaxed);
        word.store(number, Ordering::Release);
        point("latest.written");
        // Who sees the number sees the entry, and the frame's bytes.
        self.newest()?.store(number, Ordering::Release);
        point("latest.published");
        protocol::wake_all(self.readers()?, System);
        if let Some(old) = old {
            end_tokens(&[old.handle]);
            point("latest.ended");
        }
        Ok(number)
    }

    /// Copies bytes into a block of this process's pool and publishes them.
    ///
    /// # Errors
    ///
    /// As [`Latest::publish`] and [`participation::allocate`].
    pub fn publish_copy(&self, bytes: &[u8], keep_going: &mut dyn FnMut() -> bool) -> Result<u64> {
        let frame = participation::allocate(bytes.len() as u64, keep_going)?;
        frame.mapping().write_bytes(frame.offset_bytes(), bytes)?;
        self.publish(&frame, bytes.len(), keep_going)
    }

    /// The newest frame, if there is one. Waits for nobody.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`]; as [`participation::receive`], when the frame is out of reach.
    pub fn read(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<Option<Received>> {
        if self.root.is_dropped() {
            return Err(Error::Dropped);
        }
        loop {
            let number = self.newest()?.load(Ordering::Acquire);
            if number == 0 {
                return Ok(None);
            }
            let Some(entry) = self.entry(entry_offset(number))? else {
                self.check_moved(number)?;
                continue;
            };
            if entry.number != number {
                self.check_moved(number)?;
                continue;
            }
            let hold = match self.take(&entry.handle, keep_going) {
                Ok(hold) => hold,
                // So many newer frames came meanwhile.
                Err(Error::Stale) if self.has_moved(number)? => continue,
                Err(error) => return Err(error),
            };
            let bytes = usize::try_from(entry.bytes).unwrap_or(usize::MAX);
            let bytes = bytes.min(hold.size_bytes());
            return Ok(Some(Received {
                hold,
                bytes,
                number,
            }));
        }
    }

    /// The newest frame that is newer than number `after`, which is waited for.
    ///
    /// # Errors
    ///
    /// [`Stop::TimedOut`], [`Stop::Interrupted`]; [`Stop::Failed`]: as [`Latest::read`],
    /// [`Error::PeerDied`] when the writer has died, and [`Error::WriterEnded`] when it has
    /// stopped, some frames were published before, and nobody took its place meanwhile.
    pub fn wait(
        &self,
        after: u64,
        timeout_ns: Option<u64>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> std::result::Result<Received, Stop> {
        let me = self.root.me()?;
        let mut naps = None;
        let mut looks = Seldom::default();
        let mut was_deserted = false;
        loop {
            let seen = self.newest()?.load(Ordering::Acquire);
            if seen > after
                && let Some(received) = self.read(keep_going)?
            {
                return Ok(received);
            }
            if timeout_ns == Some(0) {
                return Err(Stop::TimedOut);
            }
            let readers = self.readers()?;
            let announced = protocol::announce(readers);
            if self.newest()?.load(Ordering::Acquire) != seen {
                continue;
            }
            let mut wait = Wait {
                me,
                watch: Some(&self.presence),
                timeout_ns,
                is_gone: &mut |_| false,
                keep_going,
            };
            let naps = naps.get_or_insert_with(|| Naps::of(&wait, System));
            let nap = naps.nap(&mut wait, System, readers, announced);
            let is_still = matches!(nap, Ok(_) | Err(Stop::TimedOut)) && !self.has_moved(seen)?;
            if is_still && looks.is_due(System) {
                let in_vain = self.look_after_writer(seen)?;
                // Not at the first look: one writer may be taking over from another.
                match in_vain {
                    Some(error) if was_deserted => return Err(error.into()),
                    _ => was_deserted = in_vain.is_some(),
                }
                if was_deserted {
                    naps.shorten();
                }
            } else if is_still && nap == Ok(Nap::Look) {
                // Woken for no frame: the writer has stopped, perhaps. Soon it is time to look.
                naps.shorten();
            }
            nap?;
        }
    }

    fn check_writer(&self) -> Result<()> {
        if self.is_writer()? {
            return Ok(());
        }
        Err(Error::NotAllowed(
            "this process is not the channel's writer",
        ))
    }

    /// Takes a frame's block by its generation: the token stays, for the others.
    fn take(&self, handle: &Handle, keep_going: &mut dyn FnMut() -> bool) -> Result<Hold> {
        let handle = Handle {
            token: None,
            ..*handle
        };
        match participation::receive(&handle, keep_going) {
            Err(Error::UnknownFamily) => {
                let _kept = attach_for(&handle, keep_going)?;
                participation::receive(&handle, keep_going)
            }
            other => other,
        }
    }

    /// Why nothing comes after frame `seen`, if there was a writer and is none.
    fn look_after_writer(&self, seen: u64) -> Result<Option<Error>> {
        if self.root.is_dropped() {
            return Err(Error::Dropped);
        }
        let state = self.writer_state()?;
        participation::queues::audit_if_due();
        // What it did before counts.
        if self.has_moved(seen)? {
            return Ok(None);
        }
        Ok(match state {
            Writer::Died => Some(Error::PeerDied),
            Writer::Nobody => (seen > 0).then_some(Error::WriterEnded),
            Writer::Lives => None,
        })
    }

    fn writer_state(&self) -> Result<Writer> {
        let writer = Participant::unpack(self.writer()?.load(Ordering::Acquire));
        Ok(match writer {
            None => Writer::Nobody,
            Some(writer) if self.root.is_gone(writer, Asking::WhileWaiting) => Writer::Died,
            Some(_) => Writer::Lives,
        })
    }

    fn has_moved(&self, number: u64) -> Result<bool> {
        Ok(self.newest()?.load(Ordering::Acquire) != number)
    }

    /// An entry that is not what its number says: replaced meanwhile, or garbage.
    fn check_moved(&self, number: u64) -> Result<()> {
        if self.has_moved(number)? {
            Ok(())
        } else {
            Err(Error::Stale)
        }
    }

    /// An entry, read at one moment; `None` when it is empty or being replaced.
    fn entry(&self, at: usize) -> Result<Option<Entry>> {
        let word = self.word(at + offset_of!(Frame, number))?;
        let number = word.load(Ordering::Acquire);
        let bytes = self
            .word(at + offset_of!(Frame, bytes))?
            .load(Ordering::Relaxed);
        let mut handle = [0; HANDLE_BYTES];
        let from = self.at + at + offset_of!(Frame, handle);
        self.mapping.read_bytes(from, &mut handle)?;
        fence(Ordering::Acquire);
        if number == 0 || word.load(Ordering::Relaxed) != number {
            return Ok(None);
        }
        Ok(Some(Entry {
            number,
            bytes,
            handle: Handle::from_bytes(&handle)?,
        }))
    }

    fn word(&self, field: usize) -> Result<&AtomicU64> {
        self.mapping.shared_word(self.at + field)
    }

    fn writer(&self) -> Result<&AtomicU64> {
        self.word(offset_of!(LatestHeader, writer))
    }

    fn newest(&self) -> Result<&AtomicU64> {
        self.word(offset_of!(LatestHeader, newest))
    }

    fn readers(&self) -> Result<&AtomicU64> {
        self.word(offset_of!(LatestHeader, readers))
    }

    fn let_frames_go(&self) -> Result<()> {
        if !self.root.is_dropped() && self.root.is_last_holder()? {
            for index in 0..FRAMES as u64 {
                if let Some(entry) = self.entry(entry_offset(index))? {
                    end_tokens_of_any(&[entry.handle]);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Latest {
    fn drop(&mut self) {
        // An error is that of a damaged channel, in which nothing can be found.
        let _ = self.let_frames_go();
        participation::queues::close_channel(&self.container);
    }
}

/// Where the entry of a frame is.
fn entry_offset(number: u64) -> usize {
    FRAME_TABLE + (number % FRAMES as u64) as usize * size_of::<Frame>()
}
