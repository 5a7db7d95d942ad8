//! Starting a background helper, and being one: quiet, without parent, session, or
//! descriptors that are none of its business.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::ProcessId;
use crate::sys::fd;

/// Goes on as a process whose parent is gone: what started us can collect its child at
/// once, and never sees us as one. To be called while there is one thread.
///
/// # Errors
///
/// The system's, when it cannot fork.
pub fn leave_parent() -> Result<(), Errno> {
    // SAFETY: this process has one thread (the caller's duty; a second one would only be
    // missing in the child), so the child finds everything as it is here.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
        0 => Ok(()),
        // SAFETY: ends this half at once; the other half goes on with everything.
        _ => unsafe { libc::_exit(0) },
    }
}

/// Starts `program` with `stdin` as its descriptor 0, null as 1 and 2, and every
/// signal blocked, so that none can end it before it has said what it ignores.
///
/// Works while 0, 1 or 2 are closed. The caller reaps it.
///
/// # Errors
///
/// The system's, with the errno of a failed `exec`.
pub fn spawn(program: &Path, arguments: &[&str], stdin: OwnedFd) -> io::Result<ProcessId> {
    let _low_numbers = fill_stdio()?;
    let _signals = BlockedSignals::new();
    let child = Command::new(program)
        .args(arguments)
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
    let stdin = fd::take_number(0)?;
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
        if fd::with_number(number, |_| ()).is_ok() {
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
