//! Semaphores, bounded and not.

use std::thread;

use shared_numpy_core::error::Error;
use shared_numpy_core::layout::cells::UNITS_MAX;
use shared_numpy_core::lock::bounded::{self, BoundedSemaphore};
use shared_numpy_core::lock::semaphore::{Semaphore, UNITS_LEFT_MAX};
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::lock::word::Released;

use crate::{LONG_NS, SECOND, let_others_sleep, memory, memory_of, someone, wait, wait_with};

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
    let bounded = BoundedSemaphore::at(&memory, SECOND, SECOND).unwrap();
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
    let semaphore = BoundedSemaphore::at(&memory, 0, SECOND).unwrap();
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
    let most = u64::from(UNITS_LEFT_MAX);
    assert!(bounded::size_bytes(most + 1).is_err());
    assert_eq!(
        bounded::size_bytes(most).unwrap(),
        bounded::size_bytes(UNITS_MAX).unwrap()
    );
}

#[test]
fn a_bounded_semaphore_of_none() {
    let memory = memory();
    BoundedSemaphore::create(&memory, 0, 0).unwrap();
    let semaphore = BoundedSemaphore::at(&memory, 0, SECOND).unwrap();
    assert_eq!(semaphore.release(someone(1)), Released::NotHeld);
    let tried = wait_with(someone(1), 1_000_000, None, |wait| semaphore.acquire(wait));
    assert_eq!(tried, Err(Stop::TimedOut));
    assert_eq!((semaphore.value(), semaphore.bound()), (0, 0));
}

#[test]
fn more_units_than_can_be_taken_at_a_time() {
    let size = bounded::size_bytes(UNITS_MAX).unwrap();
    let memory = memory_of(size);
    let bound = UNITS_LEFT_MAX as usize;
    BoundedSemaphore::create(&memory, 0, bound as u64).unwrap();
    let semaphore = BoundedSemaphore::at(&memory, 0, size).unwrap();
    assert_eq!((semaphore.value(), semaphore.bound()), (bound, bound));
    let most = UNITS_MAX as usize;
    for _ in 0..most {
        assert!(semaphore.try_acquire(someone(1)));
    }
    assert_eq!(semaphore.value(), bound - most);
    // It does not wait for what need not come.
    for timeout_ns in [0, LONG_NS] {
        let full = wait_with(someone(2), timeout_ns, None, |wait| semaphore.acquire(wait));
        let expected = Stop::Failed(Error::Full {
            what: "units taken of one bounded semaphore",
            limit: most,
        });
        assert_eq!(full, Err(expected));
    }
    let taken = wait_with(someone(2), LONG_NS, Some(someone(1)), |wait| {
        semaphore.acquire(wait)
    });
    assert_eq!(taken, Ok(()));
    for _ in 0..most {
        assert_eq!(semaphore.release(someone(1)), Released::Done);
    }
    assert_eq!(semaphore.release(someone(1)), Released::NotHeld);
    assert_eq!(semaphore.value(), bound);
}
