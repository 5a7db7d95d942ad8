//! What an item is, and the three things a list records of it: the contents of its
//! slot, its format word and its code.
//!
//! The standard library records a text (`str` or `bytes`) by the size of its slot
//! and strips NULs from its end when it is read: a text that ends in NUL does not
//! come back. Here a text's *length* is recorded, in a form that the standard
//! library understands too: `struct` ignores blanks, so `"5s "` describes five
//! bytes to both. The blank is what tells an exact format from one that the
//! standard library wrote; and since its last character is not `s`, the standard
//! library replaces it by one of its own when it overwrites the item.
//!
//! | value | format | code |
//! |---|---|---|
//! | int | `q` | 0 |
//! | float | `d` | 0 |
//! | bool | `xxxxxxx?` | 0 |
//! | None | `xxxxxx?x` | 3 |
//! | str, n bytes of UTF-8 | `<n>s` and blanks | 1 |
//! | bytes, n | `<n>s` and blanks | 0: as it is, also for the standard library |
//! | being written | `xxxxxxxx` | any |
//!
//! A format has 8 bytes, so the blank ends at 999,999 bytes. Up to 9,999,999 bytes
//! the format is `<room>s`, with the code 1 or 2 (strip NULs), as the standard
//! library has it, where the text does not end in NUL, and `<n>s` where it does; the
//! only text that this cannot tell apart is refused: a str that ends in NUL and fills
//! its slot to the last byte.
//!
//! *Which* blanks follow says which write it was: six characters count as blank, and
//! each write of a text of more than 8 bytes takes their next combination, so that a
//! reader who sees the same format before and after it read the text knows that it did
//! not change meanwhile. A text of up to 8 bytes is one word, read and written whole.

use crate::list::error::{Error, Result};
use crate::list::layout::WORD_BYTES;

const fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_ne_bytes(*bytes)
}

const INT: u64 = word(b"q\0\0\0\0\0\0\0");
const FLOAT: u64 = word(b"d\0\0\0\0\0\0\0");
const BOOL: u64 = word(b"xxxxxxx?");
const NONE: u64 = word(b"xxxxxx?x");
/// The format of an item that is being written: 8 bytes without a value. The
/// standard library raises `ValueError` when it reads such an item and is able to
/// overwrite it.
pub(super) const BEING_WRITTEN: u64 = word(b"xxxxxxxx");

const CODE_AS_IS: u8 = 0;
const CODE_STR: u8 = 1;
/// Bytes without the NULs at their end.
const CODE_STRIPPED: u8 = 2;
const CODE_NONE: u8 = 3;

/// From this length a format has no room for a blank, in bytes.
const EXACT_BELOW_BYTES: usize = 1_000_000;
/// From this length a format cannot express the length at all, in bytes.
const EXPRESSIBLE_BELOW_BYTES: usize = 10_000_000;

/// What `struct` skips.
const BLANKS: [u8; 6] = *b" \t\n\r\x0b\x0c";

/// A value that a list can hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Item<'a> {
    /// An integer of 64 bits.
    Int(i64),
    /// A floating point number, bit for bit.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Nothing.
    None,
    /// Text as UTF-8. What is read from a list is not checked to be UTF-8.
    Str(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl Item<'_> {
    /// How much room a new list gives to this item, in bytes.
    ///
    /// As the standard library computes it (for a str from the number of its
    /// *characters*), and more where the UTF-8 would not fit.
    pub fn room_bytes(&self) -> usize {
        match *self {
            Item::Str(text) => {
                let chars = text.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
                standard_room(chars).max(text.len().next_multiple_of(WORD_BYTES))
            }
            Item::Bytes(bytes) => standard_room(bytes.len()),
            _ => WORD_BYTES,
        }
    }

    /// Whether the item is a text of more than one word.
    #[inline]
    pub(super) fn is_long(&self) -> bool {
        matches!(self, Item::Str(text) | Item::Bytes(text) if text.len() > WORD_BYTES)
    }

    fn kind(&self) -> &'static str {
        match self {
            Item::Str(_) => "str",
            _ => "bytes",
        }
    }
}

fn standard_room(len: usize) -> usize {
    WORD_BYTES * (len / WORD_BYTES + 1)
}

/// An item as a list records it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoded<'a> {
    pub(super) format: u64,
    pub(super) code: u8,
    pub(super) body: Body<'a>,
}

/// The contents of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body<'a> {
    /// Its first word; the rest does not count.
    Word(u64),
    /// Its first bytes, and zeros up to a whole word.
    Text(&'a [u8]),
    /// Its first bytes, and zeros up to its end.
    Padded(&'a [u8]),
}

impl<'a> Encoded<'a> {
    /// How to record `item` at `index`, in `room` bytes; `version` is the number of
    /// the write.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`], [`Error::Inexpressible`].
    #[inline]
    pub(super) fn new(item: &Item<'a>, index: usize, room: usize, version: u32) -> Result<Self> {
        let scalar = |format, code, word| Encoded {
            format,
            code,
            body: Body::Word(word),
        };
        Ok(match *item {
            Item::Int(value) => scalar(INT, CODE_AS_IS, value as u64),
            Item::Float(value) => scalar(FLOAT, CODE_AS_IS, value.to_bits()),
            Item::Bool(value) => {
                let mut bytes = [0; 8];
                bytes[7] = u8::from(value);
                scalar(BOOL, CODE_AS_IS, word(&bytes))
            }
            Item::None => scalar(NONE, CODE_NONE, 0),
            Item::Str(text) => Self::text(item, text, CODE_STR, index, room, version)?,
            Item::Bytes(text) => Self::text(item, text, CODE_AS_IS, index, room, version)?,
        })
    }

    #[inline]
    fn text(
        item: &Item<'_>,
        text: &'a [u8],
        code: u8,
        index: usize,
        room: usize,
        version: u32,
    ) -> Result<Self> {
        let len = text.len();
        if len > room {
            return Err(Error::TooLong {
                index,
                kind: item.kind(),
                len_bytes: len,
                room_bytes: room,
            });
        }
        if len <= WORD_BYTES {
            let mut bytes = [0; WORD_BYTES];
            bytes[..len].copy_from_slice(text);
            return Ok(Encoded {
                format: word(&[b'0' + len as u8, b's', b' ', 0, 0, 0, 0, 0]),
                code,
                body: Body::Word(word(&bytes)),
            });
        }
        let (format, code, body) = if len < EXACT_BELOW_BYTES {
            (exact_format(len, version), code, Body::Text(text))
        } else if text.last() != Some(&0) && room < EXPRESSIBLE_BELOW_BYTES {
            // As the standard library would: it may then overwrite it with any length.
            let code = if code == CODE_STR {
                code
            } else {
                CODE_STRIPPED
            };
            (number_format(room), code, Body::Padded(text))
        } else if len < EXPRESSIBLE_BELOW_BYTES && (code == CODE_AS_IS || len < room) {
            (number_format(len), code, Body::Text(text))
        } else {
            return Err(Error::Inexpressible {
                index,
                kind: item.kind(),
                len_bytes: len,
            });
        };
        Ok(Encoded { format, code, body })
    }
}

/// The decimal digits of `number`, which has at most 8, left-aligned, and how many.
fn digits(number: usize) -> ([u8; 8], usize) {
    let mut reversed = [0; 8];
    let mut count = 0;
    let mut rest = number;
    while count < 8 {
        reversed[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    let mut out = [0; 8];
    for (to, from) in out.iter_mut().zip(reversed[..count].iter().rev()) {
        *to = *from;
    }
    (out, count)
}

/// `<len>s` and blanks, which say `version`.
fn exact_format(len: usize, version: u32) -> u64 {
    let (mut bytes, count) = digits(len);
    let mut rest = version as usize;
    for (at, byte) in bytes.iter_mut().enumerate().skip(count) {
        *byte = if at == count {
            b's'
        } else {
            let blank = BLANKS[rest % BLANKS.len()];
            rest /= BLANKS.len();
            blank
        };
    }
    word(&bytes)
}

/// `<number>s`, of at most 7 digits.
fn number_format(number: usize) -> u64 {
    let (mut bytes, count) = digits(number);
    if let Some(byte) = bytes.get_mut(count) {
        *byte = b's';
    }
    word(&bytes)
}

/// What a format word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Int,
    Float,
    Bool,
    None,
    /// So many bytes; with a blank behind it, they are all meant.
    Text {
        len: usize,
        exact: bool,
    },
    BeingWritten,
}

impl Format {
    /// What `format` says; `None` if it says nothing.
    #[inline]
    pub(super) fn parse(format: u64) -> Option<Self> {
        match format {
            INT => Some(Format::Int),
            FLOAT => Some(Format::Float),
            BOOL => Some(Format::Bool),
            NONE => Some(Format::None),
            BEING_WRITTEN => Some(Format::BeingWritten),
            other => Self::parse_text(other.to_ne_bytes()),
        }
    }

    #[inline]
    fn parse_text(bytes: [u8; 8]) -> Option<Self> {
        let mut len = 0_usize;
        let mut at = 0;
        // At most 8 digits: no overflow.
        while at < 8 && bytes[at].is_ascii_digit() {
            len = 10 * len + usize::from(bytes[at] - b'0');
            at += 1;
        }
        if at == 0 || at == 8 || bytes[at] != b's' {
            return None;
        }
        let tail = &bytes[at + 1..];
        let blanks = tail.iter().take_while(|byte| BLANKS.contains(byte)).count();
        if tail[blanks..].iter().any(|&byte| byte != 0) {
            return None;
        }
        Some(Format::Text {
            len,
            exact: blanks > 0,
        })
    }

    /// The format as the standard library would say it, for a slot of `room` bytes.
    pub(super) fn name(self, room: usize) -> String {
        match self {
            Format::Int => "q".to_owned(),
            Format::Float => "d".to_owned(),
            Format::Bool => "xxxxxxx?".to_owned(),
            Format::None => "xxxxxx?x".to_owned(),
            Format::Text { .. } => format!("{room}s"),
            Format::BeingWritten => "xxxxxxxx".to_owned(),
        }
    }
}

/// A scalar item from its parts; `None` if they do not go together.
#[inline]
pub(super) fn decode_scalar(format: Format, code: u8, word: u64) -> Option<Item<'static>> {
    match (format, code) {
        (Format::Int, CODE_AS_IS) => Some(Item::Int(word as i64)),
        (Format::Float, CODE_AS_IS) => Some(Item::Float(f64::from_bits(word))),
        (Format::Bool, CODE_AS_IS) => Some(Item::Bool(word.to_ne_bytes()[7] != 0)),
        (Format::None, CODE_NONE) => Some(Item::None),
        _ => None,
    }
}

/// Whether the text is a str, and its length, from its parts; `None` if they do
/// not go together.
///
/// `text` has the length that the format says.
#[inline]
pub(super) fn decode_text(
    text: &[u8],
    exact: bool,
    code: u8,
    room: usize,
) -> Option<(bool, usize)> {
    if code >= CODE_NONE {
        return None;
    }
    // A format of the standard library has the size of the slot.
    let len = if exact || code == CODE_AS_IS || text.len() != room {
        text.len()
    } else {
        text.iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1)
    };
    Some((code == CODE_STR, len))
}
