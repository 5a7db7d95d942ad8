//! The protocol, spoken by hand: well, badly, and not at all.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{is_collected, runs, signal, tracker, wait_until};

use shared_numpy_core::layout::{Participant, PoolHeader};
use shared_numpy_core::members::client::{Connection, Launched};
use shared_numpy_core::members::protocol::{
    Answer, Fetched, Hello, MESSAGE_MAX_BYTES, Message, Ready, SegmentId, Status, VERSION,
};
use shared_numpy_core::members::{MODE, socket_name};
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::owner::{Pool, PoolOptions};
use shared_numpy_core::sys::socket::{self, Received};
use shared_numpy_core::sys::{anon, clock, process, shm};

const COOKIE: [u8; 16] = [9; 16];

/// A tracker started by hand, and the connection that it was started with. This process is
/// the family's one member.
struct Wire {
    family: std::sync::Arc<Family>,
    family_fd: OwnedFd,
    me: Participant,
    tracker: u32,
    first: OwnedFd,
}

impl Wire {
    fn new() -> Self {
        let (family, family_fd) = Family::create().unwrap();
        let me = family.join().unwrap();
        let first = start();
        let hello = Hello {
            serve: true,
            ..hello(&family)
        };
        socket::send(
            first.as_fd(),
            Message::Hello(hello).encode().as_bytes(),
            Some(family_fd.as_fd()),
        )
        .unwrap();
        let (ready, _) = ready(&first).unwrap();
        assert_eq!((ready.status, ready.family), (Status::In, family.id()));
        Wire {
            family: std::sync::Arc::new(family),
            family_fd,
            me,
            tracker: ready.pid,
            first,
        }
    }

    fn connect(&self) -> OwnedFd {
        socket::connect(&socket_name(self.family.id())).unwrap()
    }

    fn member(&self) -> OwnedFd {
        let socket = self.connect();
        send(&socket, &Message::Hello(hello(&self.family)));
        let (ready, family_fd) = ready(&socket).unwrap();
        assert_eq!(ready.status, Status::In);
        let same = |fd: &OwnedFd| shm::status(fd).unwrap().identity;
        assert_eq!(same(&family_fd.unwrap()), same(&self.family_fd));
        socket
    }

    fn segment(&self, number: u64) -> SegmentId {
        SegmentId {
            owner: self.me,
            number,
        }
    }

    /// Leaves, and sees the tracker end.
    fn ends(self) {
        self.family.declare_dead(self.me).unwrap();
        drop(self.first);
        let tracker = self.tracker;
        wait_until("the tracker ends", || !runs(tracker));
    }
}

/// The executable, and our end of its socket.
fn start() -> OwnedFd {
    let (ours, theirs) = socket::pair().unwrap();
    let child = process::spawn(Path::new(tracker()), &[MODE], theirs).unwrap();
    is_collected(child);
    ours
}

fn hello(family: &Family) -> Hello {
    Hello {
        serve: false,
        version: VERSION,
        family: family.id(),
        cookie: COOKIE,
    }
}

fn send(socket: &OwnedFd, message: &Message) {
    socket::send(socket.as_fd(), message.encode().as_bytes(), None).unwrap();
}

fn register(socket: &OwnedFd, segment: SegmentId, fd: &OwnedFd) {
    let message = Message::Register(segment).encode();
    wait_until("there is room", || {
        socket::send(socket.as_fd(), message.as_bytes(), Some(fd.as_fd())).is_ok()
    });
}

/// The next message; `None` at the end.
fn receive(socket: &OwnedFd) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = [0; MESSAGE_MAX_BYTES];
    let mut message = None;
    wait_until("something comes", || {
        match socket::receive(socket, &mut buffer) {
            Ok(Received::Message(len, fd)) => {
                message = Some((buffer[..len].to_vec(), fd));
                true
            }
            Ok(Received::Nothing) => false,
            Ok(Received::End) => true,
            other => panic!("{other:?}"),
        }
    });
    message
}

fn ready(socket: &OwnedFd) -> Option<(Ready, Option<OwnedFd>)> {
    receive(socket).map(|(bytes, fd)| (Ready::decode(&bytes).unwrap(), fd))
}

fn fetch(socket: &OwnedFd, segment: SegmentId) -> (Answer, Option<OwnedFd>) {
    send(socket, &Message::Fetch(5, segment));
    let (bytes, fd) = receive(socket).unwrap();
    let fetched = Fetched::decode(&bytes).unwrap();
    assert_eq!((fetched.request, fetched.segment), (5, segment));
    (fetched.answer, fd)
}

fn file() -> OwnedFd {
    anon::create(size_of::<PoolHeader>() as u64).unwrap()
}

fn ino(fd: &OwnedFd) -> u64 {
    shm::status(fd).unwrap().identity.ino
}

#[test]
fn a_wrong_cookie_family_or_version_is_refused() {
    let wire = Wire::new();
    let good = hello(&wire.family);
    for (hello, expected) in [
        (
            Hello {
                cookie: [8; 16],
                ..good
            },
            Status::Refused,
        ),
        (
            Hello {
                family: [1, 2],
                ..good
            },
            Status::Refused,
        ),
        (
            Hello {
                version: VERSION + 1,
                ..good
            },
            Status::Version,
        ),
    ] {
        let socket = wire.connect();
        send(&socket, &Message::Hello(hello));
        let (answer, fd) = ready(&socket).unwrap();
        assert_eq!(answer.status, expected);
        assert!(fd.is_none());
        assert!(receive(&socket).is_none());
    }
    wire.ends();
}

#[test]
fn nothing_is_taken_or_given_before_the_proof() {
    let wire = Wire::new();
    register(&wire.first, wire.segment(1), &file());
    for message in [
        Message::Fetch(1, wire.segment(1)),
        Message::Register(wire.segment(2)),
        Message::Joined(wire.me),
    ] {
        let socket = wire.connect();
        send(&socket, &message);
        assert!(receive(&socket).is_none());
    }
    assert_eq!(fetch(&wire.first, wire.segment(2)).0, Answer::Unknown);
    wire.ends();
}

#[test]
fn silent_strangers_are_turned_out_and_keep_nobody_away() {
    let wire = Wire::new();
    let strangers: Vec<OwnedFd> = (0..40).map(|_| wire.connect()).collect();
    // Somebody with a proof has to wait for seconds at most.
    let member = wire.member();
    for stranger in &strangers[..16] {
        assert!(receive(stranger).is_none());
    }
    drop(member);
    drop(strangers);
    wire.ends();
}

#[test]
fn the_first_registration_stands() {
    let wire = Wire::new();
    let (one, other) = (file(), file());
    register(&wire.first, wire.segment(0), &one);
    register(&wire.first, wire.segment(0), &other);
    let (answer, fd) = fetch(&wire.first, wire.segment(0));
    assert_eq!(answer, Answer::Here);
    assert_eq!(ino(&fd.unwrap()), ino(&one));
    assert_eq!(fetch(&wire.member(), wire.segment(1)).0, Answer::Unknown);
    wire.ends();
}

#[test]
fn what_cannot_be_a_segment_is_not_kept() {
    let wire = Wire::new();
    let (socket, _other_end) = socket::pair().unwrap();
    let empty = anon::create(8).unwrap();
    register(&wire.first, wire.segment(0), &socket);
    register(&wire.first, wire.segment(1), &empty);
    // Without a descriptor: it may have been lost on the way.
    send(&wire.first, &Message::Register(wire.segment(2)));
    for number in 0..3 {
        let (answer, fd) = fetch(&wire.first, wire.segment(number));
        assert!(answer == Answer::Unknown && fd.is_none());
    }
    wire.ends();
}

#[test]
fn a_registration_on_one_connection_is_known_on_all() {
    let wire = Wire::new();
    let members: Vec<OwnedFd> = (0..8).map(|_| wire.member()).collect();
    let fd = file();
    for number in 0..200 {
        let (one, other) = (number % 8, (number + 3) % 8);
        register(&members[one], wire.segment(number as u64), &fd);
        let (answer, _) = fetch(&members[other], wire.segment(number as u64));
        assert_eq!(answer, Answer::Here, "{number}");
    }
    drop(members);
    wire.ends();
}

#[test]
fn a_handle_may_be_quicker_than_the_registration() {
    let wire = Wire::new();
    let asker = wire.member();
    // Stopped, so that it finds the question first, and the registration only after more
    // messages than it reads from one connection in a turn.
    signal(wire.tracker, libc::SIGSTOP);
    send(&asker, &Message::Fetch(1, wire.segment(0)));
    for _ in 0..270 {
        send(&wire.first, &Message::Joined(wire.me));
    }
    register(&wire.first, wire.segment(0), &file());
    signal(wire.tracker, libc::SIGCONT);
    let (bytes, fd) = receive(&asker).unwrap();
    assert_eq!(Fetched::decode(&bytes).unwrap().answer, Answer::Here);
    assert!(fd.is_some());
    drop(asker);
    wire.ends();
}

#[test]
fn what_a_member_said_before_its_end_is_read_though_nobody_is_left() {
    let wire = Wire::new();
    let mut pool = Pool::new(
        std::sync::Arc::clone(&wire.family),
        wire.me,
        PoolOptions::default(),
    );
    let name = pool.allocate(1000, &mut || true).unwrap();
    let holder = pool.holder(name.segment).unwrap();
    let token = holder.make_token(name.block, clock::monotonic_s()).unwrap();
    let segment = std::sync::Arc::clone(holder.segment());
    // Its last words come after more messages than are read in a turn.
    signal(wire.tracker, libc::SIGSTOP);
    for _ in 0..270 {
        send(&wire.first, &Message::Joined(wire.me));
    }
    let guardian = process::ProcessId::of(process::own_pid()).unwrap();
    send(&wire.first, &Message::Guarded(guardian));
    let fd = pool.segment_fd(name.segment).unwrap();
    register(&wire.first, wire.segment(0), &fd);
    wire.family.declare_dead(wire.me).unwrap();
    signal(wire.tracker, libc::SIGCONT);
    std::thread::sleep(super::A_WHILE);
    assert!(
        runs(wire.tracker),
        "its guardian lives, and something is on its way"
    );
    let member = wire.member();
    assert_eq!(fetch(&member, wire.segment(0)).0, Answer::Here);
    drop(member);
    assert!(segment.withdraw_token(token, name.block).unwrap());
    wire.ends();
}

#[test]
fn who_has_the_family_and_no_slot_yet_is_waited_for() {
    let wire = Wire::new();
    let joining = wire.member();
    wire.family.declare_dead(wire.me).unwrap();
    drop(wire.first);
    std::thread::sleep(super::A_WHILE);
    assert!(runs(wire.tracker));
    let late = wire.family.join().unwrap();
    send(&joining, &Message::Joined(late));
    std::thread::sleep(super::A_WHILE);
    assert!(runs(wire.tracker));
    wire.family.declare_dead(late).unwrap();
    drop(joining);
    wait_until("the tracker ends", || !runs(wire.tracker));
}

#[test]
fn noise_ends_a_connection_and_nothing_else() {
    let wire = Wire::new();
    let witness = wire.member();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..200_usize {
        let socket = match round % 2 {
            0 => wire.member(),
            _ => wire.connect(),
        };
        let mut noise = vec![0_u8; 1 + round * 7 % 100];
        for byte in &mut noise {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (seed >> 56) as u8 | 1;
        }
        // Any first byte; the second makes it no message.
        noise[0] = (round % 9) as u8;
        let _ = socket::send(socket.as_fd(), &noise, Some(wire.family_fd.as_fd()));
        assert!(receive(&socket).is_none(), "round {round}");
    }
    assert_eq!(fetch(&witness, wire.segment(0)).0, Answer::Unknown);
    drop(witness);
    wire.ends();
}

#[test]
fn a_segment_of_garbage_whose_owner_died_is_let_go() {
    let wire = Wire::new();
    let owner = wire.family.join().unwrap();
    let options = PoolOptions {
        first_segment_bytes: 1 << 20,
        ..PoolOptions::default()
    };
    let mut pool = Pool::new(std::sync::Arc::clone(&wire.family), owner, options);
    pool.allocate(1000, &mut || true).unwrap();
    let good = pool.segment_fd(0).unwrap();
    let id = |number| SegmentId { owner, number };
    let zeros = anon::create(1 << 20).unwrap();
    register(&wire.first, id(0), &good);
    register(&wire.first, id(1), &zeros);
    // The right segment under a wrong name.
    register(&wire.first, id(2), &good);
    assert_eq!(fetch(&wire.first, id(2)).0, Answer::Here);
    // The last words of the header and what follows: rows, tokens, blocks.
    let mapping = shared_numpy_core::mapping::Mapping::new(&good, 1 << 16, false).unwrap();
    for offset in (200..1 << 16).step_by(8) {
        mapping.store_u64(offset, u64::MAX).unwrap();
    }
    wire.family.declare_dead(owner).unwrap();
    for number in 0..3 {
        wait_until("it is let go", || {
            fetch(&wire.first, id(number)).0 == Answer::Unknown
        });
    }
    wire.ends();
}

#[test]
fn who_does_not_read_its_answers_stops_nobody() {
    let wire = Wire::new();
    register(&wire.first, wire.segment(0), &file());
    let deaf = wire.member();
    let message = Message::Fetch(1, wire.segment(0)).encode();
    let mut sent = 0;
    // Until it is closed: its answers have no room any more.
    wait_until("it is closed", || {
        while socket::send(deaf.as_fd(), message.as_bytes(), None).is_ok() {
            sent += 1;
            assert!(sent < 1_000_000);
        }
        socket::hung_up(&deaf)
    });
    assert_eq!(fetch(&wire.first, wire.segment(0)).0, Answer::Here);
    wire.ends();
}

#[test]
fn a_tracker_without_descriptors_refuses_and_lives() {
    let wire = Wire::new();
    let limit = rustix::process::Rlimit {
        current: Some(40),
        maximum: Some(40),
    };
    let pid = rustix::process::Pid::from_raw(wire.tracker.try_into().unwrap());
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    let fd = file();
    for number in 0..60 {
        register(&wire.first, wire.segment(number), &fd);
    }
    assert_eq!(fetch(&wire.first, wire.segment(0)).0, Answer::Here);
    assert_eq!(fetch(&wire.first, wire.segment(59)).0, Answer::Unknown);
    let socket = wire.connect();
    send(&socket, &Message::Hello(hello(&wire.family)));
    assert_eq!(ready(&socket).unwrap().0.status, Status::Busy);
    assert_eq!(fetch(&wire.first, wire.segment(1)).0, Answer::Here);
    wire.ends();
}

#[test]
fn the_second_tracker_of_a_family_ends() {
    let wire = Wire::new();
    let second = start();
    let hello = Hello {
        serve: true,
        ..hello(&wire.family)
    };
    let message = Message::Hello(hello).encode();
    let fd = Some(wire.family_fd.as_fd());
    socket::send(second.as_fd(), message.as_bytes(), fd).unwrap();
    let (answer, _) = ready(&second).unwrap();
    assert_eq!(answer.status, Status::AddressTaken);
    wait_until("it ends", || !runs(answer.pid));
    // It has left no slot behind.
    assert_eq!(wire.family.slot(2).unwrap().generation, 0);
    wire.ends();
}

#[test]
fn a_tracker_ends_that_nobody_says_anything_to() {
    for message in [None, Some(&b"noise"[..])] {
        let socket = start();
        if let Some(message) = message {
            socket::send(socket.as_fd(), message, None).unwrap();
        }
        assert!(receive(&socket).is_none());
    }
    // No family comes along, or another.
    let (family, fd) = Family::create().unwrap();
    let (other, _) = Family::create().unwrap();
    for (of, fd) in [(&family, None), (&other, Some(fd.as_fd()))] {
        let socket = start();
        let hello = Hello {
            serve: true,
            ..hello(of)
        };
        let message = Message::Hello(hello).encode();
        socket::send(socket.as_fd(), message.as_bytes(), fd).unwrap();
        let (answer, _) = ready(&socket).unwrap();
        assert_ne!(answer.status, Status::In);
        wait_until("it ends", || !runs(answer.pid));
    }
}

#[test]
fn two_trackers_of_a_family_do_not_stay_for_each_other() {
    // Abstract addresses are a network namespace's own, and so the second finds none taken.
    let unshare = Path::new("/usr/bin/unshare");
    let may = std::process::Command::new(unshare)
        .args(["--net", "true"])
        .status();
    if !may.is_ok_and(|status| status.success()) {
        println!("not checked: we may not make a network namespace");
        return;
    }
    let wire = Wire::new();
    let (ours, theirs) = socket::pair().unwrap();
    let child = process::spawn(unshare, &["--net", tracker(), MODE], theirs).unwrap();
    is_collected(child);
    let serve = Message::Hello(Hello {
        serve: true,
        ..hello(&wire.family)
    });
    let family_fd = Some(wire.family_fd.as_fd());
    socket::send(ours.as_fd(), serve.encode().as_bytes(), family_fd).unwrap();
    let (other, _) = ready(&ours).unwrap();
    assert_eq!(other.status, Status::In);
    send(&ours, &Message::Joined(wire.me));
    std::thread::sleep(super::A_WHILE);
    assert!(runs(other.pid) && runs(wire.tracker));
    drop(ours);
    wire.ends();
    wait_until("the other tracker ends", || !runs(other.pid));
}

#[test]
fn terminal_signals_do_not_end_it() {
    let wire = Wire::new();
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        signal(wire.tracker, number);
    }
    assert_eq!(fetch(&wire.first, wire.segment(0)).0, Answer::Unknown);
    assert!(runs(wire.tracker));
    wire.ends();
}

#[test]
fn a_pidfd_says_who_died_where_pids_cannot() {
    let wire = Wire::new();
    // A slot whose process is in a namespace that nobody here knows.
    let who = wire.family.join().unwrap();
    let offset = shared_numpy_core::layout::slot_offset(who.slot);
    let bytes = shared_numpy_core::layout::FAMILY_BYTES;
    let mapping = shared_numpy_core::mapping::Mapping::new(&wire.family_fd, bytes, false).unwrap();
    mapping.store_u64(offset + 24, 12345).unwrap();
    let member = wire.member();
    let child = std::process::Command::new("sleep").arg("60").spawn();
    let mut child = child.unwrap();
    let watch = rustix::process::pidfd_open(
        rustix::process::Pid::from_child(&child),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    // Not its own: it is not believed.
    let joined = Message::Joined(who).encode();
    socket::send(member.as_fd(), joined.as_bytes(), Some(watch.as_fd())).unwrap();
    assert_eq!(fetch(&member, wire.segment(0)).0, Answer::Unknown);
    child.kill().unwrap();
    child.wait().unwrap();
    std::thread::sleep(super::A_WHILE);
    assert!(wire.family.counts(who));
    wire.family.declare_dead(who).unwrap();
    drop(member);
    wire.ends();
}

#[test]
fn an_executable_that_is_no_tracker_is_an_answer_or_an_error_and_never_a_hang() {
    let (family, family_fd) = Family::create().unwrap();
    family.join().unwrap();
    let directory = std::env::temp_dir().join(format!("snp_members_{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let launch = |program: &Path| {
        let fd = family_fd.as_fd();
        match Connection::launch(program, fd, family.id(), COOKIE, &mut || true) {
            Ok(Launched::Unavailable(reason)) => reason,
            Err(error) => error.to_string(),
            Ok(Launched::Up(_)) => panic!("{program:?} is no tracker"),
        }
    };
    assert!(launch(&directory.join("absent")).contains("No such file"));
    for (name, script, expected) in [
        ("fails", "exit 3", "exit status 3"),
        ("killed", "kill -9 $$", "Broken pipe"),
        // The second half is killed before it answers.
        ("halved", "(exit 0) & exit 0", "Broken pipe"),
    ] {
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        let answer = launch(&path);
        assert!(answer.contains(expected), "{name}: {answer}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_family_of_garbage_is_served_all_the_same() {
    let wire = Wire::new();
    let bytes = shared_numpy_core::layout::FAMILY_BYTES;
    let mapping = shared_numpy_core::mapping::Mapping::new(&wire.family_fd, bytes, false).unwrap();
    let mut seed = 7_u64;
    let from = shared_numpy_core::layout::slot_offset(8);
    for offset in (from..bytes).step_by(8) {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        mapping.store_u64(offset, seed >> (seed & 63)).unwrap();
    }
    let member = wire.member();
    register(&member, wire.segment(3), &file());
    assert_eq!(fetch(&wire.first, wire.segment(3)).0, Answer::Here);
    assert_eq!(fetch(&wire.first, wire.segment(4)).0, Answer::Unknown);
    assert!(wire.family.counts(wire.me));
    // What is garbage might be somebody: the tracker stays.
    for offset in (from..bytes).step_by(8) {
        mapping.store_u64(offset, 0).unwrap();
    }
    drop(member);
    wire.ends();
}
