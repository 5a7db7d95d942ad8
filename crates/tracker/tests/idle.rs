//! Whoever waits for long is woken by deaths, though nothing was ever sent: who is alone waits for
//! nobody, who is not has a tracker. One process is one participant, so all is one test.

#[path = "common/mod.rs"]
#[allow(dead_code)]
mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use shared_numpy_core::lock::wait::{Stop, Watch};
use shared_numpy_core::participation::{self, Presence};
use shared_numpy_core::queue::{Message, Queue, QueueOptions};
use shared_numpy_core::sys::futex;

use common::{signal, wait_until};

/// A slice more than after which a watch begins.
const LONG_NS: u64 = 1_200_000_000;

fn is_watched(presence: &Presence) -> bool {
    presence.is_watched(presence.news().load(Ordering::Acquire))
}

fn waits(queue: &Queue, timeout_ns: u64) -> Result<(), Stop> {
    queue.get(&mut Message::default(), Some(timeout_ns), &mut || true)
}

/// A forked child, killed in the end.
struct Child(libc::pid_t);

impl Child {
    fn that_waits(queue: &Queue) -> Self {
        // SAFETY: the child waits, and is killed or ends by `_exit`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let _ = waits(queue, 20 * LONG_NS);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) };
        }
        Child(pid)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        signal(self.0.try_into().unwrap(), libc::SIGKILL);
        // SAFETY: waits for our own child; its status is not asked for.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

#[test]
fn who_waits_for_long_is_told_of_deaths() {
    let word = AtomicU64::new(0);
    if futex::wait_either((&word, 0), (&word, 0), 1).is_none() {
        return; // this kernel cannot tell
    }
    participation::configure(participation::Options {
        executable: common::tracker().into(),
        ..participation::Options::default()
    });
    let queue = Queue::create(QueueOptions::default(), &mut || true).unwrap();
    let presence = queue.hold().presence().unwrap();
    assert!(!is_watched(&presence));

    // Alone.
    assert_eq!(waits(&queue, LONG_NS), Err(Stop::TimedOut));
    assert!(is_watched(&presence));
    assert_eq!(participation::address(), None, "a tracker was started");

    let changes_from = |news| presence.news().load(Ordering::Acquire) != news;
    let news = presence.news().load(Ordering::Acquire);
    let child = Child::that_waits(&queue);
    wait_until("the child has come", || changes_from(news));
    wait_until("the child has us both watched", || is_watched(&presence));
    let news = presence.news().load(Ordering::Acquire);
    drop(child);
    // We do not look, and have no connection either.
    assert_eq!(participation::address(), None);
    wait_until("its death is told", || changes_from(news));
    wait_until("we are watched", || is_watched(&presence));
}
