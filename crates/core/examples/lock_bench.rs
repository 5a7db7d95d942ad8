//! How long acquire and release take, alone and with another process at it, beside a
//! POSIX semaphore in the same memory (which is what `multiprocessing.Lock` is).
//!
//! `cargo run --release -p shared-numpy-core --example lock_bench`. What each process
//! counted under the lock is compared with how often it had it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use shared_numpy_core::layout::Participant;
use shared_numpy_core::lock::kernel::System;
use shared_numpy_core::lock::mutex::{self, Lock, RLock};
use shared_numpy_core::lock::semaphore::Semaphore;
use shared_numpy_core::lock::wait::Wait;
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::sys::anon;

const BYTES: usize = 4096;
const LOCK_AT: usize = 0;
const SEMAPHORE_AT: usize = 128;
const POSIX_AT: usize = 256;
/// How many processes are ready, and what they count under the lock.
const READY_AT: usize = 512;
const COUNT_AT: usize = 640;
const ALONE: u64 = 5_000_000;
const CONTENDING: u64 = 1_000_000;
const ROUNDS: usize = 5;
const CHILD: &str = "LOCK_BENCH_FD";
const KIND: &str = "LOCK_BENCH_KIND";

fn me() -> Participant {
    Participant {
        slot: 1 + usize::from(std::env::var(CHILD).is_ok()),
        generation: 1,
    }
}

fn with_wait<T>(run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
    run(&mut Wait {
        me: me_cached(),
        watch: None,
        timeout_ns: None,
        is_gone: &mut |_| false,
        keep_going: &mut || true,
    })
}

fn me_cached() -> Participant {
    static ME: std::sync::OnceLock<Participant> = std::sync::OnceLock::new();
    *ME.get_or_init(me)
}

fn posix(memory: &Mapping) -> *mut libc::sem_t {
    memory.start().as_ptr().wrapping_add(POSIX_AT).cast()
}

/// Acquires, counts, releases, `times` times; nanoseconds for each.
fn run(memory: &Mapping, kind: &str, times: u64) -> f64 {
    let count = || {
        let count = memory.load_u64(COUNT_AT).unwrap();
        memory.store_u64(COUNT_AT, count + 1).unwrap();
    };
    let begin = Instant::now();
    match kind {
        "Lock" => {
            for _ in 0..times {
                let lock: Lock<'_, System> = Lock::at(memory, LOCK_AT).unwrap();
                with_wait(|wait| lock.acquire(wait)).unwrap();
                count();
                lock.release(me_cached());
            }
        }
        "RLock" => {
            let thread = std::num::NonZeroU64::MIN;
            for _ in 0..times {
                let lock = RLock::at(memory, LOCK_AT).unwrap();
                with_wait(|wait| lock.acquire(wait, thread)).unwrap();
                count();
                lock.release(me_cached(), thread);
            }
        }
        "Semaphore" => {
            for _ in 0..times {
                let semaphore = Semaphore::at(memory, SEMAPHORE_AT).unwrap();
                with_wait(|wait| semaphore.acquire(wait)).unwrap();
                count();
                semaphore.release(1);
            }
        }
        _ => {
            for _ in 0..times {
                // SAFETY: `main` initialised it, shared between processes, in memory that
                // stays mapped.
                while unsafe { libc::sem_wait(posix(memory)) } != 0 {}
                count();
                // SAFETY: as above.
                unsafe { libc::sem_post(posix(memory)) };
            }
        }
    }
    begin.elapsed().as_nanos() as f64 / times as f64
}

fn meet(memory: &Mapping) {
    let ready = memory.shared_word(READY_AT).unwrap();
    ready.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    while ready.load(std::sync::atomic::Ordering::SeqCst) < 2 {
        std::thread::yield_now();
    }
}

fn contend(memory: &Mapping, fd: &OwnedFd, kind: &str) -> f64 {
    memory.store_u64(READY_AT, 0).unwrap();
    memory.store_u64(COUNT_AT, 0).unwrap();
    // Without CLOEXEC.
    let copy = rustix::io::dup(fd).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, copy.as_raw_fd().to_string())
        .env(KIND, kind)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    meet(memory);
    let begin = Instant::now();
    run(memory, kind, CONTENDING);
    let output = child.wait_with_output().unwrap();
    // Both together: acquisitions a second is what counts.
    let ns = begin.elapsed().as_nanos() as f64 / (2 * CONTENDING) as f64;
    assert!(output.status.success());
    assert_eq!(memory.load_u64(COUNT_AT).unwrap(), 2 * CONTENDING, "{kind}");
    ns
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    if let (Ok(fd), Ok(kind)) = (std::env::var(CHILD), std::env::var(KIND)) {
        let path = format!("/proc/self/fd/{fd}");
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let memory = Mapping::new(&fd, BYTES, false).unwrap();
        meet(&memory);
        run(&memory, &kind, CONTENDING);
        return;
    }
    let fd = anon::create(BYTES as u64).unwrap();
    let memory = Mapping::new(&fd, BYTES, false).unwrap();
    mutex::create(&memory, LOCK_AT).unwrap();
    Semaphore::create(&memory, SEMAPHORE_AT, 1).unwrap();
    // SAFETY: inside the mapping, aligned to 128 bytes, and used by nobody yet.
    assert_eq!(unsafe { libc::sem_init(posix(&memory), 1, 1) }, 0);
    println!("acquire + release, ns (median of {ROUNDS})");
    println!("{:12} {:>8} {:>22}", "", "alone", "two processes, each");
    for kind in ["sem_t", "Lock", "RLock", "Semaphore"] {
        memory.store_u64(COUNT_AT, 0).unwrap();
        let alone = median((0..ROUNDS).map(|_| run(&memory, kind, ALONE)).collect());
        let counted = memory.load_u64(COUNT_AT).unwrap();
        assert_eq!(counted, ALONE * ROUNDS as u64, "{kind}");
        let both = median((0..ROUNDS).map(|_| contend(&memory, &fd, kind)).collect());
        println!("{kind:12} {alone:8.1} {both:22.1}");
    }
}
