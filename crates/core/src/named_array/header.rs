//! The header of a named array: every byte of it, writing and reading it.
//!
//! What each field means is told in `docs/named_arrays.md`, whose table a test
//! compares with [`FIELDS`].
//!
//! Guarantee: what [`read`] gives was copied out of the segment once and then
//! checked: the array lies inside the mapping, and its shape and the size of its
//! items make exactly its bytes. The dtype is text that this crate does not look at.

use core::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{Ordering, fence};

use crate::layout::Field;
use crate::mapping::Mapping;

/// `"SNPNAMED"`: the first word of a named array that is complete.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SNPNAMED");
/// `"SNPMAKNG"`: the first word while its creator is not done.
pub const MAKING: u64 = u64::from_le_bytes(*b"SNPMAKNG");
/// The version of the format.
pub const VERSION: u64 = 1;
/// The most axes a header can tell of.
pub const AXES_MAX: usize = 64;
/// The longest text of a dtype, in bytes.
pub const DTYPE_MAX_BYTES: usize = 1 << 20;
/// The data begins at a multiple of this.
pub const DATA_ALIGN_BYTES: u64 = 64;
/// Where the creator puts the data of arrays that are at least as large.
const PAGE_BYTES: u64 = 4096;

macro_rules! header {
    ($($(#[$doc:meta])* $field:ident: $ty:ty,)*) => {
        /// The fixed part; the lengths of the axes and the dtype's text follow.
        #[repr(C)]
        #[derive(Debug, Clone, Copy)]
        pub struct NamedArrayHeader { $($(#[$doc])* pub $field: $ty,)* }

        /// The fields of [`NamedArrayHeader`].
        pub const FIELDS: &[Field] = &[$(Field {
            name: stringify!($field),
            offset_bytes: offset_of!(NamedArrayHeader, $field),
            size_bytes: size_of::<$ty>(),
        },)*];
    };
}

header! {
    /// [`MAGIC`], written last; [`MAKING`] before.
    magic: u64,
    /// [`VERSION`].
    version: u64,
    /// Length of the header with axes and dtype.
    header_bytes: u64,
    /// Where the data begins in the segment.
    data_offset: u64,
    /// Length of the data.
    data_bytes: u64,
    /// Length of one item.
    item_bytes: u64,
    /// 0: the last axis runs fastest; 1: the first.
    order: u64,
    /// How many axes there are.
    axes: u64,
    /// Length of the dtype's text.
    dtype_bytes: u64,
    /// [`checksum`] of the header.
    checksum: u64,
    /// Zero.
    reserved: [u64; 6],
}

/// The size of the fixed part.
pub const FIXED_BYTES: usize = 128;
const WORD_BYTES: usize = 8;

const _: () = {
    assert!(size_of::<NamedArrayHeader>() == FIXED_BYTES);
    assert!(align_of::<NamedArrayHeader>() == WORD_BYTES);
    assert!(offset_of!(NamedArrayHeader, magic) == 0);
    assert!(offset_of!(NamedArrayHeader, version) == 8);
    assert!(offset_of!(NamedArrayHeader, header_bytes) == 16);
    assert!(offset_of!(NamedArrayHeader, data_offset) == 24);
    assert!(offset_of!(NamedArrayHeader, data_bytes) == 32);
    assert!(offset_of!(NamedArrayHeader, item_bytes) == 40);
    assert!(offset_of!(NamedArrayHeader, order) == 48);
    assert!(offset_of!(NamedArrayHeader, axes) == 56);
    assert!(offset_of!(NamedArrayHeader, dtype_bytes) == 64);
    assert!(offset_of!(NamedArrayHeader, checksum) == 72);
    assert!(offset_of!(NamedArrayHeader, reserved) == 80);
};

/// What is wrong, for [`crate::error::Error::Foreign`].
type Reason = &'static str;

/// Which axis runs fastest in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The last one.
    C,
    /// The first one.
    Fortran,
}

/// What an array is, besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The lengths of its axes.
    pub shape: Vec<u64>,
    /// The length of one item, in bytes.
    pub item_bytes: u64,
    /// How the axes lie.
    pub order: Order,
    /// What the items are, in the words of whoever makes and reads arrays.
    pub dtype: Vec<u8>,
}

/// Where an array's bytes lie in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where they begin.
    pub offset_bytes: usize,
    /// How many there are.
    pub len_bytes: usize,
}

impl Spec {
    /// How many bytes the array has; `None` if they cannot be addressed. As in NumPy,
    /// axes of length 0 do not excuse others.
    fn data_bytes(&self) -> Option<u64> {
        let mut reach = self.item_bytes;
        for &length in &self.shape {
            reach = reach.checked_mul(length.max(1))?;
        }
        i64::try_from(reach).ok()?;
        // A length that nobody can have, of items without bytes.
        if self
            .shape
            .iter()
            .any(|&length| i64::try_from(length).is_err())
        {
            return None;
        }
        Some(if self.shape.contains(&0) { 0 } else { reach })
    }

    fn header_bytes(&self) -> usize {
        FIXED_BYTES + self.shape.len() * WORD_BYTES + self.dtype.len()
    }
}

/// The header of a new array without its magic, and where the array goes.
///
/// # Errors
///
/// What is wrong with `spec`.
pub(super) fn make(spec: &Spec) -> Result<(Vec<u8>, Place), Reason> {
    if spec.shape.len() > AXES_MAX {
        return Err("it has more than 64 axes");
    }
    if spec.dtype.len() > DTYPE_MAX_BYTES {
        return Err("the description of its dtype is longer than 1 MiB");
    }
    const TOO_BIG: &str = "it has more bytes than can be addressed";
    let data_bytes = spec.data_bytes().ok_or(TOO_BIG)?;
    let header_bytes = spec.header_bytes();
    let align_bytes = if data_bytes < PAGE_BYTES {
        DATA_ALIGN_BYTES
    } else {
        PAGE_BYTES
    };
    let data_offset = (header_bytes as u64).next_multiple_of(align_bytes);
    let place = Place {
        offset_bytes: usize::try_from(data_offset).map_err(|_| TOO_BIG)?,
        len_bytes: usize::try_from(data_bytes).map_err(|_| TOO_BIG)?,
    };
    // The segment's length has to be one that can be mapped.
    isize::try_from(data_offset + data_bytes).map_err(|_| TOO_BIG)?;
    let fixed = [
        0, // the magic
        VERSION,
        header_bytes as u64,
        data_offset,
        data_bytes,
        spec.item_bytes,
        match spec.order {
            Order::C => 0,
            Order::Fortran => 1,
        },
        spec.shape.len() as u64,
        spec.dtype.len() as u64,
    ];
    let mut bytes = Vec::with_capacity(header_bytes);
    bytes.extend(fixed.iter().flat_map(|word| word.to_ne_bytes()));
    bytes.resize(FIXED_BYTES, 0);
    bytes.extend(spec.shape.iter().flat_map(|length| length.to_ne_bytes()));
    bytes.extend(&spec.dtype);
    let sum = checksum(&bytes);
    let at = offset_of!(NamedArrayHeader, checksum);
    bytes[at..at + WORD_BYTES].copy_from_slice(&sum.to_ne_bytes());
    Ok((bytes, place))
}

/// FNV-1a, 64 bits, of a whole header, its magic and its checksum taken as zero.
pub fn checksum(header: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let skipped = offset_of!(NamedArrayHeader, checksum);
    for (at, &byte) in header.iter().enumerate() {
        let word = at / WORD_BYTES * WORD_BYTES;
        let byte = if word == 0 || word == skipped {
            0
        } else {
            byte
        };
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash
}

/// Writes the header that [`make`] gave; the magic last, when the rest can be seen.
pub(super) fn write(mapping: &Mapping, header: &[u8]) -> crate::error::Result<()> {
    mapping.write_bytes(WORD_BYTES, &header[WORD_BYTES..])?;
    // Release, by this and the fence in `read`: who sees the magic sees the header.
    fence(Ordering::Release);
    mapping.store_u64(0, MAGIC)
}

/// What stands at the beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Complete,
    /// Its creator is not done, or did not live to be.
    Unfinished,
    Other,
}

/// Which kind of segment begins with `magic`.
pub(super) fn kind(magic: u64) -> Kind {
    match magic {
        MAGIC => Kind::Complete,
        MAKING => Kind::Unfinished,
        _ => Kind::Other,
    }
}

pub(super) const NO_HEADER: &str = "it is not a named array: it does not begin with the word \
     SNPNAMED (arrays get names by shared_numpy.ndarray(..., name=...))";
pub(super) const UNFINISHED: &str = "the array is still being made, or its maker was killed: try \
     again in a moment, or remove it with shared_numpy.unlink";

/// Reads and checks the header of the array in `mapping`.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn read(mapping: &Mapping) -> Result<(Spec, Place), Reason> {
    const GARBAGE: &str = "the header of the named array is damaged";
    if mapping.len() < WORD_BYTES {
        return Err(NO_HEADER);
    }
    match kind(mapping.load_u64(0).map_err(|_| NO_HEADER)?) {
        Kind::Complete => {}
        Kind::Unfinished => return Err(UNFINISHED),
        Kind::Other => return Err(NO_HEADER),
    }
    fence(Ordering::Acquire); // see `write`
    let mut header = vec![0; FIXED_BYTES];
    mapping
        .read_bytes(0, &mut header)
        .map_err(|_| "it ends inside the header of a named array")?;
    let word = |header: &[u8], at: usize| {
        let mut bytes = [0; WORD_BYTES];
        bytes.copy_from_slice(&header[at..at + WORD_BYTES]);
        u64::from_ne_bytes(bytes)
    };
    if word(&header, offset_of!(NamedArrayHeader, version)) != VERSION {
        return Err(
            "the named array has a format of another version: open it with the version of \
             shared_numpy that made it",
        );
    }
    // The two counts say how much more there is to copy.
    let count = |header: &[u8], at, max| {
        let count = usize::try_from(word(header, at)).unwrap_or(usize::MAX);
        if count > max { Err(GARBAGE) } else { Ok(count) }
    };
    let axes = count(&header, offset_of!(NamedArrayHeader, axes), AXES_MAX)?;
    let dtype_at = FIXED_BYTES + axes * WORD_BYTES;
    let dtype_bytes = count(
        &header,
        offset_of!(NamedArrayHeader, dtype_bytes),
        DTYPE_MAX_BYTES,
    )?;
    header.resize(dtype_at + dtype_bytes, 0);
    mapping
        .read_bytes(FIXED_BYTES, &mut header[FIXED_BYTES..])
        .map_err(|_| "it ends inside the header of a named array")?;
    if word(&header, offset_of!(NamedArrayHeader, checksum)) != checksum(&header) {
        return Err("the header of the named array is damaged: its checksum does not fit");
    }
    let spec = Spec {
        shape: (FIXED_BYTES..dtype_at)
            .step_by(WORD_BYTES)
            .map(|at| word(&header, at))
            .collect(),
        item_bytes: word(&header, offset_of!(NamedArrayHeader, item_bytes)),
        order: match word(&header, offset_of!(NamedArrayHeader, order)) {
            0 => Order::C,
            1 => Order::Fortran,
            _ => return Err(GARBAGE),
        },
        dtype: header[dtype_at..].to_vec(),
    };
    let header_bytes = word(&header, offset_of!(NamedArrayHeader, header_bytes));
    let data_offset = word(&header, offset_of!(NamedArrayHeader, data_offset));
    let data_bytes = word(&header, offset_of!(NamedArrayHeader, data_bytes));
    if header_bytes != spec.header_bytes() as u64
        || data_offset < header_bytes
        || !data_offset.is_multiple_of(DATA_ALIGN_BYTES)
        || spec.data_bytes() != Some(data_bytes)
    {
        return Err(GARBAGE);
    }
    match data_offset.checked_add(data_bytes) {
        Some(end) if end <= mapping.len() as u64 => {}
        _ => {
            return Err("it is shorter than its header says: it was truncated, or copied in part");
        }
    }
    let place = Place {
        // Not larger than the mapping, as was just checked.
        offset_bytes: usize::try_from(data_offset).map_err(|_| GARBAGE)?,
        len_bytes: usize::try_from(data_bytes).map_err(|_| GARBAGE)?,
    };
    Ok((spec, place))
}
