//! One program, and the ways in which it can end.

use super::program::{Program, Start};
use super::{A_WHILE, Shm, runs, signal, tracker, wait_until};

use rustix::io::Errno;
use shared_numpy_core::error::Error;
use shared_numpy_core::sys::shm::Identity;
use shared_numpy_core::tracker::address::Address;
use shared_numpy_core::tracker::client::{Client, Options, Outcome};
use shared_numpy_core::tracker::protocol::ResourceType;

/// The line about `count` leaked segments.
fn leaked(count: usize) -> String {
    format!("There appear to be {count} leaked shared_memory objects to clean up at shutdown")
}

#[test]
fn a_correct_program_hears_nothing_and_leaves_no_process() {
    let (mut program, one, two) = (Program::new(), Shm::new(), Shm::new());
    assert_eq!(program.does(&format!("create {}", one.name)), "launched");
    assert_eq!(program.does(&format!("create {}", two.name)), "running");
    assert_eq!(program.does(&format!("unlink {}", one.name)), "running");
    assert_eq!(program.does(&format!("unregister {}", two.name)), "running");
    let tracker = program.tracker_pid();
    assert!(runs(tracker));
    assert_eq!(program.ends(), "");
    wait_until("the tracker is gone", || !runs(tracker));
    assert!(two.exists());
}

#[test]
fn a_leak_is_removed_and_told() {
    let (mut program, one, two) = (Program::new(), Shm::new(), Shm::new());
    program.does(&format!("create {}", one.name));
    program.does(&format!("create {}", two.name));
    let errors = program.ends();
    assert!(!one.exists() && !two.exists());
    assert!(errors.contains(&leaked(2)), "{errors}");
    assert!(errors.contains(&format!("{{'{}', '{}'}}", one.name, two.name)));
    assert_eq!(errors.lines().count(), 1);
}

#[test]
fn a_killed_program_is_cleaned_up_after() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does(&format!("create {}", shm.name));
    program.kill();
    shm.goes();
    let errors = program.errors();
    assert!(errors.contains(&leaked(1)), "{errors}");
}

#[test]
fn somebody_elses_unlink_is_complained_about_as_the_standard_library_does() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does(&format!("create {}", shm.name));
    shm.remove();
    let errors = program.ends();
    assert!(errors.contains(&leaked(1)), "{errors}");
    let complaint = format!("resource_tracker: '{}': [Errno 2] No such file", shm.name);
    assert!(errors.contains(&complaint), "{errors}");
}

#[test]
fn another_file_under_the_same_name_is_left_alone() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does(&format!("create {}", shm.name));
    // Another inode for sure: both exist for a moment.
    let other = Shm::new();
    other.touch();
    std::fs::rename(other.path(), shm.path()).unwrap();
    assert_eq!(program.ends(), "");
    assert!(shm.exists());
}

#[test]
fn exec_ends_a_membership() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does(&format!("create {}", shm.name));
    program.tell("exec sleep 60");
    shm.goes();
    assert!(runs(program.pid()));
    program.kill();
}

#[test]
fn a_killed_tracker_is_replaced_at_the_same_address_and_told_everything() {
    let (mut program, one, two) = (Program::new(), Shm::new(), Shm::new());
    program.does(&format!("create {}", one.name));
    let first = program.tracker_pid();
    let address = Address::parse(&program.does("address")).unwrap();
    signal(first, libc::SIGKILL);
    wait_until("the loss is noticed", || program.does("alive") == "false");
    assert_eq!(program.does(&format!("create {}", two.name)), "relaunched");
    let second = program.tracker_pid();
    assert_ne!(first, second);
    assert!(!std::path::Path::new(&format!("/proc/{first}")).exists());
    assert_eq!(Address::parse(&program.does("address")), Some(address));
    program.kill();
    one.goes();
    two.goes();
    let errors = program.errors();
    assert!(errors.contains(&leaked(2)), "{errors}");
}

#[test]
fn what_is_taken_back_last_needs_no_new_tracker() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does(&format!("create {}", shm.name));
    let tracker = program.tracker_pid();
    signal(tracker, libc::SIGKILL);
    wait_until("the tracker is gone", || !runs(tracker));
    assert_eq!(program.does(&format!("unregister {}", shm.name)), "running");
    assert_eq!(program.does("pid"), "none");
    assert_eq!(program.ends(), "");
}

#[test]
fn a_name_removed_while_no_tracker_listened_is_not_mentioned() {
    let (mut program, one, two) = (Program::new(), Shm::new(), Shm::new());
    program.does(&format!("create {}", one.name));
    program.does(&format!("create {}", two.name));
    let tracker = program.tracker_pid();
    signal(tracker, libc::SIGKILL);
    wait_until("the tracker is gone", || !runs(tracker));
    one.remove();
    assert_eq!(program.does("ensure"), "relaunched");
    let errors = program.ends();
    assert!(errors.contains(&leaked(1)), "{errors}");
    assert!(!errors.contains(&one.name), "{errors}");
    assert!(!two.exists());
}

#[test]
fn signals_of_the_terminal_do_not_reach_it() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does(&format!("create {}", shm.name));
    let tracker = program.tracker_pid();
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        signal(tracker, number);
    }
    std::thread::sleep(A_WHILE);
    assert_eq!(program.does("alive"), "true");
    assert_eq!(program.does(&format!("unlink {}", shm.name)), "running");
    assert_eq!(program.ends(), "");
}

#[test]
fn works_with_closed_stdio() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does("close_stdio");
    assert_eq!(program.does(&format!("create {}", shm.name)), "launched");
    let tracker = program.tracker_pid();
    for number in 0..3 {
        let link = std::fs::read_link(format!("/proc/{tracker}/fd/{number}")).unwrap();
        assert_eq!(link.to_str(), Some("/dev/null"));
    }
    program.kill();
    shm.goes();
}

#[test]
fn works_where_dead_children_vanish() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does("ignore_sigchld");
    assert_eq!(program.does("ensure"), "launched");
    let tracker = program.tracker_pid();
    signal(tracker, libc::SIGKILL);
    wait_until("the tracker is gone", || !runs(tracker));
    assert_eq!(program.does(&format!("create {}", shm.name)), "relaunched");
    program.kill();
    shm.goes();
}

#[test]
fn running_out_of_descriptors_is_an_error_that_passes() {
    let mut program = Program::new();
    program.does("exhaust");
    assert_eq!(program.does("ensure"), format!("error {}", libc::EMFILE));
    program.does("relax");
    assert_eq!(program.does("ensure"), "launched");
    assert_eq!(program.ends(), "");
}

#[test]
fn a_stale_address_means_nothing() {
    let mut first = Program::new();
    first.does("ensure");
    let (address, tracker) = (first.does("address"), first.tracker_pid());
    first.ends();
    wait_until("the tracker is gone", || !runs(tracker));
    let mut second = Program::start(Start {
        address: Some(&address),
        ..Start::default()
    });
    assert_eq!(second.does("ensure"), "launched");
    assert_eq!(second.ends(), "");
}

#[test]
fn a_forked_child_cannot_take_back_what_its_parent_registered() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does(&format!("create {}", shm.name));
    let child = program.does(&format!("fork unregister {};exit", shm.name));
    wait_until("the child is done", || !runs(child.parse().unwrap()));
    program.kill();
    shm.goes();
}

// ---- in this very process, with trackers of their own ----

fn client(executable: &str) -> Client {
    let client = Client::private();
    client.configure(&Options {
        executable: executable.into(),
        ..Options::default()
    });
    client
}

fn go_on() -> bool {
    true
}

#[test]
fn exit_statuses_are_the_standard_librarys() {
    let dummy = ResourceType::Dummy;
    for (leave, expected) in [(false, 0), (true, 1)] {
        let client = client(tracker());
        let unknown = Identity::default();
        let outcome = client.register(dummy, b"somename", unknown, None, &mut go_on);
        assert_eq!(outcome, Ok(Outcome::Launched));
        if !leave {
            client.unregister(dummy, b"somename", &mut go_on).unwrap();
        }
        assert!(client.check_alive());
        assert_eq!(client.stop(&mut go_on), Ok(Some(expected)));
        assert!(!client.check_alive());
        assert_eq!(client.stop(&mut go_on), Ok(None));
    }
}

#[test]
fn what_cannot_be_started_is_said_once_and_for_all() {
    for (executable, reason) in [
        ("/nonexistent/tracker", "No such file"),
        ("/dev/null", "Permission denied"),
        ("/bin/true", "ended before it was ready (exit status 0)"),
    ] {
        let client = client(executable);
        for _ in 0..2 {
            match client.ensure_configured(&mut go_on) {
                Ok(Outcome::Unavailable(text)) => {
                    assert!(
                        text.contains(reason) && !text.contains("os error"),
                        "{text}"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        let unknown = Identity::default();
        let outcome = client.register(ResourceType::Dummy, b"x", unknown, None, &mut go_on);
        assert!(matches!(outcome, Ok(Outcome::Unavailable(_))));
        // A better path is tried.
        client.configure(&Options {
            executable: tracker().into(),
            ..Options::default()
        });
        assert_eq!(client.ensure_configured(&mut go_on), Ok(Outcome::Launched));
        assert_eq!(client.stop(&mut go_on), Ok(Some(0)));
    }
}

#[test]
fn names_that_cannot_be_are_refused() {
    let client = client(tracker());
    for name in [&b""[..], b"a\0b", &[b'a'; 257]] {
        let refused = client.try_register(ResourceType::Dummy, name, Identity::default(), None);
        assert!(matches!(refused, Err(Error::BadName { .. })), "{name:?}");
    }
    assert_eq!(client.pid(), None);
}

#[test]
fn nobody_waits_for_ever_on_a_tracker_that_is_stopped() {
    let client = client(tracker());
    client.ensure_configured(&mut go_on).unwrap();
    let pid = client.pid().unwrap();
    signal(pid, libc::SIGSTOP);
    let unknown = Identity::default();
    let mut sent = 0_u32;
    let name = |number: u32| format!("name{number}").into_bytes();
    while client
        .try_register(ResourceType::Dummy, &name(sent), unknown, None)
        .unwrap()
    {
        sent += 1;
        assert!(sent < 100_000);
    }
    let mut asked = 0;
    let interrupted = client.register(ResourceType::Dummy, &name(sent), unknown, None, &mut || {
        asked += 1;
        asked < 3
    });
    assert_eq!(interrupted, Err(Error::Interrupted));
    // What is unlinked is no error; what would be without a tracker is one.
    let dummy = ResourceType::Dummy;
    for number in 0..3 {
        let outcome = client.gone(dummy, &name(number), unknown, &mut go_on);
        assert!(
            matches!(outcome, Ok(Outcome::Unavailable(_))),
            "{outcome:?}"
        );
    }
    let refused = client.register(dummy, &name(sent), unknown, None, &mut go_on);
    assert_eq!(refused.unwrap_err().errno(), Some(Errno::TIMEDOUT));
    signal(pid, libc::SIGCONT);
    // It hears of the first three with the next message.
    for number in 3..=sent {
        client
            .register(
                ResourceType::Dummy,
                &name(number),
                unknown,
                None,
                &mut go_on,
            )
            .unwrap();
        client
            .unregister(ResourceType::Dummy, &name(number), &mut go_on)
            .unwrap();
    }
    assert_eq!(client.stop(&mut go_on), Ok(Some(0)));
}

#[test]
fn a_connection_that_was_handed_down_becomes_one_of_its_own() {
    let parent = client(tracker());
    let unknown = Identity::default();
    let shm = Shm::new();
    shm.touch();
    parent.ensure_configured(&mut go_on).unwrap();
    let inherited = rustix::io::fcntl_dupfd_cloexec(
        // SAFETY: the client keeps it open meanwhile.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(parent.fd().unwrap()) },
        3,
    )
    .unwrap();
    let child = client(tracker());
    let number = std::os::fd::IntoRawFd::into_raw_fd(inherited);
    assert_eq!(child.adopt(number, &mut go_on), Ok(Outcome::Joined));
    let name = shm.name.as_bytes();
    child
        .register(ResourceType::Array, name, unknown, None, &mut go_on)
        .unwrap();
    // One group: the parent is still there, so the name stays.
    assert_eq!(child.stop(&mut go_on), Ok(None));
    shm.stays();
    assert_eq!(parent.stop(&mut go_on), Ok(Some(0)));
    assert!(!shm.exists());
    // What is no such socket is left alone.
    let file = std::fs::File::open("/dev/null").unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    assert!(matches!(
        child.adopt(number, &mut go_on),
        Err(Error::Os { .. })
    ));
    assert!(file.metadata().is_ok());
}

/// The promise is about what ships: a debug build, three times the size, is not judged.
#[test]
fn a_thousand_names_fit_into_two_megabytes() {
    let client = client(tracker());
    let unknown = Identity::default();
    for number in 0..1000 {
        let name = format!("/psm_{number:016x}");
        client
            .register(
                ResourceType::Array,
                name.as_bytes(),
                unknown,
                None,
                &mut go_on,
            )
            .unwrap();
    }
    let status = format!("/proc/{}/status", client.pid().unwrap());
    // Read at the end of a nap; a late one can only make the number smaller.
    std::thread::sleep(A_WHILE);
    let status = std::fs::read_to_string(status).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes: u32 = resident
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap();
    assert!(cfg!(debug_assertions) || kilobytes < 2048, "{kilobytes} kB");
    assert_eq!(client.stop(&mut go_on), Ok(Some(0)));
}
