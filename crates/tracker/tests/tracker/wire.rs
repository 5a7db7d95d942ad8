//! The protocol, spoken by hand: well, badly, and not at all.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::program::Program;
use super::{Shm, runs, signal, tracker, wait_until};

use shared_numpy_core::sys::process::{self, ProcessId};
use shared_numpy_core::sys::shm::Identity;
use shared_numpy_core::sys::socket::{self, Received};
use shared_numpy_core::tracker::address::{Address, random};
use shared_numpy_core::tracker::protocol::{
    Entry, Hello, MESSAGE_MAX_BYTES, Message, Ready, ResourceType, Status, VERSION,
};

/// A tracker started by hand, and the connection that it was started with.
struct Wire {
    process: ProcessId,
    address: Address,
    first: OwnedFd,
}

impl Wire {
    fn new() -> Self {
        let address = Address {
            name: random().unwrap(),
            cookie: random().unwrap(),
            group: 1,
            exporter: 0,
        };
        let (first, theirs) = socket::pair().unwrap();
        let process = process::spawn(Path::new(tracker()), &[], theirs).unwrap();
        let wire = Wire {
            process,
            address,
            first,
        };
        let hello = Hello {
            bind: true,
            ..wire.hello(1)
        };
        send(&wire.first, &Message::Hello(hello));
        assert_eq!(ready(&wire.first).unwrap().status, Status::In);
        wire
    }

    fn hello(&self, group: u64) -> Hello {
        Hello {
            bind: false,
            version: VERSION,
            address: self.address.name,
            cookie: self.address.cookie,
            group,
            guardian: None,
        }
    }

    fn connect(&self) -> OwnedFd {
        socket::connect(&self.address.socket_name()).unwrap()
    }

    /// A member of `group`.
    fn member(&self, group: u64) -> OwnedFd {
        let socket = self.connect();
        send(&socket, &Message::Hello(self.hello(group)));
        assert_eq!(ready(&socket).unwrap().status, Status::In);
        socket
    }

    /// Ends the first connection, and returns the exit status.
    fn ends(self) -> process::Ended {
        drop(self.first);
        let mut ended = None;
        wait_until("the tracker ends", || {
            ended = self.process.reap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

fn send(socket: &OwnedFd, message: &Message<'_>) {
    socket::send(socket.as_fd(), message.encode().as_bytes(), None).unwrap();
}

/// The next message; `None` at the end.
fn receive(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut buffer = [0; MESSAGE_MAX_BYTES];
    let mut message = None;
    wait_until("something comes", || {
        match socket::receive(socket, &mut buffer) {
            Ok(Received::Message(len, _)) => {
                message = Some(buffer[..len].to_vec());
                true
            }
            Ok(Received::Nothing) => false,
            Ok(Received::End) => true,
            other => panic!("{other:?}"),
        }
    });
    message
}

fn ready(socket: &OwnedFd) -> Option<Ready> {
    receive(socket).map(|bytes| Ready::decode(&bytes).unwrap())
}

fn entry(shm: &Shm, ino: u64) -> Entry<'_> {
    Entry {
        rtype: ResourceType::SharedMemory,
        name: shm.name.as_bytes(),
        identity: Identity {
            dev: u64::from(ino != 0),
            ino,
        },
        again: false,
    }
}

fn clean() -> process::Ended {
    process::Ended::Exited(0)
}

#[test]
fn a_wrong_cookie_or_version_is_refused() {
    let wire = Wire::new();
    for (hello, expected) in [
        (
            Hello {
                cookie: random().unwrap(),
                ..wire.hello(1)
            },
            Status::Refused,
        ),
        (
            Hello {
                version: VERSION + 1,
                ..wire.hello(1)
            },
            Status::Version,
        ),
    ] {
        let socket = wire.connect();
        send(&socket, &Message::Hello(hello));
        let answer = ready(&socket).unwrap();
        assert_eq!(answer.status, expected);
        assert_eq!(answer.cookie, [0; 16]);
        assert_eq!(receive(&socket), None);
    }
    assert_eq!(wire.ends(), clean());
}

#[test]
fn names_before_the_proof_are_not_taken() {
    let (wire, shm) = (Wire::new(), Shm::new());
    shm.touch();
    let socket = wire.connect();
    send(&socket, &Message::Register(entry(&shm, 0)));
    assert_eq!(receive(&socket), None);
    // A stranger's doing: the exit status tells of our own program only.
    assert_eq!(wire.ends(), clean());
    assert!(shm.exists());
}

#[test]
fn silent_strangers_are_turned_out_and_keep_nobody_away() {
    let wire = Wire::new();
    let strangers: Vec<OwnedFd> = (0..40).map(|_| wire.connect()).collect();
    // Somebody with a proof has to wait for seconds at most.
    let member = wire.member(2);
    for stranger in &strangers[..16] {
        assert_eq!(receive(stranger), None);
    }
    drop(member);
    drop(strangers);
    assert_eq!(wire.ends(), clean());
}

#[test]
fn noise_ends_a_connection_and_nothing_else() {
    let wire = Wire::new();
    let witness = wire.member(2);
    let mut seed: [u8; 8] = 0x9e37_79b9_7f4a_7c15_u64.to_le_bytes();
    for round in 0..200_usize {
        let socket = if round % 2 == 0 {
            wire.member(3)
        } else {
            wire.connect()
        };
        let mut noise = vec![0_u8; 1 + round * 7 % 600];
        for byte in &mut noise {
            let next = u64::from_le_bytes(seed).wrapping_mul(6_364_136_223_846_793_005);
            seed = next.wrapping_add(1_442_695_040_888_963_407).to_le_bytes();
            *byte = seed[7];
        }
        // Any first byte, but never a whole message by chance.
        noise[0] = (round % 9) as u8;
        let _ = socket::send(socket.as_fd(), &noise, None);
        assert_eq!(receive(&socket), None, "round {round}");
    }
    assert!(runs(wire.process.pid));
    drop(witness);
    assert_eq!(wire.ends(), process::Ended::Exited(3));
}

#[test]
fn a_second_hello_and_descriptors_in_odd_places_are_noise_too() {
    let wire = Wire::new();
    let twice = wire.member(2);
    send(&twice, &Message::Hello(wire.hello(2)));
    assert_eq!(receive(&twice), None);
    let odd = wire.member(2);
    let null = std::fs::File::open("/dev/null").unwrap();
    let adopt = Message::Adopt.encode();
    socket::send(odd.as_fd(), adopt.as_bytes(), Some(null.as_fd())).unwrap();
    assert_eq!(receive(&odd), None);
    assert_eq!(wire.ends(), process::Ended::Exited(3));
}

/// One process registers and hands the name to another, which removes it; the tracker
/// sees the removal first.
#[test]
fn a_removal_that_is_read_before_its_registration_counts() {
    for ino in [0, 7] {
        for order in [true, false] {
            let (wire, shm) = (Wire::new(), Shm::new());
            let (one, other) = (wire.member(2), wire.member(3));
            signal(wire.process.pid, libc::SIGSTOP);
            let steps = [
                (&one, Message::Register(entry(&shm, ino))),
                (&other, Message::Gone(entry(&shm, ino))),
            ];
            let (first, second) = if order { (0, 1) } else { (1, 0) };
            send(steps[first].0, &steps[first].1);
            send(steps[second].0, &steps[second].1);
            drop((one, other));
            signal(wire.process.pid, libc::SIGCONT);
            assert_eq!(wire.ends(), clean(), "ino {ino}, in order: {order}");
        }
    }
}

#[test]
fn what_is_registered_after_a_removal_is_something_new() {
    let (wire, shm) = (Wire::new(), Shm::new());
    let member = wire.member(2);
    signal(wire.process.pid, libc::SIGSTOP);
    send(&member, &Message::Gone(entry(&shm, 0)));
    send(&member, &Message::Register(entry(&shm, 0)));
    shm.touch();
    drop(member);
    signal(wire.process.pid, libc::SIGCONT);
    shm.goes();
    assert_eq!(wire.ends(), process::Ended::Exited(1));
}

#[test]
fn unregistering_reaches_the_own_group_only() {
    let (wire, shm) = (Wire::new(), Shm::new());
    shm.touch();
    let (one, other) = (wire.member(2), wire.member(3));
    send(&one, &Message::Register(entry(&shm, 0)));
    send(&other, &Message::Unregister(entry(&shm, 0)));
    drop(other);
    shm.stays();
    // A second connection of the group may.
    let sibling = wire.member(2);
    send(&sibling, &Message::Unregister(entry(&shm, 0)));
    drop((one, sibling));
    assert_eq!(wire.ends(), clean());
    assert!(shm.exists());
}

#[test]
fn more_than_a_buffer_of_messages_arrives_in_order() {
    let wire = Wire::new();
    let member = wire.member(2);
    for round in 0..3000_u32 {
        let name = format!("name{}", round / 2);
        let entry = Entry {
            rtype: ResourceType::Dummy,
            name: name.as_bytes(),
            identity: Identity::default(),
            again: false,
        };
        let message = if round % 2 == 0 {
            Message::Register(entry)
        } else {
            Message::Unregister(entry)
        };
        let message = message.encode();
        wait_until("there is room", || {
            socket::send(member.as_fd(), message.as_bytes(), None).is_ok()
        });
    }
    drop(member);
    assert_eq!(wire.ends(), clean());
}

#[test]
fn a_tracker_without_descriptors_refuses_politely_and_goes_on() {
    let (mut program, shm) = (Program::new(), Shm::new());
    program.does("few_descriptors 128");
    program.does(&format!("create {}", shm.name));
    let address = Address::parse(&program.does("address")).unwrap();
    let hello = Hello {
        bind: false,
        version: VERSION,
        address: address.name,
        cookie: address.cookie,
        group: 99,
        guardian: None,
    };
    let mut members = Vec::new();
    let refused = (0..300).any(|_| {
        let socket = socket::connect(&address.socket_name()).unwrap();
        // A refusal needs no proof and may come first.
        let _ = socket::send(
            socket.as_fd(),
            Message::Hello(hello).encode().as_bytes(),
            None,
        );
        let status = ready(&socket).map(|ready| ready.status);
        members.push(socket);
        status != Some(Status::In)
    });
    assert!(refused);
    assert!(members.len() > 50);
    drop(members);
    assert_eq!(program.does(&format!("unlink {}", shm.name)), "running");
    assert_eq!(program.ends(), "");
}

#[test]
fn started_by_hand_it_says_no() {
    let status = std::process::Command::new(tracker())
        .stdin(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(64));
}
