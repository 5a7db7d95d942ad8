//! A process for each scenario, and children of it.

use std::cell::{Ref, RefCell};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shared_numpy_core::inspect;
use shared_numpy_core::layout::{Participant, SLOTS};
use shared_numpy_core::participation::{self, Hold};
use shared_numpy_core::pool::family::{Family, LIVE};
use shared_numpy_core::sys::fd;

const ALONE: &str = "SNP_TEST_ALONE";
/// No scenario takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the scenario `name`, which is a test of this binary, in a process of its own.
pub(crate) fn alone(name: &str, scenario: fn()) {
    if std::env::var(ALONE).is_ok_and(|which| which == name) {
        // First, so that it is called last.
        // SAFETY: the handler takes a lock that this process's one forking thread has not.
        unsafe { libc::pthread_atfork(Some(about_to_fork), None, None) };
        participation::configure(participation::Options::default());
        return scenario();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, name)
        // Its test harness counts itself; what went wrong is on stderr.
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{name} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{name}: {status}");
}

/// What a scenario does at the last moment before a fork, all preparations being made.
pub(crate) static BEFORE_FORK: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

extern "C" fn about_to_fork() {
    if let Some(work) = BEFORE_FORK.lock().unwrap().take() {
        work();
    }
}

/// Tests that run [`alone`].
macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            let (_crate, path) = path.split_once("::").unwrap();
            crate::alone::alone(path, scenarios::$name);
        })*
    };
}
pub(crate) use scenarios;

pub(crate) fn allocate(size_bytes: u64) -> Hold {
    participation::allocate(size_bytes, &mut || true).unwrap()
}

pub(crate) fn word(hold: &Hold) -> &AtomicU64 {
    hold.mapping().shared_word(hold.offset_bytes()).unwrap()
}

/// A block with a number in it.
pub(crate) fn numbered(size_bytes: u64, number: u64) -> Hold {
    let hold = allocate(size_bytes);
    word(&hold).store(number, Ordering::Relaxed);
    hold
}

pub(crate) fn number(hold: &Hold) -> u64 {
    word(hold).load(Ordering::Relaxed)
}

/// A hold that parent and child each let go of on their own: to a closure that runs in
/// one of them it is lent.
pub(crate) struct Twin(RefCell<Option<Hold>>);

/// As [`numbered`].
pub(crate) fn twin(size_bytes: u64, number: u64) -> Twin {
    Twin(RefCell::new(Some(numbered(size_bytes, number))))
}

impl Twin {
    pub(crate) fn get(&self) -> Ref<'_, Hold> {
        Ref::map(self.0.borrow(), |hold| hold.as_ref().unwrap())
    }

    pub(crate) fn number(&self) -> u64 {
        number(&self.get())
    }

    pub(crate) fn let_go(&self) {
        drop(self.0.take().unwrap());
    }
}

/// What is in use of our pool, once the dead are found.
pub(crate) fn in_use() -> u64 {
    participation::trim(false).unwrap();
    participation::stats().unwrap().in_use_bytes
}

/// The family of a hold, mapped once more.
pub(crate) fn family_of(hold: &Hold) -> Family {
    let (handle, sent) = hold.send(&mut || true).unwrap();
    sent.withdraw();
    let fd = fd::of_process(std::process::id(), handle.hints.family_fd).unwrap();
    Family::attach(fd).unwrap()
}

/// The slot of the process `pid`.
pub(crate) fn slot_of(family: &Family, pid: u32) -> Option<Participant> {
    (0..SLOTS).find_map(|slot| {
        let found = family.slot(slot).unwrap();
        let who = Participant {
            slot,
            generation: found.generation,
        };
        let identity = family.identity(who).ok()?;
        (found.state == LIVE && identity.pid == u64::from(pid)).then_some(who)
    })
}

pub(crate) fn verify(family: &Family) {
    assert_eq!(inspect::verify_family(family).unwrap(), []);
}

/// A forked child, which ends when `work` does, well if that gave `true`.
pub(crate) struct Fork {
    pub(crate) pid: libc::pid_t,
    /// To the child, and from it.
    pub(crate) pipe: UnixStream,
}

/// Forks; the child has the other end of the pipe.
pub(crate) fn fork(work: impl FnOnce(UnixStream) -> bool) -> Fork {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = RefCell::new(Some(ours));
    let pid = fork_to(|| {
        // So that it sees the end of the file when its parent ends.
        ours.take();
        work(theirs)
    });
    let pipe = ours.take().unwrap();
    Fork { pid, pipe }
}

fn fork_to(work: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: what the child calls is what is made to be called there; it ends by
    // `_exit`, so that nothing of its parent's other threads is waited for.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        exit(done.unwrap_or(false));
    }
    pid
}

fn ended_well(pid: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status == 0
}

/// Ends a forked child at once.
pub(crate) fn exit(is_good: bool) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(i32::from(!is_good)) }
}

impl Fork {
    /// Waits for its end; whether it was a good one.
    pub(crate) fn ended_well(self) -> bool {
        drop(self.pipe);
        ended_well(self.pid)
    }

    pub(crate) fn kill(self) {
        // SAFETY: our own child, which was not waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        assert!(!self.ended_well());
    }
}

/// Runs `work` in a forked child; whether it returned `true`.
pub(crate) fn in_child(work: impl FnOnce() -> bool) -> bool {
    ended_well(fork_to(work))
}

/// Tells the other side that something has happened.
pub(crate) fn tell(mut pipe: &UnixStream) {
    pipe.write_all(&[1]).unwrap();
}

/// Waits until the other side tells so.
pub(crate) fn hear(mut pipe: &UnixStream) {
    let mut byte = [0];
    pipe.read_exact(&mut byte).unwrap();
}

/// Sends bytes of a known length.
pub(crate) fn say(mut pipe: &UnixStream, bytes: &[u8]) {
    pipe.write_all(bytes).unwrap();
}

/// Receives bytes of a known length.
pub(crate) fn listen<const LEN: usize>(mut pipe: &UnixStream) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    pipe.read_exact(&mut bytes).unwrap();
    bytes
}

/// All descriptors of this process from 3 on.
pub(crate) fn descriptors() -> Vec<i32> {
    let list = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<i32> = numbers.filter(|&number| number > 2).collect();
    // One of them was the list's own.
    numbers.retain(|&number| fd::with_number(number, |_| ()).is_ok());
    numbers
}

/// A file that is not ours.
pub(crate) fn stranger() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}
