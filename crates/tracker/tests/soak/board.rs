//! Figures in memory that all processes of a run share and that outlives each of them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Workers, each with an inbox that survives it.
pub(crate) const WORKERS: usize = 8;
/// Children of workers, at most.
pub(crate) const CHILDREN: usize = 24;
/// The places on the board: workers, their children, the root.
pub(crate) const PLACES: usize = WORKERS + CHILDREN + 1;
pub(crate) const ROOT: usize = PLACES - 1;

/// No pid has this bit.
pub(crate) const CLAIMED: u32 = 1 << 31;

/// What a process may be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Doing {
    Nothing = 0,
    Allocate,
    Fill,
    Send,
    Receive,
    Verify,
    Slice,
    Fork,
    Drop,
    DropInherited,
    Trim,
    Stats,
}

impl Doing {
    pub(crate) const ALL: [Doing; 12] = [
        Doing::Nothing,
        Doing::Allocate,
        Doing::Fill,
        Doing::Send,
        Doing::Receive,
        Doing::Verify,
        Doing::Slice,
        Doing::Fork,
        Doing::Drop,
        Doing::DropInherited,
        Doing::Trim,
        Doing::Stats,
    ];
}

/// The figures.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Board {
    pub(crate) stop: AtomicU32,
    pub(crate) allocated: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) withdrawn: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) verified: AtomicU64,
    /// Their owner or their sender was killed.
    pub(crate) stale: AtomicU64,
    /// The tracker was.
    pub(crate) unreachable: AtomicU64,
    pub(crate) forked: AtomicU64,
    /// Longer than a second.
    pub(crate) slow: AtomicU64,
    /// The longest of each kind, in nanoseconds.
    pub(crate) longest_ns: [AtomicU64; 12],
    pub(crate) places: [Place; PLACES],
}

/// What one process is doing now.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Place {
    /// 0: free. With [`CLAIMED`]: of the process that is about to fork the one meant.
    pub(crate) pid: AtomicU32,
    doing: AtomicU32,
    since_ns: AtomicU64,
}

impl Board {
    /// For this process and those that it will fork.
    pub(crate) fn new() -> &'static Self {
        // SAFETY: asks for new memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Board>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: page-aligned, large enough, never unmapped; zeros are a good value of
        // each field, all of which are atomic.
        unsafe { &*start.cast() }
    }

    /// Does something at `place` and writes down how long it took.
    pub(crate) fn timed<T>(&self, place: usize, doing: Doing, work: impl FnOnce() -> T) -> T {
        let at = &self.places[place];
        let begin = Instant::now();
        at.since_ns.store(now_ns(), Ordering::Relaxed);
        at.doing.store(doing as u32, Ordering::Release);
        let done = work();
        at.doing.store(0, Ordering::Release);
        let took = begin.elapsed();
        self.longest_ns[doing as usize].fetch_max(took.as_nanos() as u64, Ordering::Relaxed);
        if took > Duration::from_secs(1) {
            self.slow.fetch_add(1, Ordering::Relaxed);
            eprintln!("slow: {doing:?} took {took:?}");
        }
        done
    }

    /// What the process at `place` has been doing for how long.
    pub(crate) fn doing(&self, place: usize) -> (Doing, Duration) {
        let at = &self.places[place];
        let doing = Doing::ALL[at.doing.load(Ordering::Acquire) as usize];
        let since = at.since_ns.load(Ordering::Relaxed);
        let elapsed = Duration::from_nanos(now_ns().saturating_sub(since));
        (doing, elapsed)
    }

    /// The process at `place` is another from now on.
    pub(crate) fn seat(&self, place: usize, pid: u32) {
        self.places[place].doing.store(0, Ordering::Relaxed);
        self.places[place].pid.store(pid, Ordering::Release);
    }

    /// The process at `place`, if there is one.
    pub(crate) fn pid(&self, place: usize) -> Option<u32> {
        let pid = self.places[place].pid.load(Ordering::Acquire);
        (pid != 0 && pid & CLAIMED == 0).then_some(pid)
    }

    /// A process was collected: its place is free, and what it had claimed.
    pub(crate) fn vacate(&self, pid: u32) {
        for place in &self.places {
            for of_it in [pid, pid | CLAIMED] {
                let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
                let _ = place.pid.compare_exchange(of_it, 0, order, failed);
            }
        }
    }

    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed) != 0
    }
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
