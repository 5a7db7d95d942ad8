//! One cell of each kind, each in a block of its own, and all that can be done to them.
//!
//! An operation on a cell changes its own block and no byte outside of it, whatever stands in
//! the cell; each operation here is held to that.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use shared_numpy_core::layout::Participant;
use shared_numpy_core::layout::cells::CELLS;
use shared_numpy_core::lock::barrier::Barrier;
use shared_numpy_core::lock::bounded::BoundedSemaphore;
use shared_numpy_core::lock::condition::Condition;
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::integer::AtomicInt;
use shared_numpy_core::lock::mutex::{self, Lock, RLock};
use shared_numpy_core::lock::semaphore::Semaphore;
use shared_numpy_core::lock::wait::Wait;
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::sys::anon;

use super::choices::Choices;
use super::scribble;

const BLOCK: usize = 1024;
const LOCK: usize = 0;
const EVENT: usize = BLOCK;
const SEMAPHORE: usize = 2 * BLOCK;
const CONDITION: usize = 3 * BLOCK;
const BOUNDED: usize = 4 * BLOCK;
const BARRIER: usize = 5 * BLOCK;
const INTEGER: usize = 6 * BLOCK;
/// Belongs to nobody here.
const BEHIND: usize = 7 * BLOCK;

// The re-entrant lock has the same cell as the other.
const _: () = assert!(CELLS.len() == BEHIND / BLOCK);

/// The cells' memory.
pub(crate) struct World {
    memory: Arc<Mapping>,
}

/// One thing that can be asked for, and in which blocks it may write.
pub(crate) type Operation = (fn(&Mapping, &mut Wait<'_>, &mut dyn Choices), Range<usize>);

/// Everything that can be asked for.
pub(crate) const OPERATIONS: [Operation; 8] = [
    (event, EVENT..SEMAPHORE),
    (semaphore, SEMAPHORE..CONDITION),
    (lock, LOCK..EVENT),
    (rlock, LOCK..EVENT),
    (condition, CONDITION..BOUNDED),
    (barrier, BARRIER..INTEGER),
    (bounded, BOUNDED..BARRIER),
    (integer, INTEGER..BEHIND),
];

impl World {
    pub(crate) fn new() -> Self {
        let size_bytes = BEHIND + BLOCK;
        let fd = anon::create(size_bytes as u64).unwrap();
        let world = World {
            memory: Arc::new(Mapping::new(&fd, size_bytes, false).unwrap()),
        };
        world.renew();
        world
    }

    /// Sound cells.
    pub(crate) fn renew(&self) {
        let memory = &self.memory;
        mutex::create(memory, LOCK).unwrap();
        Event::create(memory, EVENT).unwrap();
        Semaphore::create(memory, SEMAPHORE, 1).unwrap();
        Condition::create(memory, CONDITION, 8).unwrap();
        BoundedSemaphore::create(memory, BOUNDED, 4).unwrap();
        Barrier::create(memory, BARRIER, 3).unwrap();
        AtomicInt::create(memory, INTEGER, 5).unwrap();
    }

    /// Overwrites words of all cells, but their kinds; and, if `counts` says so, not the
    /// words behind that, among which are the lengths of tables.
    pub(crate) fn scribble_all(&self, choices: &mut dyn Choices, counts: bool) {
        for cell in (0..BEHIND).step_by(BLOCK) {
            for field in 1..16 {
                if counts || field > 2 {
                    // All sizes of numbers.
                    let word = choices.any() >> choices.below(49);
                    self.memory.store_u64(cell + field * 8, word).unwrap();
                }
            }
        }
    }

    /// Changes some words of one cell and its table, the kind among them.
    pub(crate) fn scribble_one(&self, choices: &mut dyn Choices) {
        let cell = choices.below(BEHIND / BLOCK) * BLOCK;
        let end = [128, BLOCK][choices.below(2)];
        scribble(choices, &self.memory, cell, cell + end);
    }

    /// One operation, with half of the others dead; it does not wait long, or not at all.
    pub(crate) fn ask(&self, (operation, block): &Operation, choices: &mut dyn Choices) {
        let mut patience = 0;
        let mut wait = Wait {
            me: someone(1),
            watch: None,
            timeout_ns: Some([0, 0, 0, 20_000][choices.below(4)]),
            is_gone: &mut |who| who.generation % 2 == 0,
            keep_going: &mut || {
                patience += 1;
                patience < 3
            },
        };
        let before = self.image();
        operation(&self.memory, &mut wait, choices);
        let after = self.image();
        // A condition's lock is another cell.
        let is_allowed = |at| block.contains(&at) || (block.start == CONDITION && at < EVENT);
        let changed = (0..after.len()).find(|&at| before[at] != after[at] && !is_allowed(at));
        assert_eq!(changed, None, "the block is {block:?}");
    }

    fn image(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.memory.len()];
        self.memory.read_bytes(0, &mut bytes).unwrap();
        bytes
    }
}

fn someone(slot: usize) -> Participant {
    Participant {
        slot,
        generation: 7,
    }
}

fn thread(choices: &mut dyn Choices) -> NonZeroU64 {
    NonZeroU64::new(1 + choices.below(2) as u64).unwrap()
}

fn event(memory: &Mapping, wait: &mut Wait<'_>, choices: &mut dyn Choices) {
    if let Ok(event) = Event::at(memory, EVENT) {
        match choices.below(3) {
            0 => event.set(),
            1 => event.clear(),
            _ => {
                let _ = event.wait(wait);
            }
        }
        let _ = event.is_set();
    }
}

fn semaphore(memory: &Mapping, wait: &mut Wait<'_>, choices: &mut dyn Choices) {
    if let Ok(semaphore) = Semaphore::at(memory, SEMAPHORE) {
        let _ = semaphore.acquire(wait);
        let _ = semaphore.value();
        if choices.below(2) == 0 {
            let _ = semaphore.release([1, 7, u32::MAX][choices.below(3)]);
        }
        let _ = semaphore.try_acquire();
    }
}

fn lock(memory: &Mapping, wait: &mut Wait<'_>, choices: &mut dyn Choices) {
    if let Ok(lock) = Lock::at(memory, LOCK) {
        let _ = lock.acquire(wait);
        let _ = (lock.is_held(), lock.is_abandoned(), lock.owner());
        match choices.below(3) {
            0 => lock.release(someone(1)),
            1 => lock.release_abandoned(someone(1)),
            _ => lock.release(someone(2)),
        };
    }
}

fn rlock(memory: &Mapping, wait: &mut Wait<'_>, choices: &mut dyn Choices) {
    if let Ok(lock) = RLock::at(memory, LOCK) {
        let thread = thread(choices);
        let _ = lock.acquire(wait, thread);
        let _ = (lock.is_held(), lock.is_abandoned(), lock.owner());
        let _ = lock.depth(someone(1), thread);
        match choices.below(2) {
            0 => lock.release(someone(1), thread),
            _ => lock.release_abandoned(someone(1), thread),
        };
    }
}

fn condition(memory: &Mapping, wait: &mut Wait<'_>, choices: &mut dyn Choices) {
    if let Ok(condition) = Condition::at(memory, CONDITION, BLOCK) {
        let count = [1, 3, usize::MAX][choices.below(3)];
        assert!(condition.notify(count, &mut |who| who.slot % 2 == 0) <= count);
        assert!(condition.waiting() <= BLOCK / 8);
        if choices.below(2) == 0 {
            mutex::create(memory, LOCK).unwrap();
        }
        if let Ok(lock) = Lock::at(memory, LOCK) {
            lock.try_acquire(someone(1));
            let _ = condition.wait(&lock, wait);
        }
        if let Ok(lock) = RLock::at(memory, LOCK) {
            let thread = thread(choices);
            lock.try_acquire(someone(1), thread);
            let _ = condition.wait(&lock.guard(thread), wait);
        }
    }
}

fn barrier(memory: &Mapping, wait: &mut Wait<'_>, choices: &mut dyn Choices) {
    if let Ok(barrier) = Barrier::at(memory, BARRIER, BLOCK) {
        assert!(barrier.parties() <= BLOCK / 8);
        let _ = (barrier.waiting(), barrier.is_broken());
        let _ = match choices.below(3) {
            0 => barrier.wait(wait, &mut || true).map(drop),
            1 => barrier.abort(wait),
            _ => barrier.reset(wait),
        };
        let _ = barrier.wait(wait, &mut || false);
    }
}

fn bounded(memory: &Mapping, wait: &mut Wait<'_>, choices: &mut dyn Choices) {
    if let Ok(bounded) = BoundedSemaphore::at(memory, BOUNDED, BLOCK) {
        let _ = bounded.acquire(wait);
        let _ = (bounded.value(), bounded.bound());
        let _ = bounded.release(someone(1 + choices.below(2)));
        let _ = bounded.try_acquire(someone(1));
    }
}

fn integer(memory: &Mapping, _: &mut Wait<'_>, choices: &mut dyn Choices) {
    if let Ok(integer) = AtomicInt::at(memory, INTEGER) {
        let value = choices.word() as i64;
        match choices.below(4) {
            0 => {
                integer.swap(value);
            }
            1 => {
                let _ = integer.compare_exchange(integer.load(), value);
            }
            2 => integer.store(value),
            _ => {
                let before = integer.load();
                assert_eq!(
                    integer.add(value).is_some(),
                    before.checked_add(value).is_some()
                );
            }
        }
        let _ = integer.load();
    }
}
