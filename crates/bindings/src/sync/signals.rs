//! `_core.ConditionCell`, `EventCell`, `BarrierCell`, `IntegerCell`.

use pyo3::exceptions::{PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use shared_numpy_core::error::Error;
use shared_numpy_core::layout::Participant;
use shared_numpy_core::layout::cells::CELL_BYTES;
use shared_numpy_core::lock::barrier::{self, Barrier};
use shared_numpy_core::lock::condition::{self, Condition};
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::integer::AtomicInt;
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::mutex::Guard;
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::lock::word::Acquired;
use shared_numpy_core::sys::fork;

use super::lock::{DynGuard, SemLock, abandoned};
use super::{Attach, Cell, Over, checked, never, timeout_ns};
use crate::block::PySent;
use crate::error::exception;
use crate::gil;

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

    /// A handle, and what takes it back.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, PySent)> {
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

    /// A handle, and what takes it back.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, PySent)> {
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

/// The places of a condition in shared memory.
#[pyclass(module = "shared_numpy._core", frozen)]
struct ConditionCell {
    cell: Cell,
}

/// Either sort of lock, as a condition wants it.
struct AnyGuard<'g>(&'g dyn DynGuard);

impl Guard for AnyGuard<'_> {
    fn release_all(&self, me: Participant) -> Option<u64> {
        self.0.release_all(me)
    }

    fn reacquire(&self, wait: &mut Wait<'_>, depth: u64) -> Result<Acquired, Stop> {
        self.0.reacquire(wait, depth)
    }
}

impl ConditionCell {
    fn condition(&self) -> PyResult<Condition<'_, System>> {
        self.cell.me()?;
        let (mapping, offset) = self.cell.at();
        checked(Condition::at(mapping, offset))
    }
}

const FORKED: &str = "a signal handler forked while this thread waited: the child waits for nothing, \
     and does not have the lock";

#[pymethods]
impl ConditionCell {
    #[new]
    fn new(py: Python<'_>, places: u64) -> PyResult<Self> {
        let size = condition::size_bytes(places).map_err(exception)?;
        let cell = Cell::create(py, size, |mapping, offset| {
            Condition::create(mapping, offset, places)
        })?;
        Ok(ConditionCell { cell })
    }

    /// The object that a handle leads to.
    #[staticmethod]
    fn open(handle: &Bound<'_, PyAny>) -> PyResult<Self> {
        let it = ConditionCell {
            cell: Cell::open(handle)?,
        };
        it.condition()?;
        Ok(it)
    }

    /// A handle, and what takes it back.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, PySent)> {
        self.cell.send(py)
    }

    /// How many wait and are not notified.
    fn waiting(&self) -> PyResult<usize> {
        Ok(self.condition()?.waiting())
    }

    /// Lets go of `lock`, which the caller has, waits for a notify, and acquires it again.
    #[pyo3(signature = (lock, timeout=None))]
    fn wait(
        &self,
        py: Python<'_>,
        lock: &Bound<'_, SemLock>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let (lock, condition) = (lock.get(), self.condition()?);
        if lock.me()? != self.cell.me()? {
            return Err(PyRuntimeError::new_err(
                "a condition and its lock must be of one program",
            ));
        }
        let epoch = fork::epoch();
        let work = &mut |wait: &mut Wait<'_>, _: Attach<'_>| {
            let waited = lock.release_and(wait, |guard, wait| {
                let waited = condition.wait(&AnyGuard(guard), wait)?;
                if fork::epoch() != epoch && waited.lock.is_ok() {
                    // Acquired under our parent's name.
                    guard.release_all(wait.me);
                }
                Ok::<_, Error>(waited)
            });
            Ok(waited)
        };
        let waited = match self.cell.wait_detached(py, timeout_ns(timeout)?, work)? {
            Ok(waited) => waited?.map_err(exception)?,
            Err(over) => return Err(never(over)),
        };
        if fork::epoch() != epoch {
            return Err(PyRuntimeError::new_err(FORKED));
        }
        let is_abandoned = match waited.lock {
            Ok(Acquired { abandoned }) => abandoned,
            Err(stop) => {
                return Err(PyRuntimeError::new_err(format!(
                    "the lock of a condition cannot be acquired again: {stop:?}"
                )));
            }
        };
        lock.note_thread();
        if is_abandoned && lock.raises() {
            return Err(abandoned());
        }
        match waited.notified {
            Ok(()) => Ok(true),
            Err(Stop::TimedOut) => Ok(false),
            Err(stop) => Err(PyRuntimeError::new_err(format!("a wait ended: {stop:?}"))),
        }
    }

    /// Tells up to `count` of those who wait; how many. The caller has the lock.
    fn notify(&self, count: usize) -> PyResult<usize> {
        let condition = self.condition()?;
        Ok(condition.notify(count, &mut |who| self.cell.is_gone(who)))
    }
}

/// A barrier in shared memory.
#[pyclass(module = "shared_numpy._core", frozen)]
struct BarrierCell {
    cell: Cell,
}

impl BarrierCell {
    fn barrier(&self) -> PyResult<Barrier<'_, System>> {
        self.cell.me()?;
        let (mapping, offset) = self.cell.at();
        checked(Barrier::at(mapping, offset))
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

    /// A handle, and what takes it back.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, PySent)> {
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
        let work = &mut |wait: &mut Wait<'_>, attach: Attach<'_>| {
            barrier.wait(wait, &mut || {
                if let Some(action) = &action {
                    attach(&mut |py| {
                        let called = gil::call(action.bind(py), &PyTuple::empty(py));
                        failed = called.err();
                    });
                }
                failed.is_none()
            })
        };
        let done = self.cell.wait_detached(py, timeout_ns(timeout)?, work);
        if let Some(error) = failed {
            return Err(error);
        }
        match done? {
            Ok(index) => Ok(Some(index)),
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
    m.add_class::<IntegerCell>()?;
    m.add_class::<EventCell>()?;
    m.add_class::<ConditionCell>()?;
    m.add_class::<BarrierCell>()
}
