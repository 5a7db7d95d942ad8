//! Participation when descriptors or slots have run out.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use shared_numpy_core::layout::SLOTS;
use shared_numpy_core::members::client::{Connection, Fetched, Launched};
use shared_numpy_core::participation::{self, Options};
use shared_numpy_core::pool::family::Family;

use super::tracker;

const COOKIE: [u8; 16] = [5; 16];

/// Tells the other half which family.
const HINT: &str = "SNP_TEST_HINT";

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

#[test]
fn who_finds_its_family_full_has_one_of_its_own() {
    let (family, family_fd) = Family::create().unwrap();
    family.join().unwrap();
    let (program, fd) = (Path::new(tracker()), family_fd.as_fd());
    let launched = Connection::launch(program, fd, &family, COOKIE, &mut || true).unwrap();
    assert!(matches!(launched, Launched::Up(_)));
    while family.join().is_ok() {}
    let [low, high] = family.id();
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "told::in_a_full_family",
            "--ignored",
            "--nocapture",
        ])
        .env(HINT, format!("{low} {high}"))
        .status();
    assert!(status.unwrap().success());
    for slot in 0..SLOTS {
        family
            .declare_dead_if(slot, family.slot(slot).unwrap())
            .unwrap();
    }
}

/// In a process of its own: it has one home.
#[test]
#[ignore = "the other half of the test above"]
fn in_a_full_family() {
    let Ok(hint) = std::env::var(HINT) else {
        return;
    };
    let (low, high) = hint.split_once(' ').unwrap();
    let family = [low, high].map(|half| half.parse().unwrap());
    participation::configure(Options {
        executable: tracker().into(),
        cookie: COOKIE,
        hint: Some((family, COOKIE)),
        ..Options::default()
    });
    let hold = participation::allocate(1000, &mut || true).unwrap();
    assert_ne!(hold.handle().unwrap().family, family);
}
