//! `_core.SemLock`: the base of locks and semaphores in Python, with the methods of
//! `_multiprocessing.SemLock`. Those that are called often are in [`super::quick`].

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use shared_numpy_core::lock::semaphore::UNITS_LEFT_MAX;

use super::lock::{AbandonedLock, AnyLock, Kind, Patience};
use super::quick;

/// The base of locks and semaphores.
///
/// It is empty until `_make` or `_open`: the arguments of its subclasses are their own.
#[pyclass(module = "shared_numpy._core", frozen, subclass)]
pub(super) struct SemLock {
    lock: OnceLock<AnyLock>,
}

impl SemLock {
    #[inline]
    pub(super) fn get(&self) -> PyResult<&AnyLock> {
        self.lock.get().ok_or_else(not_made)
    }

    fn set(&self, lock: AnyLock) -> PyResult<()> {
        let set = self.lock.set(lock);
        set.map_err(|_| PyRuntimeError::new_err("the lock was made already"))
    }
}

#[cold]
fn not_made() -> PyErr {
    PyRuntimeError::new_err("the lock was not initialised: __init__ was not called")
}

#[pymethods]
impl SemLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        SemLock {
            lock: OnceLock::new(),
        }
    }

    /// Makes it a new one.
    #[pyo3(signature = (kind, value, raises=false))]
    fn _make(&self, py: Python<'_>, kind: u8, value: i32, raises: bool) -> PyResult<()> {
        self.set(AnyLock::create(py, Kind::of(kind)?, value, raises)?)
    }

    /// Makes it the one that a handle leads to.
    fn _open(&self, handle: &Bound<'_, PyAny>, kind: u8, raises: bool) -> PyResult<()> {
        self.set(AnyLock::open(handle, Kind::of(kind)?, raises)?)
    }

    /// A handle, which holds the memory until somebody receives it.
    fn _send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.get()?.cell.send(py)
    }

    /// As `acquire`, without an exception for what a dead process had.
    #[pyo3(signature = (block=None, timeout=None), text_signature = "($self, block=True, timeout=None)")]
    fn _acquire_abandoned(
        &self,
        py: Python<'_>,
        block: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        self.get()?
            .acquire_abandoned(py, Patience::of(block, timeout)?)
    }

    /// Whether the calling thread has it.
    fn _is_mine(&self) -> PyResult<bool> {
        self.get()?.is_mine()
    }

    /// How often this process has it: a lock; zero for semaphores.
    fn _count(&self) -> PyResult<u64> {
        self.get()?.count()
    }

    /// How many units are left; of a lock one, if it is free.
    fn _get_value(&self) -> PyResult<usize> {
        self.get()?.value()
    }

    /// Whether no unit is left: `acquire` would wait.
    fn _is_zero(&self) -> PyResult<bool> {
        Ok(self.get()?.value()? == 0)
    }

    /// How many units a bounded semaphore has; zero for others.
    #[getter]
    fn _bound(&self) -> PyResult<usize> {
        Ok(self.get()?.bound())
    }

    /// Whether `acquire` raises an exception for what a dead process had.
    #[getter]
    fn _raises(&self) -> PyResult<bool> {
        Ok(self.get()?.raises())
    }

    /// Whether an owner died, and nobody has released the lock since.
    fn _is_abandoned(&self) -> PyResult<bool> {
        self.get()?.is_abandoned()
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("AbandonedLock", m.py().get_type::<AbandonedLock>())?;
    m.add("SEM_VALUE_MAX", UNITS_LEFT_MAX)?;
    m.add_class::<SemLock>()?;
    quick::register(m)
}
