//! What an item takes along: the blocks of the arrays that are in it.
//!
//! Guarantee: a block goes along once, however many views of it there are.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use shared_numpy_core::participation::Hold;
use shared_numpy_core::view;

use super::elements::Numbers;
use super::{Tools, wire};
use crate::exporter;
use crate::gil;
use crate::ndarray::{self, Kind};
use crate::numpy::AXES_MAX;

/// Of an address of an object, which nobody outside chooses, a hash in one multiplication.
#[derive(Default)]
pub(super) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_usize(usize::from(byte));
        }
    }

    fn write_usize(&mut self, number: usize) {
        // Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4); the table takes
        // its place from the low bits, where an address has zeros.
        let product = (self.0 ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product.rotate_left(32);
    }
}

/// For maps whose keys are addresses.
pub(super) type ByAddress = BuildHasherDefault<AddressHasher>;

/// So many exporters are looked through; of more each has its place in a map.
const FEW: usize = 8;

/// What one item takes along.
#[derive(Default)]
pub(super) struct Collected {
    exporters: Vec<Py<PyAny>>,
    /// Where each exporter beyond the first few is.
    places: HashMap<usize, usize, ByAddress>,
    /// Which of them are out-of-band buffers of the pickle, in its order, and their lengths.
    pub(super) buffers: Vec<(usize, usize)>,
}

impl Collected {
    /// Takes the block of an exporter along; its index among the item's holds.
    pub(super) fn add(&mut self, exporter: &Bound<'_, PyAny>) -> usize {
        let few = self.exporters.iter().take(FEW);
        if let Some(index) = few
            .map(|it| it.as_ptr())
            .position(|it| it == exporter.as_ptr())
        {
            return index;
        }
        let next = self.exporters.len();
        let index = match next < FEW {
            true => next,
            false => *self
                .places
                .entry(exporter.as_ptr() as usize)
                .or_insert(next),
        };
        if index == next {
            self.exporters.push(exporter.clone().unbind());
        }
        index
    }

    /// The blocks, in their order.
    pub(super) fn holds<'a>(&'a self, py: Python<'a>) -> Vec<&'a Hold> {
        // All are exporters of blocks: nothing else is added.
        let exporters = self.exporters.iter();
        exporters
            .filter_map(|it| exporter::block_of(it.bind(py)).map(|(hold, _)| hold))
            .collect()
    }
}

/// Whether an array lies in a block, which can go along.
pub(super) fn is_in_block(array: &Bound<'_, PyAny>) -> bool {
    let exporter = ndarray::exporter_of(array);
    exporter.is_some_and(|exporter| exporter::block_of(&exporter).is_some())
}

/// Writes where an array lies in its block, which `add` takes along; whether it is in one.
pub(super) fn tell<'py>(
    array: &Bound<'py, PyAny>,
    numbers: &Numbers<'_>,
    out: &mut Vec<u8>,
    add: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<usize>,
) -> PyResult<bool> {
    let Some(exporter) = ndarray::exporter_of(array) else {
        return Ok(false);
    };
    let Some((hold, len)) = exporter::block_of(&exporter) else {
        return Ok(false);
    };
    let seen = &numbers.seen;
    let mut axes = [(0, 0); AXES_MAX];
    let axes = axes
        .get_mut(..seen.lengths.len())
        .ok_or_else(wire::damaged)?;
    for (axis, (&length, &stride)) in axes.iter_mut().zip(seen.lengths.iter().zip(seen.strides)) {
        *axis = (length as i64, stride as i64);
    }
    let start = hold.start().as_ptr() as usize;
    let offset = view::offset(start, seen.data as usize, axes);
    view::check(len as u64, offset, axes, numbers.item_bytes as i64).map_err(wire::outside)?;
    let hold = add(&exporter)?;
    wire::held(out, numbers.number, seen, &exporter, hold, len, offset);
    Ok(true)
}

/// Takes an array of plain numbers along in its block, or a copy in one if it is an ordinary
/// array, and writes where that is; whether it can be done.
pub(super) fn hold(
    tools: &Tools,
    array: &Bound<'_, PyAny>,
    numbers: &Numbers<'_>,
    out: &mut Vec<u8>,
    along: &mut Collected,
) -> PyResult<bool> {
    if numbers.is_shared() {
        return tell(array, numbers, out, |exporter| Ok(along.add(exporter)));
    }
    let py = array.py();
    let copied = gil::call(tools.copy.bind(py), &PyTuple::new(py, [array])?)?;
    let Some(mut numbers) = Numbers::of(&copied) else {
        return Ok(false);
    };
    // It arrives as what it was.
    numbers.seen.kind = Kind::Ordinary;
    tell(&copied, &numbers, out, |exporter| Ok(along.add(exporter)))
}
