//! The bytes of a handle: a block's handle, and a view of the block.
//!
//! ```text
//! u8 FORMAT or FROZEN | the block's handle, Handle::BYTES | length of the memory | offset | axes
//!   | for each axis: length | stride
//! ```
//!
//! Numbers after the block's handle take seven bits a byte, the lowest first; the high
//! bit says that another byte follows. Those that can be negative are folded: 0, -1, 1,
//! -2, ... as 0, 1, 2, 3, ... A name is `snp_` and the same bytes in hexadecimal digits.
//!
//! Guarantee: bytes that were not written here are an error or a view that the caller
//! checks as any; reading them never panics.

use std::fmt::Write as _;

use shared_numpy_core::error::{Error, Result};
use shared_numpy_core::participation::Handle;

/// What the bytes begin with; another number is another layout.
const FORMAT: u8 = 1;
/// The same layout, of memory that nobody is to write to.
const FROZEN: u8 = FORMAT | 0x80;
/// More axes than any NumPy has.
const AXES_MAX: u64 = 64;
const NAME_PREFIX: &str = "snp_";

/// What a handle says.
#[derive(Debug)]
pub(crate) struct ViewHandle {
    pub(crate) handle: Handle,
    /// How many bytes the array's memory has, from the beginning of the block.
    pub(crate) len_bytes: u64,
    /// Where in them the element at index 0 begins.
    pub(crate) offset_bytes: i64,
    /// For each axis its length, and its stride in bytes.
    pub(crate) axes: Vec<(i64, i64)>,
    /// Nobody is to write to the memory.
    pub(crate) is_frozen: bool,
}

impl ViewHandle {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + Handle::BYTES + 16 + 8 * self.axes.len());
        bytes.push(if self.is_frozen { FROZEN } else { FORMAT });
        bytes.extend_from_slice(&self.handle.to_bytes());
        put(&mut bytes, self.len_bytes);
        put(&mut bytes, fold(self.offset_bytes));
        put(&mut bytes, self.axes.len() as u64);
        for &(length, stride) in &self.axes {
            put(&mut bytes, fold(length));
            put(&mut bytes, fold(stride));
        }
        bytes
    }

    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::ForeignHandle`] for bytes that were not made by [`ViewHandle::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let Some((&form @ (FORMAT | FROZEN), bytes)) = bytes.split_first() else {
            return Err(Error::ForeignHandle(
                "these bytes are no handle, or one of another version of shared_numpy",
            ));
        };
        let (handle, mut rest) = bytes
            .split_at_checked(Handle::BYTES)
            .ok_or_else(|| CUT_SHORT)?;
        let handle = Handle::from_bytes(handle)?;
        let rest = &mut rest;
        let len_bytes = take(rest)?;
        let offset_bytes = unfold(take(rest)?);
        let axes = take(rest)?;
        if axes > AXES_MAX {
            return Err(Error::Damaged("a handle of an array with too many axes"));
        }
        let axes = (0..axes)
            .map(|_| Ok((unfold(take(rest)?), unfold(take(rest)?))))
            .collect::<Result<_>>()?;
        if !rest.is_empty() {
            return Err(Error::Damaged("a handle of an array that does not end"));
        }
        Ok(ViewHandle {
            handle,
            len_bytes,
            offset_bytes,
            axes,
            is_frozen: form == FROZEN,
        })
    }

    /// The handle as text, for people to pass on.
    pub(crate) fn to_name(&self) -> String {
        let mut name = String::from(NAME_PREFIX);
        for byte in self.to_bytes() {
            // Writing to a string does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }

    /// # Errors
    ///
    /// [`Error::Damaged`] for text that was not made by [`ViewHandle::to_name`].
    pub(crate) fn from_name(name: &str) -> Result<Self> {
        const NO_NAME: Error = Error::Damaged("not the name of an array's memory");
        let name = name.strip_prefix('/').unwrap_or(name);
        let digits = name.strip_prefix(NAME_PREFIX).ok_or(NO_NAME)?.as_bytes();
        let (pairs, []) = digits.as_chunks::<2>() else {
            return Err(NO_NAME);
        };
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(NO_NAME);
        let bytes = pairs
            .iter()
            .map(|&[high, low]| Ok((digit(high)? * 16 + digit(low)?) as u8))
            .collect::<Result<Vec<u8>>>()?;
        Self::from_bytes(&bytes)
    }
}

const CUT_SHORT: Error = Error::Damaged("a handle of an array that is cut short");

pub(crate) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

pub(crate) fn take(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| CUT_SHORT)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            break; // more than 64 bits
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Error::Damaged(
        "a handle of an array with a number too large",
    ))
}

pub(crate) fn fold(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

pub(crate) fn unfold(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
