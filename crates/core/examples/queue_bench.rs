//! What the queue costs: `cargo run --release -p shared-numpy-core --example queue_bench`.
//!
//! `SHARED_NUMPY_TRACKER` names the tracker's executable: without one, memory of children
//! that have ended is out of reach, which the last rows need. Everything that is received
//! is checked. Medians of five runs; the first number of a
//! row is what one put and one get take together.

use std::sync::atomic::Ordering;
use std::time::Instant;

use shared_numpy_core::participation::{self, Hold};
use shared_numpy_core::queue::{Item, Message, Queue, QueueOptions};

fn on() -> bool {
    true
}

fn queue(maxsize: u64) -> Queue {
    let options = QueueOptions {
        maxsize,
        ..QueueOptions::default()
    };
    Queue::create(options, &mut on).unwrap()
}

fn put(queue: &Queue, parts: &[&[u8]], holds: &[&Hold]) {
    queue.put(Item { parts, holds }, None, &mut on).unwrap();
}

fn get(queue: &Queue, message: &mut Message) {
    queue.get(message, None, &mut on).unwrap();
}

/// Runs `work` in a forked child.
fn fork(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child calls what is made to be called there, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    pid
}

fn wait(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "a child failed");
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn five(mut run: impl FnMut() -> f64) -> f64 {
    median((0..5).map(|_| run()).collect())
}

fn check(message: &Message, n: u64) {
    let mut first = [0; 8];
    match message.payload() {
        None => first.copy_from_slice(&message.bytes()[..8]),
        Some((hold, _)) => hold
            .mapping()
            .read_bytes(hold.offset_bytes(), &mut first)
            .unwrap(),
    }
    assert_eq!(u64::from_le_bytes(first), n);
}

/// One process puts and gets in turn.
fn alone(size: usize, rounds: u64) -> f64 {
    let queue = queue(0);
    let mut bytes = vec![7; size];
    let mut message = Message::default();
    five(|| {
        let begin = Instant::now();
        for n in 0..rounds {
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            put(&queue, &[&bytes], &[]);
            get(&queue, &mut message);
            check(&message, n);
        }
        begin.elapsed().as_nanos() as f64 / rounds as f64
    })
}

fn by_handle(size: u64, rounds: u64) -> f64 {
    let queue = queue(0);
    let hold = participation::allocate(size, &mut on).unwrap();
    let word = hold.mapping().shared_word(hold.offset_bytes()).unwrap();
    let mut message = Message::default();
    five(|| {
        let begin = Instant::now();
        for n in 0..rounds {
            word.store(n, Ordering::Relaxed);
            put(&queue, &[b"shape and dtype of an array"], &[&hold]);
            get(&queue, &mut message);
            let got = &message.holds()[0];
            assert_eq!(got.start(), hold.start());
        }
        begin.elapsed().as_nanos() as f64 / rounds as f64
    })
}

/// One process puts, another gets.
fn stream(size: usize, rounds: u64, maxsize: u64) -> f64 {
    let queue = queue(maxsize);
    let back = queue_for_answers();
    let child = fork(|| {
        let mut message = Message::default();
        for n in 0..rounds * 5 {
            get(&queue, &mut message);
            check(&message, n % rounds);
            if n % rounds == rounds - 1 {
                put(&back, &[b"done"], &[]);
            }
        }
    });
    let mut bytes = vec![7; size];
    let mut message = Message::default();
    let time = five(|| {
        let begin = Instant::now();
        for n in 0..rounds {
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            put(&queue, &[&bytes], &[]);
        }
        get(&back, &mut message);
        begin.elapsed().as_nanos() as f64 / rounds as f64
    });
    wait(child);
    time
}

fn queue_for_answers() -> Queue {
    queue(0)
}

/// p50 and p99 of a round trip, in nanoseconds.
fn ping_pong(rounds: u64) -> (f64, f64) {
    let there = queue(0);
    let back = queue(0);
    let child = fork(|| {
        let mut message = Message::default();
        for _ in 0..rounds {
            get(&there, &mut message);
            put(&back, &[message.bytes()], &[]);
        }
    });
    let mut message = Message::default();
    let mut times: Vec<f64> = (0..rounds)
        .map(|n| {
            let mut bytes = [1; 64];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            let begin = Instant::now();
            put(&there, &[&bytes], &[]);
            get(&back, &mut message);
            let time = begin.elapsed().as_nanos() as f64;
            check(&message, n);
            time
        })
        .collect();
    wait(child);
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Four processes put, four get; time for each item.
fn four_by_four(size: usize, each: u64, maxsize: u64) -> f64 {
    five(|| {
        let queue = queue(maxsize);
        let sum = participation::allocate(8, &mut on).unwrap();
        let word = sum.mapping().shared_word(sum.offset_bytes()).unwrap();
        word.store(0, Ordering::Relaxed);
        let begin = Instant::now();
        let mut children = Vec::new();
        for who in 0..4 {
            children.push(fork(|| {
                let mut bytes = vec![7; size];
                for n in 0..each {
                    bytes[..8].copy_from_slice(&(who * each + n).to_le_bytes());
                    put(&queue, &[&bytes], &[]);
                }
            }));
            children.push(fork(|| {
                let mut message = Message::default();
                let mut total = 0;
                for _ in 0..each {
                    get(&queue, &mut message);
                    let mut first = [0; 8];
                    first.copy_from_slice(&message.bytes()[..8]);
                    total += u64::from_le_bytes(first);
                }
                word.fetch_add(total, Ordering::Relaxed);
            }));
        }
        for child in children {
            wait(child);
        }
        let all = 4 * each;
        let time = begin.elapsed().as_nanos() as f64 / all as f64;
        assert_eq!(word.load(Ordering::Relaxed), all * (all - 1) / 2);
        time
    })
}

fn row(what: &str, ns: f64) {
    println!("{what:<58} {ns:>12.0} ns");
}

fn main() {
    participation::configure(participation::Options {
        executable: std::env::var_os("SHARED_NUMPY_TRACKER")
            .unwrap_or_default()
            .into(),
        ..participation::Options::default()
    });
    row("put + get, one process, 64 B", alone(64, 200_000));
    row("put + get, one process, 1 KiB", alone(1024, 200_000));
    row(
        "put + get, one process, 16 KiB (inline)",
        alone(16 << 10, 50_000),
    );
    row(
        "put + get, one process, 17 KiB (block)",
        alone(17 << 10, 50_000),
    );
    row("put + get, one process, 1 MiB", alone(1 << 20, 2_000));
    row(
        "put + get, one process, handle of 1 KiB",
        by_handle(1024, 200_000),
    );
    row(
        "put + get, one process, handle of 36 MB",
        by_handle(36_000_000, 200_000),
    );
    row(
        "put -> get, two processes, 1 KiB",
        stream(1024, 100_000, 64),
    );
    row(
        "put -> get, two processes, 1 MiB, maxsize 64",
        stream(1 << 20, 1_000, 64),
    );
    row(
        "put -> get, two processes, 1 MiB, maxsize 2",
        stream(1 << 20, 1_000, 2),
    );
    let (p50, p99) = ping_pong(20_000);
    row("ping-pong, 64 B, p50", p50);
    row("ping-pong, 64 B, p99", p99);
    row("4 x 4, 1 KiB, no limit", four_by_four(1024, 20_000, 0));
    row(
        "4 x 4, 1 KiB, maxsize 1000",
        four_by_four(1024, 20_000, 1000),
    );
}
