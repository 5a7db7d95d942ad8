//! What the tests of both trackers share: the executable, waiting, signals, and answers of
//! programs under remote control.

use std::io::BufRead;
use std::time::{Duration, Instant};

/// How long anything may take that should be quick.
const SOON: Duration = Duration::from_secs(20);

/// Long enough for something wrong to happen, where a test shows that nothing does.
pub(crate) const A_WHILE: Duration = Duration::from_millis(300);

/// The executable under test.
pub(crate) fn tracker() -> &'static str {
    env!("CARGO_BIN_EXE_shared-numpy-tracker")
}

/// Waits until `condition` holds; fails the test if it takes too long.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: two integers; the pid is a process that this test started.
    assert_eq!(unsafe { libc::kill(pid.try_into().unwrap(), signal) }, 0);
}

/// Whether a process runs (a zombie does not).
pub(crate) fn runs(pid: u32) -> bool {
    shared_numpy_core::sys::process::ProcessId::of(pid).is_some()
}

/// The answer of a program under remote control: a line that begins with `@`. The test
/// harness in it has things to say as well.
#[track_caller]
pub(crate) fn answer(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    while !line.starts_with('@') {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "it died");
        if let Some(at) = line.find('@') {
            line.drain(..at);
        }
    }
    line[1..].trim_end().to_owned()
}
