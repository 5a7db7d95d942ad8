//! A child that does everything through `participation`, with the real fork handlers.

use std::os::fd::{AsRawFd, OwnedFd};

use shared_numpy_core::error::Error;
use shared_numpy_core::participation::handle::Hints;
use shared_numpy_core::participation::{self, Handle, Hold, Options};
use shared_numpy_core::pool::owner::BlockName;
use shared_numpy_core::pool::tokens::TokenName;
use shared_numpy_core::sys::identity::Identity;

use crate::harness::{Survivor, numbers, pattern};

/// The handle to receive: its bytes, as numbers.
pub(crate) const HANDLE: &str = "SNP_TEST_HANDLE";
/// Each point is passed so often at least.
const TIMES: usize = 3;

/// What the survivor would send, had it a pool that is `participation`'s. There is no
/// tracker: the hints lead to its own descriptors.
pub(crate) fn handle(
    survivor: &Survivor,
    segment_fd: &OwnedFd,
    name: BlockName,
    token: TokenName,
) -> Vec<u64> {
    let handle = Handle {
        family: survivor.family.id(),
        owner: survivor.me,
        number: 0,
        block: name.block as u32,
        generation: name.generation,
        token: Some(token),
        boot: Identity::boot()[0],
        hints: Hints {
            sender_pid: std::process::id(),
            family_fd: survivor.family_fd.as_raw_fd(),
            segment_fd: segment_fd.as_raw_fd(),
        },
    };
    handle.to_bytes().map(u64::from).to_vec()
}

/// In the child.
pub(crate) fn run() {
    participation::configure(Options::default());
    let words = numbers(&std::env::var(HANDLE).unwrap());
    let bytes: Vec<u8> = words.into_iter().map(|word| word as u8).collect();
    let handle = Handle::from_bytes(&bytes).unwrap();
    participation::join(&handle, [0; 16], &mut || true).unwrap();
    let hold = participation::receive(&handle, &mut || true).unwrap();
    assert!(is_good(&hold));
    for time in 0..TIMES {
        let stale = Handle {
            token: None,
            generation: handle.generation + 2,
            ..handle
        };
        let refused = participation::receive(&stale, &mut || true).unwrap_err();
        assert_eq!(refused, Error::Stale);
        let mine = participation::allocate(5000, &mut || true).unwrap();
        fork_and_part(&hold, &mine, time);
        let (sent, token) = hold.send(&mut || true).unwrap();
        let again = participation::receive(&sent, &mut || true).unwrap();
        assert!(is_good(&again));
        token.withdraw();
    }
    drop(hold);
    participation::trim(true).unwrap();
}

/// The survivor's second block.
fn is_good(hold: &Hold) -> bool {
    let mut words = (0..hold.size_bytes()).step_by(8);
    words.all(|at| hold.mapping().load_u64(hold.offset_bytes() + at) == Ok(pattern(2, at)))
}

/// Forks a child that goes on with both blocks, whatever becomes of its parent.
fn fork_and_part(hold: &Hold, mine: &Hold, time: usize) {
    // SAFETY: the child ends by `_exit` or by SIGKILL; this thread is the only one that
    // does anything.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let done = std::panic::catch_unwind(|| {
            assert!(is_good(hold));
            let again = participation::receive(&hold.handle().unwrap(), &mut || true).unwrap();
            let (_handle, sent) = mine.send(&mut || true).unwrap();
            sent.withdraw();
            let own = participation::allocate(100, &mut || true).unwrap();
            assert!(is_good(&again));
            drop((again, own));
            if time == 1 {
                assert_eq!(participation::drop_inherited(), Ok(2));
            }
        });
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(is_good(hold), "its child took it");
    if libc::WIFSIGNALED(status) {
        // It died at the fault point: so that the survivor hears of it.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .unwrap();
    }
    assert_eq!(status, 0);
}
