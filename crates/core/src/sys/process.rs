//! Processes: who they are, whether they live, how they ended; `helper` starts one and is a
//! quiet background one.

#![allow(unsafe_code)]

mod helper;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus};

use super::feature;

pub use helper::{
    detach, has_as_stderr, ignore_signals, leave_parent, spawn, take_stdin_and_close_the_rest,
};

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
        let stat = Stat::of(pid)?;
        Ok(stat
            .filter(|stat| !stat.has_ended())
            .map(|Stat { start_ticks, .. }| ProcessId { pid, start_ticks }))
    }

    /// The process `pid`, a zombie included; with start time 0 if that cannot be told.
    pub(crate) fn or_zombie(pid: u32) -> Self {
        let stat = Stat::of(pid).ok().flatten();
        let start_ticks = stat.map_or(0, |stat| stat.start_ticks);
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
    /// kernel has no such thing, the process is gone, or that cannot be told.
    pub fn watch(self) -> Option<OwnedFd> {
        if feature::is_disabled("pidfd") {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Opened by number: only now is it sure whose descriptor it is.
        matches!(Self::look(self.pid), Ok(Some(found)) if found == self).then_some(fd)
    }
}

/// What a short file of `/proc` has room in.
pub(crate) const PROC_BYTES: usize = 1024;

/// Reads a short file of `/proc`, which gives all it has at once: who waits reads one again
/// and again.
pub(crate) fn read_proc<'a>(
    path: &str,
    buffer: &'a mut [u8; PROC_BYTES],
) -> Result<&'a [u8], Errno> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let len = rustix::io::read(&fd, &mut buffer[..])?;
    Ok(buffer.get(..len).unwrap_or_default())
}

/// What `/proc/<pid>/stat` tells of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `R`, `S`, `Z`, ...: of the first thread.
    pub(crate) state: u8,
    /// How many threads there are, the first one counted even when it has ended.
    pub(crate) threads: u64,
    /// When it started, in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// Of the process `pid`; `None` for a text that makes no sense.
    ///
    /// # Errors
    ///
    /// `ENOENT` or `ESRCH` when it is not to be seen.
    pub(crate) fn of(pid: u32) -> io::Result<Option<Self>> {
        let mut buffer = [0; PROC_BYTES];
        let text = read_proc(&format!("/proc/{pid}/stat"), &mut buffer)?;
        Ok(Self::parse(text))
    }

    /// Fields 3, 20 and 22. The command name, which may hold anything, ends at the last
    /// closing parenthesis. Allocates nothing.
    pub(crate) fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let mut fields = std::str::from_utf8(stat.get(end + 1..)?)
            .ok()?
            .split_ascii_whitespace();
        Some(Stat {
            state: *fields.next()?.as_bytes().first()?,
            threads: fields.nth(16)?.parse().ok()?,
            start_ticks: fields.nth(1)?.parse().ok()?,
        })
    }

    /// Whether nothing of the process runs any more. A first thread that ended before
    /// the others is a zombie too, of a process that lives.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }

    /// Whether a signal or a debugger has stopped it.
    #[cfg(not(loom))]
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// This process's id.
pub fn own_pid() -> u32 {
    std::process::id()
}

/// A descriptor that others can watch this process by; `None` when the kernel has
/// no such thing.
pub fn own_watch() -> Option<OwnedFd> {
    if feature::is_disabled("pidfd") {
        return None;
    }
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).ok()
}

/// Whether this is a descriptor that stands for a process.
pub fn is_watch(fd: impl AsFd) -> bool {
    let number = fd.as_fd().as_raw_fd();
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open while it is borrowed; signal 0 is not sent, only
    // whether it could be is told.
    let status = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, number, 0, nothing, 0) };
    // EINVAL: of a namespace to which we may not send.
    status == 0
        || matches!(
            Errno::from_io_error(&io::Error::last_os_error()),
            Some(Errno::PERM | Errno::SRCH | Errno::INVAL)
        )
}

/// The pid that a pidfd stands for, as `/proc` counts: 0 for a process that it does not
/// show, less for one that is gone; `None` when this is no pidfd, or that cannot be told.
pub fn watched_pid(fd: impl AsFd) -> Option<i64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok()
}

/// Whether `/proc` shows the processes of our own pid namespace under the numbers that
/// they have in it (a container may still see its parent's).
pub fn sees_own_namespace() -> bool {
    std::fs::read_link("/proc/self")
        .is_ok_and(|own| own.to_str().and_then(|pid| pid.parse().ok()) == Some(own_pid()))
}

/// Whether start times of the process `pid` are told by the clock that ours are (a time
/// namespace shifts them). `false` when that cannot be told of a process of our user.
pub fn shares_clock(pid: u32) -> bool {
    let Ok(own) = rustix::fs::stat("/proc/self/ns/time") else {
        // Before Linux 5.6 there is one clock.
        return true;
    };
    match rustix::fs::stat(format!("/proc/{pid}/ns/time")) {
        Ok(its) => its.st_ino == own.st_ino,
        Err(_) => reach(pid) != Reach::Ours,
    }
}

/// What the kernel says to a signal for `pid` that is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// We might send it: there is such a process, a zombie perhaps.
    Ours,
    /// There is one, and it is somebody else's.
    Foreign,
    /// There is none.
    Nobody,
}

/// Whether there is a process `pid`, also where `/proc` hides those of other users.
pub fn reach(pid: u32) -> Reach {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Reach::Nobody;
    };
    match rustix::process::test_kill_process(pid) {
        Ok(()) => Reach::Ours,
        Err(Errno::SRCH) => Reach::Nobody,
        Err(_) => Reach::Foreign,
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

/// Whether an error says nothing about a process, only about us at this moment.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_fool_the_parser() {
        let stat = b"12 (a) Z 1 (b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 3 18 777 20";
        let expected = Stat {
            state: b'R',
            threads: 3,
            start_ticks: 777,
        };
        assert_eq!(Stat::parse(stat), Some(expected));
        assert_eq!(Stat::parse(b"12 (a"), None);
        assert_eq!(Stat::parse(b""), None);
        assert_eq!(Stat::parse(b"1 (a) R 1"), None);
    }

    #[test]
    fn a_first_thread_that_ended_is_not_the_end_of_the_process() {
        let zombie = Stat {
            state: b'Z',
            threads: 1,
            start_ticks: 7,
        };
        assert!(zombie.has_ended());
        let headless = Stat {
            threads: 2,
            ..zombie
        };
        assert!(!headless.has_ended());
    }

    #[test]
    fn a_pidfd_tells_whose_it_is() {
        let own = own_watch().unwrap();
        assert_eq!(watched_pid(&own), Some(i64::from(own_pid())));
        let file = crate::sys::anon::create(1).unwrap();
        assert_eq!(watched_pid(&file), None);
        assert!(is_watch(&own) && !is_watch(&file));
        assert!(sees_own_namespace());
        assert_eq!(reach(own_pid()), Reach::Ours);
        assert_eq!(reach(0), Reach::Nobody);
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
