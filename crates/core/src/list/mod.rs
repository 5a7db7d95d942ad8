//! Lists of fixed length in shared memory, in the standard library's own format.
//!
//! Guarantees:
//!
//! - Lists of both historical layouts are read and written (see `layout.rs`); new
//!   ones have the newer one, which the standard library of 3.9 and newer reads.
//! - Every value comes back exactly (see `item.rs`); what cannot is refused before
//!   anything changes.
//! - A reader that races with one writer sees the old value, the new one or an
//!   error. Writers who want to share an item agree on a lock among themselves.
//! - Whatever the segment contains, the worst that happens is an error.
//!
//! Order of a write that changes more than one word: the format says "being
//! written"; slot and code; the new format. Killed in between, a writer leaves an
//! item that reads as [`Error::Unfinished`] and can be set anew; the others are
//! untouched. A list being created has a count of -1 until all of it is there.

mod error;
mod item;
mod layout;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

pub use error::{Error, Result};
pub use item::Item;

use crate::mapping::Mapping;
use item::{BEING_WRITTEN, Body, Encoded, Format};
use layout::{Layout, Slot, WORD_BYTES};

/// A list, made or found in a mapping.
#[derive(Debug)]
pub struct List {
    mapping: Arc<Mapping>,
    layout: Layout,
    /// Counts writes of long texts, where the format that is replaced tells no count.
    version: AtomicU32,
}

/// Where the text of an item is put when it is read; may be used again and again.
#[derive(Debug)]
pub struct Buffer {
    small: [u8; SMALL_BYTES],
    large: Vec<u8>,
}

const SMALL_BYTES: usize = 64;
/// Text is compared with its place in parts of so many bytes.
const COMPARED_BYTES: usize = 256;

impl Buffer {
    /// An empty buffer; allocates nothing.
    #[inline]
    pub const fn new() -> Self {
        Buffer {
            small: [0; SMALL_BYTES],
            large: Vec::new(),
        }
    }

    fn bytes(&self, len: usize) -> &[u8] {
        if len <= SMALL_BYTES {
            &self.small[..len]
        } else {
            &self.large[..len]
        }
    }

    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        if len <= SMALL_BYTES {
            &mut self.small[..len]
        } else {
            self.large.resize(len, 0);
            &mut self.large
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

/// The places of the items of a list to be created.
#[derive(Debug, Default)]
pub struct Plan {
    ends: Vec<usize>,
}

impl Plan {
    /// A plan of no items.
    pub const fn new() -> Self {
        Plan { ends: Vec::new() }
    }

    /// Gives the next item its place.
    ///
    /// # Errors
    ///
    /// [`Error::Inexpressible`], [`Error::TooLarge`].
    pub fn push(&mut self, item: &Item<'_>) -> Result<()> {
        let room = item.room_bytes();
        Encoded::new(item, self.ends.len(), room, 0)?;
        let end = self.data_bytes().checked_add(room).ok_or(Error::TooLarge)?;
        self.ends.push(end);
        Ok(())
    }

    /// The size of the segment that the list needs, in bytes; never zero.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`].
    pub fn size_bytes(&self) -> Result<usize> {
        Ok(Layout::new(self.ends.len(), self.data_bytes())?.end())
    }

    fn data_bytes(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
}

/// What one look at an item found.
enum Look {
    Scalar(Item<'static>),
    Text {
        is_str: bool,
        len: usize,
    },
    /// Somebody is writing it.
    Moving,
    /// It makes no sense; perhaps the standard library is writing it.
    Senseless(&'static str),
}

impl List {
    /// Finds the list in `mapping`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAList`].
    pub fn open(mapping: Arc<Mapping>) -> Result<Self> {
        let layout = Layout::read(&mapping)?;
        Ok(List {
            mapping,
            layout,
            version: AtomicU32::new(1),
        })
    }

    /// Makes a list by `plan` in fresh memory, all zero. Until it is filled by
    /// [`List::initialise`] and [`List::publish`]ed nobody can attach to it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] when the mapping is smaller than the plan;
    /// [`Error::Memory`].
    pub fn create(mapping: Arc<Mapping>, plan: &Plan) -> Result<Self> {
        let layout = Layout::new(plan.ends.len(), plan.data_bytes())?;
        if layout.end() > mapping.len() {
            return Err(Error::TooLarge);
        }
        layout.write_offsets(&mapping, &plan.ends)?;
        Ok(List {
            mapping,
            layout,
            version: AtomicU32::new(1),
        })
    }

    /// Writes an item of a list that nobody else can reach yet.
    ///
    /// # Errors
    ///
    /// As [`List::set`].
    pub fn initialise(&self, index: usize, item: &Item<'_>) -> Result<()> {
        let slot = self.slot(index)?;
        let encoded = Encoded::new(item, index, slot.len, 0)?;
        self.write_body(slot, encoded.body)?;
        self.mapping
            .write_bytes(self.layout.code_at(index), &[encoded.code])?;
        let at = self.layout.format_at(index);
        Ok(self.mapping.store_u64(at, encoded.format)?)
    }

    /// Lets others attach.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`].
    pub fn publish(&self) -> Result<()> {
        // All stores above become visible before the count.
        fence(Ordering::Release);
        self.layout.publish(&self.mapping)
    }

    /// The number of items; never changes.
    #[allow(clippy::len_without_is_empty)]
    #[inline]
    pub fn len(&self) -> usize {
        self.layout.count()
    }

    /// Where slots, formats and codes begin, in bytes from the start of the segment.
    pub fn parts(&self) -> (usize, usize, usize) {
        self.layout.parts()
    }

    /// The room of item `index`, in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::Corrupt`].
    pub fn room_bytes(&self, index: usize) -> Result<usize> {
        Ok(self.slot(index)?.len)
    }

    /// The `struct` format of item `index` as the standard library would say it: a
    /// text has the size of its slot.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::Corrupt`].
    pub fn format(&self, index: usize) -> Result<String> {
        let slot = self.slot(index)?;
        let word = self.mapping.load_u64(self.layout.format_at(index))?;
        match Format::parse(word) {
            Some(format) => Ok(format.name(slot.len)),
            None => Err(Error::Corrupt {
                index,
                reason: "its format is unknown",
            }),
        }
    }

    /// The code of item `index`, as it is recorded.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`].
    pub fn code(&self, index: usize) -> Result<u8> {
        self.slot(index)?;
        self.read_code(index)
    }

    /// Item `index`; a text is put into `buffer`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::Corrupt`], [`Error::Unfinished`].
    #[inline]
    pub fn get<'b>(&self, index: usize, buffer: &'b mut Buffer) -> Result<Item<'b>> {
        let mut look = self.look(index, buffer)?;
        let mut attempt = 0;
        loop {
            match look {
                Look::Scalar(item) => return Ok(item),
                Look::Text { is_str, len } => {
                    let text = buffer.bytes(len);
                    return Ok(if is_str {
                        Item::Str(text)
                    } else {
                        Item::Bytes(text)
                    });
                }
                Look::Moving => pause(attempt).ok_or(Error::Unfinished { index })?,
                Look::Senseless(reason) if attempt >= SPINS => {
                    return Err(Error::Corrupt { index, reason });
                }
                Look::Senseless(_) => std::hint::spin_loop(),
            }
            attempt += 1;
            look = self.look(index, buffer)?;
        }
    }

    #[inline]
    fn look(&self, index: usize, buffer: &mut Buffer) -> Result<Look> {
        let slot = self.slot(index)?;
        let format_at = self.layout.format_at(index);
        let word = self.mapping.load_u64(format_at)?;
        // What follows is read after the format (pairs with the fences of `write`).
        fence(Ordering::Acquire);
        let Some(format) = Format::parse(word) else {
            return Ok(Look::Senseless("its format is unknown"));
        };
        let found = match format {
            Format::BeingWritten => return Ok(Look::Moving),
            Format::Text { len, exact } => {
                if len > slot.len {
                    return Ok(Look::Senseless("it is longer than its place"));
                }
                let text = if len <= WORD_BYTES {
                    // Whole words are never torn.
                    let word = self.mapping.load_u64(slot.at)?.to_ne_bytes();
                    buffer.small[..WORD_BYTES].copy_from_slice(&word);
                    &buffer.small[..len]
                } else {
                    let text = buffer.bytes_mut(len);
                    self.mapping.read_bytes(slot.at, text)?;
                    // The format tells a few hundred versions apart: a reader that slept
                    // may meet the same one again. What it read is one text only if it
                    // is still there.
                    fence(Ordering::Acquire);
                    if !self.holds(slot.at, text)? {
                        return Ok(Look::Moving);
                    }
                    text
                };
                let code = self.read_code(index)?;
                item::decode_text(text, exact, code, slot.len).map(|(is_str, kept)| {
                    // `bytes` looks at the same storage for a shorter length only
                    // if both are small or both are large.
                    if len > SMALL_BYTES && kept <= SMALL_BYTES {
                        buffer.small[..kept].copy_from_slice(&buffer.large[..kept]);
                    }
                    Look::Text { is_str, len: kept }
                })
            }
            scalar => {
                let value = self.mapping.load_u64(slot.at)?;
                item::decode_scalar(scalar, self.read_code(index)?, value).map(Look::Scalar)
            }
        };
        // What was read is older than this second look at the format.
        fence(Ordering::Acquire);
        if self.mapping.load_u64(format_at)? != word {
            return Ok(Look::Moving);
        }
        Ok(found.unwrap_or(Look::Senseless("its format and its code disagree")))
    }

    /// Whether these bytes are what lies at `at` now.
    fn holds(&self, at: usize, bytes: &[u8]) -> Result<bool> {
        let mut now = [0; COMPARED_BYTES];
        for (number, part) in bytes.chunks(COMPARED_BYTES).enumerate() {
            let now = &mut now[..part.len()];
            self.mapping.read_bytes(at + number * COMPARED_BYTES, now)?;
            if now != part {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether [`List::set`] would accept `item` at `index`.
    ///
    /// # Errors
    ///
    /// As [`List::set`].
    pub fn check(&self, index: usize, item: &Item<'_>) -> Result<()> {
        if self.mapping.is_read_only() {
            return Err(Error::Memory(crate::error::Error::ReadOnly));
        }
        let slot = self.slot(index)?;
        Encoded::new(item, index, slot.len, 0).map(|_| ())
    }

    /// Replaces item `index`, whatever it was.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::TooLong`], [`Error::Inexpressible`],
    /// [`Error::Corrupt`] (its place is impossible), [`Error::Memory`] (read-only).
    #[inline]
    pub fn set(&self, index: usize, item: &Item<'_>) -> Result<()> {
        if self.mapping.is_read_only() {
            return Err(Error::Memory(crate::error::Error::ReadOnly));
        }
        let slot = self.slot(index)?;
        let version = if item.is_long() {
            self.next_version(index)?
        } else {
            0
        };
        let encoded = Encoded::new(item, index, slot.len, version)?;
        self.write(index, slot, &encoded)
    }

    /// The number of a write of a long text: never that of the text it replaces.
    fn next_version(&self, index: usize) -> Result<u32> {
        let old = self.mapping.load_u64(self.layout.format_at(index))?;
        Ok(match item::version_of(old) {
            Some(version) => version + 1,
            // Relaxed: a mere number; the fences of `write` order the rest.
            None => self.version.fetch_add(1, Ordering::Relaxed),
        })
    }

    #[inline]
    fn write(&self, index: usize, slot: Slot, new: &Encoded<'_>) -> Result<()> {
        let format_at = self.layout.format_at(index);
        if let Body::Word(word) = new.body
            && self.mapping.load_u64(format_at)? == new.format
            && self.read_code(index)? == new.code
        {
            // A single word changes: no reader sees a mixture.
            return Ok(self.mapping.store_u64(slot.at, word)?);
        }
        self.mapping.store_u64(format_at, BEING_WRITTEN)?;
        // The mark is visible before any of what follows, ...
        fence(Ordering::Release);
        self.write_body(slot, new.body)?;
        let code_at = self.layout.code_at(index);
        self.mapping.write_bytes(code_at, &[new.code])?;
        // ... and all of that before the new format.
        fence(Ordering::Release);
        Ok(self.mapping.store_u64(format_at, new.format)?)
    }

    #[inline]
    fn write_body(&self, slot: Slot, body: Body<'_>) -> Result<()> {
        let (text, end) = match body {
            Body::Word(word) => return Ok(self.mapping.store_u64(slot.at, word)?),
            // Slots are multiples of a word, so the end is within the slot.
            Body::Text(text) => (text, text.len().next_multiple_of(WORD_BYTES)),
            Body::Padded(text) => (text, slot.len),
        };
        self.mapping.write_bytes(slot.at, text)?;
        Ok(self
            .mapping
            .zero_bytes(slot.at + text.len(), end - text.len())?)
    }

    #[inline]
    fn slot(&self, index: usize) -> Result<Slot> {
        let count = self.len();
        if index >= count {
            return Err(Error::OutOfRange { index, count });
        }
        self.layout.slot(&self.mapping, index)
    }

    #[inline]
    fn read_code(&self, index: usize) -> Result<u8> {
        let mut code = [0];
        self.mapping
            .read_bytes(self.layout.code_at(index), &mut code)?;
        Ok(code[0])
    }
}

const SPINS: u32 = 64;
const YIELDS: u32 = 64;
const SLEEPS: u32 = 20;
const SLEEP: Duration = Duration::from_millis(1);

/// Waits a little for a writer; `None` when enough was waited (about 20 ms).
#[cold]
fn pause(attempt: u32) -> Option<()> {
    if attempt < SPINS {
        std::hint::spin_loop();
    } else if attempt < SPINS + YIELDS {
        std::thread::yield_now();
    } else if attempt < SPINS + YIELDS + SLEEPS {
        // The writer was put aside by the scheduler, or died.
        std::thread::sleep(SLEEP);
    } else {
        return None;
    }
    Some(())
}
