//! Waiting for a helper: with an end, and asking the caller whether to go on.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::{Error, Result};

/// The longest that any call waits.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a wait goes on before the caller is asked whether to go on.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// A bounded wait, a slice at a time.
///
/// Whoever was stopped together with the tracker (a frozen container) finds the time
/// over when both go on; so it is over only when a whole slice after that has
/// brought nothing.
pub(crate) struct Wait {
    deadline: Instant,
    is_last: bool,
    /// What fails when the time is over, in the error message.
    operation: &'static str,
}

impl Wait {
    pub(crate) fn until(deadline: Instant, operation: &'static str) -> Self {
        Wait {
            deadline,
            is_last: false,
            operation,
        }
    }

    /// To be called between an attempt that failed and a slice of waiting.
    pub(crate) fn check(&mut self, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
        if !keep_going() {
            return Err(Error::Interrupted);
        }
        if self.is_last {
            return Err(Error::os(self.operation, "", Errno::TIMEDOUT));
        }
        self.is_last = Instant::now() > self.deadline;
        Ok(())
    }
}
