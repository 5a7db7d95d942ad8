//! The process that starts the others, kills them, and accounts for everything at the end.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared_numpy_core::inspect;
use shared_numpy_core::layout::SLOTS;
use shared_numpy_core::participation::{self, Hold, Options};
use shared_numpy_core::pool::family::{FREE, Family, LIVE, RESERVED};
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::sys::fd;

use crate::board::{Board, Doing, PLACES, ROOT, WORKERS};
use crate::letter::{Letter, Random, fill, verify};
use crate::outside::{Marked, segments_of};
use crate::worker::{Process, WRONG, fork};
use crate::{SOON, setting};

/// An operation that takes longer is a hang, whatever the machine is busy with.
const HANG: Duration = Duration::from_secs(5);
/// How long peace lasts.
const PEACE: Duration = Duration::from_secs(2);
const CANARY: u64 = 0x00c0_ffee;

struct Root<'a> {
    me: Process<'a>,
    /// Held from the first to the last, by everybody.
    canary: Hold,
    workers: [u32; WORKERS],
    kills: u64,
    tracker_kills: u64,
}

pub(crate) fn run(role: &str) {
    // Children of workers that died come to us, and so does the tracker.
    // SAFETY: sets a flag of this process.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let executable = match role {
        "alone" => PathBuf::from("/nonexistent/shared-numpy-tracker"),
        _ => PathBuf::from(env!("CARGO_BIN_EXE_shared-numpy-tracker")),
    };
    participation::configure(Options {
        executable,
        ..Options::default()
    });
    let (posts, inboxes): (Vec<_>, Vec<_>) =
        (0..=WORKERS).map(|_| UnixDatagram::pair().unwrap()).unzip();
    for socket in posts.iter().chain(&inboxes) {
        socket.set_nonblocking(true).unwrap();
    }
    let canary = participation::allocate(100_000, &mut || true).unwrap();
    fill(&canary, CANARY);
    let mut root = Root {
        me: Process {
            board: Board::new(),
            place: ROOT,
            posts: &posts,
            inboxes: &inboxes,
            kept: Vec::new(),
            random: Random::new(),
            is_exact: matches!(role, "peace" | "kept"),
        },
        canary,
        workers: [0; WORKERS],
        kills: 0,
        tracker_kills: 0,
    };
    let begin = Instant::now();
    for slot in 0..WORKERS {
        root.start(slot);
    }
    if role == "peace" {
        root.watch(PEACE);
    } else {
        let limit = Duration::from_secs(setting("SHARED_NUMPY_SOAK_S", 30));
        let kills = setting("SHARED_NUMPY_SOAK_KILLS", 150);
        while root.kills < kills && begin.elapsed() < limit {
            root.kill_somebody();
            if role == "tracked" && root.me.random.below(25) == 0 {
                root.kill_tracker();
            }
        }
    }
    root.stop();
    root.print(role, begin.elapsed());
    root.account(role);
}

impl Root<'_> {
    fn board(&self) -> &'static Board {
        self.me.board
    }

    /// Forks a worker. It inherits what the root has just now.
    fn start(&mut self, slot: usize) {
        let pid = fork(|| {
            self.board().seat(slot, std::process::id());
            self.me.place = slot;
            self.me.random = Random::new();
            verify(&self.canary, CANARY);
            if self.me.random.below(2) == 0 {
                participation::drop_inherited().unwrap();
                assert!(self.canary.is_dropped());
                self.me.kept.clear();
            }
            self.me.work();
        });
        self.workers[slot] = pid;
    }

    /// A little later somebody dies. Meanwhile the root is one of them.
    fn kill_somebody(&mut self) {
        let pause = Duration::from_micros(self.me.random.below(8000) as u64);
        self.watch(pause);
        let at = self.me.random.below(PLACES - 1);
        let pid = if at < WORKERS || self.me.random.below(2) == 0 {
            Some(self.workers[at % WORKERS])
        } else {
            self.board().pid(at)
        };
        if let Some(pid) = pid {
            // SAFETY: a worker or a child of one. Both are collected by nobody but us, so the
            // number is still its own.
            let killed = unsafe { libc::kill(pid as i32, libc::SIGKILL) };
            self.kills += u64::from(killed == 0);
            self.collect();
        }
    }

    /// The tracker: a child of ours, since who started it is not its parent for long.
    fn kill_tracker(&mut self) {
        for pid in Marked::own().processes() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            if name.is_ok_and(|name| name.starts_with("shared-numpy-tr")) {
                // SAFETY: it has the mark of this run.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                self.tracker_kills += 1;
            }
        }
    }

    /// Takes part for so long, and looks that nobody hangs.
    fn watch(&mut self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            match self.me.random.below(4) {
                0 => self.me.allocate(),
                1 => self.me.send(),
                2 => (0..20).for_each(|_| self.me.receive()),
                _ => self.me.drop_one(),
            }
            while self.me.kept.len() > 8 {
                self.me.drop_one();
            }
            self.collect();
            self.find_hangs();
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn find_hangs(&self) {
        for place in 0..ROOT {
            let (doing, time) = self.board().doing(place);
            if let Some(pid) = self.board().pid(place)
                && doing != Doing::Nothing
                && time > HANG
            {
                let read = |what| std::fs::read_to_string(format!("/proc/{pid}/{what}"));
                let stat = read("stat").unwrap_or_default();
                // Killed in the middle, a child of a worker's that lives on does not hang.
                if stat.is_empty() || stat.contains(") Z ") {
                    continue;
                }
                panic!(
                    "{pid} hangs: {doing:?} for {time:?}; {stat:?} {:?} {:?}",
                    read("wchan"),
                    read("syscall")
                );
            }
        }
    }

    /// Collects the dead, and forks new workers for those that died.
    fn collect(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: collects a child of ours and writes into a local.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let is_wrong = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == WRONG;
            let is_crash = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) != libc::SIGKILL;
            assert!(
                !is_wrong && !is_crash,
                "{pid} ended with status {status:#x}"
            );
            self.board().vacate(pid as u32);
            if let Some(slot) = self.workers.iter().position(|&it| it == pid as u32) {
                self.workers[slot] = 0;
                if !self.board().stops() {
                    self.start(slot);
                }
            }
        }
    }

    /// Everybody drops what it has and ends.
    fn stop(&mut self) {
        self.board().stop.store(1, Ordering::Relaxed);
        let begin = Instant::now();
        let is_other = |pid: &i32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            *pid != std::process::id() as i32
                && !name.is_ok_and(|name| name.starts_with("shared-numpy-tr"))
        };
        while Marked::own().processes().iter().any(is_other) {
            self.collect();
            self.find_hangs();
            assert!(begin.elapsed() < SOON, "{}", Marked::own().describe());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.collect();
        // What is still on its way is as good as before.
        for inbox in self.me.inboxes {
            while let Some(letter) = Letter::take_from(inbox) {
                self.me.open(letter);
                self.me.kept.clear();
            }
        }
        self.me.kept.clear();
    }

    fn print(&self, role: &str, took: Duration) {
        let board = self.board();
        let count = |what: &std::sync::atomic::AtomicU64| what.load(Ordering::Relaxed);
        let longest: Vec<_> = Doing::ALL[1..]
            .iter()
            .map(|&doing| {
                let time = Duration::from_nanos(count(&board.longest_ns[doing as usize]));
                format!("{doing:?} {time:.1?}")
            })
            .collect();
        eprintln!(
            "soak {role}: {} kills (and {} of the tracker), {} forks by workers, {} allocated, \
             {} sent, {} withdrawn, {} received and verified, {} verified again, {} stale, \
             {} without a tracker, {} longer than 1 s, in {took:.1?}; longest: {}",
            self.kills,
            self.tracker_kills,
            count(&board.forked),
            count(&board.allocated),
            count(&board.sent),
            count(&board.withdrawn),
            count(&board.received),
            count(&board.verified),
            count(&board.stale),
            count(&board.unreachable),
            count(&board.slow),
            longest.join(", ")
        );
        let longest = board.longest_ns.iter().map(count).max().unwrap_or(0);
        assert!(Duration::from_nanos(longest) < HANG, "a hang");
        assert!(count(&board.received) > 0);
    }

    /// Nothing is left but the canary; then not even that.
    fn account(self, role: &str) {
        verify(&self.canary, CANARY);
        let canary_bytes = self.canary.size_bytes() as u64;
        let family = family_of(&self.canary);
        // Tokens of the dead, and handles that reached nobody.
        let begin = Instant::now();
        loop {
            participation::trim(true).unwrap();
            let stats = participation::stats().unwrap();
            let slots = slots_in_use(&family, role != "alone");
            let slots_left = 1 + usize::from(tracker().is_some());
            if stats.in_use_bytes == canary_bytes
                && stats.in_flight == 0
                && stats.attached_segments == 0
                && slots.len() == slots_left
            {
                break;
            }
            assert!(
                begin.elapsed() < SOON,
                "left: {stats:?}, slots {slots:?}, {}",
                Marked::own().describe()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(inspect::verify_family(&family).unwrap(), []);
        drop(self.canary);
        participation::trim(false).unwrap();
        let stats = participation::stats().unwrap();
        assert_eq!((stats.in_use_bytes, stats.held_blocks), (0, 0), "{stats:?}");
        assert_eq!(stats.by_holder, []);
        // The memory of others is gone: nobody has more than the family and our pool.
        let own = segments_of(std::process::id() as i32);
        assert_eq!(own.len(), 1 + stats.segments, "{own:?}");
        let begin = Instant::now();
        while let others = Marked::own().segments()
            && others != own
        {
            assert!(begin.elapsed() < SOON, "{}", Marked::own().describe());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(role != "alone" || tracker().is_none());
        verify_own(family);
    }
}

/// The tracker's pid.
fn tracker() -> Option<i32> {
    Marked::own().processes().into_iter().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.starts_with("shared-numpy-tr"))
    })
}

/// The family of a hold, mapped once more.
fn family_of(hold: &Hold) -> Family {
    let (handle, sent) = hold.send(&mut || true).unwrap();
    sent.withdraw();
    let number = handle.hints.family_fd;
    Family::attach(fd::of_process(std::process::id(), number).unwrap()).unwrap()
}

/// The slots that are not free: index, state. Those of who was killed while it joined count
/// only where a tracker is there to give them back (docs/crash_safety.md).
fn slots_in_use(family: &Family, count_joiners: bool) -> Vec<(usize, u64)> {
    (0..SLOTS)
        .map(|index| (index, family.slot(index).unwrap()))
        .filter(|(_, slot)| slot.state != FREE)
        .filter(|&(index, slot)| count_joiners || (slot.state, slot.by) != (RESERVED, index))
        .map(|(index, slot)| (index, slot.state))
        .inspect(|&(_, state)| assert!(state <= LIVE + 2))
        .collect()
}

/// Every invariant of each segment of our pool.
fn verify_own(family: Family) {
    let family = std::sync::Arc::new(family);
    let mut verified = 0;
    for number in 3..256 {
        let Ok(file) = fd::of_process(std::process::id(), number) else {
            continue;
        };
        if let Ok(segment) = PoolSegment::attach(&file, std::sync::Arc::clone(&family)) {
            assert_eq!(inspect::verify_settled(&segment).unwrap(), []);
            let snapshot = inspect::snapshot(&segment).unwrap();
            assert_eq!(
                (snapshot.open, snapshot.held, snapshot.in_flight),
                (0, 0, 0)
            );
            verified += 1;
        }
    }
    assert!(verified > 0);
}
