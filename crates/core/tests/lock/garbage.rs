//! Cells that hold anything.

use shared_numpy_core::error::Error;
use shared_numpy_core::layout::cells::{CELLS, LOCK_KIND};
use shared_numpy_core::lock::barrier::Barrier;
use shared_numpy_core::lock::bounded::BoundedSemaphore;
use shared_numpy_core::lock::condition::Condition;
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::mutex::{self, Lock, RLock};
use shared_numpy_core::lock::semaphore::Semaphore;
use shared_numpy_core::lock::wait::Wait;

use crate::{BYTES, memory, someone, thread_of};

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
        // The length of a table may be any.
        Condition::create(&memory, 3072, 8).unwrap();
        Barrier::create(&memory, 5120, 3).unwrap();
        BoundedSemaphore::create(&memory, 4096, 4).unwrap();
        Event::create(&memory, 1024).unwrap();
        Semaphore::create(&memory, 2048, 1).unwrap();
        mutex::create(&memory, 0).unwrap();
        // What lies behind belongs to another.
        memory.store_u64(6144, 7).unwrap();
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
        if let Ok(condition) = Condition::at(&memory, 3072, 1024) {
            condition.notify(3, &mut |who| who.slot % 2 == 0);
            mutex::create(&memory, 0).unwrap();
            lock.try_acquire(someone(1));
            let _ = condition.wait(&lock, &mut wait);
        }
        if let Ok(barrier) = Barrier::at(&memory, 5120, 1024) {
            let _ = barrier.wait(&mut wait, &mut || true);
            let _ = barrier.reset(&mut wait);
        }
        if let Ok(bounded) = BoundedSemaphore::at(&memory, 4096, 1024) {
            let _ = bounded.acquire(&mut wait);
            let _ = bounded.release(someone(1));
        }
        assert_eq!(memory.load_u64(6144).unwrap(), 7);
    }
    assert_eq!(CELLS.len(), 7);
}

/// A length that reaches beyond the object's own block, into another's memory.
#[test]
fn a_table_ends_with_its_block() {
    let memory = memory();
    let (condition, barrier, bounded) = (0, 1024, 2048);
    Condition::create(&memory, condition, 8).unwrap();
    Barrier::create(&memory, barrier, 8).unwrap();
    BoundedSemaphore::create(&memory, bounded, 8).unwrap();
    let fits = [
        Condition::at(&memory, condition, 128).map(drop),
        Barrier::at(&memory, barrier, 192).map(drop),
        BoundedSemaphore::at(&memory, bounded, 128).map(drop),
    ];
    assert!(fits.iter().all(Result::is_ok), "{fits:?}");
    let too_long = [
        Condition::at(&memory, condition, 127).map(drop),
        Barrier::at(&memory, barrier, 191).map(drop),
        BoundedSemaphore::at(&memory, bounded, 127).map(drop),
        Condition::at(&memory, condition, 8).map(drop),
    ];
    let is_refused = |found: &Result<(), Error>| matches!(found, Err(Error::Damaged(_)));
    assert!(too_long.iter().all(is_refused), "{too_long:?}");
}
