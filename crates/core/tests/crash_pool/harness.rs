//! Children that are this very test binary, and what a survivor does after a kill.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use shared_numpy_core::fault;
use shared_numpy_core::inspect;
use shared_numpy_core::layout::{Participant, SLOTS};
use shared_numpy_core::pool::closer::Closer;
use shared_numpy_core::pool::family::{FREE, Family, LIVE, RESERVED};
use shared_numpy_core::pool::holder::Holder;
use shared_numpy_core::pool::owner::{BlockName, Pool, PoolOptions};
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::recover::recover_all;

pub(crate) const ROLE: &str = "SNP_TEST_ROLE";
pub(crate) const FAMILY_FD: &str = "SNP_TEST_FAMILY_FD";
pub(crate) const SEGMENT_FD: &str = "SNP_TEST_SEGMENT_FD";
/// Size of the segments here, in bytes of data.
pub(crate) const DATA_BYTES: u64 = 1 << 20;
/// No child takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a descriptor that the parent left open for us.
pub(crate) fn inherited(variable: &str) -> OwnedFd {
    let number = std::env::var(variable).unwrap();
    let path = format!("/proc/self/fd/{number}");
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(crate) fn options() -> PoolOptions {
    PoolOptions {
        first_segment_bytes: DATA_BYTES,
        ..PoolOptions::default()
    }
}

/// Attaches a segment and registers a row in it.
pub(crate) fn attach(family: &Arc<Family>, fd: &OwnedFd, who: Participant) -> Holder {
    let segment = PoolSegment::attach(fd, Arc::clone(family)).unwrap();
    segment.register_row(who, Some(fd.as_fd())).unwrap();
    Holder::new(Arc::new(segment), who).unwrap()
}

/// The word at this byte of a block of `seed`.
pub(crate) fn pattern(seed: u64, at: usize) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at as u64
}

/// Fills a block with a pattern of `seed`.
pub(crate) fn fill(segment: &PoolSegment, offset: usize, size: usize, seed: u64) {
    for at in (0..size).step_by(8) {
        segment
            .mapping()
            .store_u64(offset + at, pattern(seed, at))
            .unwrap();
    }
}

/// Whether the block still has the pattern of `seed`.
pub(crate) fn is_filled(segment: &PoolSegment, offset: usize, size: usize, seed: u64) -> bool {
    (0..size)
        .step_by(8)
        .all(|at| segment.mapping().load_u64(offset + at) == Ok(pattern(seed, at)))
}

/// A child with pipes for lines; killed and waited for at the end.
pub(crate) struct Peer {
    child: Child,
    pub(crate) input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    forwarder: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts a child in `role`, killed at `fault` (`name` or `name:n`).
    pub(crate) fn start(
        role: &str,
        fault: Option<&str>,
        family_fd: &OwnedFd,
        segment_fd: &OwnedFd,
        words: &[(&str, String)],
    ) -> Self {
        // Copies without CLOEXEC: dropped, and so closed here, once the child runs.
        let fds = [family_fd, segment_fd].map(|fd| rustix::io::dup(fd).unwrap());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "child_of_a_test",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, role)
            .env(FAMILY_FD, fds[0].as_raw_fd().to_string())
            .env(SEGMENT_FD, fds[1].as_raw_fd().to_string())
            .envs(words.iter().map(|(name, value)| (*name, value.as_str())))
            .env_remove(fault::VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(fault) = fault {
            command.env(fault::VARIABLE, fault);
        }
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = child.stdout.take().map(BufReader::new);
        Peer {
            child,
            input,
            output,
            forwarder: None,
        }
    }

    pub(crate) fn pid(&self) -> u64 {
        u64::from(self.child.id())
    }

    /// The next line the child said to us; `None` when it ended.
    pub(crate) fn hear(&mut self) -> Option<Vec<u64>> {
        hear(self.output.as_mut()?)
    }

    /// From now on what the child says goes there.
    pub(crate) fn forward(&mut self, to: Sender<Vec<u64>>) {
        let mut output = self.output.take().unwrap();
        self.forwarder = Some(std::thread::spawn(move || {
            while let Some(words) = hear(&mut output) {
                let _ = to.send(words);
            }
        }));
    }

    /// Says a line to the child; a dead one does not mind.
    pub(crate) fn say(&mut self, words: &[u64]) {
        if let Some(input) = &mut self.input {
            let _ = writeln!(input, "{}", join(words));
        }
    }

    /// Whether it has ended, without waiting.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for the end; `true` when it was SIGKILL, `false` for success.
    pub(crate) fn ended_by_kill(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        drop(self.input.take());
        while self.hear().is_some() {}
        if let Some(forwarder) = self.forwarder.take() {
            forwarder.join().unwrap();
        }
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success() || status.signal() == Some(9), "{status:?}");
                return !status.success();
            }
            assert!(begin.elapsed() < PATIENCE, "a child hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hear(output: &mut BufReader<ChildStdout>) -> Option<Vec<u64>> {
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).ok()? == 0 {
            return None;
        }
        // The test harness talks on the same pipe. A last line may be half a line.
        if let Some((_, said)) = line.split_once('@')
            && line.ends_with('\n')
        {
            return Some(numbers(said));
        }
    }
}

/// In the child: says a line to the parent.
pub(crate) fn tell(words: &[u64]) {
    println!("@{}", join(words));
}

/// In the child: the next line of the parent; `None` when it closed the pipe.
pub(crate) fn listen() -> Option<Vec<u64>> {
    let mut line = String::new();
    let len = std::io::stdin().read_line(&mut line).ok()?;
    (len > 0).then(|| numbers(&line))
}

pub(crate) fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect()
}

pub(crate) fn join(words: &[u64]) -> String {
    let words: Vec<_> = words.iter().map(u64::to_string).collect();
    words.join(" ")
}

/// The survivor: a family, its own slot, and a pool that it owns.
pub(crate) struct Survivor {
    pub(crate) family: Arc<Family>,
    pub(crate) family_fd: OwnedFd,
    pub(crate) me: Participant,
    pub(crate) pool: Pool,
}

impl Survivor {
    pub(crate) fn new() -> Self {
        let (family, family_fd) = Family::create().unwrap();
        let family = Arc::new(family);
        let me = family.join().unwrap();
        let pool = Pool::new(Arc::clone(&family), me, options());
        Survivor {
            family,
            family_fd,
            me,
            pool,
        }
    }

    pub(crate) fn allocate(&mut self, seed: u64) -> BlockName {
        let name = self.pool.allocate(1000, &mut || true).unwrap();
        let segment = self.pool.segment(name.segment).unwrap();
        fill(segment, name.offset_bytes, name.size_bytes, seed);
        name
    }

    pub(crate) fn is_intact(&self, name: BlockName, seed: u64) -> bool {
        let segment = self.pool.segment(name.segment).unwrap();
        is_filled(segment, name.offset_bytes, name.size_bytes, seed)
    }

    /// What the tracker will do when the process `pid` ended: declare dead what was its
    /// own. `None`: every other process has ended (their common pipe is closed), also
    /// those that had a slot reserved.
    pub(crate) fn bury(&self, pid: Option<u64>) {
        for slot in 0..SLOTS {
            let found = self.family.slot(slot).unwrap();
            let who = Participant {
                slot,
                generation: found.generation,
            };
            let is_its = match pid {
                // A slot that is being left has no identity any more.
                Some(pid) => self.family.identity(who).is_ok_and(|its| its.pid == pid),
                None => matches!(found.state, LIVE | RESERVED) && who != self.me,
            };
            if is_its {
                self.family.declare_dead(who).unwrap();
            }
        }
    }

    /// Buries and recovers all others.
    pub(crate) fn recover(&self, segments: &[Arc<PoolSegment>]) {
        self.bury(None);
        recover_all(&self.family, self.me, segments).unwrap();
        let violations = inspect::verify_family(&self.family).unwrap();
        assert!(violations.is_empty(), "{violations:?}");
        for slot in (0..SLOTS).filter(|&slot| slot != self.me.slot) {
            assert_eq!(self.family.slot(slot).unwrap().state, FREE, "slot {slot}");
        }
    }

    /// Every invariant of a segment, after the closer has collected.
    pub(crate) fn verify(&self, segment: &PoolSegment) {
        let violations = inspect::verify_settled(segment).unwrap();
        assert!(violations.is_empty(), "{violations:?}");
        let holders = inspect::snapshot(segment).unwrap().holders;
        assert!(
            holders.iter().all(|(who, _)| *who == self.me),
            "{holders:?}"
        );
    }

    /// Takes over a segment whose owner is dead, and closes what nobody holds.
    pub(crate) fn inherit(&self, segment: &Arc<PoolSegment>) -> Closer {
        let mut closer = Closer::replace(Arc::clone(segment), self.me).unwrap();
        closer.collect(&mut Vec::new()).unwrap();
        closer
    }
}
