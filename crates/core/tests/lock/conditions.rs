//! Conditions.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use shared_numpy_core::error::Error;
use shared_numpy_core::layout::Participant;
use shared_numpy_core::lock::condition::{self, Condition, Waited};
use shared_numpy_core::lock::mutex::{self, Lock, RLock};
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::lock::word::Acquired;
use shared_numpy_core::mapping::Mapping;

use crate::{LONG_NS, SECOND, memory, someone, thread_of, wait, wait_with};

/// Waits on the condition at `SECOND` with the lock at 0.
fn wait_on(memory: &Mapping, slot: usize, timeout_ns: u64, gone: Option<Participant>) -> bool {
    let condition = Condition::at(memory, SECOND, SECOND).unwrap();
    let lock = Lock::at(memory, 0).unwrap();
    wait_with(someone(slot), timeout_ns, gone, |wait| {
        lock.acquire(wait).unwrap();
        let waited = condition.wait(&lock, wait).unwrap();
        assert!(waited.lock.is_ok() && lock.owner() == Some(someone(slot)));
        lock.release(someone(slot));
        waited.notified.is_ok()
    })
}

#[test]
fn a_notify_wakes_as_many_as_it_says() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    Condition::create(&memory, SECOND, 8).unwrap();
    let condition = Condition::at(&memory, SECOND, SECOND).unwrap();
    let lock = Lock::at(&memory, 0).unwrap();
    assert_eq!(condition.notify(1, &mut |_| false), 0);
    assert!(!wait_on(&memory, 1, 1_000_000, None), "nobody to notify it");
    let woken = AtomicUsize::new(0);
    thread::scope(|scope| {
        for slot in 1..=6 {
            let (memory, woken) = (&memory, &woken);
            scope.spawn(move || {
                assert!(wait_on(memory, slot, LONG_NS, None));
                woken.fetch_add(1, Ordering::SeqCst);
            });
        }
        while condition.waiting() < 6 {
            thread::yield_now();
        }
        for (count, sum) in [(1, 1), (2, 3), (usize::MAX, 6)] {
            lock.try_acquire(someone(0));
            assert_eq!(condition.notify(count, &mut |_| false), count.min(3));
            lock.release(someone(0));
            while woken.load(Ordering::SeqCst) < sum {
                thread::yield_now();
            }
            assert_eq!(
                (woken.load(Ordering::SeqCst), condition.waiting()),
                (sum, 6 - sum)
            );
        }
    });
}

#[test]
fn a_condition_wants_its_lock_and_has_so_many_places() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    Condition::create(&memory, SECOND, 1).unwrap();
    let condition = Condition::at(&memory, SECOND, SECOND).unwrap();
    let lock = Lock::at(&memory, 0).unwrap();
    let refused = wait(1, |wait| condition.wait(&lock, wait));
    assert!(matches!(refused, Err(Error::NotAllowed(_))));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| wait_on(&memory, 1, LONG_NS, None));
        while condition.waiting() < 1 {
            thread::yield_now();
        }
        wait(2, |wait| lock.acquire(wait)).unwrap();
        let full = wait(2, |wait| condition.wait(&lock, wait));
        assert!(matches!(full, Err(Error::Full { limit: 1, .. })));
        assert_eq!(lock.owner(), Some(someone(2)), "held as before");
        condition.notify(1, &mut |_| false);
        lock.release(someone(2));
        assert!(waiter.join().unwrap());
    });
    // An RLock is let go whole, and comes back as deep.
    mutex::create(&memory, 64).unwrap();
    let rlock = RLock::at(&memory, 64).unwrap();
    let (me, thread) = (someone(1), thread_of(5));
    rlock.try_acquire(me, thread).unwrap();
    rlock.try_acquire(me, thread).unwrap();
    let waited = wait_with(me, 1_000_000, None, |wait| {
        condition.wait(&rlock.guard(thread), wait)
    })
    .unwrap();
    assert_eq!(waited.notified, Err(Stop::TimedOut));
    assert_eq!(rlock.depth(me, thread), 2);
    assert!(condition::size_bytes(0).is_err());
}

#[test]
fn what_a_dead_waiter_was_told_is_told_to_another() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    Condition::create(&memory, SECOND, 8).unwrap();
    let condition = Condition::at(&memory, SECOND, SECOND).unwrap();
    let (dead, other) = (someone(1), someone(2));
    thread::scope(|scope| {
        // It is told, and never gets the lock back: as good as dead.
        let lock = Lock::at(&memory, 0).unwrap();
        scope.spawn(|| wait_on(&memory, dead.slot, LONG_NS, None));
        while condition.waiting() < 1 {
            thread::yield_now();
        }
        wait(0, |wait| lock.acquire(wait)).unwrap();
        assert_eq!(condition.notify(1, &mut |_| false), 1);
        // The other one uses a lock of its own here.
        mutex::create(&memory, 64).unwrap();
        let second = Lock::at(&memory, 64).unwrap();
        second.try_acquire(other).unwrap();
        let waited = wait_with(other, LONG_NS, Some(dead), |wait| {
            condition.wait(&second, wait)
        });
        assert_eq!(waited.unwrap().notified, Ok(()));
        lock.release(someone(0));
    });
    assert_eq!(condition.waiting(), 0);
    // Nothing is left of it: a later waiter waits in vain.
    assert!(!wait_on(&memory, 3, 1_000_000, Some(dead)));
}

#[test]
fn what_a_dead_waiter_was_told_leaves_its_place_to_others() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    Condition::create(&memory, SECOND, 1).unwrap();
    let condition = Condition::at(&memory, SECOND, SECOND).unwrap();
    let (lock, dead) = (Lock::at(&memory, 0).unwrap(), someone(1));
    thread::scope(|scope| {
        // It is told, and does not get the lock back while this lasts: as good as dead.
        scope.spawn(|| wait_on(&memory, dead.slot, LONG_NS, None));
        while condition.waiting() < 1 {
            thread::yield_now();
        }
        wait(0, |wait| lock.acquire(wait)).unwrap();
        assert_eq!(condition.notify(1, &mut |_| false), 1);
        mutex::create(&memory, 64).unwrap();
        let second = Lock::at(&memory, 64).unwrap();
        let wait_as = |slot: usize, gone| {
            wait_with(someone(slot), LONG_NS, gone, |wait| {
                condition.wait(&second, wait)
            })
        };
        second.try_acquire(someone(2)).unwrap();
        assert!(matches!(wait_as(2, None), Err(Error::Full { .. })));
        // Who takes its place is told at once what it was told.
        assert_eq!(wait_as(2, Some(dead)).unwrap().notified, Ok(()));
        // Nobody takes a place for good that does not hold the lock.
        second.release(someone(2));
        let refused = wait_as(3, None);
        assert!(matches!(refused, Err(Error::NotAllowed(_))));
        lock.release(someone(0));
    });
    assert!(!wait_on(&memory, 3, 1_000_000, None), "a free place");
}

#[test]
fn a_notify_goes_on_from_who_is_interrupted_as_it_waits_for_the_lock() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    Condition::create(&memory, SECOND, 8).unwrap();
    let condition = Condition::at(&memory, SECOND, SECOND).unwrap();
    let lock = Lock::at(&memory, 0).unwrap();
    let (is_told, signals) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            let wait = &mut Wait {
                me: someone(1),
                watch: None,
                timeout_ns: None,
                is_gone: &mut |_| false,
                keep_going: &mut || {
                    !is_told.load(Ordering::SeqCst) || signals.fetch_add(1, Ordering::SeqCst) > 0
                },
            };
            lock.acquire(wait).unwrap();
            let waited = condition.wait(&lock, wait).unwrap();
            lock.release(someone(1));
            waited
        });
        while condition.waiting() < 1 {
            thread::yield_now();
        }
        let second = scope.spawn(|| wait_on(&memory, 2, LONG_NS, None));
        while condition.waiting() < 2 {
            thread::yield_now();
        }
        wait(0, |wait| lock.acquire(wait)).unwrap();
        assert_eq!(condition.notify(1, &mut |_| false), 1);
        is_told.store(true, Ordering::SeqCst);
        // One signal, while it waits for the lock.
        while signals.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        lock.release(someone(0));
        let waited = first.join().unwrap();
        assert_eq!(waited.notified, Err(Stop::Interrupted));
        assert!(waited.lock.is_ok());
        assert!(second.join().unwrap());
    });
}

#[test]
fn a_wait_is_no_regular_release() {
    let memory = memory();
    Condition::create(&memory, SECOND, 1).unwrap();
    let condition = Condition::at(&memory, SECOND, SECOND).unwrap();
    let (dead, me, thread) = (someone(1), someone(2), thread_of(5));
    let is_told = |result: &Result<Waited, Error>| {
        result.as_ref().unwrap().lock
            == Ok(Acquired {
                abandoned: true,
                inherited: false,
            })
    };
    mutex::create(&memory, 0).unwrap();
    let lock = Lock::at(&memory, 0).unwrap();
    lock.try_acquire(dead).unwrap();
    let waited = wait_with(me, 1_000_000, Some(dead), |wait| {
        assert!(lock.acquire(wait).unwrap().abandoned);
        condition.wait(&lock, wait)
    });
    assert!(is_told(&waited) && lock.is_abandoned());
    mutex::create(&memory, 64).unwrap();
    let lock = RLock::at(&memory, 64).unwrap();
    lock.try_acquire(dead, thread).unwrap();
    let waited = wait_with(me, 1_000_000, Some(dead), |wait| {
        assert!(lock.acquire(wait, thread).unwrap().abandoned);
        condition.wait(&lock.guard(thread), wait)
    });
    assert!(is_told(&waited) && lock.is_abandoned());
}
