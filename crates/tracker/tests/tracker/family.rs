//! Several processes in a tree.

use shared_numpy_core::tracker::address::Address;

use super::program::{Program, Start};
use super::{A_WHILE, Shm, runs, signal, wait_until};

/// A program started by `parent` as an ordinary subprocess.
fn subprocess(parent: &mut Program) -> Program {
    let address = parent.does("address");
    Program::start(Start {
        address: Some(&address),
        ..Start::default()
    })
}

/// A program started by `parent` as a `multiprocessing` child, spawned.
fn spawned(parent: &mut Program) -> Program {
    let address = parent.does("address");
    Program::start(Start {
        address: Some(&address),
        parent: Some(parent.pid()),
        ..Start::default()
    })
}

#[test]
fn a_forked_child_uses_its_parents_connection() {
    let (mut parent, shm) = (Program::new(), Shm::new());
    parent.does("ensure");
    let child: u32 = parent
        .does(&format!("fork create {};sleep", shm.name))
        .parse()
        .unwrap();
    wait_until("the child has made it", || shm.exists());
    // A killed child does not end the group ...
    std::thread::sleep(A_WHILE);
    signal(child, libc::SIGKILL);
    shm.stays();
    // ... its last process does.
    parent.kill();
    shm.goes();
}

#[test]
fn a_forked_child_keeps_the_names_of_its_dead_parent() {
    let (mut parent, shm) = (Program::new(), Shm::new());
    parent.does(&format!("create {}", shm.name));
    let child: u32 = parent.does("fork sleep").parse().unwrap();
    parent.kill();
    shm.stays();
    signal(child, libc::SIGKILL);
    shm.goes();
}

#[test]
fn a_daemon_that_closed_everything_keeps_its_names() {
    daemon_keeps_its_names(None);
}

#[test]
fn a_daemon_keeps_its_names_on_an_old_kernel_too() {
    daemon_keeps_its_names(Some("memfd"));
}

fn daemon_keeps_its_names(without: Option<&str>) {
    let mut parent = Program::start(Start {
        without,
        ..Start::default()
    });
    let shm = Shm::new();
    parent.does(&format!("create {}", shm.name));
    let tracker = parent.tracker_pid();
    // Twice, as daemons do; the first child is gone at once.
    let child: u32 = parent
        .does("fork close_all;fork sleep;exit")
        .parse()
        .unwrap();
    wait_until("the child is gone", || !runs(child));
    let daemon = {
        // Its parent is gone, so it is nobody's child that we know: find it by what
        // it runs and does not have.
        let mut found = None;
        wait_until("the daemon runs", || {
            found = daemon_of(parent.pid());
            found.is_some()
        });
        found.unwrap()
    };
    parent.kill();
    shm.stays();
    assert!(runs(tracker));
    signal(daemon, libc::SIGKILL);
    shm.goes();
    wait_until("the tracker is gone", || !runs(tracker));
}

/// Whoever started it reads its stderr to the end, and the daemon has closed it.
#[test]
fn a_daemons_stderr_is_let_go_of() {
    let (mut parent, shm) = (Program::new(), Shm::new());
    parent.does(&format!("create {}", shm.name));
    let pid = parent.pid();
    parent.does(&format!("fork close_all;orphaned {pid};sleep"));
    parent.kill();
    assert_eq!(parent.errors(), "");
    shm.stays();
    signal(daemon_of(pid).unwrap(), libc::SIGKILL);
    shm.goes();
}

/// The tracker looks for the marker while the only process that has it lives on in a
/// child, again and again.
#[test]
fn a_daemon_that_forks_while_it_is_looked_for_is_found() {
    for _ in 0..5 {
        let (mut parent, shm) = (Program::new(), Shm::new());
        parent.does(&format!("create {}", shm.name));
        let orders = format!("fork close_all;orphaned {};hop 30;sleep", parent.pid());
        parent.does(&orders);
        parent.kill();
        shm.stays();
        // On a slow machine it is still at it: who is killed may have left a child.
        wait_until("the name is removed", || {
            if let Some(daemon) = daemon_of(parent.pid()) {
                // SAFETY: two integers; the pid is a process that this test started.
                unsafe { libc::kill(daemon.try_into().unwrap(), libc::SIGKILL) };
            }
            !shm.exists()
        });
    }
}

/// The process that was forked from `program` and has no descriptors.
fn daemon_of(program: u32) -> Option<u32> {
    let group = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields = stat.rsplit_once(')')?.1;
        fields.split_whitespace().nth(2)?.parse::<u32>().ok()
    };
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &u32| group(pid) == Some(program) && runs(pid))
        .find(|pid| {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
            open.is_ok_and(|mut open| open.next().is_none())
        })
}

#[test]
fn a_subprocess_is_a_program_of_its_own_in_the_same_tracker() {
    let (mut parent, ours, theirs) = (Program::new(), Shm::new(), Shm::new());
    parent.does(&format!("create {}", ours.name));
    let mut child = subprocess(&mut parent);
    assert_eq!(child.does(&format!("create {}", theirs.name)), "joined");
    assert_eq!(child.does("pid"), "none");
    let errors = child.ends();
    assert!(!theirs.exists());
    assert!(
        errors.contains("1 leaked shared_memory objects"),
        "{errors}"
    );
    ours.stays();
    parent.does(&format!("unlink {}", ours.name));
    assert_eq!(parent.ends(), "");
}

#[test]
fn a_spawned_child_belongs_to_its_parent() {
    let (mut parent, shm) = (Program::new(), Shm::new());
    parent.does("ensure");
    let mut child = spawned(&mut parent);
    assert_eq!(child.does(&format!("create {}", shm.name)), "joined");
    child.kill();
    shm.stays();
    // The parent may remove and unregister what its child has made.
    assert_eq!(parent.does(&format!("unlink {}", shm.name)), "running");
    assert_eq!(parent.ends(), "");
    assert_eq!(child.errors(), "");
}

/// The address in its environment was exported by its grandparent, whose group is its
/// parent's too.
#[test]
fn a_child_spawned_by_a_forked_one_belongs_to_the_same_program() {
    let (mut top, shm) = (Program::new(), Shm::new());
    top.does("ensure");
    let address = top.does("address");
    let forked: u32 = top.does("fork sleep").parse().unwrap();
    let mut worker = Program::start(Start {
        address: Some(&address),
        parent: Some(forked),
        ..Start::default()
    });
    assert_eq!(worker.does(&format!("create {}", shm.name)), "joined");
    worker.exits();
    signal(forked, libc::SIGKILL);
    shm.stays();
    top.does(&format!("unlink {}", shm.name));
    assert_eq!(top.ends(), "");
}

#[test]
fn a_spawned_child_whose_parent_is_gone_still_belongs_to_it() {
    let (mut parent, shm) = (Program::new(), Shm::new());
    parent.does("ensure");
    let (address, pid) = (parent.does("address"), parent.pid());
    let mut sibling = spawned(&mut parent);
    sibling.does("ensure");
    parent.kill();
    let mut child = Program::start(Start {
        address: Some(&address),
        parent: Some(pid),
        ..Start::default()
    });
    assert_eq!(child.does(&format!("create {}", shm.name)), "joined");
    child.exits();
    shm.stays();
    sibling.kill();
    shm.goes();
}

#[test]
fn a_child_forked_while_the_tracker_starts_belongs_to_the_same_program() {
    let mut program = Program::new();
    let mut addresses = program.does("start_and_fork");
    for _ in 0..100 {
        if !addresses.starts_with(' ') {
            break;
        }
        // The tracker was there at the first look: no time to fork in.
        assert_eq!(program.ends(), "");
        program = Program::new();
        addresses = program.does("start_and_fork");
    }
    let (theirs, ours) = addresses.split_once(' ').unwrap();
    let (theirs, ours) = (Address::parse(theirs), Address::parse(ours));
    assert_eq!(theirs.unwrap().name, ours.unwrap().name);
    assert_eq!(theirs.unwrap().group, ours.unwrap().group);
    assert_eq!(program.ends(), "");
}

#[test]
fn an_address_from_further_up_is_not_the_parents_group() {
    let (mut top, shm) = (Program::new(), Shm::new());
    top.does("ensure");
    let address = top.does("address");
    // In between: a program that never needed a tracker, and forks a worker.
    let mut between = subprocess(&mut top);
    let mut worker = Program::start(Start {
        address: Some(&address),
        parent: Some(between.pid()),
        ..Start::default()
    });
    assert_eq!(worker.does(&format!("create {}", shm.name)), "joined");
    worker.exits();
    // Its guardian, not the program further up, keeps its names.
    shm.stays();
    between.kill();
    shm.goes();
    assert_eq!(top.ends(), "");
}

#[test]
fn a_worker_of_a_program_without_tracker_leaves_its_names_to_it() {
    names_are_left_to_a_guardian(None);
}

#[test]
fn guardians_are_watched_on_an_old_kernel_too() {
    names_are_left_to_a_guardian(Some("memfd,pidfd"));
}

fn names_are_left_to_a_guardian(without: Option<&str>) {
    let (mut guardian, one, two) = (Program::new(), Shm::new(), Shm::new());
    let mut worker = Program::start(Start {
        parent: Some(guardian.pid()),
        without,
        ..Start::default()
    });
    assert_eq!(worker.does(&format!("create {}", one.name)), "launched");
    worker.does(&format!("create {}", two.name));
    worker.kill();
    one.stays();
    // The guardian uses one and removes it; it has no tracker to tell.
    one.remove();
    guardian.kill();
    two.goes();
    let errors = worker.errors();
    assert!(errors.contains("1 leaked"), "{errors}");
    assert!(!errors.contains(&one.name), "{errors}");
}

#[test]
fn who_unlinks_a_stranger_tells_everybody() {
    let (mut owner, shm) = (Program::new(), Shm::new());
    owner.does(&format!("create {}", shm.name));
    let mut other = subprocess(&mut owner);
    assert_eq!(other.does(&format!("unlink {}", shm.name)), "joined");
    assert_eq!(other.ends(), "");
    assert_eq!(owner.ends(), "");
}

#[test]
fn relatives_meet_again_after_the_tracker_died() {
    let (mut parent, ours, theirs) = (Program::new(), Shm::new(), Shm::new());
    parent.does(&format!("create {}", ours.name));
    let tracker = parent.tracker_pid();
    let mut child = spawned(&mut parent);
    child.does("ensure");
    signal(tracker, libc::SIGKILL);
    wait_until("the tracker is gone", || !runs(tracker));
    assert_eq!(child.does(&format!("create {}", theirs.name)), "relaunched");
    assert_eq!(parent.does("ensure"), "rejoined");
    child.exits();
    theirs.stays();
    parent.kill();
    ours.goes();
    theirs.goes();
}

#[test]
fn many_relatives_start_one_tracker_between_them() {
    let mut parent = Program::new();
    parent.does("ensure");
    let tracker = parent.tracker_pid();
    let mut children: Vec<_> = (0..4).map(|_| spawned(&mut parent)).collect();
    for child in &mut children {
        assert_eq!(child.does("ensure"), "joined");
    }
    signal(tracker, libc::SIGKILL);
    wait_until("the tracker is gone", || !runs(tracker));
    let answers: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = children
            .iter_mut()
            .map(|child| scope.spawn(|| child.does("ensure")))
            .collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let count = |word: &str| answers.iter().filter(|answer| *answer == word).count();
    assert_eq!(count("relaunched"), 1, "{answers:?}");
    assert_eq!(count("rejoined"), 3, "{answers:?}");
}

#[test]
fn forks_at_any_moment_leave_everybody_with_a_working_client() {
    let mut program = Program::new();
    program.does("ensure");
    assert_eq!(program.does("storm 200"), "200");
    assert_eq!(program.ends(), "");
}
