//! The hash (FNV-1a, 64 bits) from which the fingerprint of the format is made.

use super::{Field, Struct};

/// Where a hash begins.
pub(super) const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;

/// Goes on with all names, places and sizes.
pub(super) const fn fnv_structs(mut hash: u64, structs: &[Struct]) -> u64 {
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

/// Goes on with a number.
pub(super) const fn fnv_word(mut hash: u64, word: u64) -> u64 {
    let bytes = word.to_le_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(FNV_PRIME);
        at += 1;
    }
    hash
}
