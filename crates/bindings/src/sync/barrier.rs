//! `_core.BarrierCell`: parties that wait for one another.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use shared_numpy_core::lock::barrier::{self, Barrier};
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::sys::fork;

use super::{Attach, Cell, Over, checked, never, timeout_ns};
use crate::gil;

/// A barrier in shared memory.
#[pyclass(module = "shared_numpy._core", frozen)]
struct BarrierCell {
    cell: Cell,
}

impl BarrierCell {
    fn barrier(&self) -> PyResult<Barrier<'_, System>> {
        self.cell.me()?;
        let (mapping, offset) = self.cell.at();
        checked(Barrier::at(mapping, offset, self.cell.size_bytes()))
    }

    fn do_at_once(
        &self,
        py: Python<'_>,
        work: impl Fn(&mut Wait<'_>) -> Result<(), Stop> + Send,
    ) -> PyResult<()> {
        match self
            .cell
            .wait_detached(py, None, &mut |wait, _| work(wait))?
        {
            Ok(()) => Ok(()),
            Err(over) => Err(never(over)),
        }
    }
}

const FORKED: &str = "this process was forked, by a signal handler or the action, while its parent \
     waited at a barrier: the child is no party of it";

#[pymethods]
impl BarrierCell {
    #[new]
    fn new(py: Python<'_>, parties: u64) -> PyResult<Self> {
        let size = barrier::size_bytes(parties)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let cell = Cell::create(py, size, |mapping, offset| {
            Barrier::create(mapping, offset, parties)
        })?;
        Ok(BarrierCell { cell })
    }

    /// The object that a handle leads to.
    #[staticmethod]
    fn open(handle: &Bound<'_, PyAny>) -> PyResult<Self> {
        let it = BarrierCell {
            cell: Cell::open(handle)?,
        };
        it.barrier()?;
        Ok(it)
    }

    /// A handle, which holds the memory until somebody receives it.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.cell.send(py)
    }

    /// How many parties it takes.
    #[getter]
    fn parties(&self) -> PyResult<usize> {
        Ok(self.barrier()?.parties())
    }

    /// How many have arrived and wait.
    #[getter]
    fn waiting(&self) -> PyResult<usize> {
        Ok(self.barrier()?.waiting())
    }

    /// Whether it is broken.
    #[getter]
    fn broken(&self) -> PyResult<bool> {
        Ok(self.barrier()?.is_broken())
    }

    /// Arrives, and waits until all have; how many had arrived before, None when the
    /// barrier broke. The last one calls `action` first.
    fn wait(
        &self,
        py: Python<'_>,
        timeout: Option<&Bound<'_, PyAny>>,
        action: Option<Py<PyAny>>,
    ) -> PyResult<Option<usize>> {
        let barrier = self.barrier()?;
        let mut failed = None;
        let epoch = fork::epoch();
        let work = &mut |wait: &mut Wait<'_>, attach: Attach<'_>| {
            let waited = barrier.wait(wait, &mut || {
                if let Some(action) = &action {
                    attach(&mut |py| {
                        let called = gil::call(action.bind(py), &PyTuple::empty(py));
                        failed = called.err();
                    });
                }
                failed.is_none()
            });
            match waited {
                Err(Stop::Interrupted) if fork::epoch() != epoch => Ok(None),
                waited => waited.map(Some),
            }
        };
        let done = self.cell.wait_detached(py, timeout_ns(timeout)?, work);
        if let Some(error) = failed {
            return Err(error);
        }
        match done? {
            Ok(Some(index)) => Ok(Some(index)),
            Ok(None) => Err(PyRuntimeError::new_err(FORKED)),
            Err(Over::TimedOut | Over::Broken) => Ok(None),
        }
    }

    /// Breaks it.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        let barrier = self.barrier()?;
        self.do_at_once(py, |wait| barrier.abort(wait))
    }

    /// Makes it new; for those who wait it breaks.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        let barrier = self.barrier()?;
        self.do_at_once(py, |wait| barrier.reset(wait))
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<BarrierCell>()
}
