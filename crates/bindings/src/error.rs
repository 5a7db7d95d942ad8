//! The core's errors as Python's exceptions: one table.
//!
//! What has an errno becomes `OSError` (Python picks `FileExistsError`,
//! `FileNotFoundError`, ... from it), with the message as its `strerror` and the
//! segment's name as its `filename`.

use pyo3::exceptions::{
    PyIndexError, PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use shared_numpy_core::error::{Error, words};

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
        | Error::Replaced { ref name } => {
            let errno = error.errno().map_or(0, |errno| errno.raw_os_error());
            PyOSError::new_err((errno, message, slashed(name)))
        }
        Error::BadName { .. }
        | Error::Empty { .. }
        | Error::Foreign { .. }
        | Error::BadSetting { .. } => PyValueError::new_err(message),
        Error::Limit { .. } => PyMemoryError::new_err(message),
        Error::OutOfBounds { .. } => PyIndexError::new_err(message),
        Error::ReadOnly => PyTypeError::new_err(message),
        _ => PyRuntimeError::new_err(message),
    }
}

fn slashed(name: &str) -> String {
    format!("/{name}")
}
