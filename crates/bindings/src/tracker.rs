//! The tracker: what the resource-tracker face needs of it.
//!
//! A call that can be done at once keeps the interpreter lock (it takes about a
//! microsecond, and no Python thread can fork meanwhile). One that must wait, for
//! the tracker to start, to be found or to catch up, lets other threads run and
//! looks for signals ten times a second.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use shared_numpy_core::error::{Error, Result};
use shared_numpy_core::sys::shm::Identity;
use shared_numpy_core::tracker::client::{self, Client, Options, Outcome};
use shared_numpy_core::tracker::protocol::ResourceType;

use crate::error::exception;
use crate::gil;

/// A process's side of a tracker.
///
/// Calls that can find the tracker in a new state return `None` when there is
/// nothing to tell, else `(state, reason)`: state is `"launched"`, `"joined"`,
/// `"relaunched"`, `"rejoined"`, `"unavailable"` (with a reason) or
/// `"unconfigured"` (call `configure` and repeat).
#[pyclass(frozen, module = "shared_numpy._core")]
struct Tracker {
    private: Option<Client>,
}

type News = Option<(&'static str, Option<String>)>;

#[pymethods]
impl Tracker {
    /// A tracker of this object's own, which no other process finds.
    #[new]
    fn new() -> Self {
        Tracker {
            private: Some(Client::private()),
        }
    }

    /// The tracker of this process and its family.
    #[staticmethod]
    fn shared() -> Self {
        client::shared();
        Tracker { private: None }
    }

    /// Says how to start or find a tracker: `executable` is an absolute path,
    /// `parent_pid` is given by a multiprocessing child. Reads the environment.
    /// To be called once in each process, forked children included.
    #[pyo3(signature = (executable, parent_pid=None))]
    fn configure(&self, executable: OsString, parent_pid: Option<u32>) {
        self.client()
            .configure(&Options::from_environment(executable, parent_pid));
    }

    /// Starts or finds a tracker unless this process is connected to one.
    fn ensure_running(&self, py: Python<'_>) -> PyResult<News> {
        if self.client().is_running() {
            return Ok(None);
        }
        waiting(py, |keep_going| self.client().ensure_configured(keep_going)).map(news)
    }

    /// Joins the tracker that the environment names, if it runs; never starts one.
    fn join(&self, py: Python<'_>) -> PyResult<News> {
        if self.client().is_running() {
            return Ok(None);
        }
        waiting(py, |keep_going| self.client().join(keep_going)).map(news)
    }

    /// Asks for `name` to be unlinked when this program is gone. `dev` and `ino` say
    /// which file it is, 0 and 0 if that is not known.
    #[pyo3(signature = (rtype, name, dev=0, ino=0, with_stderr=true))]
    fn register(
        &self,
        py: Python<'_>,
        rtype: Cow<'_, str>,
        name: OsString,
        dev: u64,
        ino: u64,
        with_stderr: bool,
    ) -> PyResult<News> {
        let (rtype, identity) = (parse(&rtype)?, Identity { dev, ino });
        let name = name.as_bytes();
        let stderr = std::io::stderr();
        let stderr = with_stderr.then(|| stderr.as_fd());
        let client = self.client();
        if client
            .try_register(rtype, name, identity, stderr)
            .map_err(exception)?
        {
            return Ok(None);
        }
        waiting(py, |keep_going| {
            client.register(rtype, name, identity, stderr, keep_going)
        })
        .map(news)
    }

    /// Takes back a registration that this process made; others are passed over.
    fn unregister(&self, py: Python<'_>, rtype: Cow<'_, str>, name: OsString) -> PyResult<News> {
        let (rtype, name) = (parse(&rtype)?, name.as_bytes());
        let client = self.client();
        if client.try_unregister(rtype, name).map_err(exception)? {
            return Ok(None);
        }
        waiting(py, |keep_going| client.unregister(rtype, name, keep_going)).map(news)
    }

    /// Tells that `name`, which led to that file, was unlinked: nobody need clean it
    /// up. Never starts a tracker.
    #[pyo3(signature = (rtype, name, dev=0, ino=0))]
    fn gone(
        &self,
        py: Python<'_>,
        rtype: Cow<'_, str>,
        name: OsString,
        dev: u64,
        ino: u64,
    ) -> PyResult<News> {
        let (rtype, identity) = (parse(&rtype)?, Identity { dev, ino });
        let (name, client) = (name.as_bytes(), self.client());
        if client.try_gone(rtype, name, identity).map_err(exception)? {
            return Ok(None);
        }
        let outcome = waiting(py, |keep_going| {
            client.gone(rtype, name, identity, keep_going)
        })?;
        Ok(match outcome {
            // Where there is no tracker, nobody would clean it up.
            Outcome::Unavailable(_) => None,
            outcome => news(outcome),
        })
    }

    /// Joins the parent's group over the socket number that the parent handed down,
    /// which is then closed. `OSError` if it is no such socket.
    fn adopt(&self, py: Python<'_>, number: i32) -> PyResult<News> {
        waiting(py, |keep_going| self.client().adopt(number, keep_going)).map(news)
    }

    /// Whether the connection stands and somebody is at its other end.
    fn check_alive(&self) -> bool {
        self.client().is_running()
    }

    /// The socket's number, for handing to a child; `None` if there is none.
    #[getter]
    fn fd(&self) -> Option<i32> {
        self.client().fd()
    }

    /// The tracker's pid if it is this process's child (or its forked parent's).
    #[getter]
    fn pid(&self) -> Option<u32> {
        self.client().pid()
    }

    /// The value of `SHARED_NUMPY_TRACKER` for children; `None` while there is none.
    #[getter]
    fn address(&self) -> Option<String> {
        self.client().address()
    }

    /// Leaves the tracker; if it is this process's child and ends within five
    /// seconds, returns its exit status.
    fn stop(&self, py: Python<'_>) -> PyResult<Option<i32>> {
        waiting(py, |keep_going| self.client().stop(keep_going))
    }
}

impl Tracker {
    fn client(&self) -> &Client {
        match &self.private {
            Some(client) => client,
            None => client::shared(),
        }
    }
}

fn parse(rtype: &str) -> PyResult<ResourceType> {
    ResourceType::from_name(rtype)
        .ok_or_else(|| PyValueError::new_err(format!("unknown resource type {rtype:?}")))
}

fn news(outcome: Outcome) -> News {
    match outcome {
        Outcome::Running => None,
        Outcome::Launched => Some(("launched", None)),
        Outcome::Joined => Some(("joined", None)),
        Outcome::Relaunched => Some(("relaunched", None)),
        Outcome::Rejoined => Some(("rejoined", None)),
        Outcome::Unavailable(reason) => Some(("unavailable", Some(reason))),
        Outcome::NotConfigured => Some(("unconfigured", None)),
    }
}

/// Runs `work` with the interpreter lock released; Ctrl-C ends it.
fn waiting<R>(
    py: Python<'_>,
    work: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<R>,
) -> PyResult<R> {
    let mut interrupt = None;
    let done = gil::detached(py, |detached| {
        work(&mut || detached.hear_signals(&mut interrupt))
    });
    match done {
        Ok(result) => Ok(result),
        Err(Error::Interrupted) => {
            Err(interrupt.unwrap_or_else(|| PyKeyboardInterrupt::new_err(())))
        }
        Err(error) => Err(exception(error)),
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // The fork handlers are put in place here, while the import lock keeps other
    // threads from forking through Python.
    client::shared();
    m.add_class::<Tracker>()?;
    m.add("tracker", Tracker::shared())
}
