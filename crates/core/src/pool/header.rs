//! How every segment begins: magic, version, fingerprint, family.
//!
//! Guarantee: what is not ours is refused, and a file is refused before it is mapped.

use core::mem::offset_of;
use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::layout::{FINGERPRINT, FamilyHeader, PoolHeader, VERSION};
use crate::mapping::Mapping;
use crate::sync::Ordering;
use crate::sys::shm;

/// Refuses a segment that does not begin with this magic, our version and our
/// fingerprint. Both kinds of segment have the three words at the same place.
pub(super) fn check_header(mapping: &Mapping, magic: u64) -> Result<()> {
    const {
        assert!(offset_of!(PoolHeader, magic) == offset_of!(FamilyHeader, magic));
        assert!(offset_of!(PoolHeader, version) == offset_of!(FamilyHeader, version));
        assert!(offset_of!(PoolHeader, fingerprint) == offset_of!(FamilyHeader, fingerprint));
    }
    let found = mapping
        .shared_word(offset_of!(FamilyHeader, magic))?
        .load(Ordering::Acquire);
    let version = mapping.load_u64(offset_of!(FamilyHeader, version))?;
    let fingerprint = mapping.load_u64(offset_of!(FamilyHeader, fingerprint))?;
    check_words(magic, [found, version, fingerprint])
}

/// The same for a file that is not mapped yet, which gives the family that it says it is of.
/// A descriptor that was found by its number may lead to any file by now, and whoever reads
/// a mapped file while it is being cut off is killed.
pub(super) fn check_file(fd: impl AsFd, magic: u64) -> Result<[u64; 2]> {
    const {
        assert!(offset_of!(PoolHeader, family_low) == offset_of!(FamilyHeader, family_low));
        assert!(offset_of!(PoolHeader, family_high) == offset_of!(FamilyHeader, family_high));
    }
    let mut bytes = [0; size_of::<FamilyHeader>()];
    let len = shm::read_start(&fd, &mut bytes)
        .map_err(|errno| Error::os("read the header of a segment", "", errno))?;
    if len < bytes.len() {
        return Err(Error::WrongSegment("it is too small for a header"));
    }
    let word = |offset: usize| {
        let mut word = [0; size_of::<u64>()];
        word.copy_from_slice(&bytes[offset..offset + size_of::<u64>()]);
        u64::from_ne_bytes(word)
    };
    check_words(
        magic,
        [
            word(offset_of!(FamilyHeader, magic)),
            word(offset_of!(FamilyHeader, version)),
            word(offset_of!(FamilyHeader, fingerprint)),
        ],
    )?;
    Ok([
        word(offset_of!(FamilyHeader, family_low)),
        word(offset_of!(FamilyHeader, family_high)),
    ])
}

fn check_words(magic: u64, [found, version, fingerprint]: [u64; 3]) -> Result<()> {
    if found != magic {
        return Err(Error::WrongSegment("it has not our magic number"));
    }
    if version != VERSION {
        return Err(Error::WrongSegment(
            "it was made by another version of shared_numpy; use one version in all processes",
        ));
    }
    if fingerprint != FINGERPRINT {
        return Err(Error::WrongSegment(
            "it has another layout; use one build of shared_numpy in all processes",
        ));
    }
    Ok(())
}
