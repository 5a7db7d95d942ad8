//! Handles between processes, without a tracker.

use crate::alone::scenarios;

scenarios! {
    a_child_takes_what_was_sent_to_it
    a_handle_by_name_holds_nothing
    a_strangers_memory_is_found_through_its_process
    what_a_dead_process_sent_is_stale
    what_a_dead_process_sent_of_our_memory_expires
}

mod scenarios {
    use shared_numpy_core::error::Error;
    use shared_numpy_core::participation::{self, Handle};

    use crate::alone::*;

    pub(super) fn a_child_takes_what_was_sent_to_it() {
        let hold = numbered(5000, 77);
        let (handle, sent) = hold.send(&mut || true).unwrap();
        drop(hold);
        assert_eq!(participation::stats().unwrap().in_flight, 1);
        let bytes = handle.to_bytes();
        assert!(in_child(|| {
            let handle = Handle::from_bytes(&bytes).unwrap();
            // The child holds nothing: it was not counted, and comes by itself.
            participation::come_home(&mut || true).unwrap();
            let hold = participation::receive(&handle, &mut || true).unwrap();
            number(&hold) == 77
        }));
        assert_eq!(participation::stats().unwrap().in_flight, 0);
        sent.withdraw();
        assert_eq!(in_use(), 0, "the dead hold nothing");
        let error = participation::receive(&handle, &mut || true).unwrap_err();
        assert_eq!(error, Error::Stale);
    }

    pub(super) fn a_handle_by_name_holds_nothing() {
        let hold = allocate(100);
        let handle = hold.handle().unwrap();
        let again = participation::receive(&handle, &mut || true).unwrap();
        drop(hold);
        drop(again);
        let error = participation::receive(&handle, &mut || true).unwrap_err();
        assert_eq!(error, Error::Stale);
        let mut other = handle;
        other.family[0] ^= 1;
        let error = participation::receive(&other, &mut || true).unwrap_err();
        assert_eq!(error, Error::UnknownFamily);
        let error = participation::join(&other, [0; 16], &mut || true).unwrap_err();
        assert!(matches!(error, Error::ForeignHandle(_)), "{error}");
    }

    pub(super) fn a_strangers_memory_is_found_through_its_process() {
        // A family of its own: forked before there was one.
        let owner = fork(|pipe| {
            let hold = numbered(5000, 6);
            let (handle, _sent) = hold.send(&mut || true).unwrap();
            drop(hold);
            say(&pipe, &handle.to_bytes());
            hear(&pipe);
            in_use() == 0
        });
        let bytes = listen::<80>(&owner.pipe);
        let handle = Handle::from_bytes(&bytes).unwrap();
        let mine = numbered(100, 5);
        let unknown = participation::receive(&handle, &mut || true).unwrap_err();
        assert_eq!(unknown, Error::UnknownFamily);
        participation::join(&handle, [0; 16], &mut || true).unwrap();
        let hold = participation::receive(&handle, &mut || true).unwrap();
        assert_eq!(number(&hold), 6);
        // Both families are inherited.
        assert!(in_child(|| number(&hold) == 6 && number(&mine) == 5));
        drop(hold);
        tell(&owner.pipe);
        assert!(owner.ended_well());
        drop(mine);
        assert_eq!(in_use(), 0);
    }

    pub(super) fn what_a_dead_process_sent_is_stale() {
        let hold = allocate(100);
        let sender = fork(|pipe| {
            let mine = numbered(100, 1);
            let (handle, _sent) = mine.send(&mut || true).unwrap();
            say(&pipe, &handle.to_bytes());
            hear(&pipe);
            true
        });
        let handle = Handle::from_bytes(&listen::<80>(&sender.pipe)).unwrap();
        sender.kill();
        drop(hold);
        assert_eq!(in_use(), 0);
        // Nobody has had the segment but its owner, and there is no tracker.
        let error = participation::receive(&handle, &mut || true).unwrap_err();
        assert_eq!(error, Error::Stale);
    }

    /// Handles to our memory that processes sent which have ended, and that nobody took.
    fn leave_on_its_way(many: usize) {
        let hold = twin(100, 4);
        assert!(in_child(|| {
            (0..many).all(|_| hold.get().send(&mut || true).is_ok())
        }));
        hold.let_go();
    }

    pub(super) fn what_a_dead_process_sent_of_our_memory_expires() {
        leave_on_its_way(1);
        assert_eq!(in_use(), 128, "it has time");
        // SAFETY: nothing else in this process reads or writes the environment now.
        unsafe { std::env::set_var("SHARED_NUMPY_INFLIGHT_S", "0") };
        assert_eq!(in_use(), 0);
        // A table full of them (where it cannot grow) is no obstacle, whoever sends.
        let hold = numbered(100, 5);
        leave_on_its_way(8192);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        hold.send(&mut || true).unwrap().1.withdraw();
        drop(hold);
        assert_eq!(in_use(), 0);
        // Nor does the pool grow when they are what it is full of.
        let large = twin(40 << 20, 4);
        let before = participation::stats().unwrap().committed_bytes;
        assert!(in_child(|| large.get().send(&mut || true).is_ok()));
        large.let_go();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let _again = numbered(40 << 20, 6);
        let after = participation::stats().unwrap().committed_bytes;
        assert_eq!(after, before);
    }
}
