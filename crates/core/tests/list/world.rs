//! Lists, their bytes, and numbers that are the same in each run.

use shared_numpy_core::mapping::Mapping;

pub(crate) use crate::garbage_common::list::{made, mapping, mapping_of, standard};

pub(crate) const MARK_BEING_WRITTEN: u64 = u64::from_ne_bytes(*b"xxxxxxxx");

pub(crate) fn image(mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![0; mapping.len()];
    mapping.read_bytes(0, &mut bytes).unwrap();
    bytes
}

/// xorshift64*: the same numbers in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}
