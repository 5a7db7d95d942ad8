//! What lies in a block that is a queue. The meaning of each field is told in
//! `docs/queue.md`, whose tables a test compares with [`QUEUES`].

use core::mem::{align_of, offset_of, size_of};

use super::{Field, SLOTS, Struct, WORD_BYTES};

/// `"SNPQUEUE"`: the first word of a queue's block.
pub const QUEUE_KIND: u64 = u64::from_le_bytes(*b"SNPQUEUE");
/// What rings are measured in: a line of the processors' caches.
pub const UNIT_BYTES: usize = 64;
/// The longest ring, in units: half of what a place can tell apart.
pub const UNITS_MAX: u64 = 1 << 23;
/// How many rings a queue has at a time, at most.
pub const RINGS: usize = 64;
/// How many bells a queue has.
pub const BELLS: usize = 32;
/// The length of a handle in a record or a ring's entry.
pub const HANDLE_BYTES: usize = 80;

shared_structs! {
    /// Every structure of queues: name, size in bytes, and its fields.
    QUEUES;

    /// The beginning of a queue's block; each group that different processes write has
    /// cache lines of its own.
    QueueHeader, 512 {
        /// [`QUEUE_KIND`], written last.
        kind: u64,
        /// How many items there may be; zero: no limit.
        maxsize: u64,
        /// Larger payloads have a block of their own.
        inline_max: u64,
        /// The length of the first ring, in units.
        units: u64,
        /// Zero.
        reserved_fixed: [u64; 4],
        /// The robust lock of putters.
        lock: u64,
        /// A hint of that lock.
        lock_spins: u64,
        /// Zero.
        reserved_lock: [u64; 6],
        /// Where the next item goes.
        tail: u64,
        /// Zero.
        reserved_tail: [u64; 7],
        /// The next item.
        head: u64,
        /// Zero.
        reserved_head: [u64; 7],
        /// Who waits for an item.
        getters: u64,
        /// A hint of theirs.
        get_spins: u64,
        /// Zero.
        reserved_getters: [u64; 6],
        /// Who waits for room.
        putters: u64,
        /// A hint of theirs.
        put_spins: u64,
        /// Zero.
        reserved_putters: [u64; 6],
        /// How many items were done with.
        done: u64,
        /// Who waits for all to be done.
        joiners: u64,
        /// Zero.
        reserved_done: [u64; 6],
        /// The ring where the oldest item may be.
        rings_first: u64,
        /// The ring where the next item goes.
        rings_last: u64,
        /// Zero.
        reserved_rings: [u64; 6],
    }

    /// A ring that is linked.
    Ring, 128 {
        /// What `tail` was when it was.
        base: u64,
        /// Its length in units.
        units: u64,
        /// The block that it is; zeros: the first ring, in the queue's own.
        handle: [u64; 10],
        /// Zero.
        reserved: [u64; 4],
    }

    /// The beginning of an item in a ring.
    Record, 16 {
        /// The length of the payload.
        bytes: u64,
        /// Units, handles, where the payload is.
        shape: u64,
    }

    /// Somebody who waits without a thread.
    Bell, 16 {
        /// Whose; zero: nobody's.
        owner: u64,
        /// The name of its socket.
        name: u64,
    }
}

const _: () = assert!(HANDLE_BYTES == 10 * WORD_BYTES);

/// Where the table of peers begins.
pub const PEERS: usize = size_of::<QueueHeader>();
/// Where the bells begin.
pub const BELL_TABLE: usize = PEERS + SLOTS * WORD_BYTES;
/// Where the entries of rings begin.
pub const RING_TABLE: usize = BELL_TABLE + BELLS * size_of::<Bell>();
/// Where the first ring begins.
pub const FIRST_RING: usize = RING_TABLE + RINGS * size_of::<Ring>();

const _: () = assert!(FIRST_RING.is_multiple_of(UNIT_BYTES));
