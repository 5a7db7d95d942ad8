//! Barriers.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shared_numpy_core::lock::barrier::{self, Barrier, BarrierWords};
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::lock::word::LockWord;

use crate::{LONG_NS, SECOND, memory, someone, wait, wait_with};

/// A party of three that waits at most so long, is interrupted while it waits for the lock of
/// the barrier's own words, which another has, and finds a second party dead if it is to. What it
/// ends with, and whether the barrier is broken then.
fn interrupted_at_the_lock(timeout_ns: u64, is_dead: bool) -> (Result<usize, Stop>, bool) {
    let [word, spins, phase, arrived] = [const { AtomicU64::new(0) }; 4];
    let parties = [const { AtomicU64::new(0) }; 6];
    let lock = LockWord {
        word: &word,
        spins: &spins,
        kernel: System,
    };
    let barrier = Barrier::over(
        lock,
        BarrierWords {
            phase: &phase,
            arrived: &arrived,
            parties: &parties,
        },
    );
    let (holder, dead) = (someone(9), someone(2));
    let (is_told, is_refused) = (AtomicBool::new(false), AtomicBool::new(false));
    let ended = thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let began = Instant::now();
            let mut wait = Wait {
                me: someone(1),
                watch: None,
                timeout_ns: Some(timeout_ns),
                is_gone: &mut |who| {
                    is_told.fetch_or(who == dead, Ordering::SeqCst);
                    who == dead
                },
                keep_going: &mut || {
                    // Not in the sleep before: that is another way out.
                    let is_at_the_lock = if is_dead {
                        is_told.load(Ordering::SeqCst)
                    } else {
                        began.elapsed() > Duration::from_nanos(4 * timeout_ns)
                    };
                    is_refused.fetch_or(is_at_the_lock, Ordering::SeqCst);
                    !is_at_the_lock
                },
            };
            barrier.wait(&mut wait, &mut || true)
        });
        while barrier.waiting() < 1 || lock.try_acquire(holder).is_none() {
            thread::yield_now();
        }
        if is_dead {
            parties[1].store(dead.pack(), Ordering::SeqCst);
        }
        while !is_refused.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        lock.release(holder, false);
        waiter.join().unwrap()
    });
    (ended, barrier.is_broken())
}

#[test]
fn a_party_that_is_interrupted_at_the_lock_breaks_the_barrier() {
    // On its way to bury a party, and on its way to break the barrier since its time is over.
    for (timeout_ns, is_dead) in [(LONG_NS, true), (100_000_000, false)] {
        let (ended, is_broken) = interrupted_at_the_lock(timeout_ns, is_dead);
        assert_eq!((ended, is_broken), (Err(Stop::Interrupted), true));
    }
}

#[test]
fn a_barrier_lets_all_pass_or_none() {
    const PARTIES: usize = 3;
    let memory = memory();
    Barrier::create(&memory, 0, PARTIES as u64).unwrap();
    let barrier = Barrier::at(&memory, 0, SECOND).unwrap();
    let actions = AtomicUsize::new(0);
    let indices = AtomicUsize::new(0);
    thread::scope(|scope| {
        for slot in 0..PARTIES {
            let (barrier, actions, indices) = (&barrier, &actions, &indices);
            scope.spawn(move || {
                for round in 0..200 {
                    let mut action = || {
                        actions.fetch_add(1, Ordering::SeqCst);
                        true
                    };
                    let index = wait(slot, |wait| barrier.wait(wait, &mut action)).unwrap();
                    assert!(actions.load(Ordering::SeqCst) > round);
                    indices.fetch_add(index, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!((actions.into_inner(), indices.into_inner()), (200, 200 * 3));
    assert_eq!((barrier.waiting(), barrier.parties()), (0, PARTIES));

    // One gives up: all break, until a reset.
    thread::scope(|scope| {
        let first = scope.spawn(|| wait(1, |wait| barrier.wait(wait, &mut || true)));
        while barrier.waiting() < 1 {
            thread::yield_now();
        }
        let late = wait_with(someone(2), 1_000_000, None, |wait| {
            barrier.wait(wait, &mut || true)
        });
        assert_eq!(late, Err(Stop::TimedOut));
        assert_eq!(first.join().unwrap(), Err(Stop::Broken));
    });
    assert!(barrier.is_broken());
    assert_eq!(
        wait(1, |wait| barrier.wait(wait, &mut || true)),
        Err(Stop::Broken)
    );
    wait(1, |wait| barrier.reset(wait)).unwrap();
    assert!(!barrier.is_broken());

    // A reset, an interrupt and a failed action break it for those who wait.
    for way in 0..4 {
        wait(1, |wait| barrier.reset(wait)).unwrap();
        thread::scope(|scope| {
            let waiters: Vec<_> = [1, 2]
                .map(|slot| {
                    scope.spawn(move || wait(slot, |wait| barrier.wait(wait, &mut || true)))
                })
                .into();
            while barrier.waiting() < 2 {
                thread::yield_now();
            }
            match way {
                0 => wait(3, |wait| barrier.reset(wait)).unwrap(),
                1 => wait(3, |wait| barrier.abort(wait)).unwrap(),
                2 => {
                    let failed = wait(3, |wait| barrier.wait(wait, &mut || false));
                    assert_eq!(failed, Err(Stop::Broken));
                }
                _ => {
                    // The last to arrive looks after nobody: all have arrived.
                    wait_with(someone(3), LONG_NS, Some(someone(1)), |wait| {
                        barrier.wait(wait, &mut || true).map(|_| ())
                    })
                    .unwrap();
                }
            }
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap().is_err(), way < 3, "way {way}");
            }
        });
    }
    assert!(barrier::size_bytes(0).is_err());
}

#[test]
fn a_dead_party_breaks_the_barrier() {
    let memory = memory();
    Barrier::create(&memory, 0, 3).unwrap();
    let barrier = Barrier::at(&memory, 0, SECOND).unwrap();
    thread::scope(|scope| {
        let dead = scope.spawn(|| wait(1, |wait| barrier.wait(wait, &mut || true)));
        while barrier.waiting() < 1 {
            thread::yield_now();
        }
        let other = wait_with(someone(2), LONG_NS, Some(someone(1)), |wait| {
            barrier.wait(wait, &mut || true)
        });
        assert_eq!(other, Err(Stop::Broken));
        assert_eq!(dead.join().unwrap(), Err(Stop::Broken));
    });
}
