//! Random deaths over the whole stack: processes that allocate, send, receive, slice, fork
//! and drop checksummed blocks, and are SIGKILLed at any moment; their tracker too.
//!
//! - [`root`]: the process that starts it all, forks the workers, kills them, and looks at
//!   the end for anything that was left. It has a pool itself and is never killed.
//! - [`worker`]: what workers and the children that they fork do.
//! - [`board`]: figures that outlive who wrote them. [`letter`]: what is sent.
//! - here: looking at it all from outside.
//!
//! `SHARED_NUMPY_SOAK_KILLS` (150) and `SHARED_NUMPY_SOAK_S` (30) bound each run. An
//! operation that takes longer than a second is counted and shown; one that takes longer
//! than five is a hang and fails the run.

mod board;
mod letter;
mod outside;
mod root;
mod worker;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outside::Marked;

/// What the root process is to do.
const ROLE: &str = "SNP_TEST_SOAK";
/// How long anything may take that should be quick.
const SOON: Duration = Duration::from_secs(60);

fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Not a test: where the root process begins.
#[test]
fn child_of_a_test() {
    if let Ok(role) = std::env::var(ROLE) {
        root::run(&role);
    }
}

/// Runs a root process to its end, and then looks whether anything is left of its family.
fn soak(role: &str, kills: u64) {
    let marked = Marked::new();
    let limit = Duration::from_secs(setting("SHARED_NUMPY_SOAK_S", 30));
    let in_flight_s = match kills {
        0 => 600,
        1..=1000 => 6,
        _ => 20,
    };
    let mut root = Command::new(std::env::current_exe().unwrap())
        .args([
            "child_of_a_test",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role)
        .env("SHARED_NUMPY_SOAK_KILLS", kills.to_string())
        // What the dead had on its way holds their memory for so long; few letters lie in
        // an inbox as long as that.
        .env("SHARED_NUMPY_INFLIGHT_S", in_flight_s.to_string())
        .env(outside::MARK, marked.value())
        .stdin(Stdio::null())
        .stdout(Stdio::null()) // its test harness counts itself; figures are on stderr
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = root.try_wait().unwrap() {
            break Some(status);
        }
        if begin.elapsed() > limit + 4 * SOON {
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.is_none_or(|status| !status.success()) {
        root.kill().unwrap();
        root.wait().unwrap();
        marked.kill_all();
        panic!("{role}: {status:?}");
    }
    let begin = Instant::now();
    while !marked.processes().is_empty() {
        if begin.elapsed() > SOON {
            let left = marked.describe();
            marked.kill_all();
            panic!("left when the family had ended: {left}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kills() -> u64 {
    setting("SHARED_NUMPY_SOAK_KILLS", 150)
}

#[test]
fn without_a_tracker() {
    soak("alone", kills());
}

#[test]
fn with_a_tracker_that_is_killed_too() {
    soak("tracked", kills());
}

#[test]
fn with_a_tracker_that_lives() {
    soak("kept", kills());
}

#[test]
fn nothing_is_stale_when_nobody_dies() {
    soak("peace", 0);
}

/// No tracker, no member and no handler is left to clean up: the kernel does.
#[test]
fn all_killed_at_once() {
    for round in 0..3 {
        let marked = Marked::new();
        let mut root = Command::new(std::env::current_exe().unwrap())
            .args([
                "child_of_a_test",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, "tracked")
            .env("SHARED_NUMPY_SOAK_KILLS", "1000000")
            .env("SHARED_NUMPY_SOAK_S", "60")
            .env(outside::MARK, marked.value())
            .stdin(Stdio::null())
            .stdout(Stdio::null()) // its test harness counts itself; figures are on stderr
            .spawn()
            .unwrap();
        let begin = Instant::now();
        // The root, eight workers, a tracker.
        while marked.processes().len() < 10 || marked.segments().len() < 8 {
            assert!(begin.elapsed() < SOON, "{}", marked.describe());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100 + 50 * round));
        let segments = marked.segments();
        marked.kill_all();
        root.wait().unwrap();
        // From outside: no process has a mapping or a descriptor of any of them.
        let begin = Instant::now();
        loop {
            let left = outside::who_has(&segments);
            if left.is_empty() && marked.processes().is_empty() {
                break;
            }
            assert!(begin.elapsed() < SOON, "{left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
