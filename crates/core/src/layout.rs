//! The format of nameless segments: every byte that processes share, in one place.
//!
//! What each field means, who writes it and what happens when the writer dies is
//! told in `docs/pool_format.md`, whose tables a test compares with [`STRUCTS`]; what
//! lies in a block that is a lock, in [`cells`] and `docs/locks.md`.
//!
//! Rules kept here: every field is a 64-bit word in native byte order; structures
//! are never referenced in place (their bytes are reached through
//! [`crate::mapping::Mapping`], which checks bounds), they only define offsets; a
//! reader computes offsets from two counts and never reads one; anything that
//! changes meaning or place changes [`FINGERPRINT`].
//!
//! ```text
//! family segment   | FamilyHeader | 1024 x Slot |
//! pool segment     | PoolHeader | row owners | dirty bits | tokens | blocks | rows | data |
//! ```

use core::mem::{align_of, offset_of, size_of};

use crate::error::{Error, Result};

/// `"SNPFAMLY"`: the first word of a family segment.
pub const FAMILY_MAGIC: u64 = u64::from_le_bytes(*b"SNPFAMLY");
/// `"SNPPOOL\0"`: the first word of a pool segment.
pub const POOL_MAGIC: u64 = u64::from_le_bytes(*b"SNPPOOL\0");
/// The version of the format; see the history in `docs/pool_format.md`.
pub const VERSION: u64 = 2;

/// How many participants a family has at most.
pub const SLOTS: usize = 1024;
/// The row of bits that belongs to tokens; rows below belong to slots.
pub const TOKEN_ROW: usize = SLOTS;
/// How many rows a pool segment has; those above [`TOKEN_ROW`] are unused.
pub const ROWS: usize = SLOTS + 64;
/// How many blocks a segment has at most.
pub const BLOCKS_MAX: u64 = 65_536;
/// How many tokens a segment has at most.
pub const TOKENS_MAX: u64 = 16_384;
/// The largest segment whose header is believed.
pub const SEGMENT_MAX_BYTES: u64 = 1 << 46;
/// Parts of a pool segment begin at multiples of this, whatever the page size
/// of the machine is (64 KiB at most on Linux).
pub const PART_ALIGN_BYTES: u64 = 4096;
/// The alignment of every block.
pub const BLOCK_ALIGN_BYTES: u64 = 64;
/// The size of a word.
pub const WORD_BYTES: usize = 8;
/// How many blocks one word of a row tells about.
pub const WORD_BITS: usize = 64;

/// Defines shared structures, and a list of their fields.
macro_rules! shared_structs {
    ($(#[$list_doc:meta])* $list:ident; $($(#[$doc:meta])* $name:ident, $size:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy)]
            pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }

            const _: () = {
                assert!(size_of::<$name>() == $size, "size");
                assert!(align_of::<$name>() == WORD_BYTES, "alignment");
                // No padding: the fields fill the structure.
                assert!(0 $(+ size_of::<$ty>())* == $size, "padding");
            };
        )*

        $(#[$list_doc])*
        pub const $list: &[Struct] = &[$(Struct {
            name: stringify!($name),
            size_bytes: $size,
            fields: &[$(Field {
                name: stringify!($field),
                offset_bytes: offset_of!($name, $field),
                size_bytes: size_of::<$ty>(),
            },)*],
        },)*];
    };
}

/// What [`STRUCTS`] tells about one structure.
#[derive(Debug, Clone, Copy)]
pub struct Struct {
    /// Its name in this module and in the format page.
    pub name: &'static str,
    /// Its size in bytes.
    pub size_bytes: usize,
    /// Its fields, in order.
    pub fields: &'static [Field],
}

/// What [`STRUCTS`] tells about one field.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Where it begins in its structure, in bytes.
    pub offset_bytes: usize,
    /// Its size in bytes.
    pub size_bytes: usize,
}

pub mod cells;
pub mod latest;
pub mod queues;

shared_structs! {
    /// Every structure of families and pools: name, size in bytes, and its fields.
    STRUCTS;

    /// The beginning of a family segment.
    FamilyHeader, 64 {
        /// [`FAMILY_MAGIC`], written last.
        magic: u64,
        /// [`VERSION`].
        version: u64,
        /// [`FINGERPRINT`].
        fingerprint: u64,
        /// The family's random identity, low half.
        family_low: u64,
        /// The family's random identity, high half.
        family_high: u64,
        /// [`SLOTS`].
        slots: u64,
        /// Zero.
        reserved: [u64; 2],
    }

    /// A participant of a family.
    Slot, 64 {
        /// State, `by` and generation: a [`Packed`] word.
        word: u64,
        /// Process id in `pid_namespace`.
        pid: u64,
        /// Start time in clock ticks since boot.
        start_ticks: u64,
        /// Inode of the pid namespace.
        pid_namespace: u64,
        /// The kernel's boot id, low half.
        boot_low: u64,
        /// The kernel's boot id, high half.
        boot_high: u64,
        /// 1 for a tracker, which no other tracker stays for; else 0.
        is_tracker: u64,
        /// Zero.
        reserved: u64,
    }

    /// The beginning of a pool segment; each group that different processes
    /// write has cache lines of its own.
    PoolHeader, 256 {
        /// [`POOL_MAGIC`], written last.
        magic: u64,
        /// [`VERSION`].
        version: u64,
        /// [`FINGERPRINT`].
        fingerprint: u64,
        /// The family, low half.
        family_low: u64,
        /// The family, high half.
        family_high: u64,
        /// The participant that allocates here.
        owner: u64,
        /// The segment's number in its owner's chain.
        segment: u64,
        /// The size of the whole segment.
        size_bytes: u64,
        /// Capacity of the block table.
        blocks: u64,
        /// Capacity of the token table.
        tokens: u64,
        /// Zero.
        reserved_fixed: [u64; 6],
        /// The participant that may free.
        closer: u64,
        /// Entries of the block table in use.
        blocks_used: u64,
        /// Every registered row is below this.
        rows_high: u64,
        /// Every token ever made is below this.
        tokens_high: u64,
        /// Zero.
        reserved_closer: [u64; 4],
        /// Counts holds that passed from row to row.
        moves: u64,
        /// Zero.
        reserved_moves: [u64; 7],
    }

    /// A handle on its way: in somebody else's pickle, or in a queue, its container.
    Token, 64 {
        /// State, maker and generation: a [`Packed`] word.
        word: u64,
        /// The block it holds.
        block: u64,
        /// The participant that made it.
        sender: u64,
        /// When, in seconds of the monotonic clock.
        made_s: u64,
        /// The container's family, low half of its identity.
        container_family: u64,
        /// The owner of the container's segment; zero: no container.
        container_owner: u64,
        /// Block and number of its segment: a [`Place`] word.
        container_place: u64,
        /// The generation of its block.
        container_generation: u64,
    }

    /// A piece of memory.
    Block, 32 {
        /// Odd: open. Even: closed.
        generation: u64,
        /// Where it begins in the segment.
        offset_bytes: u64,
        /// How long it is.
        size_bytes: u64,
        /// The token that was made for it last: a hint.
        token_hint: u64,
    }
}

/// A hash over names, places and sizes of all fields and over the limits. Binaries
/// with different fingerprints do not share segments.
pub const FINGERPRINT: u64 = {
    let mut hash = fnv_structs(FNV_BASIS, STRUCTS);
    hash = fnv_structs(hash, cells::CELLS);
    hash = fnv_structs(hash, queues::QUEUES);
    hash = fnv_structs(hash, latest::CHANNELS);
    hash = fnv_word(hash, SLOTS as u64);
    hash = fnv_word(hash, ROWS as u64);
    hash = fnv_word(hash, PART_ALIGN_BYTES);
    hash = fnv_word(hash, queues::FIRST_RING as u64);
    // The sum of bytes read differs with the byte order of the machine.
    fnv_word(
        hash,
        u64::from_ne_bytes(*b"\x01\x02\x03\x04\x05\x06\x07\x08"),
    )
};

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;

const fn fnv_structs(mut hash: u64, structs: &[Struct]) -> u64 {
    let mut at = 0;
    while at < structs.len() {
        let each = &structs[at];
        hash = fnv_text(hash, each.name);
        let mut field = 0;
        while field < each.fields.len() {
            let Field {
                name,
                offset_bytes,
                size_bytes,
            } = each.fields[field];
            hash = fnv_text(hash, name);
            hash = fnv_word(hash, offset_bytes as u64);
            hash = fnv_word(hash, size_bytes as u64);
            field += 1;
        }
        at += 1;
    }
    hash
}

const fn fnv_text(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(FNV_PRIME);
        at += 1;
    }
    // A byte no name contains ends it: ("ab", "c") is not ("a", "bc").
    (hash ^ 0xff).wrapping_mul(FNV_PRIME)
}

const fn fnv_word(mut hash: u64, word: u64) -> u64 {
    let bytes = word.to_le_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(FNV_PRIME);
        at += 1;
    }
    hash
}

/// A slot's or token's word taken apart: bits 0-3 state, 4-15 slot, 16-63 generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// What the tables of states in the format page number.
    pub state: u64,
    /// The slot that did, or does, something to it.
    pub by: usize,
    /// Which life this is.
    pub generation: u64,
}

impl Packed {
    /// The last generation; a word that has it is never used again.
    pub const GENERATION_LAST: u64 = (1 << 48) - 1;

    /// Takes a word apart; every word can be.
    pub const fn unpack(word: u64) -> Self {
        Packed {
            state: word & 0xf,
            by: (word >> 4 & 0xfff) as usize,
            generation: word >> 16,
        }
    }

    /// The word.
    pub const fn pack(self) -> u64 {
        debug_assert!(self.state < 16 && self.by < 4096);
        debug_assert!(self.generation <= Self::GENERATION_LAST);
        self.generation << 16 | (self.by as u64) << 4 | self.state
    }
}

/// One life of a slot: who holds, owns, closes or sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Participant {
    /// Index of the slot, below [`SLOTS`].
    pub slot: usize,
    /// The slot's generation.
    pub generation: u64,
}

impl Participant {
    /// The word that names this participant; never zero.
    pub const fn pack(self) -> u64 {
        Packed {
            state: 1,
            by: self.slot,
            generation: self.generation,
        }
        .pack()
    }

    /// The participant that a word names; `None` for zero and for nonsense.
    pub const fn unpack(word: u64) -> Option<Self> {
        let Packed {
            state,
            by,
            generation,
        } = Packed::unpack(word);
        if state == 1 && by < SLOTS {
            Some(Participant {
                slot: by,
                generation,
            })
        } else {
            None
        }
    }
}

/// What names a block within an owner's chain in one word: bits 0-15 the block, 16-63 the
/// number of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Index of the block, below [`BLOCKS_MAX`].
    pub block: usize,
    /// The segment's number.
    pub number: u64,
}

impl Place {
    /// The word; `None` for a number that no chain reaches.
    pub const fn pack(self) -> Option<u64> {
        if self.block as u64 >= BLOCKS_MAX || self.number >> 48 != 0 {
            return None;
        }
        Some(self.number << 16 | self.block as u64)
    }

    /// Takes a word apart; every word can be.
    pub const fn unpack(word: u64) -> Self {
        Place {
            block: (word & 0xffff) as usize,
            number: word >> 16,
        }
    }
}

/// Where slot `index` of a family segment begins.
pub const fn slot_offset(index: usize) -> usize {
    PART_ALIGN_BYTES as usize + index * size_of::<Slot>()
}

/// The size of a family segment.
pub const FAMILY_BYTES: usize = slot_offset(SLOTS);

/// Where the parts of a pool segment lie, computed from its two capacities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLayout {
    /// Capacity of the block table; a multiple of 64.
    pub blocks: usize,
    /// Capacity of the token table.
    pub tokens: usize,
    /// How many words a row has.
    pub row_words: usize,
    /// How many words of dirty bits there are.
    pub dirty_words: usize,
    /// Offset of the row owners.
    pub row_owners: usize,
    /// Offset of the dirty bits.
    pub dirty: usize,
    /// Offset of the token table.
    pub token_table: usize,
    /// Offset of the block table; everything before it is committed at creation.
    pub block_table: usize,
    /// Offset of the rows.
    pub rows: usize,
    /// Offset of the data.
    pub data: usize,
}

impl PoolLayout {
    /// Computes the layout for these capacities.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for a capacity that is zero, too large, or for `blocks`
    /// not a multiple of 64.
    pub fn new(blocks: u64, tokens: u64) -> Result<Self> {
        let bits = WORD_BITS as u64;
        if blocks == 0 || blocks > BLOCKS_MAX || !blocks.is_multiple_of(bits) {
            return Err(Error::Damaged("a block table of impossible size"));
        }
        if tokens == 0 || tokens > TOKENS_MAX {
            return Err(Error::Damaged("a token table of impossible size"));
        }
        // Both are small: nothing below can overflow.
        let (blocks, tokens) = (blocks as usize, tokens as usize);
        let row_words = blocks / WORD_BITS;
        let dirty_words = row_words.div_ceil(WORD_BITS);
        let align = |offset: usize| offset.next_multiple_of(PART_ALIGN_BYTES as usize);
        let row_owners = size_of::<PoolHeader>();
        let dirty = row_owners + ROWS * WORD_BYTES;
        let token_table = dirty + dirty_words * WORD_BYTES;
        let block_table = align(token_table + tokens * size_of::<Token>());
        let rows = align(block_table + blocks * size_of::<Block>());
        let data = align(rows + ROWS * row_words * WORD_BYTES);
        Ok(PoolLayout {
            blocks,
            tokens,
            row_words,
            dirty_words,
            row_owners,
            dirty,
            token_table,
            block_table,
            rows,
            data,
        })
    }

    /// Where word `word` of row `row` lies.
    pub const fn row_word(&self, row: usize, word: usize) -> usize {
        self.rows + (row * self.row_words + word) * WORD_BYTES
    }

    /// Where the owner word of row `row` lies.
    pub const fn row_owner(&self, row: usize) -> usize {
        self.row_owners + row * WORD_BYTES
    }

    /// Where a field of token `token` lies.
    pub const fn token(&self, token: usize, field: usize) -> usize {
        self.token_table + token * size_of::<Token>() + field
    }

    /// Where a field of block `block` lies.
    pub const fn block(&self, block: usize, field: usize) -> usize {
        self.block_table + block * size_of::<Block>() + field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pack_and_unpack() {
        let packed = Packed {
            state: 4,
            by: 1023,
            generation: Packed::GENERATION_LAST,
        };
        assert_eq!(Packed::unpack(packed.pack()), packed);
        let someone = Participant {
            slot: 0,
            generation: 0,
        };
        assert_ne!(someone.pack(), 0);
        assert_eq!(Participant::unpack(someone.pack()), Some(someone));
        assert_eq!(Participant::unpack(0), None);
    }

    #[test]
    fn parts_follow_each_other() {
        for (blocks, tokens) in [(64, 1), (64, 1024), (BLOCKS_MAX, TOKENS_MAX)] {
            let layout = PoolLayout::new(blocks, tokens).unwrap();
            assert_eq!(layout.row_word(ROWS, 0).next_multiple_of(4096), layout.data);
            assert!(layout.block(layout.blocks, 0) <= layout.rows);
            assert!(layout.token(layout.tokens, 0) <= layout.block_table);
        }
        for (blocks, tokens) in [(0, 1), (63, 1), (64, 0), (1 << 40, 1), (64, u64::MAX)] {
            assert!(PoolLayout::new(blocks, tokens).is_err());
        }
    }
}
