//! `_core.IntegerCell`: an integer that processes share.

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shared_numpy_core::layout::cells::CELL_BYTES;
use shared_numpy_core::lock::integer::AtomicInt;

use super::{Cell, checked};

/// An integer in shared memory.
#[pyclass(module = "shared_numpy._core", frozen)]
struct IntegerCell {
    cell: Cell,
}

impl IntegerCell {
    fn integer(&self) -> PyResult<AtomicInt<'_>> {
        self.cell.me()?;
        let (mapping, offset) = self.cell.at();
        checked(AtomicInt::at(mapping, offset))
    }
}

#[pymethods]
impl IntegerCell {
    #[new]
    fn new(py: Python<'_>, value: i64) -> PyResult<Self> {
        let cell = Cell::create(py, CELL_BYTES, |mapping, offset| {
            AtomicInt::create(mapping, offset, value)
        })?;
        Ok(IntegerCell { cell })
    }

    /// The object that a handle leads to.
    #[staticmethod]
    fn open(handle: &Bound<'_, PyAny>) -> PyResult<Self> {
        let it = IntegerCell {
            cell: Cell::open(handle)?,
        };
        it.integer()?;
        Ok(it)
    }

    /// A handle, which holds the memory until somebody receives it.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.cell.send(py)
    }

    /// The value.
    fn load(&self) -> PyResult<i64> {
        Ok(self.integer()?.load())
    }

    /// Replaces the value.
    fn store(&self, value: i64) -> PyResult<()> {
        self.integer()?.store(value);
        Ok(())
    }

    /// Replaces the value; the one before.
    fn exchange(&self, value: i64) -> PyResult<i64> {
        Ok(self.integer()?.swap(value))
    }

    /// Adds; the value after. OverflowError, and nothing done, when it does not fit.
    #[pyo3(signature = (delta=1))]
    fn add(&self, delta: i64) -> PyResult<i64> {
        let before = self.integer()?.add(delta);
        let after = before.and_then(|before| before.checked_add(delta));
        after.ok_or_else(|| PyOverflowError::new_err("the sum does not fit into 64 bits"))
    }

    /// Replaces the value if it is `expected`; whether it was.
    fn compare_exchange(&self, expected: i64, value: i64) -> PyResult<bool> {
        Ok(self.integer()?.compare_exchange(expected, value).is_ok())
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<IntegerCell>()
}
