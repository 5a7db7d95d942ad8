//! What an item takes along: the blocks of the arrays that are in it.
//!
//! Guarantee: a block goes along once, however many views of it there are.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use shared_numpy_core::participation::Hold;
use shared_numpy_core::view;

use super::{Tools, wire};
use crate::exporter;
use crate::gil;
use crate::ndarray::{self, Kind, Seen};
use crate::numpy::{self, AXES_MAX};

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

/// What one item takes along.
#[derive(Default)]
pub(super) struct Collected {
    exporters: Vec<Py<PyAny>>,
    places: HashMap<usize, usize, ByAddress>,
    /// Which of them are out-of-band buffers of the pickle, in its order, and their lengths.
    pub(super) buffers: Vec<(usize, usize)>,
}

impl Collected {
    /// Takes the block of an exporter along; its index among the item's holds.
    pub(super) fn add(&mut self, exporter: &Bound<'_, PyAny>) -> usize {
        let next = self.exporters.len();
        let index = *self
            .places
            .entry(exporter.as_ptr() as usize)
            .or_insert(next);
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

/// The block of a shared array, and where the array begins in it; None for others.
pub(super) fn place<'py>(
    array: &Bound<'py, PyAny>,
    seen: &Seen<'_>,
    item_bytes: usize,
) -> PyResult<Option<(Bound<'py, PyAny>, usize, i64)>> {
    let Some(exporter) = ndarray::exporter_of(array) else {
        return Ok(None);
    };
    let Some((hold, len)) = exporter::block_of(&exporter) else {
        return Ok(None);
    };
    let mut axes = [(0, 0); AXES_MAX];
    let axes = axes
        .get_mut(..seen.lengths.len())
        .ok_or_else(wire::damaged)?;
    for (axis, (&length, &stride)) in axes.iter_mut().zip(seen.lengths.iter().zip(seen.strides)) {
        *axis = (length as i64, stride as i64);
    }
    let start = hold.start().as_ptr() as usize;
    let offset = view::offset(start, seen.data as usize, axes);
    view::check(len as u64, offset, axes, item_bytes as i64).map_err(wire::outside)?;
    Ok(Some((exporter, len, offset)))
}

/// Takes an array of plain numbers along in a block, a copy of it if it lies in none, and
/// writes where that is; whether it can be done.
pub(super) fn hold<'py>(
    tools: &Tools,
    object: &Bound<'py, PyAny>,
    seen: &Seen<'_>,
    out: &mut Vec<u8>,
    along: &mut Collected,
) -> PyResult<bool> {
    let py = object.py();
    let kind = seen.kind;
    let copied;
    let array = if kind == Kind::Shared {
        object
    } else {
        copied = gil::call(tools.copy.bind(py), &PyTuple::new(py, [object])?)?;
        &copied
    };
    let (Some(api), Some(mut seen)) = (numpy::api(py), ndarray::see(array)) else {
        return Ok(false);
    };
    seen.kind = kind;
    let Some((number, item_bytes)) = wire::number_of(api, py, &seen) else {
        return Ok(false);
    };
    let Some((exporter, len, offset)) = place(array, &seen, item_bytes)? else {
        return Ok(false);
    };
    let hold = along.add(&exporter);
    wire::held(out, number, &seen, &exporter, hold, len, offset);
    Ok(true)
}
