//! Lists through their public face: exact bytes, a model, damage, races.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use shared_numpy_core::list::{Buffer, Error, Item, List, Plan};
use shared_numpy_core::mapping::Mapping;

const MARK_BEING_WRITTEN: u64 = u64::from_ne_bytes(*b"xxxxxxxx");

fn mapping(len: usize) -> Arc<Mapping> {
    let fd = memfd_create("list-test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len as u64).unwrap();
    Arc::new(Mapping::new(&fd, len, false).unwrap())
}

fn mapping_of(bytes: &[u8]) -> Arc<Mapping> {
    let mapping = mapping(bytes.len());
    mapping.write_bytes(0, bytes).unwrap();
    mapping
}

fn image(mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![0; mapping.len()];
    mapping.read_bytes(0, &mut bytes).unwrap();
    bytes
}

fn made(items: &[Item<'_>]) -> (Arc<Mapping>, List) {
    let mut plan = Plan::new();
    for item in items {
        plan.push(item).unwrap();
    }
    let mapping = mapping(plan.size_bytes().unwrap());
    let list = List::create(Arc::clone(&mapping), &plan).unwrap();
    for (index, item) in items.iter().enumerate() {
        list.initialise(index, item).unwrap();
    }
    list.publish().unwrap();
    (mapping, list)
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A list as the standard library lays it out: `(slot, format, code)` each.
fn standard(items: &[(&[u8], &[u8], u8)], of_38: bool) -> Vec<u8> {
    let mut head = vec![items.len() as u64];
    let mut end = 0;
    for (slot, ..) in items {
        head.push(if of_38 { slot.len() as u64 } else { end });
        end += slot.len() as u64;
    }
    if !of_38 {
        head.push(end);
    }
    let mut bytes = words(&head);
    items.iter().for_each(|(slot, ..)| bytes.extend(*slot));
    for (_, format, _) in items {
        let mut field = [0; 8];
        field[..format.len()].copy_from_slice(format);
        bytes.extend(field);
    }
    bytes.extend(items.iter().map(|&(.., code)| code));
    bytes
}

/// xorshift64*: the same numbers in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}

#[test]
fn a_new_list_has_the_standard_layout_byte_for_byte() {
    let items = [
        Item::Str(b"howdy"),
        Item::Bytes(b"HoWdY"),
        Item::Float(-273.154),
        Item::Int(100),
        Item::None,
        Item::Bool(true),
        Item::Int(-42),
    ];
    let (mapping, list) = made(&items);
    let expected = standard(
        &[
            (b"howdy\0\0\0", b"5s ", 1),
            (b"HoWdY\0\0\0", b"5s ", 0),
            (&(-273.154_f64).to_ne_bytes(), b"d", 0),
            (&100_i64.to_ne_bytes(), b"q", 0),
            (&[0; 8], b"xxxxxx?x", 3),
            (b"\0\0\0\0\0\0\0\x01", b"xxxxxxx?", 0),
            (&(-42_i64).to_ne_bytes(), b"q", 0),
        ],
        false,
    );
    assert_eq!(image(&mapping), expected);
    let formats: String = (0..7).map(|index| list.format(index).unwrap()).collect();
    assert_eq!(formats, "8s8sdqxxxxxx?xxxxxxxx?q");
    assert_eq!(list.parts(), (72, 128, 184));
}

#[test]
fn both_layouts_of_the_standard_library_are_read_and_written() {
    let items: &[(&[u8], &[u8], u8)] = &[
        (b"howdy\0\0\0", b"8s", 1),
        (b"ab\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"16s", 2),
        (&7_i64.to_ne_bytes(), b"q", 0),
        (b"12345678", b"8s", 1),
        (&[0; 8], b"xxxxxx?x", 3),
        // The standard library pads the rest of an item that was overwritten.
        (b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"16s", 1),
    ];
    for of_38 in [false, true] {
        let mapping = mapping_of(&standard(items, of_38));
        let list = List::open(Arc::clone(&mapping)).unwrap();
        let mut buffer = Buffer::new();
        assert_eq!(list.len(), 6);
        assert_eq!(list.get(0, &mut buffer), Ok(Item::Str(b"howdy")));
        assert_eq!(list.get(1, &mut buffer), Ok(Item::Bytes(b"ab")));
        assert_eq!(list.get(2, &mut buffer), Ok(Item::Int(7)));
        assert_eq!(list.get(3, &mut buffer), Ok(Item::Str(b"12345678")));
        assert_eq!(list.get(4, &mut buffer), Ok(Item::None));
        assert_eq!(list.get(5, &mut buffer), Ok(Item::Str(b"")));
        list.set(1, &Item::Str(b"0123456789ABCDE\0")).unwrap();
        list.set(4, &Item::Bool(false)).unwrap();
        let again = List::open(mapping).unwrap();
        assert_eq!(
            again.get(1, &mut buffer),
            Ok(Item::Str(b"0123456789ABCDE\0"))
        );
        assert_eq!(again.get(4, &mut buffer), Ok(Item::Bool(false)));
        assert_eq!(again.get(3, &mut buffer), Ok(Item::Str(b"12345678")));
        assert_eq!(again.format(1).unwrap(), "16s");
    }
}

#[test]
fn empty_lists() {
    let (mapping, list) = made(&[]);
    assert_eq!((mapping.len(), list.len()), (16, 0));
    for size in [8, 16, 24, 4096] {
        let list = List::open(mapping_of(&vec![0; size])).unwrap();
        assert_eq!(list.len(), 0);
        let missing = Error::OutOfRange { index: 0, count: 0 };
        assert_eq!(list.get(0, &mut Buffer::new()), Err(missing));
    }
    assert!(List::open(mapping_of(&[0; 7])).is_err());
}

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

/// Reads and writes everything; only errors are allowed to happen.
fn exercise(mapping: Arc<Mapping>) {
    let Ok(list) = List::open(mapping) else {
        return;
    };
    let mut buffer = Buffer::new();
    for index in 0..list.len().min(50) + 1 {
        // An item that says that it is being written would take 20 ms.
        if !matches!(list.format(index), Ok(format) if format == "xxxxxxxx") {
            let _ = list.get(index, &mut buffer);
        }
        let _ = list.code(index);
        let _ = list.set(index, &Item::Str(b"123456789"));
        let _ = list.set(index, &Item::None);
    }
}

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

#[test]
fn a_list_is_not_found_before_it_is_complete() {
    let mut plan = Plan::new();
    plan.push(&Item::Int(1)).unwrap();
    let mapping = mapping(plan.size_bytes().unwrap());
    let list = List::create(Arc::clone(&mapping), &plan).unwrap();
    let early = List::open(Arc::clone(&mapping));
    assert!(matches!(early, Err(Error::NotAList { .. })));
    list.initialise(0, &Item::Int(1)).unwrap();
    list.publish().unwrap();
    let list = List::open(mapping).unwrap();
    assert_eq!(list.get(0, &mut Buffer::new()), Ok(Item::Int(1)));
}

#[test]
fn a_read_only_list_refuses_writes() {
    let fd = memfd_create("list-test", MemfdFlags::CLOEXEC).unwrap();
    let bytes = standard(&[(&7_i64.to_ne_bytes(), b"q", 0)], false);
    rustix::io::write(&fd, &bytes).unwrap();
    let list = List::open(Arc::new(Mapping::new(&fd, bytes.len(), true).unwrap())).unwrap();
    assert_eq!(list.get(0, &mut Buffer::new()), Ok(Item::Int(7)));
    for item in [Item::Int(8), Item::Str(b"x"), Item::None] {
        assert!(matches!(list.set(0, &item), Err(Error::Memory(_))));
        assert!(matches!(list.check(0, &item), Err(Error::Memory(_))));
    }
}

#[test]
fn a_reader_sees_old_or_new_and_no_mixture() {
    const TEXT_BYTES: usize = 600;
    let texts: Vec<Vec<u8>> = (0..5)
        .map(|it| vec![b'a' + it; TEXT_BYTES - it as usize])
        .collect();
    let values = [
        Item::Str(&texts[0]),
        Item::Str(&texts[1]),
        Item::Bytes(&texts[2]),
        Item::Int(0x0101_0101_0101_0101),
        Item::Str(b"short"),
        Item::Bytes(&texts[3]),
        Item::Float(0.5),
        Item::None,
        Item::Str(&texts[0]),
        Item::Str(&texts[4]),
    ];
    let (mapping, list) = made(&values[..1]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..60_000 {
                list.set(0, &values[turn % values.len()]).unwrap();
            }
            stop.store(true, Ordering::SeqCst);
        });
        let reader = List::open(mapping).unwrap();
        let mut buffer = Buffer::new();
        while !stop.load(Ordering::SeqCst) {
            match reader.get(0, &mut buffer) {
                Ok(item) => assert!(values.contains(&item), "{item:?}"),
                Err(error) => assert_eq!(error, Error::Unfinished { index: 0 }),
            }
        }
    });
}
