//! What a worker does until it is killed, or told to stop: anything, at random.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;

use shared_numpy_core::error::Error;
use shared_numpy_core::participation::{self, Hold};
use shared_numpy_core::sys::clock;

use crate::board::{Board, CHILDREN, CLAIMED, Doing, WORKERS};
use crate::letter::{Letter, Random, fill, verify};

/// Blocks that one process keeps.
const KEPT: usize = 24;
/// What the process exits with that found something wrong.
pub(crate) const WRONG: i32 = 99;

/// A process of the run: the root, a worker, or a worker's child.
pub(crate) struct Process<'a> {
    pub(crate) board: &'static Board,
    pub(crate) place: usize,
    /// To each worker and to the root; and from there.
    pub(crate) posts: &'a [UnixDatagram],
    pub(crate) inboxes: &'a [UnixDatagram],
    pub(crate) kept: Vec<(Hold, u64)>,
    pub(crate) random: Random,
    /// The tracker lives, or nobody is killed: nothing may be stale but overdue letters.
    pub(crate) is_exact: bool,
}

/// Forks; the child does `work` and ends.
pub(crate) fn fork(work: impl FnOnce()) -> u32 {
    // SAFETY: what the child calls is made to be called there; it ends by `_exit`, and its
    // parent's other threads only wait.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(if done.is_ok() { 0 } else { WRONG }) };
    }
    pid as u32
}

impl Process<'_> {
    /// A worker's life.
    pub(crate) fn work(&mut self) {
        while !self.board.stops() {
            self.do_something();
        }
        self.timed(Doing::Drop, |me| me.kept.clear());
    }

    pub(crate) fn do_something(&mut self) {
        match self.random.below(100) {
            0..25 => self.allocate(),
            25..45 => self.send(),
            45..70 => self.receive(),
            70..75 => self.slice(),
            75..78 => self.fork(),
            78..93 => self.drop_one(),
            93..97 => self.verify_one(),
            97 => self.drop_inherited(),
            98 => self.trim(),
            _ => self.stats(),
        }
        while self.kept.len() > KEPT {
            self.drop_one();
        }
    }

    pub(crate) fn timed<T>(&mut self, doing: Doing, work: impl FnOnce(&mut Self) -> T) -> T {
        let (board, place) = (self.board, self.place);
        board.timed(place, doing, || work(self))
    }

    pub(crate) fn allocate(&mut self) {
        let size_bytes = self.random.size_bytes();
        let seed = self.random.next();
        let hold = self.timed(Doing::Allocate, |_| {
            participation::allocate(size_bytes, &mut || true).unwrap()
        });
        assert!(hold.size_bytes() as u64 >= size_bytes);
        self.timed(Doing::Fill, |_| fill(&hold, seed));
        self.kept.push((hold, seed));
        self.board.allocated.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends one that is kept to anybody, and then keeps it or does not.
    pub(crate) fn send(&mut self) {
        let Some(at) = self.any() else {
            return;
        };
        let to = self.random.below(self.posts.len());
        let posts = self.posts;
        self.timed(Doing::Send, |me| {
            let (hold, seed) = &me.kept[at];
            if hold.is_dropped() {
                return; // as inherited: nothing is left to send
            }
            let sent_s = clock::monotonic_s();
            let (handle, sent) = match hold.send(&mut || true) {
                Ok(sent) => sent,
                Err(error) => return me.note_unreachable(&error),
            };
            let letter = Letter {
                handle,
                seed: *seed,
                sent_s,
            };
            if letter.post(&posts[to]) {
                me.board.sent.fetch_add(1, Ordering::Relaxed);
            } else {
                sent.withdraw();
                me.board.withdrawn.fetch_add(1, Ordering::Relaxed);
            }
        });
        if self.random.below(2) == 0 {
            self.forget(at);
        }
    }

    pub(crate) fn receive(&mut self) {
        let inbox = match self.place {
            place if place < WORKERS => place,
            _ => WORKERS, // the root's
        };
        let Some(letter) = Letter::take_from(&self.inboxes[inbox]) else {
            return;
        };
        self.open(letter);
    }

    pub(crate) fn open(&mut self, letter: Letter) {
        let received = self.timed(Doing::Receive, |_| {
            let handle = &letter.handle;
            match participation::receive(handle, &mut || true) {
                Err(Error::UnknownFamily) => {
                    participation::join(handle, [0; 16], &mut || true)?;
                    participation::receive(handle, &mut || true)
                }
                other => other,
            }
        });
        match received {
            Ok(hold) => {
                self.timed(Doing::Verify, |_| verify(&hold, letter.seed));
                self.kept.push((hold, letter.seed));
                self.board.received.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Stale) if !self.is_exact || letter.is_overdue() => {
                self.board.stale.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.note_unreachable(&error),
        }
    }

    /// A tracker that was killed makes errors; nothing else may.
    fn note_unreachable(&self, error: &Error) {
        assert!(
            !self.is_exact && matches!(error, Error::TrackerUnavailable(_)),
            "{error:?}: {error}"
        );
        self.board.unreachable.fetch_add(1, Ordering::Relaxed);
    }

    /// A second hold on the same block.
    fn slice(&mut self) {
        let Some(at) = self.any() else {
            return;
        };
        let again = self.timed(Doing::Slice, |me| {
            let (hold, seed) = &me.kept[at];
            if hold.is_dropped() {
                return None;
            }
            let handle = hold.handle().unwrap();
            let again = participation::receive(&handle, &mut || true).unwrap();
            Some((again, *seed))
        });
        self.kept.extend(again);
    }

    /// A child that verifies, sends on, drops and ends, unless it is killed.
    pub(crate) fn fork(&mut self) {
        let places = &self.board.places[WORKERS..WORKERS + CHILDREN];
        let Some(free) = places.iter().position(|place| {
            let claimed = place.pid.compare_exchange(
                0,
                std::process::id() | CLAIMED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            claimed.is_ok()
        }) else {
            return;
        };
        let place = WORKERS + free;
        let pid = self.timed(Doing::Fork, |me| {
            fork(|| {
                me.board.seat(place, std::process::id());
                me.place = place;
                me.random = Random::new();
                me.live_as_a_child();
            })
        });
        // Who is killed before this has children that are collected only after it.
        self.board.places[place].pid.store(pid, Ordering::Release);
        self.board.forked.fetch_add(1, Ordering::Relaxed);
    }

    fn live_as_a_child(&mut self) {
        for _ in 0..self.random.below(60) {
            match self.random.below(10) {
                0..3 => self.verify_one(),
                3..5 => self.send(),
                5 => self.allocate(),
                6 => self.slice(),
                7 if self.random.below(4) == 0 => self.drop_inherited(),
                _ => self.drop_one(),
            }
        }
        for (hold, seed) in &self.kept {
            if !hold.is_dropped() {
                verify(hold, *seed);
            }
        }
        // Some end in order, some as they are.
        if self.random.below(2) == 0 {
            self.timed(Doing::Drop, |me| me.kept.clear());
        }
    }

    pub(crate) fn drop_one(&mut self) {
        if let Some(at) = self.any() {
            self.forget(at);
        }
    }

    fn forget(&mut self, at: usize) {
        self.timed(Doing::Drop, |me| drop(me.kept.swap_remove(at)));
    }

    fn verify_one(&mut self) {
        if let Some(at) = self.any() {
            self.timed(Doing::Verify, |me| {
                let (hold, seed) = &me.kept[at];
                if !hold.is_dropped() {
                    verify(hold, *seed);
                    me.board.verified.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }

    fn drop_inherited(&mut self) {
        self.timed(Doing::DropInherited, |_| {
            participation::drop_inherited().unwrap()
        });
        self.kept.retain(|(hold, _)| !hold.is_dropped());
    }

    fn trim(&mut self) {
        self.timed(Doing::Trim, |_| participation::trim(false).unwrap());
    }

    fn stats(&mut self) {
        self.timed(Doing::Stats, |_| participation::stats().unwrap());
    }

    fn any(&mut self) -> Option<usize> {
        (!self.kept.is_empty()).then(|| self.random.below(self.kept.len()))
    }
}
