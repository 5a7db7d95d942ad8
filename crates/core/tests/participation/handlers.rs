//! A fork in `keep_going`, which runs signal handlers: in the middle of a call.

use crate::alone::scenarios;

scenarios! {
    a_fork_in_the_middle_of_an_allocation
    a_child_may_refuse_to_go_on
    arrays_made_in_the_middle_of_an_allocation
}

mod scenarios {
    use std::os::unix::net::UnixStream;

    use shared_numpy_core::error::Error;
    use shared_numpy_core::participation;

    use crate::alone::*;

    /// Committed in five steps.
    const LARGE: u64 = 20 << 20;

    /// Forks at the second question; the pid, or 0 in the child, goes to `pid`.
    fn fork_once(asked: &mut u32, pid: &mut libc::pid_t) {
        *asked += 1;
        if *asked == 2 {
            // SAFETY: as in `fork`; the child ends by `exit`.
            *pid = unsafe { libc::fork() };
            assert!(*pid >= 0);
        }
    }

    fn child(pid: libc::pid_t) -> Fork {
        let (pipe, _theirs) = UnixStream::pair().unwrap();
        Fork { pid, pipe }
    }

    pub(super) fn a_fork_in_the_middle_of_an_allocation() {
        let kept = numbered(100, 4);
        let (mut asked, mut pid) = (0, -1);
        let large = participation::allocate(LARGE, &mut || {
            fork_once(&mut asked, &mut pid);
            true
        })
        .unwrap();
        let stats = participation::stats().unwrap();
        if pid == 0 {
            // In its own pool, from the beginning: four questions, one of them twice.
            let is_good = asked == 2 + 4
                && stats.segments == 1
                && stats.in_use_bytes == large.size_bytes() as u64
                && stats.inherited_blocks == 1
                && number(&kept) == 4;
            drop((large, kept));
            exit(is_good && in_use() == 0);
        }
        assert_eq!(asked, 4);
        assert!(child(pid).ended_well());
        drop((large, kept));
        assert_eq!(in_use(), 0);
    }

    pub(super) fn a_child_may_refuse_to_go_on() {
        let kept = numbered(100, 4);
        let (mut asked, mut pid) = (0, -1);
        let done = participation::allocate(LARGE, &mut || {
            fork_once(&mut asked, &mut pid);
            pid != 0
        });
        if pid == 0 {
            let is_good = done.is_err_and(|error| error == Error::Interrupted) && asked == 2;
            exit(is_good && number(&kept) == 4);
        }
        drop(done.unwrap());
        assert!(child(pid).ended_well());
        drop(kept);
        assert_eq!(in_use(), 0);
    }

    pub(super) fn arrays_made_in_the_middle_of_an_allocation() {
        let mut made = Vec::new();
        let large = participation::allocate(LARGE, &mut || {
            made.push(allocate(LARGE));
            made.push(allocate(100));
            if made.len() > 4 {
                drop(made.remove(0));
            }
            true
        })
        .unwrap();
        let in_use_bytes = participation::stats().unwrap().in_use_bytes;
        let sum: usize = made.iter().map(|hold| hold.size_bytes()).sum();
        assert_eq!(in_use_bytes as usize, sum + large.size_bytes());
        drop((large, made));
        assert_eq!(in_use(), 0);
    }
}
