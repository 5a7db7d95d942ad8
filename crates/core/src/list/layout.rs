//! Where each byte of a list lies, in both historical layouts.
//!
//! Both layouts, for a list of `n` items (native byte order, all offsets in bytes):
//!
//! | part | 3.9 and newer | 3.8 |
//! |---|---|---|
//! | count | 8: `n` | 8: `n` |
//! | slots | 8 (n + 1): where each slot begins in the data area, and its end; the first is 0 | 8 n: the size of each slot |
//! | data | the slots one after the other, each a multiple of 8 and at least 8 | the same |
//! | formats | 8 n: a `struct` format each, padded with NUL | the same |
//! | codes | n: how to turn what was unpacked into a value | the same |
//!
//! The word after the count tells them apart: it is 0 in the newer and at least 8
//! in the older one. An empty list is 16 bytes in the newer and 8 in the older.
//!
//! Guarantees: nothing is trusted. [`Layout::read`] compares the count with the
//! size of the segment before it uses or allocates anything by it, and checks every
//! slot. The newer layout's offsets stay in shared memory and are checked again at
//! each use; the older one's sizes are summed up once into memory of our own. No
//! content of the segment leads outside it, to a panic or to a large allocation.

use crate::list::error::{Error, Result};
use crate::mapping::Mapping;

/// The size of all words, and what slots are multiples of, in bytes.
pub(super) const WORD_BYTES: usize = 8;
/// The count of a list that is being filled. The standard library takes it for a
/// negative length.
pub(super) const FILLING: u64 = u64::MAX;

/// Where an item's value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// From the start of the segment, in bytes; a multiple of 8.
    pub(super) at: usize,
    /// In bytes; a multiple of 8, at least 8.
    pub(super) len: usize,
}

/// Where everything lies.
#[derive(Debug)]
pub(super) struct Layout {
    count: usize,
    slots: Slots,
    data_at: usize,
    data_len: usize,
    formats_at: usize,
    codes_at: usize,
}

#[derive(Debug)]
enum Slots {
    /// 3.9 and newer: offsets in the segment.
    InPlace,
    /// 3.8: the running sum of the sizes in the segment, with the end.
    Summed(Box<[usize]>),
}

const fn not_a_list(reason: &'static str) -> Error {
    Error::NotAList { reason }
}

fn to_size(word: u64) -> Result<usize> {
    usize::try_from(word).map_err(|_| not_a_list("it has an impossible size"))
}

impl Layout {
    /// The newer layout for `count` items in `data_len` bytes of slots.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`].
    pub(super) fn new(count: usize, data_len: usize) -> Result<Self> {
        let data_at = count
            .checked_add(2)
            .and_then(|words| words.checked_mul(WORD_BYTES))
            .ok_or_else(|| Error::TooLarge)?;
        let layout = Self::place(count, Slots::InPlace, data_at, data_len);
        layout
            .filter(|it| it.end() <= isize::MAX as usize)
            .ok_or_else(|| Error::TooLarge)
    }

    fn place(count: usize, slots: Slots, data_at: usize, data_len: usize) -> Option<Self> {
        let formats_at = data_at.checked_add(data_len)?;
        let codes_at = formats_at.checked_add(count.checked_mul(WORD_BYTES)?)?;
        codes_at.checked_add(count)?;
        Some(Layout {
            count,
            slots,
            data_at,
            data_len,
            formats_at,
            codes_at,
        })
    }

    /// Finds out where the list in `mapping` has its parts.
    ///
    /// # Errors
    ///
    /// [`Error::NotAList`].
    pub(super) fn read(mapping: &Mapping) -> Result<Self> {
        if mapping.len() < WORD_BYTES {
            return Err(not_a_list("its segment is too small"));
        }
        let word = mapping.load_u64(0)?;
        if word == FILLING {
            return Err(not_a_list("it is still being filled, or its creator died"));
        }
        let count = to_size(word)?;
        // The least an item takes: its word among the slots, its slot, format, code.
        if count > (mapping.len() - WORD_BYTES) / (3 * WORD_BYTES + 1) {
            return Err(not_a_list("its count is larger than its segment allows"));
        }
        let layout = if count == 0 {
            let data_at = mapping.len().min(2 * WORD_BYTES);
            Self::place(0, Slots::InPlace, data_at, 0)
        } else if mapping.load_u64(WORD_BYTES)? == 0 {
            Self::read_offsets(mapping, count)?
        } else {
            Self::read_sizes(mapping, count)?
        };
        layout
            .filter(|layout| layout.end() <= mapping.len())
            .ok_or(not_a_list("its parts are larger than its segment"))
    }

    fn read_offsets(mapping: &Mapping, count: usize) -> Result<Option<Self>> {
        let mut previous = 0;
        for index in 1..=count {
            let offset = to_size(mapping.load_u64(WORD_BYTES * (1 + index))?)?;
            if offset <= previous || !offset.is_multiple_of(WORD_BYTES) {
                return Err(not_a_list("its offsets are not in order"));
            }
            previous = offset;
        }
        let data_at = WORD_BYTES * (2 + count);
        Ok(Self::place(count, Slots::InPlace, data_at, previous))
    }

    fn read_sizes(mapping: &Mapping, count: usize) -> Result<Option<Self>> {
        let mut ends = Vec::with_capacity(count + 1);
        let mut end = 0_usize;
        ends.push(end);
        for index in 0..count {
            let size = to_size(mapping.load_u64(WORD_BYTES * (1 + index))?)?;
            end = match end.checked_add(size) {
                Some(end) if size > 0 && size.is_multiple_of(WORD_BYTES) => end,
                _ => return Err(not_a_list("its sizes are impossible")),
            };
            ends.push(end);
        }
        let data_at = WORD_BYTES * (1 + count);
        Ok(Self::place(count, Slots::Summed(ends.into()), data_at, end))
    }

    /// Writes the offsets that end at `ends`, and the count last of all by
    /// [`Layout::publish`].
    pub(super) fn write_offsets(&self, mapping: &Mapping, ends: &[usize]) -> Result<()> {
        mapping.store_u64(0, FILLING)?;
        mapping.store_u64(WORD_BYTES, 0)?;
        for (index, &end) in ends.iter().enumerate() {
            mapping.store_u64(WORD_BYTES * (2 + index), end as u64)?;
        }
        Ok(())
    }

    /// Makes a list that was filled visible: from now on others can attach.
    pub(super) fn publish(&self, mapping: &Mapping) -> Result<()> {
        Ok(mapping.store_u64(0, self.count as u64)?)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Where the list ends, in bytes from the start of the segment.
    pub(super) fn end(&self) -> usize {
        self.codes_at + self.count
    }

    /// Where the slots, the formats and the codes begin.
    pub(super) fn parts(&self) -> (usize, usize, usize) {
        (self.data_at, self.formats_at, self.codes_at)
    }

    /// The slot of item `index`, which the caller has compared with the count.
    #[inline]
    pub(super) fn slot(&self, mapping: &Mapping, index: usize) -> Result<Slot> {
        let (begin, end) = match &self.slots {
            Slots::InPlace => {
                let at = WORD_BYTES * (1 + index);
                let begin = mapping.load_u64(at)?;
                let end = mapping.load_u64(at + WORD_BYTES)?;
                (begin as usize, end as usize)
            }
            Slots::Summed(ends) => (ends[index], ends[index + 1]),
        };
        // Others may have changed the words since they were checked by `read`.
        if begin < end && end <= self.data_len && (begin | end).is_multiple_of(WORD_BYTES) {
            Ok(Slot {
                at: self.data_at + begin,
                len: end - begin,
            })
        } else {
            Err(Error::Corrupt {
                index,
                reason: "its place is impossible",
            })
        }
    }

    /// Where the format of item `index` lies; a multiple of 8.
    #[inline]
    pub(super) fn format_at(&self, index: usize) -> usize {
        self.formats_at + WORD_BYTES * index
    }

    /// Where the code of item `index` lies.
    #[inline]
    pub(super) fn code_at(&self, index: usize) -> usize {
        self.codes_at + index
    }
}
