//! Lists, their bytes, and numbers that are the same in each run.

use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use shared_numpy_core::list::{Item, List, Plan};
use shared_numpy_core::mapping::Mapping;

pub(crate) const MARK_BEING_WRITTEN: u64 = u64::from_ne_bytes(*b"xxxxxxxx");

pub(crate) fn mapping(len: usize) -> Arc<Mapping> {
    let fd = memfd_create("list-test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len as u64).unwrap();
    Arc::new(Mapping::new(&fd, len, false).unwrap())
}

pub(crate) fn image(mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![0; mapping.len()];
    mapping.read_bytes(0, &mut bytes).unwrap();
    bytes
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

/// xorshift64*: the same numbers in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}
