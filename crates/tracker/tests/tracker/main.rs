//! The real tracker executable, and real processes that die in every way.
//!
//! [`program`] is a process under remote control: this test binary, run again.
//! `one_program` has what happens to one, `family` to several in a tree, `wire` speaks
//! the protocol itself, well and badly. Waits are bounded by generous deadlines;
//! no test measures time.

mod family;
mod one_program;
mod program;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take that should be quick.
const SOON: Duration = Duration::from_secs(20);

/// Long enough for a wrong clean-up to happen, where a test shows that none does.
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

/// A file in `/dev/shm` that no other test uses; removed at the end at the latest.
struct Shm {
    name: String,
}

impl Shm {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Shm {
            name: format!("/snp_tracker_test_{}_{number}", std::process::id()),
        }
    }

    fn path(&self) -> PathBuf {
        Path::new("/dev/shm").join(&self.name[1..])
    }

    fn exists(&self) -> bool {
        self.path().exists()
    }

    fn touch(&self) {
        std::fs::write(self.path(), b"x").unwrap();
    }

    fn remove(&self) {
        std::fs::remove_file(self.path()).unwrap();
    }

    #[track_caller]
    fn goes(&self) {
        wait_until("the name is removed", || !self.exists());
    }

    #[track_caller]
    fn stays(&self) {
        std::thread::sleep(A_WHILE);
        assert!(self.exists(), "{} was removed", self.name);
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
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
