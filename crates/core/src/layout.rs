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

/// `"SNPFAMLY"`: the first word of a family segment.
pub const FAMILY_MAGIC: u64 = u64::from_le_bytes(*b"SNPFAMLY");
/// `"SNPPOOL\0"`: the first word of a pool segment.
pub const POOL_MAGIC: u64 = u64::from_le_bytes(*b"SNPPOOL\0");
/// The version of the format; see the history in `docs/pool_format.md`.
pub const VERSION: u64 = 3;

/// How many participants a family has at most.
pub const SLOTS: usize = 1024;
/// The row of bits that belongs to tokens; rows below belong to slots.
pub const TOKEN_ROW: usize = SLOTS;
/// How many rows a pool segment has; those above [`TOKEN_ROW`] are unused.
pub const ROWS: usize = SLOTS + 64;
/// How many blocks a segment has at most.
pub const BLOCKS_MAX: u64 = 65_536;
/// How many tokens a segment has at most: so many as [`BlockTokens`] has room for.
pub const TOKENS_MAX: u64 = 1 << 18;
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
mod fnv;
pub mod latest;
mod pool;
pub mod queues;
mod words;

pub use pool::PoolLayout;
pub use words::{BlockTokens, Packed, Participant, Place};

use fnv::{FNV_BASIS, fnv_structs, fnv_word};

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
        /// How often somebody came to live, or was declared dead; who waits sleeps on this as
        /// well.
        news: u64,
        /// What `news` was when the tracker had all that live watched last.
        watched: u64,
    }

    /// A participant of a family; what others write often is in a cache line of its own.
    Slot, 128 {
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
        /// What tells the program that runs from the one before `exec`; 0 = not known.
        image: u64,
        /// Large blocks of its pool that others dropped last since it last allocated, in bytes; bit
        /// 0: a tracker looks whether it does.
        dropped_bytes: u64,
        /// Zero.
        reserved: [u64; 7],
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
        /// Entries of the token table that are committed.
        tokens_committed: u64,
        /// Zero.
        reserved_fixed: [u64; 5],
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
        /// How many tokens were made for it and ended, and the last one: a [`BlockTokens`]
        /// word.
        tokens: u64,
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

/// Where slot `index` of a family segment begins.
pub const fn slot_offset(index: usize) -> usize {
    PART_ALIGN_BYTES as usize + index * size_of::<Slot>()
}

/// The size of a family segment.
pub const FAMILY_BYTES: usize = slot_offset(SLOTS);

#[cfg(test)]
mod tests;
