//! Python names that are asked for at any time, all made while the module is imported.
//!
//! Guarantee: asking for one waits for nothing. `pyo3::intern!` makes a name when it is first
//! asked for, and gives the interpreter up meanwhile: a process that another thread forks just
//! then has a name that is never finished, and waits for it for ever. PyO3 uses the macro itself:
//! what it asks for to say that it cannot convert an object is asked for at import too.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// Attributes and modules.
pub(crate) struct Names {
    pub(crate) itemsize: Py<PyString>,
    pub(crate) num: Py<PyString>,
    pub(crate) isnative: Py<PyString>,
    pub(crate) metadata: Py<PyString>,
    pub(crate) names: Py<PyString>,
    pub(crate) arrays: Py<PyString>,
    pub(crate) reduction: Py<PyString>,
    pub(crate) reduce_in_queue: Py<PyString>,
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

/// The names.
pub(crate) fn names(py: Python<'_>) -> &Names {
    NAMES.get_or_init(py, || {
        let name = |text| PyString::intern(py, text).unbind();
        Names {
            itemsize: name("itemsize"),
            num: name("num"),
            isnative: name("isnative"),
            metadata: name("metadata"),
            names: name("names"),
            arrays: name("shared_numpy.arrays"),
            reduction: name("shared_numpy.reduction"),
            reduce_in_queue: name("reduce_in_queue"),
        }
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    names(m.py());
    // PyO3's own, of the refusals.
    let ty = m.get_type();
    ty.name()?;
    ty.module()?;
    ty.qualname()?;
    Ok(())
}
