//! Plain data as an item: dictionaries, lists, tuples, text, bytes, numbers, None, and arrays
//! of numbers among them, without a pickle.
//!
//! ```text
//! the objects: the outermost, before each what is around it
//!     NONE | TRUE | FALSE
//!     INT, folded number
//!     FLOAT, 8 bytes
//!     TEXT or BYTES, length, so many bytes
//!     TUPLE, LIST or DICT, length, so many objects (of a dictionary: key and value of each)
//!     ARRAY, which is the next of those below
//!     AGAIN, how many of TEXT to ARRAY came before the one that is meant
//! the arrays: of each the length, and what `wire` says of it, with its last byte
//! ```
//!
//! How long the objects are is in the item's tail. Numbers are written as in handles.
//!
//! Why: a pickle of such data is mostly calls of functions that make arrays; here nothing
//! is called.
//!
//! Guarantees:
//!
//! - What arrives is what a pickle would have brought: objects of exactly these types, in
//!   their order, and one that is met twice arrives once. What holds anything else, is large,
//!   deep or contains itself by way of a tuple is no plain data, and is pickled as a whole.
//! - The objects are written as they are at one instant. Then come the arrays, the copies of
//!   which may let Python code run.
//! - Bytes that were not written here are an error, or other plain data. A tuple that is met
//!   again is none inside of a key, since hashing it could take for ever.

use shared_numpy_core::queue::INLINE_MAX_BYTES;

mod read;
mod write;

pub(super) use self::read::read;
pub(super) use self::write::write;

const NONE: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const TEXT: u8 = 5;
const BYTES: u8 = 6;
const TUPLE: u8 = 7;
const LIST: u8 = 8;
const DICT: u8 = 9;
const ARRAY: u8 = 10;
const AGAIN: u8 = 11;

/// More gains nothing, before the first array and in all: what is looked at before something
/// turns up that must be pickled is looked at for nothing.
const OBJECTS_MAX: usize = 256;
const WITH_ARRAYS_MAX: usize = 1024;
const DEPTH_MAX: usize = 32;
/// Longer than so many objects and arrays, of [`INLINE_MAX_BYTES`] each.
pub(super) const LEN_MAX_BYTES: usize = 2 * WITH_ARRAYS_MAX * (INLINE_MAX_BYTES as usize + 512);
