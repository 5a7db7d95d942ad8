//! Named arrays from making to removal, every way a header can be wrong, and the page
//! about the format held against the code.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use shared_numpy_core::error::Error;
use shared_numpy_core::name::SegmentName;
use shared_numpy_core::named_array::header::{
    FIELDS, FIXED_BYTES, MAGIC, MAKING, Order, Spec, checksum,
};
use shared_numpy_core::named_array::{NamedArray, Owner, claim, fill, remove};
use shared_numpy_core::segment::{CreateOptions, Segment};
use shared_numpy_core::sys::shm;

/// A name that is free, and removed at the end.
struct Name(SegmentName, PathBuf);

impl Name {
    fn new(tag: &str) -> Self {
        let text = format!("snamed_{tag}_{}", std::process::id());
        let path = PathBuf::from("/dev/shm").join(&text);
        Name(SegmentName::new(text.as_bytes()).unwrap(), path)
    }

    fn make(&self, spec: &Spec) -> NamedArray {
        let identity = claim(&self.0).unwrap();
        fill(self.0.clone(), identity, spec.clone(), 0o600, &mut || true).unwrap()
    }

    fn attach(&self) -> Result<NamedArray, Error> {
        NamedArray::attach(self.0.clone(), false, Owner::OwnOrRoot)
    }

    fn reason(&self) -> &'static str {
        match self.attach() {
            Err(Error::Foreign { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.1);
    }
}

fn spec(shape: &[u64], item_bytes: u64) -> Spec {
    Spec {
        shape: shape.to_vec(),
        item_bytes,
        order: Order::Fortran,
        dtype: b"\"<f8\"".to_vec(),
    }
}

#[test]
fn what_is_made_is_what_is_opened() {
    let name = Name::new("made");
    for spec in [
        spec(&[3, 4, 5], 8),
        spec(&[], 8),
        spec(&[0], 8),
        spec(&[5], 0),
        spec(&[7, 0, i64::MAX as u64 / 8], 1),
        Spec {
            dtype: vec![0xff; 70_000],
            ..spec(&[1 << 20], 3)
        },
        spec(&[1; 64], 1),
    ] {
        let made = name.make(&spec);
        let opened = name.attach().unwrap();
        assert_eq!(opened.spec(), &spec);
        assert_eq!(
            (opened.place(), opened.identity()),
            (made.place(), made.identity())
        );
        let place = opened.place();
        assert!(place.offset_bytes.is_multiple_of(64));
        assert!(place.len_bytes < 4096 || place.offset_bytes.is_multiple_of(4096));
        if place.len_bytes > 0 {
            let mut last = [9];
            let at = place.offset_bytes + place.len_bytes - 1;
            opened.mapping().read_bytes(at, &mut last).unwrap();
            assert_eq!(last, [0]);
        }
        let status = fs::metadata(&name.1).unwrap();
        assert!(
            status.blocks() * 512 >= place.len_bytes as u64,
            "memory is committed"
        );
        assert!(made.is_linked() && opened.unlink().unwrap());
        assert!(!made.is_linked() && !made.unlink().unwrap());
    }
}

#[test]
fn arrays_that_cannot_be_leave_nothing() {
    let name = Name::new("impossible");
    for spec in [
        spec(&[u64::MAX, u64::MAX], 8),
        spec(&[1 << 62, 2], 1),
        spec(&[0, 1 << 62, 1 << 62], 1),
        spec(&[1 << 63], 0),
        spec(&[i64::MAX as u64], 1),
        spec(&[1; 65], 1),
        Spec {
            dtype: vec![b' '; (1 << 20) + 1],
            ..spec(&[1], 1)
        },
    ] {
        let identity = claim(&name.0).unwrap();
        let refused = fill(name.0.clone(), identity, spec, 0o600, &mut || true).unwrap_err();
        assert!(matches!(refused, Error::Foreign { .. }), "{refused}");
        assert!(!name.1.exists());
    }
    // More than there is, and a Ctrl-C meanwhile.
    let identity = claim(&name.0).unwrap();
    let spec_large = spec(&[1 << 50], 1);
    let refused = fill(name.0.clone(), identity, spec_large, 0o600, &mut || true).unwrap_err();
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
    let identity = claim(&name.0).unwrap();
    let stopped = fill(
        name.0.clone(),
        identity,
        spec(&[16 << 20], 1),
        0o600,
        &mut || false,
    );
    assert_eq!(stopped.unwrap_err(), Error::Interrupted);
    assert!(!name.1.exists());
}

#[test]
fn a_name_is_taken_once_and_its_bits_are_those_asked() {
    let name = Name::new("taken");
    let identity = claim(&name.0).unwrap();
    assert_eq!(
        claim(&name.0).unwrap_err().errno().unwrap().raw_os_error(),
        libc::EEXIST
    );
    fill(name.0.clone(), identity, spec(&[4], 8), 0o640, &mut || true).unwrap();
    assert_eq!(fs::metadata(&name.1).unwrap().mode() & 0o7777, 0o640);
    assert!(claim(&name.0).is_err());
}

#[test]
fn whoever_replaced_the_name_keeps_it() {
    let name = Name::new("replaced");
    let identity = claim(&name.0).unwrap();
    remove(&name.0, Owner::OwnOrRoot).unwrap();
    let other = name.make(&spec(&[1], 1));
    assert_ne!(other.identity(), identity);
    let refused = fill(name.0.clone(), identity, spec(&[1], 1), 0o600, &mut || true);
    assert!(matches!(refused, Err(Error::Replaced { .. })));
    let refused = NamedArray::attach(name.0.clone(), true, Owner::File(identity));
    assert!(matches!(refused, Err(Error::Replaced { .. })));
    assert!(other.is_linked());
}

#[test]
fn what_a_killed_maker_leaves_is_refused_and_can_be_removed() {
    let name = Name::new("killed");
    // In `claim`, before and after the mark; in `fill`, while memory is reserved.
    for size_bytes in [None, Some(8), Some(1 << 20)] {
        match size_bytes {
            None => fs::write(&name.1, b"").unwrap(),
            Some(size_bytes) => {
                claim(&name.0).unwrap();
                let file = fs::OpenOptions::new().write(true).open(&name.1).unwrap();
                file.set_len(size_bytes).unwrap();
            }
        }
        match (size_bytes, name.attach().unwrap_err()) {
            (None, Error::Empty { .. }) => {}
            (Some(_), Error::Foreign { reason, .. }) => {
                assert!(reason.contains("still being made"));
            }
            (_, other) => panic!("{other}"),
        }
        remove(&name.0, Owner::OwnOrRoot).unwrap();
        assert!(!name.1.exists());
    }
    let gone = remove(&name.0, Owner::OwnOrRoot).unwrap_err();
    assert_eq!(gone.errno().unwrap().raw_os_error(), libc::ENOENT);
}

#[test]
fn other_files_are_neither_opened_nor_removed() {
    let name = Name::new("other");
    let check = |lacks: &str| {
        assert!(name.reason().contains(lacks), "{}", name.reason());
        let refused = remove(&name.0, Owner::OwnOrRoot).unwrap_err();
        assert!(matches!(refused, Error::Foreign { .. }), "{refused}");
        assert!(fs::symlink_metadata(&name.1).is_ok());
    };
    for bytes in [
        &b"x"[..],
        b"seven b",
        &[0; 8],
        &[0; 4096],
        b"SNPNAMEE........",
    ] {
        fs::write(&name.1, bytes).unwrap();
        check("SNPNAMED");
    }
    fs::remove_file(&name.1).unwrap();
    Segment::create(name.0.clone(), 4096, CreateOptions::default(), &mut || true).unwrap();
    check("SNPNAMED");
    fs::remove_file(&name.1).unwrap();
    std::os::unix::fs::symlink("/dev/null", &name.1).unwrap();
    check("regular file");
    fs::remove_file(&name.1).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&name.1).unwrap();
    check("regular file");
    fs::remove_file(&name.1).unwrap();
    fs::create_dir(&name.1).unwrap();
    check("regular file");
    fs::remove_dir(&name.1).unwrap();
}

#[test]
fn another_users_array_opens_only_when_asked_for() {
    let name = Name::new("owner");
    name.make(&spec(&[1], 8));
    let own = shm::own_uid();
    let with = |owner| NamedArray::attach(name.0.clone(), true, owner);
    assert!(with(Owner::User(own)).is_ok());
    assert!(matches!(
        with(Owner::User(own + 1)),
        Err(Error::NotOwner { uid, .. }) if uid == own
    ));
    assert!(remove(&name.0, Owner::User(own + 1)).is_err());
    if own == 0 {
        std::os::unix::fs::chown(&name.1, Some(1234), None).unwrap();
        assert!(matches!(
            with(Owner::OwnOrRoot),
            Err(Error::NotOwner { uid: 1234, .. })
        ));
        assert!(with(Owner::User(1234)).is_ok());
        assert!(remove(&name.0, Owner::OwnOrRoot).is_err());
        assert!(name.1.exists());
        remove(&name.0, Owner::User(1234)).unwrap();
    }
}

#[test]
fn holes_are_filled_before_they_can_be_touched() {
    let name = Name::new("holes");
    let array = name.make(&spec(&[1 << 20], 1));
    let whole = fs::read(&name.1).unwrap();
    array.unlink().unwrap();
    // As `cp --sparse` would leave it.
    fs::write(&name.1, &whole[..4096]).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&name.1).unwrap();
    file.set_len(whole.len() as u64).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    name.attach().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 >= whole.len() as u64);
}

// -- the header ---------------------------------------------------------------------

/// A header with the word at `offset` replaced, and a checksum that fits.
fn forged(header: &[u8], offset: usize, word: u64) -> Vec<u8> {
    let mut forged = header.to_vec();
    forged[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
    let axes = u64::from_ne_bytes(forged[56..64].try_into().unwrap());
    let dtype = u64::from_ne_bytes(forged[64..72].try_into().unwrap());
    let len = axes
        .saturating_mul(8)
        .saturating_add(dtype)
        .saturating_add(128);
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(forged.len());
    let sum = checksum(&forged[..len]);
    if offset != 72 {
        forged[72..80].copy_from_slice(&sum.to_ne_bytes());
    }
    forged
}

#[test]
fn every_word_is_checked_even_when_the_checksum_fits() {
    let name = Name::new("forged");
    let array = name.make(&spec(&[3, 5], 8));
    let good = fs::read(&name.1).unwrap();
    let words = (FIXED_BYTES + 16) / 8;
    for word in 0..words {
        let at = word * 8;
        let now = u64::from_ne_bytes(good[at..at + 8].try_into().unwrap());
        for value in [
            0,
            1,
            now ^ 1,
            now ^ (1 << 63),
            now.wrapping_add(1),
            now.wrapping_mul(2),
            64,
            4096,
            1 << 20,
            1 << 40,
            i64::MAX as u64,
            u64::MAX,
        ] {
            let forged = forged(&good, at, value);
            fs::write(&name.1, &forged).unwrap();
            match name.attach() {
                Err(Error::Foreign { .. }) => {}
                Ok(opened) => {
                    // The other order, unused words, the same value, and data at another
                    // place inside are what a maker may have meant.
                    let place = opened.place();
                    assert!(place.offset_bytes + place.len_bytes <= good.len());
                    assert_eq!(opened.spec().shape, array.spec().shape);
                    assert_eq!(opened.spec().item_bytes, 8);
                    assert!(
                        value == now || at == 48 || at == 24 || (80..128).contains(&at),
                        "word {word} as {value:#x} was believed"
                    );
                }
                Err(other) => panic!("word {word} as {value:#x}: {other}"),
            }
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_header_is_seen() {
    let name = Name::new("flipped");
    name.make(&spec(&[3, 5], 8));
    let good = fs::read(&name.1).unwrap();
    for at in 0..FIXED_BYTES + 2 * 8 + 5 {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&name.1, &bad).unwrap();
        let reason = name.reason();
        assert!(!reason.is_empty());
    }
    fs::write(&name.1, &good).unwrap();
    name.attach().unwrap();
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let name = Name::new("short");
    name.make(&spec(&[3, 5], 8));
    let good = fs::read(&name.1).unwrap();
    for len in 1..good.len() {
        fs::write(&name.1, &good[..len]).unwrap();
        let reason = name.reason();
        let told = match len {
            0..8 => "SNPNAMED",
            8..149 => "ends inside the header",
            _ => "shorter than its header says",
        };
        assert!(reason.contains(told), "{len}: {reason}");
    }
    // Longer is fine: file systems round up.
    fs::write(&name.1, [&good[..], &[1; 100]].concat()).unwrap();
    name.attach().unwrap();
}

// -- the page -----------------------------------------------------------------------

#[test]
fn the_page_tells_the_offsets_and_words_of_the_code() {
    const PAGE: &str = include_str!("../../../docs/named_arrays.md");
    let section = PAGE.split_once("### `NamedArrayHeader`\n").unwrap().1;
    let section = section.split("\n#").next().unwrap();
    let told: Vec<_> = section
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('|').skip(1).map(str::trim);
            let offset: usize = cells.next()?.parse().ok()?;
            let size: usize = cells.next()?.parse().ok()?;
            Some((offset, size, cells.next()?.trim_matches('`').to_owned()))
        })
        .collect();
    let real: Vec<_> = FIELDS
        .iter()
        .map(|field| (field.offset_bytes, field.size_bytes, field.name.to_owned()))
        .collect();
    assert_eq!(told, real);
    for word in [MAGIC, MAKING] {
        let text = String::from_utf8(word.to_le_bytes().to_vec()).unwrap();
        assert!(section.contains(&format!("`\"{text}\"`")), "{text}");
    }
}
