//! What locks and their kin promise while nobody dies, and when somebody is said to be
//! dead. Deaths proper are in `crash_lock/`.

mod barriers;
mod conditions;
mod garbage;
#[path = "../garbage_common/mod.rs"]
mod garbage_common;
mod mutexes;
mod semaphores;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use shared_numpy_core::layout::Participant;
use shared_numpy_core::lock::barrier::Barrier;
use shared_numpy_core::lock::condition::Condition;
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::integer::AtomicInt;
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::mutex::{Lock, RLock};
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::sys::anon;

pub(crate) const BYTES: usize = 1 << 16;
/// Where a second object lies.
pub(crate) const SECOND: usize = 1 << 15;
/// What no waiter gets to see the end of.
pub(crate) const LONG_NS: u64 = 60_000_000_000;

pub(crate) fn memory() -> Arc<Mapping> {
    memory_of(BYTES)
}

pub(crate) fn memory_of(size_bytes: usize) -> Arc<Mapping> {
    let fd = anon::create(size_bytes as u64).unwrap();
    Arc::new(Mapping::new(&fd, size_bytes, false).unwrap())
}

pub(crate) fn someone(slot: usize) -> Participant {
    Participant {
        slot,
        generation: 7,
    }
}

pub(crate) fn thread_of(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap()
}

/// Waits as `me`, where `gone` is dead.
pub(crate) fn wait_with<T>(
    me: Participant,
    timeout_ns: u64,
    gone: Option<Participant>,
    run: impl FnOnce(&mut Wait<'_>) -> T,
) -> T {
    run(&mut Wait {
        me,
        watch: None,
        timeout_ns: Some(timeout_ns),
        is_gone: &mut |who| Some(who) == gone,
        keep_going: &mut || true,
    })
}

pub(crate) fn wait<T>(slot: usize, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
    wait_with(someone(slot), LONG_NS, None, run)
}

/// A wait that is interrupted at its first slice.
pub(crate) fn interrupted<T>(slot: usize, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
    run(&mut Wait {
        me: someone(slot),
        watch: None,
        timeout_ns: None,
        is_gone: &mut |_| false,
        keep_going: &mut || false,
    })
}

/// Until the others are (most likely) asleep; nothing depends on it.
pub(crate) fn let_others_sleep() {
    thread::sleep(Duration::from_millis(20));
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

/// The types are what callers name.
#[test]
fn objects_are_small_and_shared_between_threads() {
    fn is_shared<T: Send + Sync + Copy>() {}
    is_shared::<Lock<'_, System>>();
    is_shared::<RLock<'_, System>>();
    is_shared::<Condition<'_, System>>();
    is_shared::<Barrier<'_, System>>();
}
