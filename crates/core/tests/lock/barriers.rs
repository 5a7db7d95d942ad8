//! Barriers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use shared_numpy_core::lock::barrier::{self, Barrier};
use shared_numpy_core::lock::wait::Stop;

use crate::{LONG_NS, SECOND, memory, someone, wait, wait_with};

#[test]
fn a_barrier_lets_all_pass_or_none() {
    const PARTIES: usize = 3;
    let memory = memory();
    Barrier::create(&memory, 0, PARTIES as u64).unwrap();
    let barrier = Barrier::at(&memory, 0, SECOND).unwrap();
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
    let barrier = Barrier::at(&memory, 0, SECOND).unwrap();
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
