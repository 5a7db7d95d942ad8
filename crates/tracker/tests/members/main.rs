//! The real members tracker, and real processes that die in every way.
//!
//! [`program`] is a process under remote control: this test binary, run again. `lives` has
//! what happens to a family of them; `wire`, `keeping`, `letting_in` and `users` speak the
//! protocol themselves, well and badly.
//! Waits are bounded by generous deadlines; no test measures time.

#[path = "../common/mod.rs"]
mod common;
mod keeping;
mod letting_in;
mod lives;
mod program;
mod told;
mod users;
mod wire;

use common::{A_WHILE, answer, runs, signal, tracker, wait_until};

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
