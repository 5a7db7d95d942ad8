//! A list does what a vector does: every value comes back exactly, or is refused.

use std::sync::Arc;

use shared_numpy_core::list::{Buffer, Error, Item, List, Plan};

use crate::world::{Random, image, made};

/// A value that owns its text.
#[derive(Debug, Clone)]
enum Owned {
    Scalar(Item<'static>),
    Str(Vec<u8>),
    Bytes(Vec<u8>),
}

impl Owned {
    fn random(random: &mut Random) -> Owned {
        let text = |random: &mut Random| {
            let len = random.below(40);
            // Many NULs, also at the end.
            (0..len).map(|_| random.below(3) as u8 * 0x31).collect()
        };
        match random.below(6) {
            0 => Owned::Scalar(Item::Int(random.next() as i64)),
            1 => Owned::Scalar(Item::Float(random.below(1000) as f64 / 7.0)),
            2 => Owned::Scalar(Item::Bool(random.below(2) == 1)),
            3 => Owned::Scalar(Item::None),
            4 => Owned::Str(text(random)),
            _ => Owned::Bytes(text(random)),
        }
    }

    fn item(&self) -> Item<'_> {
        match self {
            Owned::Scalar(item) => *item,
            Owned::Str(text) => Item::Str(text),
            Owned::Bytes(bytes) => Item::Bytes(bytes),
        }
    }
}

#[test]
fn a_list_does_what_a_vector_does() {
    let mut random = Random(7);
    for _ in 0..50 {
        let count = random.below(12);
        let mut model: Vec<Owned> = (0..count).map(|_| Owned::random(&mut random)).collect();
        let items: Vec<Item<'_>> = model.iter().map(Owned::item).collect();
        let (mapping, list) = made(&items);
        let reader = List::open(Arc::clone(&mapping)).unwrap();
        for _ in 0..60 {
            if count > 0 {
                let index = random.below(count);
                let value = Owned::random(&mut random);
                let room = list.room_bytes(index).unwrap();
                let before = image(&mapping);
                match list.set(index, &value.item()) {
                    Ok(()) => model[index] = value,
                    Err(Error::TooLong { len_bytes, .. }) => {
                        assert!(len_bytes > room);
                        assert_eq!(image(&mapping), before);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            for (index, value) in model.iter().enumerate() {
                let mut buffer = Buffer::new();
                assert_eq!(reader.get(index, &mut buffer), Ok(value.item()));
            }
        }
    }
}

#[test]
fn long_texts_are_exact_or_refused() {
    let mut buffer = Buffer::new();
    for len in [
        9, 63, 64, 65, 999_992, 999_999, 1_000_000, 1_000_001, 9_999_991, 9_999_992, 9_999_999,
    ] {
        for last in [0, b'x'] {
            let mut text = vec![b'a'; len];
            text[len - 1] = last;
            for item in [Item::Str(&text), Item::Bytes(&text)] {
                let (_, list) = made(&[item]);
                assert!(list.get(0, &mut buffer) == Ok(item), "{len} {last}");
                list.set(0, &Item::Int(1)).unwrap();
                list.set(0, &item).unwrap();
                assert!(list.get(0, &mut buffer) == Ok(item), "{len} {last}");
            }
        }
    }
    let too_long = vec![b'a'; 10_000_000];
    for item in [Item::Str(&too_long), Item::Bytes(&too_long)] {
        let refused = Plan::new().push(&item);
        assert!(matches!(
            refused,
            Err(Error::Inexpressible { index: 0, .. })
        ));
    }
    // Fills its slot and ends in NUL: the one length that cannot be told.
    let mut text = vec![b'a'; 1_000_000];
    let (_, list) = made(&[Item::Str(&text[..999_999])]);
    assert_eq!(list.room_bytes(0), Ok(1_000_000));
    text[999_999] = 0;
    let refused = list.set(0, &Item::Str(&text));
    assert!(matches!(
        refused,
        Err(Error::Inexpressible { index: 0, .. })
    ));
    list.set(0, &Item::Bytes(&text)).unwrap();
    assert!(list.get(0, &mut buffer) == Ok(Item::Bytes(&text)));
}

#[test]
fn text_that_is_not_ascii_has_room_for_its_bytes() {
    for (text, room) in [
        ("encodés", 8),
        ("éééé", 8),
        ("ééééé", 16),
        ("", 8),
        ("12345678", 16),
    ] {
        assert_eq!(Item::Str(text.as_bytes()).room_bytes(), room, "{text}");
        let (_, list) = made(&[Item::Str(text.as_bytes())]);
        let mut buffer = Buffer::new();
        assert_eq!(list.get(0, &mut buffer), Ok(Item::Str(text.as_bytes())));
    }
}
