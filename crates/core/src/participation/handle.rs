//! What travels between processes in place of a block's bytes.
//!
//! Guarantee: bytes that are no handle are refused; a handle that lies is found out by
//! who opens it, since everything it names is checked there.

use crate::error::{Error, Result};
use crate::layout::Participant;
use crate::pool::tokens::TokenName;

/// The first byte: the form of the rest.
const FORM: u8 = 1;

/// Names a block in one of its lives, wherever it is sent within the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// The family's random identity.
    pub family: [u64; 2],
    /// Who allocated the block.
    pub owner: Participant,
    /// The segment's number in the owner's chain.
    pub number: u64,
    /// The block's index in the segment.
    pub block: u32,
    /// Its generation.
    pub generation: u64,
    /// What holds it on its way.
    pub token: Option<TokenName>,
    /// Half of the kernel's boot id: on another host the rest means nothing.
    pub boot: u64,
    /// Where the segments can be had if no tracker has them. Hints: what is found there
    /// is checked.
    pub hints: Hints,
}

/// Numbers of processes and of descriptors in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// The sender's process id.
    pub sender_pid: u32,
    /// The family segment, in the sender.
    pub family_fd: i32,
    /// The pool segment, in its owner.
    pub segment_fd: i32,
}

impl Handle {
    /// The length of [`Handle::to_bytes`].
    pub const BYTES: usize = crate::layout::queues::HANDLE_BYTES;

    /// The handle as bytes, little-endian:
    ///
    /// | offset | size | field |
    /// | --- | --- | --- |
    /// | 0 | 1 | form = 1, then three zeros |
    /// | 4 | 4 | block |
    /// | 8 | 16 | family |
    /// | 24 | 8 | owner |
    /// | 32 | 8 | number of the segment |
    /// | 40 | 8 | generation |
    /// | 48 | 8 | generation of the token; 0 = none |
    /// | 56 | 4 | index of the token |
    /// | 60 | 4 | the sender's pid |
    /// | 64 | 8 | half of the boot id |
    /// | 72 | 4 | descriptor of the family, in the sender |
    /// | 76 | 4 | descriptor of the segment, in the owner |
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut to = [0; Self::BYTES];
        let mut put = |offset: usize, bytes: &[u8]| {
            to[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &[FORM]);
        put(4, &self.block.to_le_bytes());
        put(8, &self.family[0].to_le_bytes());
        put(16, &self.family[1].to_le_bytes());
        put(24, &self.owner.pack().to_le_bytes());
        put(32, &self.number.to_le_bytes());
        put(40, &self.generation.to_le_bytes());
        if let Some(token) = self.token {
            put(48, &token.generation.to_le_bytes());
            // A table has at most 262144 of them.
            put(56, &(token.index as u32).to_le_bytes());
        }
        put(60, &self.hints.sender_pid.to_le_bytes());
        put(64, &self.boot.to_le_bytes());
        put(72, &self.hints.family_fd.to_le_bytes());
        put(76, &self.hints.segment_fd.to_le_bytes());
        to
    }

    /// Reads what [`Handle::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignHandle`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        const NOT_ONE: Error = Error::ForeignHandle(
            "these bytes are no handle, or one of another version of shared_numpy",
        );
        if bytes.len() != Self::BYTES || bytes[..4] != [FORM, 0, 0, 0] {
            return Err(NOT_ONE);
        }
        let word = |offset: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[offset..offset + 8]);
            u64::from_le_bytes(word)
        };
        let half = |offset: usize| {
            let mut half = [0; 4];
            half.copy_from_slice(&bytes[offset..offset + 4]);
            u32::from_le_bytes(half)
        };
        let token = TokenName {
            index: half(56) as usize,
            generation: word(48),
        };
        Ok(Handle {
            family: [word(8), word(16)],
            owner: Participant::unpack(word(24)).ok_or(NOT_ONE)?,
            number: word(32),
            block: half(4),
            generation: word(40),
            token: (token.generation != 0).then_some(token),
            boot: word(64),
            hints: Hints {
                sender_pid: half(60),
                family_fd: half(72) as i32,
                segment_fd: half(76) as i32,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let mut handle = Handle {
            family: [1, u64::MAX],
            owner: Participant {
                slot: 1023,
                generation: 77,
            },
            number: 4,
            block: 65_535,
            generation: 9,
            token: Some(TokenName {
                index: 16_383,
                generation: 3,
            }),
            boot: 8,
            hints: Hints {
                sender_pid: 5,
                family_fd: -1,
                segment_fd: 6,
            },
        };
        assert_eq!(Handle::from_bytes(&handle.to_bytes()), Ok(handle));
        handle.token = None;
        let bytes = handle.to_bytes();
        assert_eq!(Handle::from_bytes(&bytes), Ok(handle));
        assert!(Handle::from_bytes(&bytes[..79]).is_err());
        let mut other = bytes;
        other[0] = 2;
        assert!(Handle::from_bytes(&other).is_err());
        other = bytes;
        other[24..32].fill(0xff);
        assert!(Handle::from_bytes(&other).is_err());
    }
}
