//! The bytes of lists, and who sees what of one that is being made or written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use shared_numpy_core::list::{Buffer, Error, Item, List, Plan};
use shared_numpy_core::mapping::Mapping;

use crate::world::{image, made, mapping, mapping_of, standard};

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

/// A reader takes the same format twice for a sign that nobody wrote.
#[test]
fn formats_of_long_texts_do_not_come_back_soon() {
    let long = Item::Str(&[b'x'; 600]);
    let (mapping, list) = made(&[long]);
    let (_, formats_at, _) = list.parts();
    let mut seen = BTreeSet::new();
    for turn in 0..1500 {
        // Over one another, and over others.
        let item = [long, long, Item::Int(1), long, Item::None][turn % 5];
        list.set(0, &item).unwrap();
        if item == long {
            let format = mapping.load_u64(formats_at).unwrap();
            assert!(seen.insert(format), "{turn}: {format:x}");
        }
    }
}
