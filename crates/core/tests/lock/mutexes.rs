//! Locks, re-entrant and not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use shared_numpy_core::lock::mutex::{self, Lock, RLock};
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::lock::word::{Acquired, Released};

use crate::{LONG_NS, SECOND, interrupted, memory, someone, thread_of, wait, wait_with};

#[test]
fn a_lock_excludes_and_may_be_released_by_anybody() {
    let memory = memory();
    mutex::create(&memory, 0).unwrap();
    let lock = Lock::at(&memory, 0).unwrap();
    assert!(!lock.is_held());
    assert_eq!(lock.try_acquire(someone(1)), Some(Acquired::default()));
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
    assert_eq!(
        tried,
        Ok(Acquired {
            abandoned: true,
            inherited: true
        })
    );
    assert!(lock.is_abandoned());
    // Told on, to the next one; then released regularly, and over.
    assert_eq!(lock.release_abandoned(someone(2)), Released::Done);
    assert_eq!(
        lock.try_acquire(someone(3)),
        Some(Acquired {
            abandoned: true,
            inherited: false
        })
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
    assert_eq!(
        taken,
        Ok(Acquired {
            abandoned: true,
            inherited: true
        })
    );
    assert_eq!((lock.depth(heir, two), lock.depth(heir, one)), (1, 0));
    assert_eq!(lock.release(heir, two), Released::Done);
    assert!(!lock.is_abandoned());
}
