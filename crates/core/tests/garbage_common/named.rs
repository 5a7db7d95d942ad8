//! A file that may be a named array.

use std::fs;
use std::mem::offset_of;

use shared_numpy_core::name::SegmentName;
use shared_numpy_core::named_array::header::{
    FIXED_BYTES, MAGIC, NamedArrayHeader, VERSION, checksum,
};
use shared_numpy_core::named_array::{NamedArray, Owner};

use super::touch;

/// How many bytes of an input are no header's.
const DECISION_BYTES: usize = 2;

/// Puts these bytes into a file and opens it as an array: as they are, or as a header with
/// those words right that would be refused at once, and a checksum that fits.
///
/// The name is this process's. A fuzzer that ends here leaves it behind; `ci/fuzz.sh` removes
/// it.
pub(crate) fn open(bytes: &[u8]) {
    let Some((decision, rest)) = bytes.split_at_checked(DECISION_BYTES) else {
        return;
    };
    let mut file = rest.to_vec();
    if decision[0] % 4 > 0 {
        make_plausible(&mut file, decision[0] & 4 > 0);
    }
    // The data begin at a multiple of 64 behind the header.
    file.resize(file.len() + usize::from(decision[1]) * 16, 7);
    let text = format!("snp_fuzz_{}", std::process::id());
    let path = format!("/dev/shm/{text}");
    fs::write(&path, &file).unwrap();
    let name = SegmentName::new(text.as_bytes()).unwrap();
    if let Ok(array) = NamedArray::attach(name, decision[0] % 2 == 0, Owner::OwnOrRoot) {
        let place = array.place();
        touch(array.mapping(), place.offset_bytes, place.len_bytes);
        let spec = array.spec();
        // An axis of length 0 does not excuse others: without it they can be addressed as well.
        let reach = spec
            .shape
            .iter()
            .try_fold(spec.item_bytes, |reach, &len| reach.checked_mul(len.max(1)));
        let is_empty = spec.shape.contains(&0);
        let size_bytes = reach.map(|reach| if is_empty { 0 } else { reach });
        assert_eq!(size_bytes, Some(place.len_bytes as u64));
        assert!(array.is_linked());
    }
    fs::remove_file(&path).unwrap();
}

/// Right words where any others are refused at once; if `lengths` says so, lengths that fit
/// each other among them.
fn make_plausible(file: &mut Vec<u8>, lengths: bool) {
    if file.len() < FIXED_BYTES {
        file.resize(FIXED_BYTES, 0);
    }
    let word = |file: &[u8], at: usize| u64::from_ne_bytes(file[at..at + 8].try_into().unwrap());
    let put = |file: &mut [u8], at: usize, word: u64| {
        file[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    };
    put(file, offset_of!(NamedArrayHeader, magic), MAGIC);
    put(file, offset_of!(NamedArrayHeader, version), VERSION);
    let axes = word(file, offset_of!(NamedArrayHeader, axes));
    let dtype = word(file, offset_of!(NamedArrayHeader, dtype_bytes));
    let len = axes.saturating_mul(8).saturating_add(dtype);
    let len = len.saturating_add(FIXED_BYTES as u64);
    let inside = len.min(file.len() as u64) as usize;
    if lengths {
        let item_bytes = word(file, offset_of!(NamedArrayHeader, item_bytes));
        let shape = file[FIXED_BYTES..inside]
            .chunks_exact(8)
            .take(axes as usize);
        let data = shape.fold(item_bytes, |bytes, axis| bytes.wrapping_mul(word(axis, 0)));
        put(file, offset_of!(NamedArrayHeader, header_bytes), len);
        put(file, offset_of!(NamedArrayHeader, data_bytes), data);
    }
    let sum = checksum(&file[..inside]);
    put(file, offset_of!(NamedArrayHeader, checksum), sum);
}
