//! What the players of each scene do.
//!
//! The child begins alone and says when the others may come in ([`Player::come_in`]): so
//! that what it is to find from an earlier death is found by it.

use std::num::NonZeroU64;
use std::thread::sleep;
use std::time::Duration;

use shared_numpy_core::layout::cells::CELL_BYTES;
use shared_numpy_core::layout::{Packed, Participant, WORD_BYTES};
use shared_numpy_core::lock::barrier::Barrier;
use shared_numpy_core::lock::bounded::BoundedSemaphore;
use shared_numpy_core::lock::condition::Condition;
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::mutex::{self, Lock, RLock};
use shared_numpy_core::lock::semaphore::Semaphore;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::lock::word::{Acquired, Released};

use crate::Player;

/// The object of the scene, and the second one of those that need two.
const FIRST: usize = 0;
const SECOND: usize = 4096;
/// Whether the others may come in; whether the child is done.
const STAGE_AT: usize = 16_384;
const CHILD_AT: usize = 16_392;
/// How many were told of an abandoned lock.
const TOLD_AT: usize = 16_400;
const ROUNDS: usize = 20;
const SHORT_NS: u64 = 1_000_000;
/// For what comes, however busy the machine is.
const LONG_NS: u64 = 20_000_000_000;
const PLACES: usize = 4;

pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Makes the object, and what an earlier death left.
    pub(crate) set: fn(&Player),
    pub(crate) child: fn(&Player),
    pub(crate) other: fn(&Player, usize),
    /// What the survivor finds when the others are done; the point, if the child died.
    pub(crate) check: fn(&Player, Option<&str>),
}

impl Scene {
    /// Whether a point is one of this scene.
    pub(crate) fn has(&self, point: &str) -> bool {
        point
            .split_once('.')
            .is_some_and(|(kind, _)| kind == self.name)
    }
}

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        name: "lock",
        set: |survivor| {
            mutex::create(survivor.memory(), FIRST).unwrap();
            lock_of(survivor).try_acquire(survivor.ghost()).unwrap();
            // Another one, which the survivor has: whoever wants it waits in vain.
            mutex::create(survivor.memory(), SECOND).unwrap();
            let second = Lock::at(survivor.memory(), SECOND).unwrap();
            second.try_acquire(survivor.me).unwrap();
        },
        child: |child| {
            let lock = lock_of(child);
            // From the dead, without waiting.
            let first = child.wait_for(0, |wait| lock.acquire(wait)).unwrap();
            assert!(first.abandoned);
            lock.release(child.me);
            child.come_in();
            use_lock(child);
            let second = Lock::at(child.memory(), SECOND).unwrap();
            for _ in 0..3 {
                let in_vain = child.wait_for(SHORT_NS, |wait| second.acquire(wait));
                assert_eq!(in_vain, Err(Stop::TimedOut));
            }
        },
        other: |other, _| use_lock(other),
        check: |survivor, died_at| {
            let lock = lock_of(survivor);
            note(survivor, survivor.wait(|wait| lock.acquire(wait)).unwrap());
            lock.release(survivor.me);
            let was_held = matches!(died_at, Some("lock.taken" | "lock.inherited"));
            assert_eq!(told(survivor), u64::from(was_held), "{died_at:?}");
            assert!(!lock.is_held() && !lock.is_abandoned());
        },
    },
    Scene {
        name: "rlock",
        set: |survivor| mutex::create(survivor.memory(), FIRST).unwrap(),
        child: |child| {
            child.come_in();
            use_rlock(child, 1);
        },
        other: |other, index| use_rlock(other, 1 + index as u64),
        check: |survivor, died_at| {
            let (lock, thread) = (rlock_of(survivor), NonZeroU64::MIN);
            let acquired = survivor.wait(|wait| lock.acquire(wait, thread)).unwrap();
            note(survivor, acquired);
            assert_eq!(lock.depth(survivor.me, thread), 1);
            assert_eq!(lock.release(survivor.me, thread), Released::Done);
            // At both points the child has the lock.
            assert_eq!(told(survivor), u64::from(died_at.is_some()));
        },
    },
    Scene {
        name: "semaphore",
        // The units are brought by the others, one by each.
        set: |survivor| Semaphore::create(survivor.memory(), FIRST, 0).unwrap(),
        child: |child| {
            let semaphore = Semaphore::at(child.memory(), FIRST).unwrap();
            for _ in 0..3 {
                let in_vain = child.wait_for(SHORT_NS, |wait| semaphore.acquire(wait));
                assert_eq!(in_vain, Err(Stop::TimedOut));
            }
            child.come_in();
            use_semaphore(child);
        },
        other: |other, _| {
            other.until_child(ALONE);
            let semaphore = Semaphore::at(other.memory(), FIRST).unwrap();
            assert!(semaphore.release(1));
            use_semaphore(other);
        },
        check: |survivor, died_at| {
            // What the dead had acquired stays acquired, and nothing else.
            let lost = u32::from(died_at == Some("semaphore.taken"));
            let semaphore = Semaphore::at(survivor.memory(), FIRST).unwrap();
            assert_eq!(semaphore.value(), 2 - lost, "{died_at:?}");
        },
    },
    Scene {
        name: "bounded",
        set: |survivor| {
            BoundedSemaphore::create(survivor.memory(), FIRST, 2).unwrap();
            let ghost = survivor.ghost();
            let semaphore = bounded_of(survivor);
            assert!(semaphore.try_acquire(ghost) && semaphore.try_acquire(ghost));
        },
        child: |child| {
            let semaphore = bounded_of(child);
            // A unit of the dead, found at the end of a slice.
            let wanted = child.wait_for(LONG_NS, |wait| semaphore.acquire(wait));
            wanted.unwrap();
            semaphore.release(child.me);
            child.come_in();
            use_bounded(child);
        },
        other: |other, _| use_bounded(other),
        check: |survivor, _| {
            // Everything the dead had comes back.
            let semaphore = bounded_of(survivor);
            for _ in 0..2 {
                survivor.wait(|wait| semaphore.acquire(wait)).unwrap();
            }
            assert_eq!(semaphore.value(), 0);
            for _ in 0..2 {
                assert_eq!(semaphore.release(survivor.me), Released::Done);
            }
            assert_eq!(semaphore.release(survivor.me), Released::NotHeld);
        },
    },
    Scene {
        name: "condition",
        set: |survivor| {
            mutex::create(survivor.memory(), FIRST).unwrap();
            Condition::create(survivor.memory(), SECOND, PLACES as u64).unwrap();
            // A waiter that died after it was told.
            let ghost = survivor.ghost();
            let notified = Packed {
                state: 2,
                by: ghost.slot,
                generation: ghost.generation,
            };
            let high = core::mem::offset_of!(shared_numpy_core::layout::cells::ConditionCell, high);
            survivor.memory().store_u64(SECOND + high, 1).unwrap();
            survivor
                .memory()
                .store_u64(place_at(0), notified.pack())
                .unwrap();
        },
        child: |child| {
            // Told by the dead.
            assert!(wait_on_condition(child, 10_000_000_000));
            assert!(!wait_on_condition(child, SHORT_NS), "told by nobody");
            child.come_in();
            for _ in 0..ROUNDS {
                wait_on_condition(child, 100 * SHORT_NS);
                notify_condition(child);
            }
            child.set_stage(DONE);
        },
        other: |other, index| {
            other.until_child(ALONE);
            while !other.child_is_past(TOGETHER) {
                if index == 0 {
                    notify_condition(other);
                    sleep(Duration::from_micros(500));
                } else {
                    wait_on_condition(other, 20 * SHORT_NS);
                }
            }
        },
        check: |survivor, _| {
            let places = || -> Vec<u64> {
                let place = |index| survivor.memory().load_u64(place_at(index)).unwrap();
                (0..PLACES).map(place).collect()
            };
            // Clears what waits and is dead; then waits until nothing is left to be told.
            notify_condition(survivor);
            while wait_on_condition(survivor, 200 * SHORT_NS) {}
            assert_eq!(places(), [0; PLACES]);
            assert!(!lock_of(survivor).is_held());
        },
    },
    Scene {
        name: "event",
        set: |survivor| Event::create(survivor.memory(), FIRST).unwrap(),
        child: |child| {
            let event = event_of(child);
            for _ in 0..3 {
                let waited = child.wait_for(SHORT_NS, |wait| event.wait(wait));
                assert_eq!(waited, Err(Stop::TimedOut));
            }
            child.come_in();
            // The others sleep by now, or see what they came for.
            sleep(Duration::from_millis(10));
            for _ in 0..3 {
                event.set();
                event.clear();
            }
            event.set();
            child.set_stage(DONE);
        },
        other: |other, index| {
            other.until_child(ALONE);
            if index == 0 {
                other.wait(|wait| event_of(other).wait(wait)).unwrap();
            } else {
                other.until_child(TOGETHER);
                event_of(other).set();
            }
        },
        check: |survivor, _| assert!(event_of(survivor).is_set()),
    },
    Scene {
        name: "barrier",
        set: |survivor| Barrier::create(survivor.memory(), FIRST, 3).unwrap(),
        child: |child| {
            child.come_in();
            for round in 0..8 {
                if round % 2 == 0 {
                    sleep(Duration::from_millis(4));
                }
                pass(child).unwrap();
            }
            child.wait(|wait| barrier_of(child).abort(wait)).unwrap();
        },
        other: |other, _| {
            other.until_child(ALONE);
            for round in 0.. {
                if round % 2 == 1 {
                    sleep(Duration::from_millis(4));
                }
                match pass(other) {
                    Ok(index) => assert!(index < 3),
                    Err(stop) => return assert_eq!(stop, Stop::Broken),
                }
            }
        },
        check: |survivor, _| {
            let barrier = barrier_of(survivor);
            assert!(barrier.is_broken() && barrier.waiting() == 0);
            survivor.wait(|wait| barrier.reset(wait)).unwrap();
            assert!(!barrier.is_broken());
        },
    },
];

/// What the child does: it is alone, with the others, or done.
const ALONE: u64 = 0;
const TOGETHER: u64 = 1;
const DONE: u64 = 2;

impl Player {
    /// A participant that has died.
    fn ghost(&self) -> Participant {
        let ghost = self.family.join().unwrap();
        assert!(self.family.declare_dead(ghost).unwrap());
        ghost
    }

    /// In the child: who it is.
    pub(crate) fn introduce(&self) {
        self.memory.store_u64(CHILD_AT, self.me.pack()).unwrap();
    }

    /// In the child: the others may come in.
    fn come_in(&self) {
        self.set_stage(TOGETHER);
    }

    fn set_stage(&self, stage: u64) {
        self.memory.store_u64(STAGE_AT, stage).unwrap();
    }

    /// Whether the child is past a stage, or dead.
    fn child_is_past(&self, stage: u64) -> bool {
        let child = Participant::unpack(self.memory.load_u64(CHILD_AT).unwrap());
        self.memory.load_u64(STAGE_AT).unwrap() > stage
            || child.is_some_and(|child| self.is_gone(child))
    }

    fn until_child(&self, stage: u64) {
        while !self.child_is_past(stage) {
            sleep(Duration::from_millis(1));
        }
    }
}

fn place_at(index: usize) -> usize {
    SECOND + CELL_BYTES + index * WORD_BYTES
}

fn lock_of(player: &Player) -> Lock<'_, System> {
    Lock::at(player.memory(), FIRST).unwrap()
}

fn rlock_of(player: &Player) -> RLock<'_, System> {
    RLock::at(player.memory(), FIRST).unwrap()
}

fn bounded_of(player: &Player) -> BoundedSemaphore<'_, System> {
    BoundedSemaphore::at(player.memory(), FIRST, SECOND - FIRST).unwrap()
}

fn condition_of(player: &Player) -> Condition<'_, System> {
    Condition::at(player.memory(), SECOND, 1024).unwrap()
}

fn event_of(player: &Player) -> Event<'_, System> {
    Event::at(player.memory(), FIRST).unwrap()
}

fn barrier_of(player: &Player) -> Barrier<'_, System> {
    Barrier::at(player.memory(), FIRST, SECOND - FIRST).unwrap()
}

fn pass(player: &Player) -> Result<usize, Stop> {
    player.wait(|wait| barrier_of(player).wait(wait, &mut || true))
}

fn note(player: &Player, acquired: Acquired) {
    let told = player.memory().shared_word(TOLD_AT).unwrap();
    told.fetch_add(
        u64::from(acquired.abandoned),
        std::sync::atomic::Ordering::SeqCst,
    );
}

fn told(player: &Player) -> u64 {
    player.memory().load_u64(TOLD_AT).unwrap()
}

fn hold_for_a_moment() {
    sleep(Duration::from_micros(500));
}

fn use_lock(player: &Player) {
    player.until_child(ALONE);
    let lock = lock_of(player);
    for _ in 0..ROUNDS {
        note(player, player.wait(|wait| lock.acquire(wait)).unwrap());
        assert_eq!(lock.owner(), Some(player.me));
        hold_for_a_moment();
        assert_eq!(lock.release(player.me), Released::Done);
    }
}

fn use_rlock(player: &Player, thread: u64) {
    player.until_child(ALONE);
    let thread = NonZeroU64::new(thread).unwrap();
    let lock = rlock_of(player);
    for _ in 0..ROUNDS {
        note(
            player,
            player.wait(|wait| lock.acquire(wait, thread)).unwrap(),
        );
        let again = player.wait(|wait| lock.acquire(wait, thread));
        assert!(again.is_ok() && lock.depth(player.me, thread) == 2);
        hold_for_a_moment();
        for _ in 0..2 {
            assert_eq!(lock.release(player.me, thread), Released::Done);
        }
        assert_eq!(lock.release(player.me, thread), Released::NotHeld);
    }
}

fn use_semaphore(player: &Player) {
    player.until_child(ALONE);
    let semaphore = Semaphore::at(player.memory(), FIRST).unwrap();
    for _ in 0..ROUNDS {
        player.wait(|wait| semaphore.acquire(wait)).unwrap();
        hold_for_a_moment();
        assert!(semaphore.release(1));
    }
}

fn use_bounded(player: &Player) {
    player.until_child(ALONE);
    let semaphore = bounded_of(player);
    for _ in 0..ROUNDS {
        player.wait(|wait| semaphore.acquire(wait)).unwrap();
        hold_for_a_moment();
        assert_eq!(semaphore.release(player.me), Released::Done);
    }
}

fn wait_on_condition(player: &Player, timeout_ns: u64) -> bool {
    let lock = lock_of(player);
    player.wait(|wait| lock.acquire(wait)).unwrap();
    let waited = player.wait_for(timeout_ns, |wait| condition_of(player).wait(&lock, wait));
    let waited = waited.unwrap();
    assert!(waited.lock.is_ok() && lock.owner() == Some(player.me));
    assert_eq!(lock.release(player.me), Released::Done);
    waited.notified.is_ok()
}

fn notify_condition(player: &Player) {
    let lock = lock_of(player);
    player.wait(|wait| lock.acquire(wait)).unwrap();
    player.wait(|wait| condition_of(player).notify(1, wait.is_gone));
    assert_eq!(lock.release(player.me), Released::Done);
}
