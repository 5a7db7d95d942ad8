//! The real tracker executable, and real processes that die in every way.
//!
//! [`program`] is a process under remote control: this test binary, run again.
//! `one_program` has what happens to one, `family` to several in a tree, `wire` speaks
//! the protocol itself, well and badly. Waits are bounded by generous deadlines;
//! no test measures time.

#[path = "../common/mod.rs"]
mod common;
mod family;
mod one_program;
mod program;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use common::{A_WHILE, answer, runs, signal, tracker, wait_until};

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
