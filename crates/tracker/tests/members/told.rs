//! What the tracker is told by a process whose descriptors have run out.

use std::process::Command;

use rustix::io::Errno;
use shared_numpy_core::members::client::{Connection, Fetched};
use shared_numpy_core::participation::{self, Options};

use super::tracker;

const COOKIE: [u8; 16] = [5; 16];

#[test]
fn a_segment_that_could_not_be_told_of_is_not_sent() {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "told::out_of_descriptors",
            "--ignored",
            "--nocapture",
        ])
        .status();
    assert!(status.unwrap().success());
}

/// In a process of its own: its descriptors are all taken.
#[test]
#[ignore = "the other half of the test above"]
fn out_of_descriptors() {
    participation::configure(Options {
        executable: tracker().into(),
        cookie: COOKIE,
        ..Options::default()
    });
    let hold = participation::allocate(1000, &mut || true).unwrap();
    drop(hold.send(&mut || true).unwrap());
    // Too large for that segment: in another one, which the tracker does not know yet.
    let other = participation::allocate(70 << 20, &mut || true).unwrap();
    let limit = rustix::process::Rlimit {
        current: Some(64),
        maximum: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let error = other.send(&mut || true).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::MFILE), "{error}");
    drop(taken);
    let (handle, sent) = other.send(&mut || true).unwrap();
    let asker = Connection::connect(handle.family, COOKIE, &mut || true).unwrap();
    let (asker, _family) = asker.unwrap();
    let fetched = asker
        .fetch(handle.owner, handle.number, &mut || true)
        .unwrap();
    assert!(matches!(fetched, Fetched::Fd(_)), "{fetched:?}");
    sent.withdraw();
}
