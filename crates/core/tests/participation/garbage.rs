//! Random bytes over the family and over segments, own and attached, while a process and
//! its peer use them: errors, or values inside their limits; nobody panics, leaves its
//! memory or runs for ever. `SHARED_NUMPY_FUZZ_N` sets the number of rounds.

use crate::alone::scenarios;

scenarios! {
    garbage_under_a_running_process
}

mod scenarios {
    use std::io::Read;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use shared_numpy_core::layout::FAMILY_BYTES;
    use shared_numpy_core::mapping::Mapping;
    use shared_numpy_core::participation::{self, Handle, Hold};
    use shared_numpy_core::sys::{fd, shm};

    use crate::alone::*;
    use crate::garbage_common::choices::{Choices, Seeded};
    use crate::garbage_common::rounds;

    const ROUNDS: u64 = 20;
    /// Of scribbling, in each round.
    const STROKES: usize = 60;
    /// A round takes a second; where garbage made a table of tokens as long as it can be, some.
    const PATIENCE: Duration = Duration::from_secs(120);
    /// What lies before the data of a segment, more or less.
    const TABLES_BYTES: usize = 13 << 20;

    /// Writes over words that are already there, so that memory is not made of holes.
    fn scribble(choices: &mut Seeded, mapping: &Mapping, to: usize) {
        let to = to.min(mapping.len());
        // The headers and the first words of each table are where it hurts.
        let near = [256, 4096, 64 << 10, to][choices.below(4)].min(to);
        for _ in 0..=choices.below(8) {
            let at = choices.below(near / 8) * 8;
            if mapping.load_u64(at).is_ok_and(|word| word != 0) || choices.below(8) == 0 {
                let word = choices.word();
                mapping.store_u64(at, word).unwrap();
            }
        }
    }

    /// Once more what a hint leads to.
    fn map(pid: u32, number: i32) -> Mapping {
        let fd = fd::of_process(pid, number).unwrap();
        let size = shm::status(&fd).unwrap().size_bytes;
        Mapping::new(&fd, size as usize, false).unwrap()
    }

    fn check(hold: &Hold) {
        assert!(hold.offset_bytes() + hold.size_bytes() <= hold.mapping().len());
        let _ = number(hold);
    }

    /// Everything there is, with all answers allowed.
    fn use_everything(seed: u64, known: &[Handle], mut is_over: impl FnMut() -> bool) {
        let mut choices = Seeded::new(seed);
        let mut kept = Vec::new();
        let mut handles = known.to_vec();
        while !is_over() {
            match choices.below(12) {
                0..3 => kept.extend(participation::allocate(
                    64 << choices.below(16),
                    &mut || true,
                )),
                3..5 if !kept.is_empty() => {
                    let hold: &Hold = &kept[choices.below(kept.len())];
                    check(hold);
                    if let Ok((handle, sent)) = hold.send(&mut || true) {
                        handles.push(handle);
                        if choices.below(2) == 0 {
                            sent.withdraw();
                        }
                    }
                }
                5..8 => {
                    let mut handle = handles[choices.below(handles.len())];
                    match choices.below(6) {
                        0 => handle.block = choices.word() as u32,
                        1 => handle.generation = choices.word(),
                        2 => handle.number = choices.word(),
                        3 => handle.owner.slot = choices.below(1024),
                        _ => {}
                    }
                    if let Ok(hold) = participation::receive(&handle, &mut || true) {
                        check(&hold);
                        kept.push(hold);
                    }
                }
                8 => {
                    let _ = participation::stats();
                }
                9 => {
                    let _ = participation::trim(choices.below(4) == 0);
                }
                10 if choices.below(8) == 0 => {
                    let _ = participation::drop_inherited();
                }
                _ => {}
            }
            while kept.len() > 12 || (choices.below(3) == 0 && !kept.is_empty()) {
                kept.swap_remove(choices.below(kept.len()));
            }
            while handles.len() > known.len() + 8 {
                handles.swap_remove(known.len());
            }
        }
    }

    /// One process and its peer, until both have had enough.
    fn round(seed: u64) -> bool {
        let mut choices = Seeded::new(seed);
        let stop = AtomicBool::new(false);
        let mine = numbered(5000, 1);
        let peer = fork(|pipe| {
            let theirs = numbered(5000, 2);
            say(&pipe, &theirs.handle().unwrap().to_bytes());
            let known = [theirs.handle().unwrap(), mine.handle().unwrap()];
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    use_everything(seed ^ 5, &known, || stop.load(Ordering::Relaxed));
                });
                // Until the other end is closed.
                let _ = (&pipe).read(&mut [0]);
                stop.store(true, Ordering::Relaxed);
                thread.join().is_ok()
            })
        });
        let theirs = Handle::from_bytes(&listen::<80>(&peer.pipe)).unwrap();
        let attached = participation::receive(&theirs, &mut || true).unwrap();
        let (own, sent) = mine.send(&mut || true).unwrap();
        sent.withdraw();
        let pid = std::process::id();
        let family = map(pid, own.hints.family_fd);
        assert_eq!(family.len(), FAMILY_BYTES);
        let segments = [
            map(pid, own.hints.segment_fd),
            map(peer.pid as u32, theirs.hints.segment_fd),
        ];
        let known = [own, theirs];
        let is_good = std::thread::scope(|scope| {
            let threads = [1, 2].map(|at| {
                let (stop, known) = (&stop, &known);
                scope.spawn(move || {
                    use_everything(seed ^ at, known, || stop.load(Ordering::Relaxed));
                })
            });
            for _ in 0..STROKES {
                match choices.below(3) {
                    0 => scribble(&mut choices, &family, FAMILY_BYTES),
                    at => scribble(&mut choices, &segments[at - 1], TABLES_BYTES),
                }
                if choices.below(10) == 0 {
                    // Without a thread of its own: the standard library's lock for making
                    // one may have been another thread's when it was forked.
                    let child = || {
                        let begin = Instant::now();
                        let is_over = || begin.elapsed() > Duration::from_millis(2);
                        use_everything(seed ^ 9, &known, is_over);
                        true
                    };
                    assert!(in_child(child));
                }
                std::thread::sleep(Duration::from_micros(choices.below(500) as u64));
            }
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().all(|thread| thread.join().is_ok())
        });
        check(&mine);
        check(&attached);
        drop((mine, attached));
        is_good && peer.ended_well()
    }

    pub(super) fn garbage_under_a_running_process() {
        for seed in 0..rounds(ROUNDS) {
            // Each in a process of its own, with a family of its own.
            let child = fork(|_pipe| round(seed));
            let begin = Instant::now();
            let mut status = 0;
            // SAFETY: asks after our own child and writes into a local.
            while unsafe { libc::waitpid(child.pid, &mut status, libc::WNOHANG) } == 0 {
                if begin.elapsed() > PATIENCE {
                    println!("round {seed} hangs: {}", child.pid);
                    child.kill();
                    panic!("round {seed} hangs");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(status, 0, "round {seed}");
        }
    }
}
