//! A mapping that may be a `ShareableList`, and all that can be done with one.

use std::sync::Arc;

use shared_numpy_core::list::{Buffer, Item, List};
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::sys::anon;

use super::choices::Choices;

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

/// Memory with these bytes.
pub(crate) fn mapping_of(bytes: &[u8]) -> Arc<Mapping> {
    let fd = anon::create(bytes.len() as u64).unwrap();
    let mapping = Mapping::new(&fd, bytes.len(), false).unwrap();
    mapping.write_bytes(0, bytes).unwrap();
    Arc::new(mapping)
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
            _ => {
                let at = choices.below(mapping.len());
                let byte = choices.below(256) as u8;
                mapping.write_bytes(at, &[byte]).unwrap();
            }
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
