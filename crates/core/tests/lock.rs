//! What locks and their kin promise while nobody dies, and when somebody is said to be
//! dead. Deaths proper are in `crash_lock/`.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use shared_numpy_core::error::Error;
use shared_numpy_core::layout::Participant;
use shared_numpy_core::layout::cells::{CELLS, LOCK_KIND};
use shared_numpy_core::lock::barrier::{self, Barrier};
use shared_numpy_core::lock::bounded::{self, BoundedSemaphore};
use shared_numpy_core::lock::condition::{self, Condition};
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::integer::AtomicInt;
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::mutex::{self, Lock, RLock};
use shared_numpy_core::lock::semaphore::{Semaphore, UNITS_LEFT_MAX};
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::lock::word::{Acquired, Released};
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::sys::anon;

const BYTES: usize = 1 << 16;
/// Where a second object lies.
const SECOND: usize = 1 << 15;
/// What no waiter gets to see the end of.
const LONG_NS: u64 = 60_000_000_000;

fn memory() -> Arc<Mapping> {
    let fd = anon::create(BYTES as u64).unwrap();
    Arc::new(Mapping::new(&fd, BYTES, false).unwrap())
}

fn someone(slot: usize) -> Participant {
    Participant {
        slot,
        generation: 7,
    }
}

fn thread_of(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap()
}

/// Waits as `me`, where `gone` is dead.
fn wait_with<T>(
    me: Participant,
    timeout_ns: u64,
    gone: Option<Participant>,
    run: impl FnOnce(&mut Wait<'_>) -> T,
) -> T {
    run(&mut Wait {
        me,
        timeout_ns: Some(timeout_ns),
        is_gone: &mut |who| Some(who) == gone,
        keep_going: &mut || true,
    })
}

fn wait<T>(slot: usize, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
    wait_with(someone(slot), LONG_NS, None, run)
}

/// A wait that is interrupted at its first slice.
fn interrupted<T>(slot: usize, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
    run(&mut Wait {
        me: someone(slot),
        timeout_ns: None,
        is_gone: &mut |_| false,
        keep_going: &mut || false,
    })
}

/// Until the others are (most likely) asleep; nothing depends on it.
fn let_others_sleep() {
    thread::sleep(Duration::from_millis(20));
}

#[test]
fn a_lock_excludes_and_may_be_released_by_anybody() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    let lock = Lock::at(&memory, 0).unwrap();
    assert!(!lock.is_held());
    assert_eq!(
        lock.try_acquire(someone(1)),
        Some(Acquired { abandoned: false })
    );
    assert_eq!(lock.owner(), Some(someone(1)));
    assert_eq!(lock.try_acquire(someone(1)), None, "not re-entrant");
    let tried = wait_with(someone(2), 0, None, |wait| lock.acquire(wait));
    assert_eq!(tried, Err(Stop::TimedOut));
    let tried = wait_with(someone(2), 1_000_000, None, |wait| lock.acquire(wait));
    assert_eq!(tried, Err(Stop::TimedOut));
    assert_eq!(
        interrupted(2, |wait| lock.acquire(wait)),
        Err(Stop::Interrupted)
    );
    assert_eq!(lock.release(someone(2)), Released::Done);
    assert_eq!(lock.release(someone(1)), Released::NotHeld);
    // Bits that those who gave up left behind change nothing.
    assert!(lock.try_acquire(someone(3)).is_some());
    assert_eq!(lock.release(someone(3)), Released::Done);
}

#[test]
fn threads_that_contend_lose_no_count_and_no_wakeup() {
    const THREADS: usize = 4;
    const ROUNDS: u64 = 5_000;
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    thread::scope(|scope| {
        for slot in 0..THREADS {
            let memory = &memory;
            scope.spawn(move || {
                let lock = Lock::at(memory, 0).unwrap();
                for _ in 0..ROUNDS {
                    wait(slot, |wait| lock.acquire(wait)).unwrap();
                    let count = memory.load_u64(SECOND).unwrap();
                    memory.store_u64(SECOND, count + 1).unwrap();
                    assert_eq!(lock.release(someone(slot)), Released::Done);
                }
            });
        }
    });
    assert_eq!(memory.load_u64(SECOND).unwrap(), THREADS as u64 * ROUNDS);
}

#[test]
fn a_dead_owners_lock_goes_to_one_who_learns_of_it() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    let lock = Lock::at(&memory, 0).unwrap();
    lock.try_acquire(someone(1)).unwrap();
    let dead = Some(someone(1));
    let tried = wait_with(someone(2), 0, dead, |wait| lock.acquire(wait));
    assert_eq!(tried, Ok(Acquired { abandoned: true }));
    assert!(lock.is_abandoned());
    // Told on, to the next one; then released regularly, and over.
    assert_eq!(lock.release_abandoned(someone(2)), Released::Done);
    assert_eq!(
        lock.try_acquire(someone(3)),
        Some(Acquired { abandoned: true })
    );
    lock.release(someone(3));
    assert!(!lock.is_abandoned());

    // Among those who sleep, exactly one learns it.
    lock.try_acquire(someone(1)).unwrap();
    let told = AtomicUsize::new(0);
    thread::scope(|scope| {
        for slot in 2..5 {
            let (lock, told) = (&lock, &told);
            scope.spawn(move || {
                let acquired =
                    wait_with(someone(slot), LONG_NS, dead, |wait| lock.acquire(wait)).unwrap();
                told.fetch_add(usize::from(acquired.abandoned), Ordering::Relaxed);
                assert_eq!(lock.release(someone(slot)), Released::Done);
            });
        }
    });
    assert_eq!(told.into_inner(), 1);
}

#[test]
fn an_rlock_belongs_to_a_thread() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    let lock = RLock::at(&memory, 0).unwrap();
    let (me, one, two) = (someone(1), thread_of(10), thread_of(20));
    assert_eq!(lock.release(me, one), Released::NotHeld);
    for _ in 0..3 {
        wait(1, |wait| lock.acquire(wait, one)).unwrap();
    }
    assert_eq!(lock.depth(me, one), 3);
    assert_eq!(lock.try_acquire(me, two), None);
    assert_eq!(lock.try_acquire(someone(2), one), None);
    assert_eq!(lock.release(me, two), Released::NotHeld);
    assert_eq!(lock.release(someone(2), one), Released::NotHeld);
    for _ in 0..3 {
        assert_eq!(lock.release(me, one), Released::Done);
    }
    assert_eq!(lock.owner(), None);

    // Its owner dies three deep: the heir has it once, and no namesake of the dead
    // thread has it.
    for _ in 0..3 {
        lock.try_acquire(me, one).unwrap();
    }
    let heir = someone(2);
    let taken = wait_with(heir, LONG_NS, Some(me), |wait| lock.acquire(wait, two));
    assert_eq!(taken, Ok(Acquired { abandoned: true }));
    assert_eq!((lock.depth(heir, two), lock.depth(heir, one)), (1, 0));
    assert_eq!(lock.release(heir, two), Released::Done);
    assert!(!lock.is_abandoned());
}

#[test]
fn a_semaphore_counts() {
    let memory = memory();
    Semaphore::create(&memory, 0, 2).unwrap();
    let semaphore = Semaphore::at(&memory, 0).unwrap();
    assert!(semaphore.try_acquire() && semaphore.try_acquire() && !semaphore.try_acquire());
    let tried = wait_with(someone(1), 1_000_000, None, |wait| semaphore.acquire(wait));
    assert_eq!(tried, Err(Stop::TimedOut));
    assert!(semaphore.release(3));
    assert_eq!(semaphore.value(), 3);
    assert!(!semaphore.release(UNITS_LEFT_MAX));
    assert_eq!(semaphore.value(), 3);
    assert!(Semaphore::create(&memory, 0, UNITS_LEFT_MAX + 1).is_err());
    Semaphore::create(&memory, 0, UNITS_LEFT_MAX).unwrap();
    assert_eq!(Semaphore::at(&memory, 0).unwrap().value(), UNITS_LEFT_MAX);
}

#[test]
fn releases_in_a_row_wake_as_many_sleepers() {
    const SLEEPERS: usize = 4;
    let memory = memory();
    Semaphore::create(&memory, 0, 0).unwrap();
    BoundedSemaphore::create(&memory, SECOND, SLEEPERS as u64).unwrap();
    let bounded = BoundedSemaphore::at(&memory, SECOND).unwrap();
    let semaphore = Semaphore::at(&memory, 0).unwrap();
    for _ in 0..SLEEPERS {
        assert!(bounded.try_acquire(someone(0)));
    }
    thread::scope(|scope| {
        for slot in 1..=SLEEPERS {
            let (semaphore, bounded) = (&semaphore, &bounded);
            scope.spawn(move || {
                wait(slot, |wait| semaphore.acquire(wait)).unwrap();
                wait(slot, |wait| bounded.acquire(wait)).unwrap();
            });
        }
        let_others_sleep();
        for _ in 0..SLEEPERS {
            assert!(semaphore.release(1));
        }
        let_others_sleep();
        for _ in 0..SLEEPERS {
            assert_eq!(bounded.release(someone(0)), Released::Done);
        }
    });
    assert_eq!((semaphore.value(), bounded.value()), (0, 0));
}

#[test]
fn a_bounded_semaphore_returns_what_the_dead_had() {
    let memory = memory();
    BoundedSemaphore::create(&memory, 0, 3).unwrap();
    let semaphore = BoundedSemaphore::at(&memory, 0).unwrap();
    assert_eq!(semaphore.release(someone(1)), Released::NotHeld);
    assert!(semaphore.try_acquire(someone(1)) && semaphore.try_acquire(someone(1)));
    assert!(semaphore.try_acquire(someone(2)) && !semaphore.try_acquire(someone(2)));
    for _ in 0..2 {
        let taken = wait_with(someone(3), LONG_NS, Some(someone(1)), |wait| {
            semaphore.acquire(wait)
        });
        assert_eq!(taken, Ok(()));
    }
    let tried = wait_with(someone(3), 0, Some(someone(1)), |wait| {
        semaphore.acquire(wait)
    });
    assert_eq!(tried, Err(Stop::TimedOut), "no more than it had");
    // Two of its own, then somebody else's.
    for _ in 0..3 {
        assert_eq!(semaphore.release(someone(3)), Released::Done);
    }
    assert_eq!(semaphore.release(someone(3)), Released::NotHeld);
    assert_eq!((semaphore.value(), semaphore.bound()), (3, 3));
    assert!(bounded::size_bytes(0).is_err() && bounded::size_bytes(1 << 20).is_err());
}

#[test]
fn an_event_set_and_cleared_at_once_loses_nobody() {
    let memory = memory();
    Event::create(&memory, 0).unwrap();
    let event = Event::at(&memory, 0).unwrap();
    let tried = wait_with(someone(1), 1_000_000, None, |wait| event.wait(wait));
    assert_eq!(tried, Err(Stop::TimedOut));
    let asleep = AtomicUsize::new(0);
    thread::scope(|scope| {
        for slot in 1..4 {
            let (event, asleep) = (&event, &asleep);
            scope.spawn(move || {
                asleep.fetch_add(1, Ordering::Relaxed);
                wait(slot, |wait| event.wait(wait)).unwrap();
            });
        }
        while asleep.load(Ordering::Relaxed) < 3 {
            thread::yield_now();
        }
        let_others_sleep();
        event.set();
        event.clear();
        assert!(!event.is_set());
        // For those who came too late to be asleep.
        let_others_sleep();
        event.set();
    });
    assert_eq!(
        wait_with(someone(1), 0, None, |wait| event.wait(wait)),
        Ok(())
    );
}

/// Waits on the condition at `SECOND` with the lock at 0.
fn wait_on(memory: &Mapping, slot: usize, timeout_ns: u64, gone: Option<Participant>) -> bool {
    let condition = Condition::at(memory, SECOND).unwrap();
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
    let condition = Condition::at(&memory, SECOND).unwrap();
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
    let condition = Condition::at(&memory, SECOND).unwrap();
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
    let condition = Condition::at(&memory, SECOND).unwrap();
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
fn a_barrier_lets_all_pass_or_none() {
    const PARTIES: usize = 3;
    let memory = memory();
    Barrier::create(&memory, 0, PARTIES as u64).unwrap();
    let barrier = Barrier::at(&memory, 0).unwrap();
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
    let barrier = Barrier::at(&memory, 0).unwrap();
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

#[test]
fn an_integer_refuses_what_does_not_fit() {
    let memory = memory();
    AtomicInt::create(&memory, 0, -5).unwrap();
    let value = AtomicInt::at(&memory, 0).unwrap();
    assert_eq!(value.add(7), Some(-5));
    assert_eq!(value.compare_exchange(3, 9), Err(2));
    assert_eq!(value.compare_exchange(2, i64::MAX), Ok(()));
    assert_eq!(value.add(1), None);
    assert_eq!(value.swap(1), i64::MAX);
    value.store(i64::MIN);
    assert_eq!((value.add(-1), value.load()), (None, i64::MIN));
}

#[test]
fn garbage_is_an_error_or_a_value_and_ends() {
    let memory = memory();
    assert!(matches!(Lock::at(&memory, 0), Err(Error::WrongSegment(_))));
    assert!(matches!(
        Lock::at(&memory, BYTES),
        Err(Error::OutOfBounds { .. })
    ));
    assert!(Lock::at(&memory, usize::MAX & !7).is_err());
    mutex::create(&memory, 0).unwrap();
    assert!(Event::at(&memory, 0).is_err(), "another kind");
    assert_eq!(memory.load_u64(0).unwrap(), LOCK_KIND);

    let mut random = 1_u64;
    let mut next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // All sizes of numbers.
        random >> 16 >> (random % 49)
    };
    for round in 0..500 {
        // Those with a table last: its length may be any, inside the segment.
        Condition::create(&memory, 3072, 8).unwrap();
        Barrier::create(&memory, 5120, 3).unwrap();
        BoundedSemaphore::create(&memory, 4096, 4).unwrap();
        Event::create(&memory, 1024).unwrap();
        Semaphore::create(&memory, 2048, 1).unwrap();
        mutex::create(&memory, 0).unwrap();
        for cell in (0..6144).step_by(1024) {
            // Everything but the kind; counts now and then.
            for field in 1..16 {
                if round % 3 == 0 || field > 2 {
                    memory.store_u64(cell + field * 8, next()).unwrap();
                }
            }
        }
        // Half of the others are dead; nobody waits long.
        let mut stop = 0;
        let mut wait = Wait {
            me: someone(1),
            timeout_ns: Some(20_000),
            is_gone: &mut |who| who.generation % 2 == 0,
            keep_going: &mut || {
                stop += 1;
                stop < 3
            },
        };
        let _ = Event::at(&memory, 1024).unwrap().wait(&mut wait);
        let _ = Semaphore::at(&memory, 2048).unwrap().acquire(&mut wait);
        let lock = Lock::at(&memory, 0).unwrap();
        let _ = lock.acquire(&mut wait);
        lock.release(someone(1));
        let rlock = RLock::at(&memory, 0).unwrap();
        let _ = rlock.acquire(&mut wait, thread_of(1));
        let _ = rlock.release(someone(1), thread_of(1));
        if let Ok(condition) = Condition::at(&memory, 3072) {
            condition.notify(3, &mut |who| who.slot % 2 == 0);
            mutex::create(&memory, 0).unwrap();
            lock.try_acquire(someone(1));
            let _ = condition.wait(&lock, &mut wait);
        }
        if let Ok(barrier) = Barrier::at(&memory, 5120) {
            let _ = barrier.wait(&mut wait, &mut || true);
            let _ = barrier.reset(&mut wait);
        }
        if let Ok(bounded) = BoundedSemaphore::at(&memory, 4096) {
            let _ = bounded.acquire(&mut wait);
            let _ = bounded.release(someone(1));
        }
    }
    assert_eq!(CELLS.len(), 7);
}

/// The types are what callers name.
#[test]
fn objects_are_small_and_shared_between_threads() {
    fn is_shared<T: Send + Sync + Copy>() {}
    is_shared::<Lock<'_, System>>();
    is_shared::<RLock<'_, System>>();
    is_shared::<Condition<'_, System>>();
    is_shared::<Barrier<'_, System>>();
}
