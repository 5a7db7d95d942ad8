//! A file that may be a named array.

use std::fs;

use shared_numpy_core::name::SegmentName;
use shared_numpy_core::named_array::header::{FIXED_BYTES, MAGIC, VERSION, checksum};
use shared_numpy_core::named_array::{NamedArray, Owner};

use super::touch;

/// How many bytes of an input are no header's.
const DECISION_BYTES: usize = 2;

/// Puts these bytes into a file, as a header that has the first words right and a checksum
/// that fits if the first byte says so, and opens it as an array.
///
/// The name is this process's. A fuzzer that ends here leaves it behind; `ci/fuzz.sh` removes
/// it.
pub(crate) fn open(bytes: &[u8]) {
    let Some((decision, rest)) = bytes.split_at_checked(DECISION_BYTES) else {
        return;
    };
    let mut file = rest.to_vec();
    if decision[0] % 4 > 0 {
        make_plausible(&mut file);
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
        let items = spec
            .shape
            .iter()
            .try_fold(1_u64, |n, &len| n.checked_mul(len));
        let size_bytes = items.and_then(|items| items.checked_mul(spec.item_bytes));
        assert_eq!(size_bytes, Some(place.len_bytes as u64));
        assert!(array.is_linked());
    }
    fs::remove_file(&path).unwrap();
}

/// Right words where any others are refused at once.
fn make_plausible(file: &mut Vec<u8>) {
    if file.len() < FIXED_BYTES {
        file.resize(FIXED_BYTES, 0);
    }
    let word = |file: &[u8], at: usize| u64::from_ne_bytes(file[at..at + 8].try_into().unwrap());
    let (axes, dtype) = (word(file, 56), word(file, 64));
    let len = axes.saturating_mul(8).saturating_add(dtype);
    let len = len
        .saturating_add(FIXED_BYTES as u64)
        .min(file.len() as u64);
    file[..8].copy_from_slice(&MAGIC.to_ne_bytes());
    file[8..16].copy_from_slice(&VERSION.to_ne_bytes());
    let sum = checksum(&file[..len as usize]);
    file[72..80].copy_from_slice(&sum.to_ne_bytes());
}
