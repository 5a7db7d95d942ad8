//! Who has a queue, and who of those died with it: through forks that fail, children that
//! become other programs, and a death in the middle of a look.

use crate::alone::scenarios;

scenarios! {
    a_child_that_calls_exec_did_not_die
    a_child_that_was_never_born_did_not_die
    a_child_that_has_come_and_is_killed_died
    a_child_without_a_slot_has_the_queue_from_its_first_use
    a_putter_that_dies_while_somebody_looks_loses_nothing
    a_child_without_a_slot_is_not_the_last_to_close
    a_child_forked_in_the_middle_of_a_put_goes_on_in_its_own_name
    frames_come_back_from_a_channel_whose_owner_died
}

mod scenarios {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use shared_numpy_core::error::Error;
    use shared_numpy_core::latest::Latest;
    use shared_numpy_core::layout::queues::QueueHeader;
    use shared_numpy_core::layout::{SLOTS, Token};
    use shared_numpy_core::lock::wait::Stop;
    use shared_numpy_core::lock::word::owner;
    use shared_numpy_core::participation::{self, Handle};
    use shared_numpy_core::pool::family::RESERVED;
    use shared_numpy_core::pool::holder::Holder;
    use shared_numpy_core::queue::{Item, Message, Queue, QueueOptions};
    use shared_numpy_core::recover::recover_all;
    use shared_numpy_core::sync::{AtomicU64, Ordering};

    use crate::alone::*;

    /// As long as it takes to notice that one is alone, twice over.
    const A_WHILE: Option<u64> = Some(1_000_000_000);
    const LONG: Option<u64> = Some(30_000_000_000);

    fn on() -> bool {
        true
    }

    fn queue() -> Queue {
        Queue::create(QueueOptions::default(), &mut on).unwrap()
    }

    fn put(queue: &Queue, text: &[u8]) {
        let item = Item {
            parts: &[text],
            holds: &[],
        };
        queue.put(item, LONG, &mut on).unwrap();
    }

    fn get(queue: &Queue, timeout_ns: Option<u64>) -> Result<Vec<u8>, Stop> {
        let mut message = Message::default();
        queue.get(&mut message, timeout_ns, &mut on)?;
        Ok(message.to_vec().unwrap())
    }

    pub(super) fn a_child_that_calls_exec_did_not_die() {
        let queue = queue();
        // As `subprocess` does: the program may end before anybody looks at it, or run on.
        for seconds in [c"0", c"100"] {
            let child = fork(|pipe| {
                tell(&pipe);
                let line = [c"/bin/sleep".as_ptr(), seconds.as_ptr(), std::ptr::null()];
                // SAFETY: a list of strings that live for ever, with its end.
                unsafe { libc::execv(line[0], line.as_ptr()) };
                false
            });
            hear(&child.pipe);
            // Another thread of ours might put.
            assert_eq!(get(&queue, A_WHILE), Err(Stop::TimedOut));
            if seconds == c"0" {
                assert!(child.ended_well());
            } else {
                child.kill();
            }
        }
        assert_eq!(get(&queue, A_WHILE), Err(Stop::TimedOut));
    }

    pub(super) fn a_child_that_was_never_born_did_not_die() {
        // SAFETY: cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return; // only root can become somebody who may not fork
        }
        let queue = queue();
        let family = family_of(queue.hold());
        let me = slot_of(&family, std::process::id()).unwrap();
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: reads a local; the process is the test's own.
        let status = unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &none) };
        assert_eq!(status, 0);
        let become_user = |user| {
            // SAFETY: no memory is concerned.
            let status = unsafe { libc::setresuid(user, user, 0) };
            assert_eq!(status, 0);
        };
        become_user(65534);
        // SAFETY: a child, which there is none of, would end at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            exit(false);
        }
        become_user(0);
        assert_eq!(pid, -1, "the limit is none");
        let reserved = (0..SLOTS).find(|&slot| family.slot(slot).unwrap().state == RESERVED);
        let reserved = reserved.expect("the slot of the child that is not");
        // What comes out of looks at it, after ten seconds.
        let seen = family.slot(reserved).unwrap();
        assert!(family.declare_dead_if(reserved, seen).unwrap());
        recover_all(&family, me, &[]).unwrap();
        assert_eq!(get(&queue, A_WHILE), Err(Stop::TimedOut));
    }

    pub(super) fn a_child_that_has_come_and_is_killed_died() {
        for is_told_of in [true, false] {
            let queue = queue();
            let child = fork(|pipe| {
                if is_told_of {
                    queue.come().unwrap();
                } else {
                    put(&queue, b"here");
                }
                tell(&pipe);
                hear(&pipe);
                true
            });
            hear(&child.pipe);
            if !is_told_of {
                assert_eq!(get(&queue, LONG).unwrap(), b"here");
            }
            assert_eq!(get(&queue, A_WHILE), Err(Stop::TimedOut));
            child.kill();
            assert_eq!(get(&queue, LONG), Err(Stop::Failed(Error::PeerDied)));
            // One that closes takes the others' deaths along.
            assert!(in_child(|| {
                let has_come = queue.come().is_ok();
                if is_told_of {
                    participation::leave_queues();
                    has_come
                } else {
                    has_come && queue.close().is_ok()
                }
            }));
            assert_eq!(get(&queue, A_WHILE), Err(Stop::TimedOut));
        }
    }

    pub(super) fn a_child_without_a_slot_has_the_queue_from_its_first_use() {
        let queue = queue();
        // Somebody who died with it.
        fork(|pipe| {
            put(&queue, b"last words");
            hear(&pipe);
            true
        })
        .kill_after(|| assert_eq!(get(&queue, LONG).unwrap(), b"last words"));
        let family = family_of(queue.hold());
        let others: Vec<_> = std::iter::from_fn(|| family.join().ok()).collect();
        let child = fork(|pipe| {
            hear(&pipe);
            put(&queue, b"here");
            hear(&pipe);
            put(&queue, b"still here");
            true
        });
        for &other in &others[..10] {
            family.declare_dead(other).unwrap();
        }
        recover_all(&family, others[10], &[]).unwrap();
        tell(&child.pipe);
        assert_eq!(get(&queue, LONG).unwrap(), b"here");
        assert_eq!(get(&queue, A_WHILE), Err(Stop::TimedOut));
        tell(&child.pipe);
        assert_eq!(get(&queue, LONG).unwrap(), b"still here");
        assert!(child.ended_well());
    }

    impl Fork {
        fn kill_after(self, work: impl FnOnce()) {
            work();
            self.kill();
        }
    }

    /// Somebody looks which tokens count: the one of an item that is put while it looks at
    /// the others does, though its putter is dead when it is done.
    pub(super) fn a_putter_that_dies_while_somebody_looks_loses_nothing() {
        const MANY: usize = 60_000;
        let queue = queue();
        for _ in 0..MANY {
            put(&queue, b"x");
        }
        let root = queue.hold();
        let family = family_of(root);
        let word = |field| {
            let at = root.offset_bytes() + field;
            root.mapping().shared_word(at).unwrap()
        };
        let tail = word(core::mem::offset_of!(QueueHeader, tail));
        let lock = word(core::mem::offset_of!(QueueHeader, lock));
        // As it is just before the putter's last step: all there but `tail`.
        let before = tail.load(Ordering::Acquire);
        let hold = numbered(100, 7);
        let segment = hold.segment().unwrap();
        let known: Vec<_> = segment.tokens_in_flight().unwrap();
        let item = Item {
            parts: &[b"last"],
            holds: &[&hold],
        };
        queue.put(item, LONG, &mut on).unwrap();
        drop(hold);
        let after = tail.swap(before, Ordering::AcqRel);
        let putter = family.join().unwrap();
        lock.store(putter.pack(), Ordering::Release);
        let tokens = segment.tokens_in_flight().unwrap();
        let ours = tokens.iter().find(|it| !known.contains(it)).unwrap();
        sender_of(&segment, ours.name.index).store(putter.pack(), Ordering::Release);

        std::thread::scope(|scope| {
            scope.spawn(|| {
                // In the middle of the look.
                std::thread::sleep(Duration::from_millis(3));
                tail.store(after, Ordering::Release);
                family.declare_dead(putter).unwrap();
            });
            participation::trim(false).unwrap();
        });
        for _ in 0..MANY {
            assert_eq!(get(&queue, LONG).unwrap(), b"x");
        }
        let mut message = Message::default();
        queue.get(&mut message, LONG, &mut on).unwrap();
        assert_eq!(message.bytes(), b"last");
        assert_eq!(number(&message.holds()[0]), 7);
    }

    pub(super) fn a_child_without_a_slot_is_not_the_last_to_close() {
        let queue = queue();
        put(&queue, b"kept");
        let root = queue.hold();
        let family = family_of(root);
        let handle = root.handle().unwrap();
        // Somebody who has received it, and not opened it yet.
        let segment = root.segment().unwrap();
        let other = family.join().unwrap();
        segment.register_row(other, None).unwrap();
        let mut holder = Holder::new(Arc::clone(&segment), other).unwrap();
        holder
            .take(handle.block as usize, handle.generation)
            .unwrap();
        let others: Vec<_> = std::iter::from_fn(|| family.join().ok()).collect();
        let child = fork(|pipe| {
            hear(&pipe);
            queue.close().unwrap();
            true
        });
        for &other in &others[..10] {
            family.declare_dead(other).unwrap();
        }
        recover_all(&family, others[10], &[]).unwrap();
        drop(queue);
        tell(&child.pipe);
        assert!(child.ended_well());
        let queue = Queue::open(participation::receive(&handle, &mut on).unwrap()).unwrap();
        assert_eq!(get(&queue, LONG).unwrap(), b"kept");
    }

    pub(super) fn a_child_forked_in_the_middle_of_a_put_goes_on_in_its_own_name() {
        let queue = queue();
        let root = queue.hold();
        let me = slot_of(&family_of(root), std::process::id()).unwrap();
        let at = root.offset_bytes() + core::mem::offset_of!(QueueHeader, lock);
        let lock = root.mapping().shared_word(at).unwrap();
        // Its memory has to be committed, in the course of which we are asked to go on.
        let large = vec![1; 20 << 20];
        let (large, small): ([&[u8]; 1], [&[u8]; 1]) = ([&large], [b"small"]);
        let item = |parts| Item { parts, holds: &[] };
        let mut items = vec![item(&large)];
        items.resize(20_000, item(&small));
        let mut child = None;
        let (put, stopped) = queue.put_many(&items, LONG, &mut || {
            // SAFETY: the child goes on with what is made for it, and ends by `_exit`.
            *child.get_or_insert_with(|| unsafe { libc::fork() }) == 0
        });
        let child = child.expect("something is waited for");
        if child == 0 {
            exit((put, stopped) == (items.len(), Ok(())));
        }
        assert!(child > 0 && (put, stopped) == (0, Err(Stop::Interrupted)));
        let mut seen = BTreeSet::new();
        let mut status = 0;
        // SAFETY: waits for our own child and writes into a local.
        while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
            for _ in 0..10_000 {
                let owner = owner(lock.load(Ordering::Relaxed));
                seen.extend(owner.map(|owner| owner.slot));
            }
        }
        assert_eq!(status, 0);
        assert!(!seen.contains(&me.slot), "we put nothing: {seen:?}");
        assert_eq!(queue.size(), Ok(items.len() as u64));
    }

    /// There is no token in it at first, when somebody looks.
    pub(super) fn frames_come_back_from_a_channel_whose_owner_died() {
        // So that children are of our family.
        let kept = numbered(100, 1);
        let owner = fork(|pipe| {
            let channel = Latest::create(&mut on).unwrap();
            let (handle, _sent) = channel.send(&mut on).unwrap();
            say(&pipe, &handle.to_bytes());
            hear(&pipe);
            true
        });
        let handle = Handle::from_bytes(&listen::<{ Handle::BYTES }>(&owner.pipe)).unwrap();
        let channel = Latest::open(participation::receive(&handle, &mut on).unwrap()).unwrap();
        let reader = fork(|pipe| {
            hear(&pipe);
            true
        });
        let before = in_use();
        channel.become_writer().unwrap();
        for _ in 0..6 {
            channel.publish_copy(&[7; 1000], &mut on).unwrap();
        }
        owner.kill();
        channel.stop_writing().unwrap();
        drop(channel);
        assert!(in_use() > before, "the reader has it");
        reader.kill();
        assert_eq!(in_use(), before);
        drop(kept);
        assert_eq!(in_use(), 0);
    }

    fn sender_of(
        segment: &shared_numpy_core::pool::segment::PoolSegment,
        index: usize,
    ) -> &AtomicU64 {
        let at = segment.layout().token_table + index * size_of::<Token>();
        let at = at + core::mem::offset_of!(Token, sender);
        segment.mapping().shared_word(at).unwrap()
    }
}
