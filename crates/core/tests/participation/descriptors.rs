//! Programs that close descriptors they do not know, and those that change their user.

use crate::alone::scenarios;

scenarios! {
    a_daemon_that_closes_everything_goes_on
    numbers_that_became_somebody_elses_are_left_alone
    what_is_made_or_comes_is_nobodys_standard_output
    another_user_after_a_fork
    a_child_that_was_forked_without_descriptors_is_found_dead
}

mod scenarios {
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

    use shared_numpy_core::participation;
    use shared_numpy_core::sys::socket::{self, Received};
    use shared_numpy_core::sys::{anon, fd};

    use crate::alone::*;

    fn close_all_but(kept: i32) {
        for number in descriptors() {
            if number != kept {
                // SAFETY: as a daemon does; whoever has the number must live with it.
                unsafe { libc::close(number) };
            }
        }
    }

    /// Allocates, keeps, sends, forks, lets go.
    fn lives(hold: &Twin) -> bool {
        let large = numbered(40 << 20, 8);
        let many: Vec<_> = (0..100).map(|at| numbered(100_000, at)).collect();
        let (handle, _sent) = large.send(&mut || true).unwrap();
        let again = participation::receive(&handle, &mut || true).unwrap();
        let is_good = in_child(|| {
            let mine = numbered(100, 3);
            hold.number() == 4 && number(&large) == 8 && number(&mine) == 3
        });
        let all = (0..100).all(|at| number(&many[at as usize]) == at);
        hold.let_go();
        drop((large, many, again));
        is_good && all && in_use() == 0
    }

    pub(super) fn a_daemon_that_closes_everything_goes_on() {
        let hold = twin(100, 4);
        // In a child, and in a grandchild of one that had a pool of its own.
        assert!(in_child(|| {
            close_all_but(-1);
            lives(&hold)
        }));
        hold.let_go();
        let hold = twin(100, 4);
        assert!(in_child(|| {
            let mine = numbered(1000, 5);
            close_all_but(-1);
            let is_good = in_child(|| number(&mine) == 5 && lives(&hold));
            drop(mine);
            is_good && in_use() == 0
        }));
        hold.let_go();
        assert_eq!(in_use(), 0);
        // And here, where the pool is.
        let hold = twin(100, 4);
        close_all_but(-1);
        assert!(lives(&hold));
    }

    pub(super) fn numbers_that_became_somebody_elses_are_left_alone() {
        let hold = twin(100, 4);
        let received = fork(|pipe| {
            hold.let_go();
            let mine = numbered(100, 1);
            let (handle, _sent) = mine.send(&mut || true).unwrap();
            say(&pipe, &handle.to_bytes());
            hear(&pipe);
            in_use() == 128
        });
        let handle = participation::Handle::from_bytes(&listen::<80>(&received.pipe)).unwrap();
        let theirs = participation::receive(&handle, &mut || true).unwrap();
        let numbers = descriptors();
        let stranger = stranger();
        for &number in &numbers {
            if number != received.pipe.as_raw_fd() {
                // SAFETY: as a program does that opens files after a `closerange`.
                unsafe { libc::dup2(stranger.as_raw_fd(), number) };
            }
        }
        assert_eq!(number(&theirs), 1);
        assert!(in_child(|| number(&theirs) == 1 && hold.number() == 4));
        drop(theirs);
        assert!(lives(&hold));
        tell(&received.pipe);
        let pipe = received.pipe.as_raw_fd();
        assert!(received.ended_well());
        let inode = |number| fd::with_number(number, |fd| rustix::fs::fstat(fd).unwrap().st_ino);
        let expected = inode(stranger.as_raw_fd());
        for number in numbers {
            assert!(number == pipe || inode(number) == expected, "{number}");
        }
        let _ = stranger.into_raw_fd();
    }

    pub(super) fn what_is_made_or_comes_is_nobodys_standard_output() {
        let (sends, receives) = socket::pair().unwrap();
        let file = stranger();
        assert!(in_child(|| {
            for number in 0..3 {
                // SAFETY: as a daemon does, for good.
                unsafe { libc::close(number) };
            }
            let made = anon::create(1).unwrap();
            socket::send(sends.as_fd(), b"x", Some(file.as_fd())).unwrap();
            let Ok(Received::Message(1, Some(came))) = socket::receive(&receives, &mut [0; 8])
            else {
                return false;
            };
            made.as_raw_fd() > 2 && came.as_raw_fd() > 2
        }));
    }

    pub(super) fn another_user_after_a_fork() {
        // SAFETY: asks who we are.
        if unsafe { libc::getuid() } != 0 {
            println!("not checked: only root may become somebody else");
            return;
        }
        let hold = twin(100, 4);
        let child = fork(|pipe| {
            // SAFETY: changes this process only.
            assert_eq!(unsafe { libc::setuid(65534) }, 0);
            let mine = numbered(100, 5);
            let is_good = hold.number() == 4 && number(&mine) == 5;
            let of_its_own = in_child(|| number(&mine) == 5 && hold.number() == 4);
            tell(&pipe);
            hear(&pipe);
            hold.let_go();
            drop(mine);
            is_good && of_its_own && in_use() == 0
        });
        hold.let_go();
        hear(&child.pipe);
        assert_eq!(in_use(), 128, "the child lives, whoever it is");
        tell(&child.pipe);
        assert!(child.ended_well());
        assert_eq!(in_use(), 0);
    }

    pub(super) fn a_child_that_was_forked_without_descriptors_is_found_dead() {
        let hold = twin(100, 4);
        let called_exec = twin(100, 5);
        let taken = take_all_descriptors();
        // It cannot read when it was started.
        assert!(in_child(|| hold.number() == 4));
        // SAFETY: the child only calls `exec`, or `_exit`.
        let program = unsafe { libc::fork() };
        if program == 0 {
            let arguments = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
            // SAFETY: a path and a list that ends with null.
            unsafe { libc::execv(c"/bin/sleep".as_ptr(), arguments.as_ptr()) };
            exit(false);
        }
        drop(taken);
        hold.let_go();
        called_exec.let_go();
        let begin = std::time::Instant::now();
        while in_use() != 0 {
            assert!(
                begin.elapsed().as_secs() < 20,
                "{:?}",
                participation::stats()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // SAFETY: our own child, which was not waited for.
        unsafe { libc::kill(program, libc::SIGKILL) };
        // SAFETY: as above; its status is not asked for.
        unsafe { libc::waitpid(program, std::ptr::null_mut(), 0) };
    }

    fn take_all_descriptors() -> Vec<std::fs::File> {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = Rlimit {
            current: Some(64),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect()
    }
}
