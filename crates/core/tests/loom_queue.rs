//! The queue's deciding steps run through their interleavings by the loom model checker
//! (`make loom`).
//!
//! The functions under test are the ones the queue uses. Records are words that putters
//! overwrite as soon as `head` has passed them; a getter that reads one torn must lose.
//! Two tests leave out a step and expect to be caught, so that a model that sees nothing
//! does not pass for a proof.

#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use shared_numpy_core::lock::kernel::{Kernel, Slept};
use shared_numpy_core::queue::mark::Mark;
use shared_numpy_core::queue::protocol;
use shared_numpy_core::sync::{AtomicU64, Ordering};

/// Loom explores every execution with at most so many forced switches between threads.
const PREEMPTIONS: usize = 3;
/// So many records a ring has: two words each, which belong together.
const ROOM: u64 = 2;

/// The system.
#[derive(Debug, Clone, Copy)]
enum Model<'m> {
    /// Sleeping as the kernel does it: the word is looked at and the sleep begun in one
    /// step. When all sleep and nobody will wake them, loom aborts.
    Sleeps(&'m (Mutex<usize>, Condvar)),
    /// For a model that is to be caught: waits for another wake-up, and loom panics when
    /// none comes.
    Waits(&'m AtomicU64),
}

impl Kernel for Model<'_> {
    fn sleep(self, word: &AtomicU64, seen: u64, _at_most_ns: u64) -> Slept {
        match self {
            Model::Sleeps((lock, condition)) => {
                let mut asleep = lock.lock().unwrap();
                if word.load(Ordering::SeqCst) != seen {
                    return Slept::Changed;
                }
                *asleep += 1;
                drop(condition.wait(asleep).unwrap());
            }
            Model::Waits(woken) => {
                let before = woken.load(Ordering::SeqCst);
                if word.load(Ordering::SeqCst) != seen {
                    return Slept::Changed;
                }
                while woken.load(Ordering::SeqCst) == before {
                    thread::yield_now();
                }
            }
        }
        Slept::Woken
    }

    fn wake(self, _word: &AtomicU64, count: u32) -> usize {
        match self {
            Model::Sleeps((lock, condition)) => {
                let mut asleep = lock.lock().unwrap();
                let woken = (*asleep).min(count as usize);
                *asleep -= woken;
                for _ in 0..woken {
                    condition.notify_one();
                }
                woken
            }
            Model::Waits(woken) => {
                woken.fetch_add(1, Ordering::SeqCst);
                1
            }
        }
    }

    fn now_ns(self) -> u64 {
        0
    }

    fn spins(self) -> u32 {
        0
    }
}

struct Queue {
    head: AtomicU64,
    tail: AtomicU64,
    getters: AtomicU64,
    sleepers: (Mutex<usize>, Condvar),
    woken: AtomicU64,
    announce: bool,
    ring: Vec<[AtomicU64; 2]>,
}

impl Queue {
    fn with(items: &[u64]) -> Arc<Self> {
        let queue = Self::new();
        for &item in items {
            assert!(queue.put(item));
        }
        Arc::new(queue)
    }

    fn new() -> Self {
        Queue {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            getters: AtomicU64::new(0),
            sleepers: (Mutex::new(0), Condvar::new()),
            woken: AtomicU64::new(0),
            announce: true,
            ring: (0..ROOM)
                .map(|_| [AtomicU64::new(0), AtomicU64::new(0)])
                .collect(),
        }
    }

    fn kernel(&self) -> Model<'_> {
        if self.announce {
            Model::Sleeps(&self.sleepers)
        } else {
            Model::Waits(&self.woken)
        }
    }

    fn record(&self, mark: Mark) -> &[AtomicU64; 2] {
        &self.ring[(mark.place() % ROOM) as usize]
    }

    /// What a putter does while it has the lock; `false` when there is no room.
    fn put(&self, item: u64) -> bool {
        let (head, tail) = protocol::look(&self.head, &self.tail);
        if tail.units_since(head) == ROOM {
            return false;
        }
        let [one, two] = self.record(tail);
        one.store(item, Ordering::Relaxed);
        two.store(!item, Ordering::Relaxed);
        protocol::commit(&self.tail, tail.after(1));
        true
    }

    fn try_get(&self) -> Option<Option<u64>> {
        let (head, tail) = protocol::look(&self.head, &self.tail);
        if head == tail {
            return Some(None);
        }
        let [one, two] = self.record(head);
        let item = one.load(Ordering::Relaxed);
        let other = two.load(Ordering::Relaxed);
        if !protocol::take(&self.head, head, head.after(1)) {
            return None;
        }
        assert_eq!(item, !other, "a torn item was taken");
        Some(Some(item))
    }

    fn get_if_there(&self) -> Option<u64> {
        loop {
            if let Some(got) = self.try_get() {
                return got;
            }
        }
    }

    /// The bell that is to be rung.
    fn wake(&self) -> Option<usize> {
        protocol::wake_one(&self.getters, self.kernel())
    }

    /// As `Queue::get`: looks, announces itself, looks again, sleeps.
    fn get(&self) -> u64 {
        let mut has_slept = false;
        loop {
            let seen = self.tail.load(Ordering::Acquire);
            if let Some(item) = self.get_if_there() {
                if has_slept {
                    let _ = protocol::announce(&self.getters);
                    if protocol::size(&self.head, &self.tail) > 0 {
                        self.wake();
                    }
                }
                return item;
            }
            let announced = if self.announce {
                protocol::announce(&self.getters)
            } else {
                self.getters.fetch_or(1, Ordering::Relaxed) | 1
            };
            if self.tail.load(Ordering::Acquire) != seen {
                continue;
            }
            self.kernel().sleep(&self.getters, announced, 0);
            has_slept = true;
        }
    }
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    model_with(PREEMPTIONS, run);
}

fn model_with(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(run);
}

#[test]
fn two_getters_and_a_putter_that_overwrites() {
    model(|| {
        let queue = Queue::with(&[1, 2]);
        let getters: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.get_if_there())
            })
            .collect();
        let is_in = queue.put(3);
        let mut got: Vec<u64> = getters
            .into_iter()
            .filter_map(|getter| getter.join().unwrap())
            .collect();
        while let Some(item) = queue.get_if_there() {
            got.push(item);
        }
        got.sort_unstable();
        let all: &[u64] = if is_in { &[1, 2, 3] } else { &[1, 2] };
        assert_eq!(got, all);
    });
}

#[test]
fn items_come_in_order() {
    model(|| {
        let queue = Queue::with(&[]);
        let putter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let mut next = 1;
                for _ in 0..5 {
                    next += u64::from(queue.put(next));
                }
                next
            })
        };
        let mut last = 0;
        for _ in 0..3 {
            if let Some(item) = queue.get_if_there() {
                assert_eq!(item, last + 1);
                last = item;
            }
        }
        let next = putter.join().unwrap();
        while let Some(item) = queue.get_if_there() {
            assert_eq!(item, last + 1);
            last = item;
        }
        assert_eq!(last + 1, next);
    });
}

#[test]
fn the_size_is_one_that_was() {
    model(|| {
        let queue = Queue::with(&[1]);
        let getter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.get_if_there())
        };
        let putter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.put(2))
        };
        // Never more than there is room for, never less than nothing.
        let size = protocol::size(&queue.head, &queue.tail);
        assert!(size <= 2);
        getter.join().unwrap();
        putter.join().unwrap();
        assert_eq!(protocol::size(&queue.head, &queue.tail), 1);
    });
}

fn a_getter_that_sleeps(announce: bool) {
    model(move || {
        let queue = Arc::new(Queue {
            announce,
            ..Queue::new()
        });
        let getter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.get())
        };
        assert!(queue.put(1));
        queue.wake();
        assert_eq!(getter.join().unwrap(), 1);
    });
}

#[test]
fn a_getter_that_sleeps_is_woken() {
    a_getter_that_sleeps(true);
}

#[test]
#[should_panic]
fn a_getter_that_sleeps_without_a_fence_is_not() {
    a_getter_that_sleeps(false);
}

#[test]
fn a_bell_is_rung_though_one_that_slept_left_its_bit() {
    model(|| {
        let queue = Queue::with(&[]);
        // One slept, was woken and took its item, and does something else now.
        let _ = protocol::announce(&queue.getters);
        let waiter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                protocol::announce_bell(&queue.getters, 3);
                queue.get_if_there()
            })
        };
        assert!(queue.put(1));
        let rung = queue.wake();
        let found = waiter.join().unwrap();
        assert!(found == Some(1) || rung == Some(3), "{found:?} {rung:?}");
    });
}

#[test]
fn a_sleeper_and_a_bell_are_woken_by_two_items() {
    model_with(2, || {
        let queue = Queue::with(&[]);
        let sleeper = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.get())
        };
        let waiter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                protocol::announce_bell(&queue.getters, 3);
                queue.get_if_there()
            })
        };
        let mut rung = Vec::new();
        for item in 1..=2 {
            assert!(queue.put(item));
            rung.push(queue.wake());
        }
        let found = waiter.join().unwrap();
        if found.is_none() && rung.contains(&Some(3)) {
            // It would look now; so that the sleeper is not left to what it would take.
            queue.get_if_there();
        }
        let got = sleeper.join().unwrap();
        assert!(got == 1 || got == 2);
    });
}

#[test]
fn two_getters_that_sleep_are_woken() {
    // Those that sleep multiply the executions.
    model_with(2, || {
        let queue = Queue::with(&[]);
        let getters: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.get())
            })
            .collect();
        for item in 1..=2 {
            assert!(queue.put(item));
            queue.wake();
        }
        let sum: u64 = getters.into_iter().map(|it| it.join().unwrap()).sum();
        assert_eq!(sum, 3);
    });
}

#[test]
#[should_panic]
fn an_item_that_is_shown_too_early_is_torn() {
    model(|| {
        let queue = Queue::with(&[]);
        let getter = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.get_if_there())
        };
        let [one, two] = queue.record(Mark::START);
        one.store(1, Ordering::Relaxed);
        two.store(!1, Ordering::Relaxed);
        queue.tail.store(Mark::START.after(1).0, Ordering::Relaxed);
        getter.join().unwrap();
    });
}
