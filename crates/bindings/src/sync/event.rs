//! `_core.EventCell`: a flag to wait for.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shared_numpy_core::layout::cells::CELL_BYTES;
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::kernel::System;

use super::{Cell, Over, checked, never, timeout_ns};

/// An event in shared memory.
#[pyclass(module = "shared_numpy._core", frozen)]
struct EventCell {
    cell: Cell,
}

impl EventCell {
    fn event(&self) -> PyResult<Event<'_, System>> {
        self.cell.me()?;
        let (mapping, offset) = self.cell.at();
        checked(Event::at(mapping, offset))
    }
}

#[pymethods]
impl EventCell {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let cell = Cell::create(py, CELL_BYTES, |mapping, offset| {
            Event::create(mapping, offset)
        })?;
        Ok(EventCell { cell })
    }

    /// The object that a handle leads to.
    #[staticmethod]
    fn open(handle: &Bound<'_, PyAny>) -> PyResult<Self> {
        let it = EventCell {
            cell: Cell::open(handle)?,
        };
        it.event()?;
        Ok(it)
    }

    /// A handle, which holds the memory until somebody receives it.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.cell.send(py)
    }

    /// Whether it is set.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.event()?.is_set())
    }

    /// Sets it and wakes all who wait.
    fn set(&self) -> PyResult<()> {
        self.event()?.set();
        Ok(())
    }

    /// Clears it.
    fn clear(&self) -> PyResult<()> {
        self.event()?.clear();
        Ok(())
    }

    /// Waits until it is set; whether it was in time.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let event = self.event()?;
        if event.is_set() {
            return Ok(true);
        }
        let timeout = timeout_ns(timeout)?;
        match self.cell.wait(py, timeout, &mut |wait| event.wait(wait))? {
            Ok(()) => Ok(true),
            Err(Over::TimedOut) => Ok(false),
            Err(over) => Err(never(over)),
        }
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<EventCell>()
}
