//! Parent and child may each drop, keep, send and end, in any order.

use crate::alone::scenarios;

scenarios! {
    a_child_keeps_what_its_parent_drops
    a_parent_keeps_what_its_child_drops
    a_child_has_a_pool_of_its_own
    a_grandchild_goes_on_when_both_are_gone
    a_killed_child_holds_nothing
    a_killed_parent_takes_nothing_along
    inherited_memory_can_be_let_go
    generations_of_children
    many_children_leave_nothing
    a_child_that_calls_exec_holds_nothing
}

mod scenarios {
    use shared_numpy_core::participation::{self, Hold};

    use crate::alone::*;

    pub(super) fn a_child_keeps_what_its_parent_drops() {
        let hold = twin(1000, 1);
        let child = fork(|pipe| {
            hear(&pipe);
            let is_good = hold.number() == 1;
            hold.let_go();
            is_good && participation::stats().unwrap().held_blocks == 0
        });
        hold.let_go();
        // What the parent allocates now is not the child's memory.
        assert_ne!(in_use(), 0);
        let others: Vec<Hold> = (0..20).map(|_| numbered(1000, 2)).collect();
        tell(&child.pipe);
        assert!(child.ended_well());
        drop(others);
        assert_eq!(in_use(), 0, "the child let go");
    }

    pub(super) fn a_parent_keeps_what_its_child_drops() {
        let hold = numbered(100, 7);
        assert!(in_child(move || {
            drop(hold);
            participation::stats().unwrap().held_blocks == 0
        }));
        // The closure was moved into the child only: here it was dropped at the fork's
        // end as well.
        assert_eq!(in_use(), 0);
        let hold = numbered(100, 8);
        assert!(in_child(|| {
            let handle = hold.handle().unwrap();
            participation::drop_inherited() == Ok(1)
                && participation::come_home(&mut || true).is_ok()
                && participation::receive(&handle, &mut || true).is_ok()
        }));
        numbered(100, 9);
        assert_eq!((number(&hold), in_use()), (8, 128));
    }

    pub(super) fn a_child_has_a_pool_of_its_own() {
        let hold = numbered(100, 5);
        assert!(in_child(|| {
            let mine = numbered(100, 6);
            participation::stats().unwrap().in_use_bytes == 128
                && number(&hold) == 5
                && number(&mine) == 6
        }));
        assert_eq!(number(&hold), 5);
        drop(hold);
        assert_eq!(in_use(), 0);
    }

    pub(super) fn a_grandchild_goes_on_when_both_are_gone() {
        let hold = twin(100_000, 3);
        let child = fork(|pipe| {
            // The grandchild outlives its parent, which waits for nobody.
            let grandchild = fork(|_| {
                hear(&pipe);
                let is_good = hold.number() == 3;
                hold.let_go();
                if is_good {
                    tell(&pipe);
                }
                is_good
            });
            grandchild.pid > 0
        });
        let pipe = child.pipe.try_clone().unwrap();
        assert!(child.ended_well());
        hold.let_go();
        for _ in 0..20 {
            numbered(100_000, 4);
        }
        assert_ne!(in_use(), 0, "the grandchild holds it");
        tell(&pipe);
        hear(&pipe);
        assert_eq!(in_use(), 0);
    }

    pub(super) fn a_killed_child_holds_nothing() {
        let hold = numbered(100, 1);
        let child = fork(|pipe| {
            let _more = numbered(100, 2);
            let (_handle, _sent) = hold.send(&mut || true).unwrap();
            tell(&pipe);
            hear(&pipe);
            false
        });
        hear(&child.pipe);
        child.kill();
        drop(hold);
        assert_eq!(in_use(), 128, "its token is still on its way");
        participation::trim(true).unwrap();
        assert_eq!(in_use(), 0);
    }

    pub(super) fn a_killed_parent_takes_nothing_along() {
        // The owner is killed; its child and a process that received go on.
        let owner = fork(|pipe| {
            let hold = twin(100, 7);
            let (handle, _sent) = hold.get().send(&mut || true).unwrap();
            let (inner, outer) = std::os::unix::net::UnixStream::pair().unwrap();
            let child = fork(|_| {
                drop(outer);
                hear(&pipe); // the parent has been killed
                let is_good = hold.number() == 7;
                let more = numbered(100, 8);
                drop((hold, more));
                let is_good = is_good && in_use() == 0;
                say(&pipe, &[u8::from(is_good)]);
                drop(inner);
                is_good
            });
            say(&pipe, &handle.to_bytes());
            std::mem::forget(child);
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        });
        let handle = participation::Handle::from_bytes(&listen::<80>(&owner.pipe)).unwrap();
        participation::join(&handle, [0; 16], &mut || true).unwrap();
        let received = participation::receive(&handle, &mut || true).unwrap();
        let pipe = owner.pipe.try_clone().unwrap();
        owner.kill();
        assert_eq!(number(&received), 7);
        tell(&pipe);
        assert_eq!(listen::<1>(&pipe), [1]);
        assert_eq!(number(&received), 7, "closed while it was held");
        drop(received);
        participation::trim(false).unwrap();
        assert_eq!(participation::stats().unwrap().attached_segments, 0);
    }

    pub(super) fn inherited_memory_can_be_let_go() {
        let hold = allocate(100);
        assert!(in_child(|| {
            let stats = participation::stats().unwrap();
            stats.inherited_blocks == 1
                && stats.inherited_bytes == 128
                && participation::drop_inherited() == Ok(1)
                && hold.is_dropped()
                && hold.send(&mut || true).is_err()
                && participation::stats().unwrap().held_blocks == 0
        }));
        assert!(!hold.is_dropped());
        drop(hold);
        assert_eq!(in_use(), 0);
    }

    pub(super) fn generations_of_children() {
        let hold = twin(100, 9);
        assert!(in_child(|| {
            let (handle, _sent) = hold.get().send(&mut || true).unwrap();
            in_child(|| {
                let again = participation::receive(&handle, &mut || true).unwrap();
                hold.let_go();
                number(&again) == 9
            })
        }));
        hold.let_go();
        assert_eq!(in_use(), 0);
    }

    pub(super) fn many_children_leave_nothing() {
        let hold = twin(100, 9);
        let children: Vec<Fork> = (0..100)
            .map(|at| {
                fork(|pipe| {
                    hear(&pipe);
                    let mine = numbered(1000, at);
                    let is_good = hold.number() == 9 && number(&mine) == at;
                    hold.let_go();
                    is_good
                })
            })
            .collect();
        let family = family_of(&hold.get());
        hold.let_go();
        assert_eq!(in_use(), 128);
        for child in &children {
            tell(&child.pipe);
        }
        for child in children {
            assert!(child.ended_well());
        }
        assert_eq!(in_use(), 0);
        verify(&family);
        let stats = participation::stats().unwrap();
        assert_eq!((stats.segments, stats.attached_segments), (1, 0));
    }

    pub(super) fn a_child_that_calls_exec_holds_nothing() {
        let hold = twin(100, 9);
        // As a `subprocess` with a `preexec_fn` does.
        let child = fork(|pipe| {
            hear(&pipe);
            let line = [c"/bin/sleep".as_ptr(), c"100".as_ptr(), std::ptr::null()];
            // SAFETY: a list of strings that live for ever, with its end.
            unsafe { libc::execv(line[0], line.as_ptr()) };
            false
        });
        hold.let_go();
        assert_eq!(in_use(), 128);
        tell(&child.pipe);
        let begin = std::time::Instant::now();
        while in_use() != 0 {
            assert!(begin.elapsed().as_secs() < 20);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill();
    }
}
