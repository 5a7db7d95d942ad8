//! What lies in a block that is a lock, a condition, an integer, ...: its *cell*.
//!
//! A cell begins with a word that says its kind. Kinds with a table (units, places,
//! parties) have it right after the structure, one word for each entry, two for a party. The meaning
//! of each field is told in `docs/locks.md`, whose tables a test compares with
//! [`CELLS`].

use core::mem::{align_of, offset_of, size_of};

use super::{Field, Struct, WORD_BYTES};

/// The size of every cell, without the table of those that have one.
pub const CELL_BYTES: usize = 64;
/// How many units of a bounded semaphore may be taken at a time, at most.
pub const UNITS_MAX: u64 = 65_536;
/// How many parties a barrier has at most.
pub const PARTIES_MAX: u64 = 65_536;
/// How many may wait on one condition at a time, at most.
pub const PLACES_MAX: u64 = 65_536;
/// How many may wait on a condition for which its maker names no other limit.
pub const PLACES_DEFAULT: u64 = 1_016;

/// `"SNPLOCK\0"`: the first word of a [`LockCell`].
pub const LOCK_KIND: u64 = u64::from_le_bytes(*b"SNPLOCK\0");
/// `"SNPSEMA\0"`: the first word of a [`SemaphoreCell`].
pub const SEMAPHORE_KIND: u64 = u64::from_le_bytes(*b"SNPSEMA\0");
/// `"SNPBOUND"`: the first word of a [`BoundedCell`].
pub const BOUNDED_KIND: u64 = u64::from_le_bytes(*b"SNPBOUND");
/// `"SNPCOND\0"`: the first word of a [`ConditionCell`].
pub const CONDITION_KIND: u64 = u64::from_le_bytes(*b"SNPCOND\0");
/// `"SNPEVENT"`: the first word of an [`EventCell`].
pub const EVENT_KIND: u64 = u64::from_le_bytes(*b"SNPEVENT");
/// `"SNPBARR\0"`: the first word of a [`BarrierCell`].
pub const BARRIER_KIND: u64 = u64::from_le_bytes(*b"SNPBARR\0");
/// `"SNPINT\0\0"`: the first word of an [`IntegerCell`].
pub const INTEGER_KIND: u64 = u64::from_le_bytes(*b"SNPINT\0\0");

shared_structs! {
    /// Every cell: name, size in bytes, and its fields.
    CELLS;

    /// A lock, re-entrant or not.
    LockCell, 64 {
        /// [`LOCK_KIND`].
        kind: u64,
        /// The robust lock word.
        word: u64,
        /// How long spinning was worth it lately: a hint.
        spins: u64,
        /// Re-entrant: the owner's thread.
        thread: u64,
        /// Re-entrant: how often it was acquired.
        depth: u64,
        /// Zero.
        reserved: [u64; 3],
    }

    /// A semaphore that carries no owner.
    SemaphoreCell, 64 {
        /// [`SEMAPHORE_KIND`].
        kind: u64,
        /// Units left, and whether somebody sleeps.
        word: u64,
        /// As in a [`LockCell`].
        spins: u64,
        /// Zero.
        reserved: [u64; 5],
    }

    /// A semaphore that knows who has its units; the units follow.
    BoundedCell, 64 {
        /// [`BOUNDED_KIND`].
        kind: u64,
        /// Counts releases, and whether somebody sleeps.
        word: u64,
        /// How many of its units can be taken at a time: so many words follow.
        units: u64,
        /// Where to begin looking for a free one: a hint.
        start: u64,
        /// How many units there are.
        bound: u64,
        /// As in a [`LockCell`].
        spins: u64,
        /// Zero.
        reserved: [u64; 2],
    }

    /// A condition; the places of its waiters follow.
    ConditionCell, 64 {
        /// [`CONDITION_KIND`].
        kind: u64,
        /// How many places there are.
        places: u64,
        /// Every place ever used is below this.
        high: u64,
        /// Where the next notify begins to look: a hint.
        cursor: u64,
        /// As in a [`LockCell`].
        spins: u64,
        /// Zero.
        reserved: [u64; 3],
    }

    /// An event.
    EventCell, 64 {
        /// [`EVENT_KIND`].
        kind: u64,
        /// Whether it is set, whether somebody sleeps, how often it was set.
        word: u64,
        /// As in a [`LockCell`].
        spins: u64,
        /// Zero.
        reserved: [u64; 5],
    }

    /// A barrier; the parties that are inside follow.
    BarrierCell, 64 {
        /// [`BARRIER_KIND`].
        kind: u64,
        /// How many parties it takes.
        parties: u64,
        /// A robust lock word for the fields below.
        lock: u64,
        /// As in a [`LockCell`].
        spins: u64,
        /// The number of the phase, whether it is broken, and which before it were.
        phase: u64,
        /// How many have arrived in this phase.
        arrived: u64,
        /// Zero.
        reserved: [u64; 2],
    }

    /// An integer.
    IntegerCell, 64 {
        /// [`INTEGER_KIND`].
        kind: u64,
        /// The value, in two's complement.
        value: u64,
        /// Zero.
        reserved: [u64; 6],
    }
}
