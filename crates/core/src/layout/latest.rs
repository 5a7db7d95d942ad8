//! What lies in a block that is a latest-value channel. The meaning of each field is told
//! in `docs/latest.md`, whose tables a test compares with [`CHANNELS`].

use core::mem::{align_of, offset_of, size_of};

use super::{Field, Struct, WORD_BYTES};

/// `"SNPLATES"`: the first word of a channel's block.
pub const LATEST_KIND: u64 = u64::from_le_bytes(*b"SNPLATES");
/// How many of the newest frames can be received.
pub const FRAMES: usize = 4;

shared_structs! {
    /// Every structure of latest-value channels: name, size in bytes, and its fields.
    CHANNELS;

    /// The beginning of a channel's block.
    LatestHeader, 192 {
        /// [`LATEST_KIND`], written last.
        kind: u64,
        /// Zero.
        reserved_fixed: [u64; 7],
        /// The participant that writes; zero: nobody.
        writer: u64,
        /// The number of the newest frame; zero: none yet.
        newest: u64,
        /// Zero.
        reserved_newest: [u64; 6],
        /// Who waits for the next frame.
        readers: u64,
        /// Zero.
        reserved_readers: [u64; 7],
    }

    /// One of the newest frames.
    Frame, 128 {
        /// Its number; zero: it is being replaced.
        number: u64,
        /// The length of its bytes.
        bytes: u64,
        /// The block that it is.
        handle: [u64; 10],
        /// Zero.
        reserved: [u64; 4],
    }
}

/// Where the frames begin.
pub const FRAME_TABLE: usize = size_of::<LatestHeader>();
/// The length of a channel.
pub const LATEST_BYTES: usize = FRAME_TABLE + FRAMES * size_of::<Frame>();

const _: () = assert!(WORD_BYTES == 8);
