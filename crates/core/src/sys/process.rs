//! Processes: who they are, starting one, and being a quiet background one.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, WaitOptions, WaitStatus};

/// A process, told apart from a later one with the same pid by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// The process id as our pid namespace has it.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The running process `pid`; `None` when there is none, or it is a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        Self::look(pid).ok().flatten()
    }

    fn look(pid: u32) -> io::Result<Option<Self>> {
        let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
        Ok(match parse_stat(&stat) {
            None | Some((b'Z' | b'X', _)) => None,
            Some((_, start_ticks)) => Some(ProcessId { pid, start_ticks }),
        })
    }

    /// The process `pid`, a zombie included; with start time 0 if that cannot be told.
    pub(crate) fn or_zombie(pid: u32) -> Self {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let start_ticks = parse_stat(&stat).map_or(0, |(_, start_ticks)| start_ticks);
        ProcessId { pid, start_ticks }
    }

    /// Collects this child if it has ended; `None` while it runs.
    ///
    /// Another child that got the number after somebody else had collected this
    /// one is left to whoever waits for it.
    pub fn reap(self) -> Option<Ended> {
        if self.start_ticks != 0 && Self::or_zombie(self.pid) != self {
            return Some(Ended::NotOurs);
        }
        reap(self.pid)
    }

    /// Whether this very process still runs, or that cannot be told for want of a
    /// descriptor or of memory.
    pub fn is_alive(self) -> bool {
        match Self::look(self.pid) {
            Ok(found) => found == Some(self),
            Err(error) => is_shortage(&error),
        }
    }

    /// A descriptor that becomes readable when the process ends; `None` when the
    /// kernel has no such thing or the process is gone.
    pub fn watch(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Opened by number: only now is it sure whose descriptor it is.
        self.is_alive().then_some(fd)
    }
}

/// State letter and start time out of `/proc/<pid>/stat`. The command name, which
/// may hold anything, ends at the last closing parenthesis.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(end + 1..)?)
        .ok()?
        .split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

/// This process's id.
pub fn own_pid() -> u32 {
    std::process::id()
}

/// Starts `program` with `stdin` as its descriptor 0, null as 1 and 2, and every
/// signal blocked, so that none can end it before it has said what it ignores.
///
/// Works while 0, 1 or 2 are closed. The caller reaps it.
///
/// # Errors
///
/// The system's, with the errno of a failed `exec`.
pub fn spawn(program: &Path, stdin: OwnedFd) -> io::Result<ProcessId> {
    let _low_numbers = fill_stdio()?;
    let _signals = BlockedSignals::new();
    let child = Command::new(program)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(ProcessId::or_zombie(child.id()))
}

/// Opens the null device on whichever of 0, 1, 2 are closed, for as long as the
/// result lives: what the spawn opens for itself must not land there.
fn fill_stdio() -> Result<Vec<OwnedFd>, Errno> {
    let mut placeholders = Vec::new();
    loop {
        let fd = null_device()?;
        if fd.as_raw_fd() > 2 {
            return Ok(placeholders);
        }
        placeholders.push(fd);
    }
}

fn null_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// All signals are blocked in this thread while this lives.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigfillset` writes a whole set and cannot fail on a valid pointer.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` was just initialised; `before` is a valid place for a set.
        // With these arguments the call cannot fail, so it initialises `before`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: initialised by the call above.
        let before = unsafe { before.assume_init() };
        BlockedSignals { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: a valid set, on the thread it was taken from (the type is not
        // sent anywhere: it lives in one stack frame).
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It called `exit` with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// It is not (or no longer) our child: somebody else collected it.
    NotOurs,
}

fn reap(pid: u32) -> Option<Ended> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Some(Ended::NotOurs);
    };
    loop {
        return match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(None) => None,
            Ok(Some((_, status))) => Some(ended(status)),
            Err(Errno::INTR) => continue,
            Err(_) => Some(Ended::NotOurs),
        };
    }
}

fn ended(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (_, Some(signal)) => Ended::Killed(signal),
        _ => Ended::NotOurs,
    }
}

/// Makes this process a background helper: terminal signals and broken pipes are
/// ignored, then whatever the starter had blocked is unblocked.
///
/// To be called first of all.
pub fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler, so no code can run at a
        // bad moment; these signals may all be ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` writes a whole set and cannot fail on a valid pointer.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: `none` was just initialised; no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

/// Takes descriptor 0, closes every descriptor above 2, and puts the null device
/// on 0, 1 and 2: whatever leaked into this process is let go.
///
/// To be called before this process opens anything, from its only thread.
///
/// # Errors
///
/// The system's; `EBADF` when 0 is closed.
pub fn take_stdin_and_close_the_rest() -> Result<OwnedFd, Errno> {
    close_from(3);
    let stdin = super::fd::take_number(0)?;
    let null = null_device()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(stdin)
}

fn close_from(lowest: u32) {
    // SAFETY: three integers. This process has opened no descriptor of its own
    // yet, so nothing that Rust owns is closed.
    let status = unsafe { libc::syscall(libc::SYS_close_range, lowest, u32::MAX, 0) };
    if status == 0 {
        return;
    }
    // Before Linux 5.9: one by one.
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&number| number >= 3)
        .collect();
    for number in numbers {
        // The list holds the directory's own descriptor, closed by now.
        if super::fd::with_number(number, |_| ()).is_ok() {
            // SAFETY: open, above 2, and not ours, as said above.
            unsafe { rustix::io::close(number) };
        }
    }
}

/// Leaves the starter's session and directory, and allows itself as many
/// descriptors as it may have. None of it is vital; failures are passed over.
pub fn detach() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            maximum: files.maximum,
        },
    );
}

/// Processes of our user that have `needle` among their mappings' names; `None` when
/// that cannot be told now.
///
/// A process that forks and ends while we look is not missed: the look goes on until
/// a list of all processes has none on it that we have not looked at, so that a child
/// that was not on one list is on the next. (A fork never hides: a child is on the
/// list only when it has its parent's mappings.) What is missed is a child that gets
/// the number of a process seen before, within one call.
///
/// Processes that may not be looked at (another user's, a non-dumpable one) are
/// passed over, and so is everything when there is no `/proc`.
pub fn mapping(needle: &[u8]) -> Option<Vec<ProcessId>> {
    // Enough while fewer processes start than we can look at; else it is tried again.
    const LISTS: usize = 32;
    let mut seen = BTreeSet::from([own_pid()]);
    for _ in 0..LISTS {
        let fresh: Vec<u32> = match list() {
            Ok(pids) => pids.into_iter().filter(|&pid| seen.insert(pid)).collect(),
            Err(error) if is_shortage(&error) => return None,
            Err(_) => return Some(Vec::new()),
        };
        if fresh.is_empty() {
            return Some(Vec::new());
        }
        let mut found = Vec::new();
        for pid in fresh {
            match shows(pid, needle) {
                Ok(true) => found.extend(ProcessId::of(pid)),
                Err(error) if is_shortage(&error) => return None,
                Ok(false) | Err(_) => {}
            }
        }
        if !found.is_empty() {
            return Some(found);
        }
    }
    None
}

/// Whether the standard error of the process `pid` is the file `fd`, or that cannot
/// be told.
pub fn has_as_stderr(pid: u32, fd: impl AsFd) -> bool {
    let Ok(ours) = rustix::fs::fstat(fd) else {
        return true;
    };
    match rustix::fs::stat(format!("/proc/{pid}/fd/2")) {
        Ok(theirs) => (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino),
        Err(errno) => errno != Errno::NOENT,
    }
}

/// The numbers of all processes that we can see.
fn list() -> io::Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc")?;
    let mut pids = Vec::new();
    for entry in entries {
        pids.extend(pid_of(&entry?.file_name()));
    }
    Ok(pids)
}

/// Whether the process `pid` has `needle` among its mappings' names, or that cannot
/// be told for want of a descriptor or of memory.
pub fn maps(pid: u32, needle: &[u8]) -> bool {
    shows(pid, needle).unwrap_or_else(|error| is_shortage(&error))
}

fn shows(pid: u32, needle: &[u8]) -> io::Result<bool> {
    use std::io::Read;
    let mut file = std::fs::File::open(format!("/proc/{pid}/maps"))?;
    // In pieces: a process can have 65,530 mappings, and we promise to stay small.
    let mut buffer = [0_u8; 8192];
    let mut kept = 0;
    loop {
        match file.read(&mut buffer[kept..]) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                let filled = kept + count;
                if contains(&buffer[..filled], needle) {
                    return Ok(true);
                }
                kept = needle.len().min(filled);
                buffer.copy_within(filled - kept..filled, 0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether an error says nothing about a process, only about us at this moment.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN)
    )
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}

fn pid_of(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_fool_the_parser() {
        let stat = b"12 (a) Z 1 (b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(stat), Some((b'R', 777)));
        assert_eq!(parse_stat(b"12 (a"), None);
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"1 (a) R 1"), None);
    }

    #[test]
    fn this_process_lives_and_differs_from_one_that_started_earlier() {
        let me = ProcessId::of(own_pid()).unwrap();
        assert!(me.is_alive());
        let ancestor = ProcessId {
            start_ticks: me.start_ticks.wrapping_sub(1),
            ..me
        };
        assert!(!ancestor.is_alive());
    }
}
