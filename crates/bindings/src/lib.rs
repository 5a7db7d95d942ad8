//! The extension module `shared_numpy._core`: a thin face over `shared_numpy_core`.
//!
//! One file per subject; each registers its own functions and classes. Values
//! cross as primitives; names, defaults and documentation for users are Python's.
//!
//! One binary serves CPython 3.6 and newer: it is built against the stable ABI of
//! 3.7 and uses nothing of it that 3.6 lacks. Where the stable ABI falls short
//! (exporting a buffer, NumPy's objects, very hot functions) the files `exporter`,
//! `ndarray`, `numpy`, `maker` and `list` speak to the C API themselves.

#![deny(unsafe_code)]

mod arguments;
mod block;
mod error;
mod exporter;
mod family;
mod gil;
mod handle;
mod interpreter;
mod latest;
mod list;
mod maker;
mod named;
mod names;
mod ndarray;
mod numpy;
mod posixshmem;
mod queue;
mod quick;
mod segment;
mod sync;
mod tracker;
mod waiting;

use pyo3::prelude::*;

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    interpreter::claim(m.py())?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    names::register(m)?;
    exporter::register(m)?;
    segment::register(m)?;
    list::register(m)?;
    block::register(m)?;
    family::register(m)?;
    latest::register(m)?;
    maker::register(m)?;
    named::register(m)?;
    ndarray::register(m)?;
    error::register(m)?;
    posixshmem::register(m)?;
    queue::register(m)?;
    sync::register(m)?;
    tracker::register(m)?;
    Ok(())
}
