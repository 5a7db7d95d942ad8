//! `_core.ConditionCell`: places where threads wait for a notify.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shared_numpy_core::layout::Participant;
use shared_numpy_core::lock::condition::{self, Condition};
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::mutex::Guard;
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::lock::word::Acquired;
use shared_numpy_core::sys::fork;

use super::lock::{AnyLock, DynGuard, abandoned};
use super::semlock::SemLock;
use super::{Attach, Cell, checked, timeout_ns};
use crate::error::exception;

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
        checked(Condition::at(mapping, offset, self.cell.size_bytes()))
    }

    /// Acquires the lock in a child that was forked meanwhile, under its own name.
    fn acquire_anew(&self, py: Python<'_>, lock: &AnyLock, depth: u64) -> PyResult<Acquired> {
        let work = &mut |wait: &mut Wait<'_>, _: Attach<'_>| {
            Ok(lock.release_and(wait, |guard, wait| guard.reacquire(wait, depth)))
        };
        loop {
            let (acquired, raised) = self.cell.wait_once(py, None, work)?;
            let acquired = acquired.map_err(|stop| ended(&stop))??;
            match (acquired, raised) {
                (_, Some(error)) => return Err(error),
                (Err(Stop::Interrupted), None) => {} // forked again
                (Err(stop), None) => return Err(ended(&stop)),
                (Ok(acquired), None) => return Ok(acquired),
            }
        }
    }
}

const FORKED: &str = "this process was forked by a signal handler while its parent waited on a condition: \
     the child does not wait; it has acquired the lock";

fn ended(stop: &Stop) -> PyErr {
    PyRuntimeError::new_err(format!("a wait on a condition ended: {stop:?}"))
}

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

    /// A handle, which holds the memory until somebody receives it.
    fn send<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
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
        let (lock, condition) = (lock.get().get()?, self.condition()?);
        if lock.cell.me()? != self.cell.me()? {
            return Err(PyRuntimeError::new_err(
                "a condition and its lock must be of one program",
            ));
        }
        // Such a wait is part of the repair: others are refused meanwhile, and its end tells
        // nothing new, unless one that repaired it died with it.
        let is_repair = lock.is_being_repaired();
        let note = |acquired: Acquired| {
            lock.note_thread();
            let is_news = acquired.abandoned && (acquired.inherited || !is_repair);
            let is_refused = is_news && lock.raises();
            lock.note_refused(is_refused);
            is_refused
        };
        let epoch = fork::epoch();
        let work = &mut |wait: &mut Wait<'_>, _: Attach<'_>| {
            Ok(lock.release_and(wait, |guard, wait| condition.wait(&AnyGuard(guard), wait)))
        };
        let (waited, raised) = self.cell.wait_once(py, timeout_ns(timeout)?, work)?;
        let waited = waited.map_err(|stop| ended(&stop))??.map_err(exception)?;
        if fork::epoch() != epoch {
            // The place is the parent's. As after every wait, the lock is the caller's.
            note(self.acquire_anew(py, lock, waited.depth)?);
            return Err(raised.unwrap_or_else(|| PyRuntimeError::new_err(FORKED)));
        }
        let is_refused = waited.lock.map(note);
        if let Some(error) = raised {
            return Err(error);
        }
        if is_refused.map_err(|stop| ended(&stop))? {
            return Err(abandoned());
        }
        match waited.notified {
            Ok(()) => Ok(true),
            Err(Stop::TimedOut) => Ok(false),
            Err(stop) => Err(ended(&stop)),
        }
    }

    /// Tells up to `count` of those who wait; how many. The caller has the lock.
    fn notify(&self, count: usize) -> PyResult<usize> {
        let condition = self.condition()?;
        Ok(condition.notify(count, &mut |who| self.cell.is_gone(who)))
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<ConditionCell>()
}
