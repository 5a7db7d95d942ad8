//! The locks run through their interleavings by the loom model checker:
//! `RUSTFLAGS="--cfg loom" cargo test -p shared-numpy-core --release --test loom_lock --target-dir target/loom`
//!
//! The functions under test are the ones processes use; only the futex is a model: a
//! queue under a mutex, compared with the word after the mutex is taken, as the kernel
//! does. It has no slices: whoever depends on one to be woken sleeps for ever, and loom
//! reports that as a deadlock. What a lock guards is a cell; loom reports any execution
//! in which two have it at once.

#![cfg(loom)]

use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use shared_numpy_core::layout::Participant;
use shared_numpy_core::lock::bounded::BoundedSemaphore;
use shared_numpy_core::lock::condition::Condition;
use shared_numpy_core::lock::event::Event;
use shared_numpy_core::lock::kernel::{Kernel, Slept};
use shared_numpy_core::lock::mutex::{Lock, RLock};
use shared_numpy_core::lock::semaphore::Semaphore;
use shared_numpy_core::lock::wait::{Stop, Wait};
use shared_numpy_core::lock::word::{Acquired, LockWord};
use shared_numpy_core::sync::{AtomicU64, Ordering};

/// Loom explores every execution with at most so many forced switches between threads.
const PREEMPTIONS: usize = 3;
/// The same, where there are many steps.
const PREEMPTIONS_FEW: usize = 1;

/// How the model's sleeps end.
#[derive(Clone, Copy, PartialEq)]
enum Sleeps {
    /// When woken.
    Well,
    /// When woken, and a signal has come by then.
    Interrupted,
    /// At once, by time: for waiters that look after the dead.
    Never,
}

/// A futex whose sleepers all sleep on the same word.
struct Futex {
    queue: Mutex<()>,
    bell: Condvar,
}

#[derive(Clone, Copy)]
struct Model<'f> {
    futex: &'f Futex,
    sleeps: Sleeps,
}

impl Kernel for Model<'_> {
    fn sleep(self, word: &AtomicU64, seen: u64, _at_most_ns: u64) -> Slept {
        if self.sleeps == Sleeps::Never {
            thread::yield_now();
            return Slept::Elapsed;
        }
        let queue = self.futex.queue.lock().unwrap();
        // The low half, as the kernel.
        if word.load(Ordering::Relaxed) as u32 != seen as u32 {
            return Slept::Changed;
        }
        drop(self.futex.bell.wait(queue).unwrap());
        if self.sleeps == Sleeps::Interrupted {
            Slept::Signalled
        } else {
            Slept::Woken
        }
    }

    fn wake(self, _word: &AtomicU64, count: u32) -> usize {
        let _queue = self.futex.queue.lock().unwrap();
        if count == 1 {
            self.futex.bell.notify_one();
        } else {
            self.futex.bell.notify_all();
        }
        1 // no lock asks
    }

    fn now_ns(self) -> u64 {
        0
    }

    fn spins(self) -> u32 {
        0
    }
}

/// Words enough for any object, and what it guards.
struct Shared {
    words: [AtomicU64; 4],
    table: [AtomicU64; 2],
    futex: Futex,
    memory: UnsafeCell<u32>,
}

// SAFETY: `memory` is what the locks under test are to guard; loom checks that they do.
unsafe impl Sync for Shared {}
// SAFETY: plain words.
unsafe impl Send for Shared {}

impl Shared {
    fn new(first: u64) -> Arc<Self> {
        let word = AtomicU64::new;
        Arc::new(Shared {
            words: [word(first), word(0), word(0), word(0)],
            table: [word(0), word(0)],
            futex: Futex {
                queue: Mutex::new(()),
                bell: Condvar::new(),
            },
            memory: UnsafeCell::new(0),
        })
    }

    fn kernel(&self, sleeps: Sleeps) -> Model<'_> {
        Model {
            futex: &self.futex,
            sleeps,
        }
    }

    fn lock(&self, sleeps: Sleeps) -> Lock<'_, Model<'_>> {
        Lock::over(self.word(self.kernel(sleeps)))
    }

    fn word<'f>(&'f self, kernel: Model<'f>) -> LockWord<'f, Model<'f>> {
        LockWord {
            word: &self.words[0],
            spins: &self.words[1],
            kernel,
        }
    }

    fn use_memory(&self) {
        // SAFETY: that nobody else does so meanwhile is what loom checks.
        self.memory.with_mut(|word| unsafe { *word += 1 });
    }

    fn used(&self) -> u32 {
        // SAFETY: after all threads were joined.
        self.memory.with(|word| unsafe { *word })
    }
}

fn someone(slot: usize) -> Participant {
    Participant {
        slot,
        generation: 1,
    }
}

const DEAD: usize = 9;

/// Waits as `slot`; who is in the slot [`DEAD`] is.
fn wait<T>(slot: usize, go_on: bool, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
    run(&mut Wait {
        me: someone(slot),
        watch: None,
        timeout_ns: None,
        is_gone: &mut |who| who.slot == DEAD,
        keep_going: &mut || go_on,
    })
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    model_with(PREEMPTIONS, run);
}

fn model_with(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

fn in_threads(shared: &Arc<Shared>, slots: &[usize], run: fn(&Shared, usize)) {
    let threads: Vec<_> = slots
        .iter()
        .map(|&slot| {
            let shared = Arc::clone(shared);
            thread::spawn(move || run(&shared, slot))
        })
        .collect();
    // The calling thread takes part.
    run(shared, 0);
    for thread in threads {
        thread.join().unwrap();
    }
}

fn acquire_use_release(shared: &Shared, slot: usize) {
    let lock = shared.lock(Sleeps::Well);
    wait(slot, true, |wait| lock.acquire(wait)).unwrap();
    shared.use_memory();
    lock.release(someone(slot));
}

#[test]
fn one_owner_and_no_lost_wakeup() {
    model(|| {
        let shared = Shared::new(0);
        in_threads(&shared, &[1, 2], acquire_use_release);
        assert_eq!(shared.used(), 3);
        assert!(!shared.lock(Sleeps::Well).is_held());
    });
}

#[test]
fn a_thread_that_comes_back_wakes_too() {
    model(|| {
        let shared = Shared::new(0);
        in_threads(&shared, &[1], |shared, slot| {
            acquire_use_release(shared, slot);
            acquire_use_release(shared, slot);
        });
        assert_eq!(shared.used(), 4);
    });
}

/// The model is not blind: it sees two owners where a question is answered wrongly. (That it
/// sees lost wake-ups as well cannot stay here as a test: loom ends the process.)
#[test]
#[should_panic]
fn who_is_wrongly_said_to_be_dead_does_not_exclude() {
    model(|| {
        let shared = Shared::new(0);
        in_threads(&shared, &[1], |shared, slot| {
            let lock = shared.lock(Sleeps::Never);
            let mut wait = Wait {
                me: someone(slot),
                watch: None,
                timeout_ns: None,
                is_gone: &mut |_| true,
                keep_going: &mut || true,
            };
            lock.acquire(&mut wait).unwrap();
            shared.use_memory();
            lock.release(someone(slot));
        });
    });
}

#[test]
fn who_is_interrupted_passes_its_wakeup_on() {
    model(|| {
        let shared = Shared::new(0);
        in_threads(&shared, &[1, 2], |shared, slot| {
            if slot != 2 {
                return acquire_use_release(shared, slot);
            }
            let lock = shared.lock(Sleeps::Interrupted);
            match wait(slot, false, |wait| lock.acquire(wait)) {
                Ok(_) => {
                    shared.use_memory();
                    lock.release(someone(slot));
                }
                Err(stop) => assert_eq!(stop, Stop::Interrupted),
            }
        });
        assert!(shared.used() >= 2);
    });
}

#[test]
fn a_dead_owner_has_one_heir() {
    // Not loom's: counted over one execution only, between joins.
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    model(|| {
        TOLD.store(0, StdOrdering::SeqCst);
        let shared = Shared::new(someone(DEAD).pack());
        in_threads(&shared, &[1], |shared, slot| {
            let lock = shared.lock(Sleeps::Never);
            let Acquired { abandoned, .. } = wait(slot, true, |wait| lock.acquire(wait)).unwrap();
            TOLD.fetch_add(usize::from(abandoned), StdOrdering::SeqCst);
            shared.use_memory();
            lock.release(someone(slot));
        });
        assert_eq!(shared.used(), 2);
        assert_eq!(TOLD.load(StdOrdering::SeqCst), 1);
        assert!(!shared.lock(Sleeps::Well).is_abandoned());
    });
}

#[test]
fn no_namesake_of_a_dead_thread_owns_an_rlock() {
    model(|| {
        let shared = Shared::new(someone(DEAD).pack());
        let (dead, heir) = (1, 2);
        shared.words[2].store(dead, Ordering::Relaxed);
        shared.words[3].store(5, Ordering::Relaxed);
        let rlock = |shared: &Shared, number: u64, run: &dyn Fn(&RLock<'_, Model<'_>>, _)| {
            let kernel = shared.kernel(Sleeps::Never);
            let lock = RLock::over(shared.word(kernel), &shared.words[2], &shared.words[3]);
            run(&lock, number.try_into().unwrap());
        };
        let other = Arc::clone(&shared);
        let namesake = thread::spawn(move || {
            rlock(&other, dead, &|lock, number| {
                assert!(!lock.is_mine(someone(0), number));
            });
        });
        rlock(&shared, heir, &|lock, number| {
            wait(0, true, |wait| lock.acquire(wait, number)).unwrap();
            assert_eq!(lock.depth(someone(0), number), 1);
        });
        namesake.join().unwrap();
    });
}

#[test]
fn two_releases_in_a_row_wake_two() {
    model(|| {
        let shared = Shared::new(0);
        in_threads(&shared, &[1, 2], |shared, slot| {
            let semaphore = Semaphore::over(&shared.words[0], shared.kernel(Sleeps::Well));
            if slot == 0 {
                assert!(semaphore.release(1) && semaphore.release(1));
            } else {
                wait(slot, true, |wait| semaphore.acquire(wait)).unwrap();
            }
        });
        let semaphore = Semaphore::over(&shared.words[0], shared.kernel(Sleeps::Well));
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn a_bounded_semaphore_of_one_excludes_and_wakes() {
    model(|| {
        let shared = Shared::new(0);
        in_threads(&shared, &[1], |shared, slot| {
            let kernel = shared.kernel(Sleeps::Well);
            let (word, start) = (&shared.words[0], &shared.words[1]);
            let semaphore = BoundedSemaphore::over(word, start, &shared.table[..1], kernel);
            wait(slot, true, |wait| semaphore.acquire(wait)).unwrap();
            shared.use_memory();
            semaphore.release(someone(slot));
        });
        assert_eq!(shared.used(), 2);
    });
}

#[test]
fn two_units_given_in_a_row_wake_two() {
    model_with(PREEMPTIONS_FEW, || {
        let shared = Shared::new(0);
        for unit in &shared.table {
            unit.store(someone(0).pack(), Ordering::Relaxed);
        }
        in_threads(&shared, &[1, 2], |shared, slot| {
            let kernel = shared.kernel(Sleeps::Well);
            let (word, start) = (&shared.words[0], &shared.words[1]);
            let semaphore = BoundedSemaphore::over(word, start, &shared.table, kernel);
            if slot == 0 {
                semaphore.release(someone(0));
                semaphore.release(someone(0));
            } else {
                wait(slot, true, |wait| semaphore.acquire(wait)).unwrap();
            }
        });
    });
}

#[test]
fn an_event_that_is_cleared_at_once_wakes_who_waited() {
    model(|| {
        let shared = Shared::new(0);
        in_threads(&shared, &[1], |shared, slot| {
            let event = Event::over(&shared.words[0], shared.kernel(Sleeps::Well));
            if slot == 0 {
                shared.use_memory();
                event.set();
                event.clear();
                // For who came after that.
                event.set();
            } else {
                wait(slot, true, |wait| event.wait(wait)).unwrap();
                assert_eq!(shared.used(), 1);
            }
        });
    });
}

#[test]
fn a_notify_after_the_lock_was_let_go_is_not_missed() {
    model(|| {
        let shared = Shared::new(0);
        in_threads(&shared, &[1], |shared, slot| {
            // Two futexes in one: every wake-up reaches the only other thread.
            let kernel = shared.kernel(Sleeps::Well);
            let lock = Lock::over(shared.word(kernel));
            let (high, cursor) = (&shared.words[2], &shared.words[3]);
            let condition = Condition::over(high, cursor, &shared.table[..1], kernel);
            wait(slot, true, |wait| {
                lock.acquire(wait).unwrap();
                if slot == 0 {
                    shared.use_memory();
                    condition.notify(1, &mut |_| false);
                } else {
                    while shared.used() == 0 {
                        let waited = condition.wait(&lock, wait).unwrap();
                        assert!(waited.notified.is_ok() && waited.lock.is_ok());
                    }
                }
                lock.release(someone(slot));
            });
        });
        assert_eq!(shared.table[0].load(Ordering::Relaxed), 0);
    });
}
