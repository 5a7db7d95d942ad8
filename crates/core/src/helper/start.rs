//! What became of a helper's executable that was started.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::wait::SLICE;
use crate::sys::process::{Ended, ProcessId};

/// `SIGKILL`, the same number everywhere.
pub(crate) const KILL: i32 = 9;

/// Whether waiting or closing something could help.
pub(crate) fn is_shortage(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::NOBUFS
    )
}

/// Collects a child that is ending, so that it does not stay as a zombie; gives up
/// after a moment.
pub(crate) fn collect(child: ProcessId) -> Option<Ended> {
    collect_within(child, SLICE * 5)
}

/// As [`collect`], after so long.
pub(crate) fn collect_within(child: ProcessId, patience: Duration) -> Option<Ended> {
    let deadline = Instant::now() + patience;
    loop {
        match child.reap() {
            None if Instant::now() < deadline => std::thread::sleep(SLICE / 100),
            ended => return ended,
        }
    }
}

/// How it ended, for people.
pub(crate) fn words(ended: Option<Ended>) -> String {
    match ended {
        Some(Ended::Exited(status)) => format!("exit status {status}"),
        Some(Ended::Killed(signal)) => format!("signal {signal}"),
        Some(Ended::NotOurs) => "collected by somebody else".to_owned(),
        None => "still running".to_owned(),
    }
}
