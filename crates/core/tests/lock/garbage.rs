//! Cells that hold anything.

use shared_numpy_core::error::Error;
use shared_numpy_core::layout::cells::LOCK_KIND;
use shared_numpy_core::lock::barrier::Barrier;
use shared_numpy_core::lock::bounded::BoundedSemaphore;
use shared_numpy_core::lock::condition::Condition;
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::mutex::{self, Lock};

use crate::garbage_common::choices::Seeded;
use crate::garbage_common::lock::{OPERATIONS, World};
use crate::garbage_common::rounds;
use crate::{BYTES, memory};

#[test]
fn no_cell_is_found_where_none_is() {
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
}

#[test]
fn garbage_is_an_error_or_a_value_and_ends() {
    let world = World::new();
    for round in 0..rounds(500) {
        let mut choices = Seeded::new(round);
        world.renew();
        match round % 4 {
            3 => world.scribble_one(&mut choices),
            // The length of a table may be any; now and then it is what it was.
            kind => world.scribble_all(&mut choices, kind == 0),
        }
        for operation in &OPERATIONS {
            world.ask(operation, &mut choices);
        }
    }
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
