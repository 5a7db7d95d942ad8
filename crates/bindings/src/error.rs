//! The core's errors as Python's exceptions: one table.
//!
//! What has an errno becomes `OSError` (Python picks `FileExistsError`,
//! `FileNotFoundError`, ... from it), with the message as its `strerror` and the
//! segment's name as its `filename`.

use pyo3::create_exception;
use pyo3::exceptions::{
    PyEOFError, PyIndexError, PyLookupError, PyMemoryError, PyOSError, PyRuntimeError, PyTypeError,
    PyValueError,
};
use pyo3::prelude::*;
use shared_numpy_core::error::{Error, words};

create_exception!(
    shared_numpy,
    StaleHandle,
    PyLookupError,
    "The memory that a handle names was given back before the handle arrived."
);
create_exception!(
    shared_numpy,
    ForeignHandle,
    PyLookupError,
    "A handle of a program, or of a machine, that this process does not belong to."
);
create_exception!(
    shared_numpy,
    UnknownFamily,
    ForeignHandle,
    "A handle of a program that this process does not belong to yet."
);
create_exception!(
    shared_numpy,
    TrackerUnavailable,
    PyRuntimeError,
    "The tracker, without which this cannot be done, cannot be started or reached."
);
create_exception!(
    shared_numpy,
    PeerDied,
    PyEOFError,
    "Whoever was waited for has died, and nobody is left to take its place."
);

/// The exception for `error`.
pub(crate) fn exception(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        // No segment is concerned: the message alone tells what was attempted.
        Error::Os { name, errno, .. } if name.is_empty() => {
            PyOSError::new_err((errno.raw_os_error(), message))
        }
        Error::Os { name, errno, .. } => {
            PyOSError::new_err((errno.raw_os_error(), words(errno), slashed(&name)))
        }
        Error::NoSpace { ref name, .. }
        | Error::NoPlace { ref name }
        | Error::NoMemory { ref name, .. }
        | Error::Replaced { ref name }
        | Error::NotOwner { ref name, .. } => {
            let errno = error.errno().map_or(0, |errno| errno.raw_os_error());
            if name.is_empty() {
                PyOSError::new_err((errno, message))
            } else {
                PyOSError::new_err((errno, message, slashed(name)))
            }
        }
        Error::BadName { .. }
        | Error::Empty { .. }
        | Error::Foreign { .. }
        | Error::BadSetting { .. }
        | Error::Dropped => PyValueError::new_err(message),
        Error::Limit { .. } => PyMemoryError::new_err(message),
        Error::OutOfBounds { .. } => PyIndexError::new_err(message),
        Error::ReadOnly => PyTypeError::new_err(message),
        Error::Stale => StaleHandle::new_err(message),
        Error::UnknownFamily => UnknownFamily::new_err(message),
        Error::ForeignHandle(_) => ForeignHandle::new_err(message),
        Error::TrackerUnavailable(_) => TrackerUnavailable::new_err(message),
        Error::PeerDied => PeerDied::new_err(message),
        Error::WriterEnded => PyEOFError::new_err(message),
        _ => PyRuntimeError::new_err(message),
    }
}

fn slashed(name: &str) -> String {
    format!("/{name}")
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("StaleHandle", py.get_type::<StaleHandle>())?;
    m.add("ForeignHandle", py.get_type::<ForeignHandle>())?;
    m.add("UnknownFamily", py.get_type::<UnknownFamily>())?;
    m.add("TrackerUnavailable", py.get_type::<TrackerUnavailable>())?;
    m.add("PeerDied", py.get_type::<PeerDied>())?;
    Ok(())
}
