//! What can go wrong with a list; each variant that concerns an item names it.

use std::fmt;

use crate::error;

/// The result of every fallible operation on a list.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on a list failed. Nothing was changed then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The memory refused: a read-only attachment.
    Memory(error::Error),
    /// The segment does not hold a list, or a damaged one.
    NotAList {
        /// What was found instead.
        reason: &'static str,
    },
    /// An item that makes no sense.
    Corrupt {
        /// The item's position.
        index: usize,
        /// What was found.
        reason: &'static str,
    },
    /// An item that a writer has begun to write and not finished: it is still at
    /// it after the time a reader waits, or it died.
    Unfinished {
        /// The item's position.
        index: usize,
    },
    /// There is no such position.
    OutOfRange {
        /// The position asked for.
        index: usize,
        /// The length of the list.
        count: usize,
    },
    /// A text longer than the room that was set aside for the item.
    TooLong {
        /// The item's position.
        index: usize,
        /// `"str"` or `"bytes"`.
        kind: &'static str,
        /// The length of the (UTF-8) text, in bytes.
        len_bytes: usize,
        /// The item's room, in bytes.
        room_bytes: usize,
    },
    /// A text whose length the format has no way to record.
    Inexpressible {
        /// The item's position.
        index: usize,
        /// `"str"` or `"bytes"`.
        kind: &'static str,
        /// The length of the (UTF-8) text, in bytes.
        len_bytes: usize,
    },
    /// More items or bytes than an address can count.
    TooLarge,
}

impl From<error::Error> for Error {
    fn from(error: error::Error) -> Self {
        match error {
            error::Error::OutOfBounds { .. } => Error::NotAList {
                reason: "it points outside its segment",
            },
            error => Error::Memory(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Memory(error) => error.fmt(f),
            Error::NotAList { reason } => {
                write!(f, "not a ShareableList, or a damaged one: {reason}")
            }
            Error::Corrupt { index, reason } => {
                write!(f, "item {index} of the ShareableList is damaged: {reason}")
            }
            Error::Unfinished { index } => write!(
                f,
                "item {index} of the ShareableList is half written: its writer is still \
                 at it or died; set the item anew"
            ),
            Error::OutOfRange { index, count } => {
                write!(f, "index {index} out of range for {count} items")
            }
            Error::TooLong {
                index,
                kind,
                len_bytes,
                room_bytes,
            } => write!(
                f,
                "bytes/str item exceeds available storage: item {index} has room for \
                 {room_bytes} bytes, not for a {kind} of {len_bytes}"
            ),
            Error::Inexpressible {
                index,
                kind,
                len_bytes,
            } => write!(
                f,
                "item {index}: {kind} of {len_bytes} bytes cannot be recorded exactly in \
                 a ShareableList (texts of 10,000,000 bytes and more never can; a str of \
                 1,000,000 bytes or more that ends in NUL only with room to spare)"
            ),
            Error::TooLarge => f.write_str("the ShareableList would be too large to address"),
        }
    }
}

impl std::error::Error for Error {}
