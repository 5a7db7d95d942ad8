//! What happens to a family.

use super::program::{Program, committed_bytes, is_gone};
use super::{A_WHILE, children_of, parent_of, runs, signal, wait_until};

/// What a segment has while a block of 1 MiB is held, and when none is: less than this.
const ONE_BLOCK: u64 = 1 << 20;

#[test]
fn a_family_s_tracker_is_nobody_s_child_and_ends_with_the_family() {
    let (mut one, mut two) = (Program::new(), Program::new());
    let (family, tracker) = one.founds();
    assert!(runs(tracker));
    let parent = parent_of(tracker);
    assert!(parent != one.pid() && parent != std::process::id());
    // The half that was its child is collected: no zombie, nothing to wait for.
    assert_eq!(children_of(one.pid()), []);
    two.joins(&family);
    one.kill();
    std::thread::sleep(A_WHILE);
    assert!(runs(tracker));
    assert_eq!(two.does("open"), "true");
    two.kill();
    is_gone(tracker);
    assert_eq!(Program::new().does(&format!("join {family}")), "none");
}

#[test]
fn who_does_not_know_the_cookie_is_not_let_in() {
    let (mut one, mut two) = (Program::new(), Program::new());
    let (family, tracker) = one.founds();
    assert_eq!(
        two.does(&format!("join_with_wrong_cookie {family}")),
        "none"
    );
    two.joins(&family);
    drop((one, two));
    is_gone(tracker);
}

#[test]
fn a_second_launch_finds_the_first() {
    let (mut one, mut two) = (Program::new(), Program::new());
    let (family, tracker) = one.founds();
    two.joins(&family);
    assert_eq!(two.does("launch"), tracker.to_string());
    drop((one, two));
    is_gone(tracker);
}

#[test]
fn a_segment_outlives_its_owner_as_long_as_a_block_is_held() {
    for without in ["", "pidfd", "memfd,pidfd"] {
        let (mut owner, mut holder) = (Program::without(without), Program::without(without));
        let (family, tracker) = owner.founds();
        holder.joins(&family);
        let (segment, block, file) = owner.owns();
        assert_eq!(holder.does(&format!("fetch {segment}")), "here");
        assert_eq!(holder.does(&format!("take {segment} {block}")), "taken");
        let before = committed_bytes(&file);
        assert!(before > 3 * ONE_BLOCK);
        let owner_slot = owner.does("me");
        owner.kill();
        wait_until("its other blocks are given back", || {
            committed_bytes(&file) < 2 * ONE_BLOCK
        });
        assert_eq!(holder.does(&format!("live {owner_slot}")), "false");
        assert!(committed_bytes(&file) > ONE_BLOCK);
        assert_eq!(holder.does("intact"), "true");
        // Who comes now still finds it.
        let mut late = Program::without(without);
        late.joins(&family);
        assert_eq!(late.does(&format!("take {segment} {block}")), "taken");
        assert_eq!(holder.does("release"), "released");
        std::thread::sleep(A_WHILE);
        assert_eq!(late.does("intact"), "true");
        assert_eq!(late.does("release"), "released");
        wait_until("all of it is given back", || {
            committed_bytes(&file) < ONE_BLOCK
        });
        wait_until("it is let go", || {
            late.does(&format!("fetch {segment}")) == "unknown"
        });
        holder.kill();
        late.kill();
        is_gone(tracker);
    }
}

#[test]
fn what_a_dead_member_held_is_free_for_an_orphan_too() {
    let (mut owner, mut holder, mut third) = (Program::new(), Program::new(), Program::new());
    let (family, tracker) = owner.founds();
    holder.joins(&family);
    third.joins(&family);
    let (segment, block, file) = owner.owns();
    assert_eq!(holder.does(&format!("take {segment} {block}")), "taken");
    owner.kill();
    holder.kill();
    wait_until("all of it is given back", || {
        committed_bytes(&file) < ONE_BLOCK
    });
    drop(third);
    is_gone(tracker);
}

#[test]
fn a_killed_tracker_is_replaced_and_told_again() {
    let (mut owner, mut holder) = (Program::new(), Program::new());
    let (family, first) = owner.founds();
    holder.joins(&family);
    let (segment, block, file) = owner.owns();
    assert_eq!(holder.does(&format!("take {segment} {block}")), "taken");
    signal(first, libc::SIGKILL);
    wait_until("the loss is seen", || owner.does("open") == "false");
    assert_eq!(owner.does("register"), "Ok(false)");
    assert_eq!(holder.does(&format!("fetch {segment}")), "gone");
    let second: u32 = owner.does("launch").parse().unwrap();
    assert_ne!(first, second);
    owner.does("register");
    assert_eq!(holder.does("launch"), second.to_string());
    assert_eq!(holder.does(&format!("fetch {segment}")), "here");
    // The one that died had a slot too.
    owner.kill();
    wait_until("the others' blocks are given back", || {
        committed_bytes(&file) < 2 * ONE_BLOCK
    });
    assert_eq!(holder.does("intact"), "true");
    drop(holder);
    is_gone(second);
}

#[test]
fn an_orphan_s_new_closer_may_die_too() {
    let (mut owner, mut holder) = (Program::new(), Program::new());
    let (family, first) = owner.founds();
    holder.joins(&family);
    let (segment, block, file) = owner.owns();
    assert_eq!(holder.does(&format!("take {segment} {block}")), "taken");
    owner.kill();
    wait_until("the first frees", || committed_bytes(&file) < 2 * ONE_BLOCK);
    signal(first, libc::SIGKILL);
    wait_until("the loss is seen", || holder.does("open") == "false");
    // A descriptor of it is here; a program would have it by `/proc` or its own.
    assert_eq!(holder.does("intact"), "true");
    let second: u32 = holder.does("launch").parse().unwrap();
    assert_eq!(holder.does(&format!("fetch {segment}")), "unknown");
    drop(holder);
    is_gone(second);
}

#[test]
fn a_forked_child_of_which_nobody_said_anything_is_known_and_missed() {
    for without in ["", "pidfd"] {
        let mut parent = Program::without(without);
        let (_, tracker) = parent.founds();
        let answer = parent.does("fork");
        let (child, _) = answer.split_once(' ').unwrap();
        let child: u32 = child.parse().unwrap();
        parent.kill();
        std::thread::sleep(A_WHILE);
        assert!(runs(child) && runs(tracker));
        signal(child, libc::SIGKILL);
        is_gone(tracker);
    }
}

#[test]
fn all_that_live_are_watched_once_the_tracker_is_reminded() {
    let mut parent = Program::new();
    let (_, tracker) = parent.founds();
    // It is known at once, and the tracker has nothing to do for long.
    wait_until("the parent is watched", || parent.does("watched") == "true");
    let answer = parent.does("fork");
    let (child, _) = answer.split_once(' ').unwrap();
    let child: u32 = child.parse().unwrap();
    parent.does("remind");
    wait_until("the child is watched", || parent.does("watched") == "true");
    let news = parent.does("news");
    signal(child, libc::SIGKILL);
    wait_until("its death is told", || parent.does("news") != news);
    wait_until("the parent is watched", || parent.does("watched") == "true");
    parent.kill();
    is_gone(tracker);
}

#[test]
fn who_cannot_be_watched_is_not_said_to_be() {
    let (mut one, mut two) = (Program::without("pidfd"), Program::without("pidfd"));
    let (family, tracker) = one.founds();
    two.joins(&family);
    one.does("remind");
    std::thread::sleep(A_WHILE);
    assert_eq!(one.does("watched"), "false");
    drop((one, two));
    is_gone(tracker);
}

#[test]
fn who_calls_exec_is_let_go() {
    for without in ["", "pidfd"] {
        let (mut one, mut two) = (Program::without(without), Program::without(without));
        let (family, tracker) = one.founds();
        two.joins(&family);
        let slot = two.does("me");
        two.tell("exec");
        wait_until("its slot is taken back", || {
            one.does(&format!("live {slot}")) == "false"
        });
        assert!(runs(two.pid()));
        drop((one, two));
        is_gone(tracker);
    }
}

#[test]
fn a_member_that_lost_its_connection_is_still_one() {
    let mut one = Program::new();
    let (_, tracker) = one.founds();
    assert_eq!(one.does("disconnect"), "disconnected");
    std::thread::sleep(A_WHILE);
    let slot = one.does("me");
    assert_eq!(one.does(&format!("live {slot}")), "true");
    assert!(runs(tracker));
    one.kill();
    is_gone(tracker);
}

#[test]
fn a_child_that_never_was_does_not_keep_the_family() {
    let mut parent = Program::new();
    let (_, tracker) = parent.founds();
    parent.does("reserve");
    parent.kill();
    is_gone(tracker);
}

#[test]
fn no_tracker_is_an_answer() {
    let mut program = Program::without("tracker");
    let answer = program.does("found");
    assert!(answer.ends_with("SHARED_NUMPY_DISABLE says so"), "{answer}");
}

#[test]
fn a_launch_that_is_interrupted_leaves_no_zombie_and_the_next_finds_the_tracker() {
    let mut program = Program::new();
    let answer = program.does("launch_interrupted");
    assert!(answer.starts_with("interrupted"), "{answer}");
    assert_eq!(children_of(program.pid()), []);
    let tracker: u32 = program.does("launch").parse().unwrap();
    assert_eq!(program.does("open"), "true");
    assert_eq!(children_of(program.pid()), []);
    program.kill();
    is_gone(tracker);
}

#[test]
fn who_lives_in_another_pid_namespace_is_missed_by_its_own_descriptor_only() {
    // Without the right to make a namespace there is nothing to see.
    let Some(mut far) = Program::elsewhere("") else {
        return;
    };
    let (mut near, mut mute) = (Program::new(), Program::elsewhere("pidfd").unwrap());
    let (family, tracker) = near.founds();
    far.joins(&family);
    mute.joins(&family);
    let (far_slot, mute_slot) = (far.does("me"), mute.does("me"));
    std::thread::sleep(A_WHILE);
    for slot in [&far_slot, &mute_slot] {
        assert_eq!(near.does(&format!("live {slot}")), "true");
    }
    far.kill();
    mute.kill();
    wait_until("its descriptor tells", || {
        near.does(&format!("live {far_slot}")) == "false"
    });
    // Of the other nothing can be proved: by its number it is somebody else.
    std::thread::sleep(A_WHILE);
    assert_eq!(near.does(&format!("live {mute_slot}")), "true");
    assert!(runs(tracker));
    signal(tracker, libc::SIGKILL);
    is_gone(tracker);
}

#[test]
fn a_member_in_another_pid_namespace_buries_nobody() {
    let Some(mut far) = Program::elsewhere("") else {
        return;
    };
    let mut near = Program::new();
    // The far one founds, and so its tracker is far, too.
    let answer = far.does("found");
    let (family, _) = answer.rsplit_once(' ').unwrap();
    near.joins(family);
    let slot = near.does("me");
    std::thread::sleep(A_WHILE);
    assert_eq!(near.does("open"), "true");
    assert_eq!(far.does(&format!("live {slot}")), "true");
    near.kill();
    wait_until("its descriptor tells", || {
        far.does(&format!("live {slot}")) == "false"
    });
}
