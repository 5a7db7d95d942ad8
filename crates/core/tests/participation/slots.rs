//! A family without room, and a process that is taken for dead.

use crate::alone::scenarios;

scenarios! {
    a_child_without_a_slot_keeps_what_it_inherited
    the_dead_make_room_for_a_child
    who_was_taken_for_dead_is_refused_and_harms_nobody
    a_child_whose_slot_was_taken_back_before_its_birth_knows_that_it_holds_nothing
}

mod scenarios {
    use std::time::Duration;

    use shared_numpy_core::error::Error;
    use shared_numpy_core::layout::{Participant, SLOTS};
    use shared_numpy_core::participation;
    use shared_numpy_core::pool::family::{Family, RESERVED};
    use shared_numpy_core::recover::recover_all;

    use crate::alone::*;

    /// Takes every slot that is left.
    fn fill(family: &Family) -> Vec<Participant> {
        std::iter::from_fn(|| family.join().ok()).collect()
    }

    pub(super) fn a_child_without_a_slot_keeps_what_it_inherited() {
        let hold = twin(100, 4);
        let family = family_of(&hold.get());
        let others = fill(&family);
        assert!(others.len() > 1000);
        let child = fork(|pipe| {
            hear(&pipe);
            let kept = hold.number() == 4
                && hold.get().send(&mut || true).is_err()
                && matches!(
                    participation::allocate(100, &mut || true),
                    Err(Error::Full { .. })
                );
            tell(&pipe);
            hear(&pipe);
            // There is room now.
            let mine = numbered(100, 5);
            let handle = hold.get().handle().unwrap();
            let again = participation::receive(&handle, &mut || true).unwrap();
            let is_good = kept && number(&again) == 4 && hold.number() == 4;
            // A child of its own holds what is its own, and touches no row for the rest.
            let of_its_own = in_child(|| {
                let is_good = number(&mine) == 5 && hold.number() == 4 && number(&again) == 4;
                let refused = hold.get().send(&mut || true).is_err();
                hold.let_go();
                is_good && refused && again.send(&mut || true).is_ok()
            });
            participation::trim(true).unwrap();
            let inherited = participation::stats().unwrap().inherited_blocks;
            is_good && of_its_own && inherited == 1
        });
        hold.let_go();
        assert_eq!(in_use(), 128, "its parent holds for both");
        for _ in 0..10 {
            numbered(100, 6);
        }
        tell(&child.pipe);
        hear(&child.pipe);
        for &other in &others[..10] {
            family.declare_dead(other).unwrap();
        }
        recover_all(&family, others[10], &[]).unwrap();
        tell(&child.pipe);
        assert!(child.ended_well());
        verify(&family);
        participation::trim(true).unwrap();
        assert_eq!(in_use(), 128, "for good");
    }

    pub(super) fn the_dead_make_room_for_a_child() {
        let hold = twin(100, 4);
        let family = family_of(&hold.get());
        // Slots of a process that has ended, as many that called `exec` leave them.
        assert!(in_child(|| !fill(&family).is_empty()));
        assert!(matches!(family.join(), Err(Error::Full { .. })));
        // The last look was when the pool grew.
        std::thread::sleep(Duration::from_millis(1100));
        let child = fork(|pipe| {
            hear(&pipe);
            hold.number() == 4
        });
        hold.let_go();
        assert_eq!(in_use(), 128);
        tell(&child.pipe);
        assert!(child.ended_well());
        assert_eq!(in_use(), 0, "nothing was kept for good");
    }

    pub(super) fn who_was_taken_for_dead_is_refused_and_harms_nobody() {
        let hold = twin(100, 4);
        let other = numbered(100, 5);
        let family = family_of(&hold.get());
        let me = slot_of(&family, std::process::id()).unwrap();
        let judge = family.join().unwrap();
        assert!(family.declare_dead(me).unwrap());
        recover_all(&family, judge, &[]).unwrap();
        let next = family.join().unwrap();
        assert_eq!(next.slot, me.slot);
        let is_refused = |error| matches!(error, Error::NotAllowed(_));
        assert!(is_refused(
            participation::allocate(100, &mut || true).unwrap_err()
        ));
        assert!(is_refused(hold.get().send(&mut || true).unwrap_err()));
        // Its child inherits nothing that counts, and comes by itself.
        assert!(in_child(|| {
            let _ = (hold.number(), number(&other));
            let refused = hold.get().send(&mut || true).is_err();
            hold.let_go();
            let mine = numbered(100, 6);
            let is_good = refused && number(&mine) == 6;
            drop(mine);
            is_good && in_use() == 0
        }));
        drop(other);
        let _ = participation::trim(true);
        // It is told what it has all the same.
        assert!(participation::stats().unwrap().in_use_bytes > 0);
        assert!(is_refused(
            participation::allocate(100, &mut || true).unwrap_err()
        ));
        assert!(family.counts(next) && family.counts(judge));
        verify(&family);
    }

    pub(super) fn a_child_whose_slot_was_taken_back_before_its_birth_knows_that_it_holds_nothing() {
        let hold = twin(100, 4);
        let family = family_of(&hold.get());
        // As when its parent stood still for long in the middle of the fork.
        *BEFORE_FORK.lock().unwrap() = Some(Box::new(move || {
            let reserved = (0..SLOTS).find(|&slot| family.slot(slot).unwrap().state == RESERVED);
            let reserved = reserved.unwrap();
            let seen = family.slot(reserved).unwrap();
            assert!(family.declare_dead_if(reserved, seen).unwrap());
        }));
        let child = fork(|pipe| {
            let is_dropped = hold.get().is_dropped();
            let refused = hold.get().send(&mut || true).is_err();
            tell(&pipe);
            hold.let_go();
            let mine = numbered(100, 5);
            let is_good = number(&mine) == 5;
            drop(mine);
            is_dropped && refused && is_good && in_use() == 0
        });
        hear(&child.pipe);
        assert_eq!((hold.number(), in_use()), (4, 128));
        hold.let_go();
        assert_eq!(in_use(), 0);
        assert!(child.ended_well());
    }
}
