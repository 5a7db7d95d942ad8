//! Forks while other threads are in the middle of everything.

use crate::alone::scenarios;

scenarios! {
    children_forked_while_threads_allocate
    children_forked_while_threads_attach
    the_first_arrays_of_many_threads
}

mod scenarios {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use shared_numpy_core::participation::{self, Handle, Hold};

    use crate::alone::*;

    const CHILDREN: usize = 200;
    const AT_ONCE: usize = 8;

    /// Allocates, checks, sends to itself and drops, until it is stopped.
    fn busy(seed: u64, stop: &AtomicBool) -> usize {
        let mut kept: Vec<(Hold, u64)> = Vec::new();
        let mut random = seed;
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(seed);
            // A large one now and then: it is committed without the lock.
            let size_bytes = match random >> 60 {
                0 => 6 << 20,
                1..4 => 100_000,
                _ => 64 << (random >> 50 & 7),
            };
            kept.push((numbered(size_bytes, random), random));
            if random >> 40 & 7 == 0 {
                let at = random as usize % kept.len();
                let (handle, sent) = kept[at].0.send(&mut || true).unwrap();
                let again = participation::receive(&handle, &mut || true).unwrap();
                assert_eq!(number(&again), kept[at].1);
                sent.withdraw();
                kept.push((again, kept[at].1));
            }
            if kept.len() > 16 {
                let (hold, expected) = kept.swap_remove(random as usize % kept.len());
                assert_eq!(number(&hold), expected);
            }
            rounds += 1;
        }
        for (hold, expected) in &kept {
            assert_eq!(number(hold), *expected);
        }
        rounds
    }

    /// What a child does with what it inherited and what it makes.
    fn child(held: Vec<Hold>, at: usize) -> bool {
        let is_good = held.iter().all(|hold| number(hold) == 77);
        let mine = numbered(5000, at as u64);
        drop(held);
        let is_mine = number(&mine) == at as u64;
        drop(mine);
        is_good && is_mine && in_use() == 0
    }

    pub(super) fn children_forked_while_threads_allocate() {
        let stop = AtomicBool::new(false);
        let rounds = AtomicUsize::new(0);
        let held: Vec<Hold> = (0..10).map(|at| numbered(100 << at, 77)).collect();
        let family = family_of(&held[0]);
        std::thread::scope(|scope| {
            for seed in 1..=4 {
                let (stop, rounds) = (&stop, &rounds);
                scope.spawn(move || rounds.fetch_add(busy(seed, stop), Ordering::Relaxed));
            }
            let mut children = std::collections::VecDeque::new();
            for at in 0..CHILDREN {
                let inherited: Vec<Hold> = held
                    .iter()
                    .map(|hold| participation::receive(&hold.handle().unwrap(), &mut || true))
                    .map(Result::unwrap)
                    .collect();
                children.push_back(fork(|_| child(inherited, at)));
                if children.len() > AT_ONCE {
                    assert!(children.pop_front().unwrap().ended_well());
                }
            }
            for child in children {
                assert!(child.ended_well());
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(rounds.load(Ordering::Relaxed) > CHILDREN);
        assert!(held.iter().all(|hold| number(hold) == 77));
        drop(held);
        assert_eq!(in_use(), 0);
        verify(&family);
        assert_eq!(participation::stats().unwrap().in_flight, 0);
    }

    /// Starts a process that has a pool, attaches that and detaches it: over and over.
    fn meet_others(stop: &AtomicBool) -> usize {
        let mut met = 0;
        while !stop.load(Ordering::Relaxed) {
            let other = fork(|pipe| {
                let mine = numbered(100, 31);
                let (handle, _sent) = mine.send(&mut || true).unwrap();
                drop(mine);
                say(&pipe, &handle.to_bytes());
                hear(&pipe);
                true
            });
            let handle = Handle::from_bytes(&listen::<80>(&other.pipe)).unwrap();
            // Some of them have been forked before there was a family.
            let hold = participation::receive(&handle, &mut || true).or_else(|_| {
                participation::join(&handle, [0; 16], &mut || true)?;
                participation::receive(&handle, &mut || true)
            });
            let hold = hold.unwrap();
            assert_eq!(number(&hold), 31);
            tell(&other.pipe);
            assert!(other.ended_well());
            assert_eq!(number(&hold), 31);
            met += 1;
        }
        met
    }

    pub(super) fn children_forked_while_threads_attach() {
        let stop = AtomicBool::new(false);
        let met = AtomicUsize::new(0);
        let held: Vec<Hold> = vec![numbered(100, 77)];
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (stop, met) = (&stop, &met);
                scope.spawn(move || met.fetch_add(meet_others(stop), Ordering::Relaxed));
            }
            for at in 0..CHILDREN / 2 {
                let handle = held[0].handle().unwrap();
                let again = participation::receive(&handle, &mut || true).unwrap();
                assert!(in_child(|| child(vec![again], at)));
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(met.load(Ordering::Relaxed) > 0);
        drop(held);
        assert_eq!(in_use(), 0);
        participation::trim(true).unwrap();
        assert_eq!(participation::stats().unwrap().attached_segments, 0);
    }

    pub(super) fn the_first_arrays_of_many_threads() {
        let together = Barrier::new(8);
        let families: Vec<[u64; 2]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|at| {
                    let together = &together;
                    scope.spawn(move || {
                        together.wait();
                        let hold = numbered(100, at);
                        assert_eq!(number(&hold), at);
                        hold.handle().unwrap().family
                    })
                })
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(families.iter().all(|family| *family == families[0]));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        // The latter without memfd.
        let places = ["/memfd:shared_numpy", "/dev/shm/"];
        let is_segment = |line: &&str| places.iter().any(|place| line.contains(place));
        let segments = maps.lines().filter(is_segment).count();
        assert_eq!(segments, 2, "one family and one pool:\n{maps}");
        assert_eq!(in_use(), 0);
    }
}
