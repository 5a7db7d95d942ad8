//! The real members tracker, and real processes that die in every way.
//!
//! [`program`] is a process under remote control: this test binary, run again. `lives` has
//! what happens to a family of them, `wire` speaks the protocol itself, well and badly.
//! Waits are bounded by generous deadlines; no test measures time.

mod lives;
mod program;
mod told;
mod wire;

use std::time::{Duration, Instant};

/// How long anything may take that should be quick.
const SOON: Duration = Duration::from_secs(20);

/// Long enough for a wrong death to happen, where a test shows that none does.
const A_WHILE: Duration = Duration::from_millis(300);

/// The executable under test.
fn tracker() -> &'static str {
    env!("CARGO_BIN_EXE_shared-numpy-tracker")
}

/// Waits until `condition` holds; fails the test if it takes too long.
#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: two integers; the pid is a process that this test started.
    assert_eq!(unsafe { libc::kill(pid.try_into().unwrap(), signal) }, 0);
}

/// Whether a process runs (a zombie does not).
fn runs(pid: u32) -> bool {
    shared_numpy_core::sys::process::ProcessId::of(pid).is_some()
}

/// The parent of a process.
fn parent_of(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.unwrap().trim().parse().unwrap()
}

/// The children of a process, zombies too, whichever of its threads started them.
fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let path = task.unwrap().path().join("children");
        let text = std::fs::read_to_string(path).unwrap();
        children.extend(
            text.split_whitespace()
                .map(|pid| pid.parse::<u32>().unwrap()),
        );
    }
    children
}

/// Collects the half of a tracker that ends at once.
fn is_collected(child: shared_numpy_core::sys::process::ProcessId) {
    wait_until("the first half ends", || child.reap().is_some());
}
