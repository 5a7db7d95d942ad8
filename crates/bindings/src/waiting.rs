//! Waiting with the interpreter given up.
//!
//! Guarantees: signal handlers run between slices of sleep, and end the wait with the exception
//! of one; the time that a wait may take is counted once, however often it begins anew; after
//! a fork in a handler the parent goes on waiting, and the child begins anew.

use pyo3::prelude::*;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::sys::{fork, futex};

use crate::gil;

/// What is done while waiting: it is given the time that is left, and what to ask meanwhile.
pub(crate) type Work<'w, T> =
    dyn FnMut(Option<u64>, &mut dyn FnMut() -> bool) -> Result<T, Stop> + 'w;

/// Does `work` until it comes to something other than an interruption.
///
/// When `may_go_on` says no, `work` is interrupted and done again, to see why. Whenever Python
/// code may have run `look` is asked, with the interpreter taken back, whether all is as it was;
/// its error ends the wait.
pub(crate) fn waiting<T>(
    py: Python<'_>,
    timeout_ns: Option<u64>,
    may_go_on: &dyn Fn() -> bool,
    look: &dyn Fn(Python<'_>) -> PyResult<()>,
    work: &mut Work<'_, T>,
) -> PyResult<Result<T, Stop>> {
    let end_ns = match timeout_ns {
        None | Some(0) => None,
        Some(timeout_ns) => futex::now_ns().checked_add(timeout_ns),
    };
    let mut left_ns = timeout_ns;
    loop {
        let epoch = fork::epoch();
        let mut raised = None;
        let done = gil::detached(py, |detached| {
            work(left_ns, &mut || {
                detached.hear_signals_and(&mut raised, look)
                    && fork::epoch() == epoch
                    && may_go_on()
            })
        });
        match (done, raised) {
            (_, Some(error)) => return Err(error),
            (Err(Stop::Interrupted), None) => {
                if let Some(end_ns) = end_ns {
                    left_ns = Some(end_ns.saturating_sub(futex::now_ns()));
                }
            }
            (done, None) => return Ok(done),
        }
    }
}
