//! A mapping that may be a `ShareableList`, and all that can be done with one.

use std::sync::Arc;

use shared_numpy_core::list::{Buffer, Item, List, Plan};
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::sys::anon;

use super::choices::Choices;
use super::scribble_bytes;

/// Items of all kinds, of all sizes that matter.
const ITEMS: [Item<'_>; 8] = [
    Item::None,
    Item::Bool(true),
    Item::Int(-1),
    Item::Float(0.5),
    Item::Str(b"123456789"),
    Item::Str("\u{fc}\0".as_bytes()),
    Item::Bytes(b""),
    Item::Bytes(&[0; 40]),
];

/// Memory of that size, all zero.
pub(crate) fn mapping(len: usize) -> Arc<Mapping> {
    let fd = anon::create(len as u64).unwrap();
    Arc::new(Mapping::new(&fd, len, false).unwrap())
}

/// Memory with these bytes.
pub(crate) fn mapping_of(bytes: &[u8]) -> Arc<Mapping> {
    let mapping = mapping(bytes.len());
    mapping.write_bytes(0, bytes).unwrap();
    mapping
}

pub(crate) fn made(items: &[Item<'_>]) -> (Arc<Mapping>, List) {
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
pub(crate) fn standard(items: &[(&[u8], &[u8], u8)], of_38: bool) -> Vec<u8> {
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

/// A sound list: ours, or one of the standard library's two.
pub(crate) fn sound(choices: &mut dyn Choices) -> Arc<Mapping> {
    match choices.below(3) {
        0 => {
            let items: Vec<Item<'_>> = (0..choices.below(6))
                .map(|_| ITEMS[choices.below(ITEMS.len())])
                .collect();
            made(&items).0
        }
        layout => {
            let slots: [(&[u8], &[u8], u8); 5] = [
                (b"howdy\0\0\0", b"8s", 1),
                (&[b'x'; 16], b"15s ", 0),
                (&7_i64.to_ne_bytes(), b"q", 0),
                (&[0; 8], b"xxxxxx?x", 3),
                (&0.5_f64.to_ne_bytes(), b"d", 0),
            ];
            mapping_of(&standard(&slots[..choices.below(6)], layout == 2))
        }
    }
}

/// Reads and writes everything; only errors are allowed to happen.
pub(crate) fn exercise(mapping: Arc<Mapping>) {
    let Ok(list) = List::open(mapping) else {
        return;
    };
    let mut buffer = Buffer::new();
    for index in 0..list.len().min(50) + 1 {
        read(&list, index, &mut buffer);
        let _ = list.set(index, &Item::Str(b"123456789"));
        let _ = list.set(index, &Item::None);
    }
}

/// As [`exercise`], with what is chosen where it is chosen; bytes change meanwhile.
pub(crate) fn exercise_some(mapping: &Arc<Mapping>, choices: &mut dyn Choices) {
    let Ok(list) = List::open(Arc::clone(mapping)) else {
        return;
    };
    let mut buffer = Buffer::new();
    let (slots, formats, codes) = list.parts();
    assert!(slots <= formats && formats <= codes && codes + list.len() <= mapping.len());
    while !choices.is_over() {
        let index = choices.below(list.len().min(255) + 1);
        match choices.below(3) {
            0 => read(&list, index, &mut buffer),
            1 => {
                let item = &ITEMS[choices.below(ITEMS.len())];
                let is_set = list.check(index, item).is_ok() && list.set(index, item).is_ok();
                if is_set {
                    assert_eq!(list.get(index, &mut buffer), Ok(*item));
                }
            }
            _ => scribble_bytes(choices, mapping),
        }
    }
}

fn read(list: &List, index: usize, buffer: &mut Buffer) {
    // An item that says that it is being written would take 20 ms.
    if !matches!(list.format(index), Ok(format) if format == "xxxxxxxx") {
        let _ = list.get(index, buffer);
    }
    let _ = list.code(index);
    if let Ok(room_bytes) = list.room_bytes(index) {
        let (slots, formats, _) = list.parts();
        assert!(room_bytes <= formats - slots);
    }
}
