//! No content does more than fail.

use shared_numpy_core::list::{Buffer, Error, Item};

use crate::garbage_common::list::exercise;
use crate::world::{MARK_BEING_WRITTEN, Random, made, mapping_of, standard};

#[test]
fn no_content_does_more_than_fail() {
    let mut random = Random(99);
    for _ in 0..3000 {
        let len = 1 + random.below(300);
        let mut bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        // Small counts get further than random ones.
        if len >= 16 && random.below(4) > 0 {
            bytes[..8].copy_from_slice(&(random.below(8) as u64).to_ne_bytes());
            bytes[8..16].copy_from_slice(&(random.below(3) as u64 * 8).to_ne_bytes());
        }
        exercise(mapping_of(&bytes));
    }
    let whole: &[(&[u8], &[u8], u8)] = &[
        (b"howdy\0\0\0", b"8s", 1),
        (&[b'x'; 80], b"79s ", 0),
        (&7_i64.to_ne_bytes(), b"q", 0),
        (&[0; 8], b"xxxxxx?x", 3),
    ];
    for of_38 in [false, true] {
        let whole = standard(whole, of_38);
        for at in 0..whole.len() {
            for value in [0, 1, 8, b'9', b's', b' ', 0x7F, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                exercise(mapping_of(&bytes));
            }
            exercise(mapping_of(&whole[..at.max(1)]));
        }
        for _ in 0..3000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            exercise(mapping_of(&bytes));
        }
    }
}

#[test]
fn damage_after_opening_is_noticed() {
    let (mapping, list) = made(&[Item::Int(1), Item::Str(b"text"), Item::Int(3)]);
    let mut buffer = Buffer::new();
    for offset in [u64::MAX, 1 << 63, 1 << 40, 3, 0] {
        // Where the second item begins and the first one ends.
        mapping.store_u64(16, offset).unwrap();
        let found = [
            list.get(0, &mut buffer).is_err(),
            list.get(1, &mut buffer).is_err(),
        ];
        assert!(found[0], "{offset}");
        // From the start of the data it is a larger item, and no damage to see.
        assert!(found[1] || offset == 0, "{offset}");
        assert!(list.set(0, &Item::Int(5)).is_err());
        assert_eq!(list.get(2, &mut buffer), Ok(Item::Int(3)));
    }
}

#[test]
fn an_item_whose_writer_died_can_be_set_anew() {
    let (mapping, list) = made(&[Item::Int(1), Item::Int(2)]);
    let (_, formats_at, _) = list.parts();
    mapping.store_u64(formats_at, MARK_BEING_WRITTEN).unwrap();
    let mut buffer = Buffer::new();
    assert_eq!(
        list.get(0, &mut buffer),
        Err(Error::Unfinished { index: 0 })
    );
    assert_eq!(list.get(1, &mut buffer), Ok(Item::Int(2)));
    list.set(0, &Item::Bytes(b"new")).unwrap();
    assert_eq!(list.get(0, &mut buffer), Ok(Item::Bytes(b"new")));
}
