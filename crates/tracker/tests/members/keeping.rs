//! What a tracker keeps and gives, whoever speaks: the first registration stands, garbage
//! harms nobody, and who is silent or deaf stops nobody.

use std::os::fd::{AsFd, OwnedFd};

use shared_numpy_core::members::protocol::{Answer, Fetched, Message, SegmentId, Status};
use shared_numpy_core::pool::owner::{Pool, PoolOptions};
use shared_numpy_core::sys::socket;
use shared_numpy_core::sys::{anon, clock, process};

use super::wire::{Wire, fetch, file, hello, ino, ready, receive, register, send};
use super::{runs, signal, wait_until};

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
    // It may have answered and closed already.
    let _ = socket::send(
        socket.as_fd(),
        Message::Hello(hello(&wire.family)).encode().as_bytes(),
        None,
    );
    assert_eq!(ready(&socket).unwrap().0.status, Status::Busy);
    assert_eq!(fetch(&wire.first, wire.segment(1)).0, Answer::Here);
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
