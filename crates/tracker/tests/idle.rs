//! Whoever waits for long is woken by deaths, though nothing was ever sent: who is alone waits for
//! nobody, who is not has a tracker. One process is one participant, so each test is a process.

#[path = "common/mod.rs"]
#[allow(dead_code)]
mod common;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shared_numpy_core::lock::wait::{Stop, Watch};
use shared_numpy_core::participation::{self, Presence};
use shared_numpy_core::queue::{Message, Queue, QueueOptions};
use shared_numpy_core::sys::futex;

use common::{signal, wait_until};

/// More than after which a watch begins, and what must be left then.
const LONG_NS: u64 = 2_500_000_000;

fn is_watched(presence: &Presence) -> bool {
    presence.is_watched(presence.news().load(Ordering::Acquire))
}

fn waits(queue: &Queue, timeout_ns: u64) -> Result<(), Stop> {
    waits_while(queue, timeout_ns, &mut || true)
}

fn waits_while(
    queue: &Queue,
    timeout_ns: u64,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<(), Stop> {
    queue.get(&mut Message::default(), Some(timeout_ns), keep_going)
}

/// Runs `work` in a child, which ends with 0 if it did not fail.
fn forked(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the other threads of this process run tests that hold nothing the child needs:
    // they fork and wait. It ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let good = done.is_ok();
        if let Err(why) = done {
            // What is printed is kept by a harness that this process will never see.
            let why = why.downcast_ref::<String>().map_or("failed", |it| it);
            let _ = writeln!(std::io::stderr(), "in a child: {why}");
        }
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    pid
}

fn status_of(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

/// A child, killed in the end.
struct Child(libc::pid_t);

impl Drop for Child {
    fn drop(&mut self) {
        signal(self.0.try_into().unwrap(), libc::SIGKILL);
        status_of(self.0);
    }
}

fn configure(executable: &str) {
    participation::configure(participation::Options {
        executable: executable.into(),
        ..participation::Options::default()
    });
}

/// A child that has come, and waits for nothing.
fn a_sleeper(presence: &Presence) -> Child {
    let news = presence.news().load(Ordering::Acquire);
    let sleeper = Child(forked(|| std::thread::sleep(Duration::from_secs(60))));
    wait_until("a child has come", || {
        presence.news().load(Ordering::Acquire) != news
    });
    sleeper
}

/// A process of its own, with a queue; nothing where this kernel cannot tell of deaths.
fn with_queue(work: impl FnOnce(&Queue, &Presence)) {
    let word = AtomicU64::new(0);
    if futex::wait_either((&word, 0), (&word, 0), 1).is_none() {
        return;
    }
    let pid = forked(|| {
        configure(common::tracker());
        let queue = Queue::create(QueueOptions::default(), &mut || true).unwrap();
        let presence = queue.hold().presence().unwrap();
        assert!(!is_watched(&presence));
        work(&queue, &presence);
    });
    assert_eq!(status_of(pid), 0, "what failed is on stderr");
}

#[test]
fn who_is_alone_waits_for_nobody() {
    with_queue(|queue, presence| {
        assert_eq!(waits(queue, LONG_NS), Err(Stop::TimedOut));
        assert!(is_watched(presence));
        assert_eq!(participation::address(), None, "a tracker was started");
    });
}

#[test]
fn who_waits_for_long_has_all_watched() {
    with_queue(|queue, presence| {
        let changes_from = |news| presence.news().load(Ordering::Acquire) != news;
        let news = presence.news().load(Ordering::Acquire);
        let child = Child(forked(|| drop(waits(queue, 10 * LONG_NS))));
        wait_until("the child has come", || changes_from(news));
        wait_until("the child has us both watched", || is_watched(presence));
        let news = presence.news().load(Ordering::Acquire);
        drop(child);
        // We do not look, and have no connection either.
        assert_eq!(participation::address(), None);
        wait_until("its death is told", || changes_from(news));
        wait_until("we are watched", || is_watched(presence));
    });
}

/// How often the waiter is asked whether to go on before it begins a watch: after each slice.
const SLICES: u32 = 8;

#[test]
fn a_fork_while_a_watch_begins_leaves_it_to_the_parent() {
    with_queue(|queue, presence| {
        let sleeper = a_sleeper(presence);
        let (mut asked, mut children, mut is_child) = (0, Vec::new(), false);
        let waited = waits_while(queue, LONG_NS, &mut || {
            asked += 1;
            if !is_child && (SLICES..SLICES + 4).contains(&asked) {
                // SAFETY: as in `forked`.
                let pid = unsafe { libc::fork() };
                assert!(pid >= 0);
                is_child = pid == 0;
                children.push(pid);
            }
            true
        });
        if is_child {
            let is_good = waited == Err(Stop::Interrupted)
                && participation::address().is_none()
                && waits(queue, 0) == Err(Stop::TimedOut);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(!is_good)) };
        }
        assert_eq!(waited, Err(Stop::TimedOut));
        assert_eq!(children.len(), 4);
        assert!(children.into_iter().all(|pid| status_of(pid) == 0));
        // Its own connection is its own still, or can be made.
        queue.send(&mut || true).unwrap().1.withdraw();
        assert_ne!(participation::address(), None);
        wait_until("all are watched", || is_watched(presence));
        drop(sleeper);
    });
}

#[test]
fn a_wait_that_finds_no_tracker_leaves_the_search_to_who_sends() {
    with_queue(|queue, presence| {
        let sleeper = a_sleeper(presence);
        configure("/nowhere/at/all");
        assert_eq!(waits(queue, LONG_NS), Err(Stop::TimedOut));
        assert!(!is_watched(presence));
        configure(common::tracker());
        queue.send(&mut || true).unwrap().1.withdraw();
        assert_ne!(participation::address(), None);
        wait_until("all are watched", || is_watched(presence));
        drop(sleeper);
    });
}
