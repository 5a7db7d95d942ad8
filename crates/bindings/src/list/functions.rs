//! The functions around the type: making, finding and describing a list.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use shared_numpy_core::list::{Error, Item, List, Plan};

use super::value::{exception, item_of, refused};
use super::{put, shared};
use crate::exporter;

/// Calls `use_item` with each value as an item.
fn each_item(
    values: &Bound<'_, PyTuple>,
    mut use_item: impl FnMut(usize, &Item<'_>) -> Result<(), Error>,
) -> PyResult<()> {
    for (index, value) in values.iter().enumerate() {
        // SAFETY: `value` is alive during this turn.
        let outcome =
            unsafe { item_of(value.as_ptr()) }.and_then(|item| Ok(use_item(index, &item)?));
        outcome.map_err(|refusal| refused(values.py(), refusal, index, &value))?;
    }
    Ok(())
}

fn plan_of(values: &Bound<'_, PyTuple>) -> PyResult<Plan> {
    let mut plan = Plan::new();
    each_item(values, |_, item| plan.push(item))?;
    Ok(plan)
}

/// The size in bytes of the segment that a list of `values` needs.
///
/// Raises TypeError, OverflowError or ValueError with the index of the first value
/// that a list cannot hold.
#[pyfunction]
fn list_size(values: &Bound<'_, PyTuple>) -> PyResult<usize> {
    plan_of(values)?.size_bytes().map_err(exception)
}

/// Makes a list of `values` in the fresh memory of `memory`, for `base`.
#[pyfunction]
fn list_fill(
    base: &Bound<'_, PyAny>,
    memory: &Bound<'_, PyAny>,
    values: &Bound<'_, PyTuple>,
) -> PyResult<()> {
    let mapping = exporter::mapping_of(memory)
        .ok_or_else(|| PyTypeError::new_err("the memory of a SharedMemory is needed"))?;
    let list = List::create(mapping, &plan_of(values)?).map_err(exception)?;
    each_item(values, |index, item| list.initialise(index, item))?;
    list.publish().map_err(exception)?;
    put(base, list)
}

/// Finds the list in `memory`, for `base`.
#[pyfunction]
fn list_open(base: &Bound<'_, PyAny>, memory: &Bound<'_, PyAny>) -> PyResult<()> {
    let mapping = exporter::mapping_of(memory)
        .ok_or_else(|| PyTypeError::new_err("the memory of a SharedMemory is needed"))?;
    put(base, List::open(mapping).map_err(exception)?)
}

/// The `struct` format of the item at `index`.
#[pyfunction]
fn list_format(base: &Bound<'_, PyAny>, index: usize) -> PyResult<String> {
    shared(base)?.format(index).map_err(exception)
}

/// The `struct` formats of all items, one after the other.
#[pyfunction]
fn list_formats(base: &Bound<'_, PyAny>) -> PyResult<String> {
    let list = shared(base)?;
    let mut formats = String::new();
    for index in 0..list.len() {
        formats.push_str(&list.format(index).map_err(exception)?);
    }
    Ok(formats)
}

/// The recorded code of the item at `index`: how to turn bytes into its value.
#[pyfunction]
fn list_code(base: &Bound<'_, PyAny>, index: usize) -> PyResult<u8> {
    shared(base)?.code(index).map_err(exception)
}

/// Where slots, formats and codes begin, in bytes from the start of the segment.
#[pyfunction]
fn list_parts(base: &Bound<'_, PyAny>) -> PyResult<(usize, usize, usize)> {
    Ok(shared(base)?.parts())
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(list_size, m)?)?;
    m.add_function(wrap_pyfunction!(list_fill, m)?)?;
    m.add_function(wrap_pyfunction!(list_open, m)?)?;
    m.add_function(wrap_pyfunction!(list_format, m)?)?;
    m.add_function(wrap_pyfunction!(list_formats, m)?)?;
    m.add_function(wrap_pyfunction!(list_code, m)?)?;
    m.add_function(wrap_pyfunction!(list_parts, m)?)?;
    Ok(())
}
