//! This process as a participant, and its forked children.
//!
//! One process is one participant, so every test here shares it with the others.

use std::sync::atomic::{AtomicU64, Ordering};

use shared_numpy_core::error::Error;
use shared_numpy_core::participation::{self, Handle, Hold};

fn allocate(size_bytes: u64) -> Hold {
    participation::configure(participation::Options::default());
    participation::allocate(size_bytes, &mut || true).unwrap()
}

fn word(hold: &Hold) -> &AtomicU64 {
    hold.mapping().shared_word(hold.offset_bytes()).unwrap()
}

/// Runs `work` in a forked child; whether it returned `true`.
fn in_child(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls what is made to be called there, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(false);
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status == 0
}

fn in_use() -> u64 {
    participation::trim(false).unwrap();
    participation::stats().unwrap().in_use_bytes
}

#[test]
fn forks_and_handles() {
    // One after the other: they look at figures of the whole process.
    a_child_keeps_what_its_parent_drops();
    a_child_takes_what_was_sent_to_it();
    a_child_has_a_pool_of_its_own();
    what_was_dropped_is_dropped_in_both();
    inherited_memory_can_be_let_go();
    a_handle_by_name_holds_nothing();
    generations_of_children();
}

fn a_child_keeps_what_its_parent_drops() {
    let hold = allocate(1000);
    word(&hold).store(1, Ordering::Relaxed);
    let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    use std::io::{Read, Write};
    // SAFETY: as in `in_child`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(ours);
        let mut byte = [0];
        theirs.read_exact(&mut byte).unwrap();
        let good = word(&hold).load(Ordering::Relaxed) == 1;
        theirs.write_all(&[u8::from(good)]).unwrap();
        drop(hold);
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(0) };
    }
    drop(theirs);
    drop(hold);
    // What the parent allocates now is not the child's memory.
    assert_ne!(in_use(), 0);
    let others: Vec<Hold> = (0..20).map(|_| allocate(1000)).collect();
    for other in &others {
        word(other).store(2, Ordering::Relaxed);
    }
    ours.write_all(&[0]).unwrap();
    let mut byte = [0];
    ours.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [1]);
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    drop(others);
    assert_eq!(in_use(), 0, "the child let go");
}

fn a_child_takes_what_was_sent_to_it() {
    let hold = allocate(5000);
    word(&hold).store(77, Ordering::Relaxed);
    let (handle, sent) = hold.send(&mut || true).unwrap();
    drop(hold);
    assert_eq!(participation::stats().unwrap().in_flight, 1);
    let bytes = handle.to_bytes();
    assert!(in_child(|| {
        let handle = Handle::from_bytes(&bytes).unwrap();
        // The child holds nothing: it was not counted, and comes by itself.
        participation::come_home(&mut || true).unwrap();
        let hold = participation::receive(&handle, &mut || true).unwrap();
        word(&hold).load(Ordering::Relaxed) == 77
    }));
    assert_eq!(participation::stats().unwrap().in_flight, 0);
    sent.withdraw();
    assert_eq!(in_use(), 0, "the dead hold nothing");
    let error = participation::receive(&handle, &mut || true).unwrap_err();
    assert_eq!(error, Error::Stale);
}

fn a_child_has_a_pool_of_its_own() {
    let hold = allocate(100);
    word(&hold).store(5, Ordering::Relaxed);
    assert!(in_child(|| {
        let mine = allocate(100);
        word(&mine).store(6, Ordering::Relaxed);
        participation::stats().unwrap().in_use_bytes == 128
            && word(&hold).load(Ordering::Relaxed) == 5
    }));
    assert_eq!(word(&hold).load(Ordering::Relaxed), 5);
    drop(hold);
    assert_eq!(in_use(), 0);
}

fn what_was_dropped_is_dropped_in_both() {
    let hold = allocate(100);
    assert!(in_child(move || {
        drop(hold);
        participation::stats().unwrap().held_blocks == 0
    }));
    assert_eq!(in_use(), 0);
}

fn inherited_memory_can_be_let_go() {
    let hold = allocate(100);
    assert!(in_child(|| {
        let stats = participation::stats().unwrap();
        stats.inherited_blocks == 1
            && stats.inherited_bytes == 128
            && participation::drop_inherited() == Ok(1)
            && hold.is_dropped()
            && hold.send(&mut || true).is_err()
            && participation::stats().unwrap().held_blocks == 0
    }));
    assert!(!hold.is_dropped());
    drop(hold);
    assert_eq!(in_use(), 0);
}

fn a_handle_by_name_holds_nothing() {
    let hold = allocate(100);
    let handle = hold.handle().unwrap();
    let again = participation::receive(&handle, &mut || true).unwrap();
    drop(hold);
    drop(again);
    let error = participation::receive(&handle, &mut || true).unwrap_err();
    assert_eq!(error, Error::Stale);
    let mut other = handle;
    other.family[0] ^= 1;
    let error = participation::receive(&other, &mut || true).unwrap_err();
    assert_eq!(error, Error::UnknownFamily);
    let error = participation::join(&other, [0; 16], &mut || true).unwrap_err();
    assert!(matches!(error, Error::ForeignHandle(_)), "{error}");
}

fn generations_of_children() {
    let hold = allocate(100);
    word(&hold).store(9, Ordering::Relaxed);
    assert!(in_child(|| {
        let (handle, _sent) = hold.send(&mut || true).unwrap();
        in_child(|| {
            let again = participation::receive(&handle, &mut || true).unwrap();
            drop(hold);
            word(&again).load(Ordering::Relaxed) == 9
        })
    }));
    assert_eq!(in_use(), 0);
}
