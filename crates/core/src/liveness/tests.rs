//! Every row of the table of verdicts.

use super::*;
use crate::sys::shm;

fn family() -> (Family, (u64, u64)) {
    let (family, fd) = Family::create().unwrap();
    let file = shm::status(&fd).unwrap().identity;
    (family, (file.dev, file.ino))
}

/// A look that counts.
fn look(undertaker: &mut Undertaker, family: &Family, slot: usize) -> Verdict {
    if let Some(known) = undertaker.reserved.get_mut(&slot) {
        known.last -= LOOK_APART;
    }
    let seen = family.slot(slot).unwrap();
    undertaker.verdict(family, slot, seen).unwrap()
}

/// Looks until it is dead: for an instant, a child that another test starts has our
/// mappings.
fn is_found_dead(undertaker: &mut Undertaker, family: &Family, slot: usize) {
    let begin = Instant::now();
    while look(undertaker, family, slot) != Verdict::Dead {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn judge(file: (u64, u64), change: impl FnOnce(&mut Identity)) -> Verdict {
    let mut identity = Identity::own();
    change(&mut identity);
    Undertaker::new(file).of_process(&identity)
}

#[test]
fn this_process_lives_and_is_not_buried() {
    let (family, file) = family();
    let me = family.join().unwrap();
    let other_slot_of_ours = family.join().unwrap();
    assert_eq!(bury(&family, file, Some(me)), Ok(0));
    assert_eq!(bury(&family, file, None), Ok(0));
    assert!(family.counts(me) && family.counts(other_slot_of_ours));
    assert_eq!(judge(file, |_| ()), Verdict::Alive);
}

#[test]
fn mappings_are_read_ever_more_rarely_and_a_death_is_found_all_the_same() {
    let (family, fd) = Family::create().unwrap();
    let file = shm::status(&fd).unwrap().identity;
    let who = family.join().unwrap();
    let mut undertaker = Undertaker::new((file.dev, file.ino));
    for (is_due, wait) in [(false, 1), (false, 1), (true, 2), (false, 2), (true, 4)] {
        if is_due {
            undertaker.mapped.get_mut(&who.slot).unwrap().look_at = Instant::now();
        }
        assert_eq!(undertaker.bury(&family, None), Ok(0));
        let known = &undertaker.mapped[&who.slot];
        assert_eq!(known.wait, wait * EXEC_FIRST);
    }
    // Its process ended, and another has its number.
    let bytes = crate::layout::FAMILY_BYTES;
    let mapping = crate::mapping::Mapping::new(&fd, bytes, false).unwrap();
    let at = crate::layout::slot_offset(who.slot)
        + std::mem::offset_of!(crate::layout::Slot, start_ticks);
    let started = mapping.load_u64(at).unwrap();
    mapping.store_u64(at, started - 1).unwrap();
    assert_eq!(undertaker.bury(&family, None), Ok(1));
}

#[test]
fn who_comes_back_after_exec_is_dead_as_what_it_was() {
    let (family, fd) = Family::create().unwrap();
    let file = shm::status(&fd).unwrap().identity;
    let [before, other_copy] = [(); 2].map(|()| family.join().unwrap());
    let bytes = crate::layout::FAMILY_BYTES;
    let mapping = crate::mapping::Mapping::new(&fd, bytes, false).unwrap();
    let at =
        crate::layout::slot_offset(before.slot) + std::mem::offset_of!(crate::layout::Slot, image);
    let image = mapping.load_u64(at).unwrap();
    mapping.store_u64(at, image ^ 1).unwrap();
    // Pid and start time are ours, and we have the family mapped.
    assert_eq!(bury(&family, (file.dev, file.ino), None), Ok(0));
    let me = family.join().unwrap();
    assert!(!family.counts(before) && family.counts(other_copy) && family.counts(me));
    // And recovered: its slot can be had again.
    assert_eq!(family.join().unwrap().slot, before.slot);
}

#[test]
fn another_start_time_is_another_process() {
    let (_family, file) = family();
    assert_eq!(judge(file, |own| own.start_ticks -= 1), Verdict::Dead);
}

#[test]
fn whoever_has_the_number_of_a_dead_member_is_not_accounted_for() {
    let (family, fd) = Family::create().unwrap();
    let file = shm::status(&fd).unwrap().identity;
    let who = family.join().unwrap();
    let own = process::own_pid();
    let undertaker = Undertaker::new((file.dev, file.ino));
    let has_own = || is_accounted(&undertaker.accounted(&family).unwrap().0, own);
    assert!(has_own());
    let bytes = crate::layout::FAMILY_BYTES;
    let mapping = crate::mapping::Mapping::new(&fd, bytes, false).unwrap();
    let at = crate::layout::slot_offset(who.slot)
        + std::mem::offset_of!(crate::layout::Slot, start_ticks);
    let started = mapping.load_u64(at).unwrap();
    mapping.store_u64(at, started - 1).unwrap();
    assert!(!has_own());
    // Who could not read when it was started.
    mapping.store_u64(at, 0).unwrap();
    assert!(has_own());
    mapping.store_u64(at, started - 1).unwrap();
    family.join().unwrap();
    assert!(has_own());
}

#[test]
fn without_a_start_time_the_number_tells() {
    let (_family, file) = family();
    assert_eq!(judge(file, |own| own.start_ticks = 0), Verdict::Alive);
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let gone = |own: &mut Identity| (own.pid, own.start_ticks) = (u64::from(child.id()), 0);
    assert_eq!(judge(file, gone), Verdict::Dead);
}

#[test]
fn what_cannot_be_told_is_not_dead() {
    let (_family, file) = family();
    for change in [
        (|own| own.pid_namespace += 1) as fn(&mut Identity),
        |own| own.pid_namespace = 0,
        |own| own.boot = [1, 1],
        |own| own.pid = 0,
        |own| own.pid = u64::MAX,
        |own| own.pid = 1 << 31,
    ] {
        assert_eq!(judge(file, change), Verdict::CannotTell);
    }
}

#[test]
fn without_the_family_among_our_own_mappings_nobody_is_said_to_have_called_exec() {
    // A file that nobody maps: as where `/proc` writes devices in another way.
    let (_family, (dev, ino)) = family();
    let not_mapped = (dev, ino + 1_000_000);
    assert_eq!(judge(not_mapped, |_| ()), Verdict::CannotTell);
}

#[test]
fn a_child_that_ended_is_dead_also_as_a_zombie() {
    let (family, file) = family();
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let found = process::ProcessId::or_zombie(child.id());
    let identity = Identity {
        pid: u64::from(found.pid),
        start_ticks: found.start_ticks,
        ..Identity::own()
    };
    let mut undertaker = Undertaker::new(file);
    // It called exec: the family is not in it, as in no process of another program.
    let begin = Instant::now();
    while undertaker.of_process(&identity) != Verdict::Dead {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    undertaker.can_see_maps = false;
    assert_eq!(undertaker.of_process(&identity), Verdict::CannotTell);
    child.kill().unwrap();
    while Stat::of(found.pid).unwrap().unwrap().state != b'Z' {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(undertaker.of_process(&identity), Verdict::Dead);
    child.wait().unwrap();
    assert_eq!(undertaker.of_process(&identity), Verdict::Dead);
    drop(family);
}

#[test]
fn a_joiner_that_died_is_seen_to_by_the_tracker_only() {
    let (family, file) = family();
    let joiner = family.claim_for_test();
    let mut member = Undertaker::new(file);
    let mut tracker = Undertaker::of_tracker(file);
    for _ in 1..LOOKS {
        for undertaker in [&mut member, &mut tracker] {
            let found = look(undertaker, &family, joiner.slot);
            assert_eq!(found, Verdict::CannotTell);
        }
    }
    is_found_dead(&mut tracker, &family, joiner.slot);
    // A stranger may be that joiner, where nobody can look.
    tracker.stranger_came();
    for undertaker in [&mut member, &mut tracker] {
        let found = look(undertaker, &family, joiner.slot);
        assert_eq!(found, Verdict::CannotTell);
    }
}

#[test]
fn looks_that_follow_each_other_at_once_are_one() {
    let (family, file) = family();
    let joiner = family.claim_for_test();
    let mut undertaker = Undertaker::of_tracker(file);
    for _ in 0..3 * LOOKS {
        assert_eq!(undertaker.bury(&family, None), Ok(0));
    }
    assert_eq!(undertaker.reserved[&joiner.slot].looks, 1);
}

#[test]
fn a_child_that_never_was_is_waited_for_longer_while_its_parent_runs() {
    let (family, file) = family();
    let parent = family.join().unwrap();
    let child = family.reserve_for_child(parent).unwrap();
    let mut undertaker = Undertaker::new(file);
    for _ in 1..LOOKS_IF_PARENT_RUNS {
        let found = look(&mut undertaker, &family, child.slot);
        assert_eq!(found, Verdict::CannotTell);
    }
    is_found_dead(&mut undertaker, &family, child.slot);
    // And when it is gone, no longer than others.
    let mut undertaker = Undertaker::new(file);
    assert_eq!(undertaker.bury(&family, Some(parent)), Ok(0));
    family.declare_dead(parent).unwrap();
    for _ in 2..LOOKS {
        let found = look(&mut undertaker, &family, child.slot);
        assert_eq!(found, Verdict::CannotTell);
    }
    is_found_dead(&mut undertaker, &family, child.slot);
}

#[test]
fn a_slot_that_became_live_while_it_was_judged_is_left_alone() {
    let (family, file) = family();
    let parent = family.join().unwrap();
    let child = family.reserve_for_child(parent).unwrap();
    let seen = family.slot(child.slot).unwrap();
    family.adopt(child, parent).unwrap();
    assert_eq!(family.declare_dead_if(child.slot, seen), Ok(false));
    assert!(family.counts(child));
    let _ = file;
}

#[test]
fn a_family_of_garbage_is_judged_without_harm() {
    let (family, file) = family();
    let me = family.join().unwrap();
    let mut undertaker = Undertaker::of_tracker(file);
    for (at, state) in [(1, LIVE), (2, RESERVED), (3, 9), (4, 15)] {
        let before = family.slot(at).unwrap();
        let after = Packed {
            state,
            by: 4095,
            generation: Packed::GENERATION_LAST,
        };
        assert!(family.swap(at, before, after).unwrap());
    }
    for _ in 0..2 * LOOKS {
        undertaker.bury(&family, Some(me)).unwrap();
    }
    assert!(family.counts(me));
}
