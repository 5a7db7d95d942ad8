//! Reading items: a text is one that somebody wrote, whole, or it is an error; who writes
//! meanwhile is waited for a little.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::item::{self, Format, Item};
use super::layout::WORD_BYTES;
use super::{Error, List, Result};

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
    /// Item `index`; a text is put into `buffer`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::Corrupt`], [`Error::Unfinished`].
    #[inline]
    pub fn get<'b>(&self, index: usize, buffer: &'b mut Buffer) -> Result<Item<'b>> {
        let mut look = self.look(index, buffer)?;
        let mut patience = Patience::default();
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
                Look::Moving => patience
                    .after_moving()
                    .ok_or_else(|| Error::Unfinished { index })?,
                Look::Senseless(reason) => patience
                    .after_senseless()
                    .ok_or_else(|| Error::Corrupt { index, reason })?,
            }
            look = self.look(index, buffer)?;
        }
    }

    /// Reads format, contents, code and format, and all but the first once more.
    ///
    /// The same format twice does not say that nothing happened in between: few of them tell
    /// writes apart. A reader that was put aside at the wrong moment may meet the format of
    /// one write with the contents, or the code, of another; then the second look, which is
    /// over in no time, finds other ones, or the mark of somebody who writes.
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
        let long = match format {
            Format::BeingWritten => return Ok(Look::Moving),
            Format::Text { len, .. } if len > slot.len => {
                return Ok(Look::Senseless("it is longer than its place"));
            }
            Format::Text { len, .. } if len > WORD_BYTES => Some(len),
            _ => None,
        };
        let mut body = 0;
        if let Some(len) = long {
            self.mapping.read_bytes(slot.at, buffer.bytes_mut(len))?;
        } else {
            // Whole words are never torn.
            body = self.mapping.load_u64(slot.at)?;
        }
        let code = self.read_code(index)?;
        // What was read is older than this second look at the format, ...
        fence(Ordering::Acquire);
        if self.mapping.load_u64(format_at)? != word {
            return Ok(Look::Moving);
        }
        // ... and that is older than this second look at the rest, and so on.
        fence(Ordering::Acquire);
        let is_same = match long {
            Some(len) => self.holds(slot.at, buffer.bytes(len))?,
            None => self.mapping.load_u64(slot.at)? == body,
        };
        let is_same = is_same && self.read_code(index)? == code;
        fence(Ordering::Acquire);
        if !is_same || self.mapping.load_u64(format_at)? != word {
            return Ok(Look::Moving);
        }
        let found = match format {
            Format::Text { len, exact } => {
                if long.is_none() {
                    buffer.small[..WORD_BYTES].copy_from_slice(&body.to_ne_bytes());
                }
                let text = buffer.bytes(len);
                item::decode_text(text, exact, code, slot.len).map(|(is_str, kept)| {
                    // `bytes` looks at the same storage for a shorter length only
                    // if both are small or both are large.
                    if len > SMALL_BYTES && kept <= SMALL_BYTES {
                        buffer.small[..kept].copy_from_slice(&buffer.large[..kept]);
                    }
                    Look::Text { is_str, len: kept }
                })
            }
            scalar => item::decode_scalar(scalar, code, body).map(Look::Scalar),
        };
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
}

const SPINS: u32 = 64;
const YIELDS: u32 = 64;
const SLEEPS: u32 = 20;
const SLEEP: Duration = Duration::from_millis(1);

/// How often was looked in vain.
#[derive(Debug, Default)]
struct Patience {
    moving: u32,
    /// In a row: one says nothing, however long a writer was waited for. The standard
    /// library's does not say that it writes.
    senseless: u32,
}

impl Patience {
    /// Waits a little for a writer; `None` when enough was waited (about 20 ms).
    #[cold]
    fn after_moving(&mut self) -> Option<()> {
        self.senseless = 0;
        let attempt = self.moving;
        self.moving += 1;
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

    /// Waits a moment for a writer that does not say that it writes; `None` when it makes no
    /// sense for good.
    #[cold]
    fn after_senseless(&mut self) -> Option<()> {
        if self.senseless == SPINS {
            return None;
        }
        self.senseless += 1;
        std::hint::spin_loop();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_makes_no_sense_is_no_damage_after_a_long_wait() {
        let mut patience = Patience::default();
        for _ in 0..SPINS + YIELDS {
            assert!(patience.after_moving().is_some());
        }
        for _ in 0..SPINS {
            assert!(patience.after_senseless().is_some());
        }
        assert!(patience.after_senseless().is_none(), "so many in a row are");
        assert!(patience.after_moving().is_some());
        assert!(patience.after_senseless().is_some(), "another row");
    }

    #[test]
    fn every_wait_ends() {
        let mut patience = Patience::default();
        let mut looks = 0;
        while patience.after_senseless().is_some() || patience.after_moving().is_some() {
            looks += 1;
        }
        assert!(looks <= (SPINS + 1) * (SPINS + YIELDS + SLEEPS + 1));
    }
}
