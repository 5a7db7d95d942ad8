//! Who is let in and when a tracker ends: nothing without the proof, one tracker for each
//! family, and noise ends its own connection only.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use shared_numpy_core::members::MODE;
use shared_numpy_core::members::client::{Connection, Launched};
use shared_numpy_core::members::protocol::{Answer, Hello, Message, Status, VERSION};
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::sys::feature;
use shared_numpy_core::sys::process;
use shared_numpy_core::sys::socket;

use super::wire::{COOKIE, Wire, fetch, file, hello, ready, receive, register, send, start};
use super::{is_collected, runs, signal, tracker, wait_until};

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
    if feature::is_disabled("abstract") {
        println!("not checked: files are found from every network namespace");
        return;
    }
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
fn an_executable_that_is_no_tracker_is_an_answer_or_an_error_and_never_a_hang() {
    let (family, family_fd) = Family::create().unwrap();
    family.join().unwrap();
    let directory = std::env::temp_dir().join(format!("snp_members_{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let launch = |program: &Path| {
        let fd = family_fd.as_fd();
        match Connection::launch(program, fd, &family, COOKIE, &mut || true) {
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
