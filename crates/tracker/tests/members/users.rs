//! Processes that changed their user: let in by their slot, and by nothing else; and whom a
//! process tells the cookie. Only root can play other users.

use std::os::fd::{AsFd, OwnedFd};

use shared_numpy_core::members::client::{Connection, Reached};
use shared_numpy_core::members::protocol::{Message, Status};
use shared_numpy_core::members::socket_name;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::sys::{feature, socket};

use super::wait_until;
use super::wire::{COOKIE, Wire, hello, ready, receive, send};

/// What `work` gives on a thread that is another user; `None` where it may not be one.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    // SAFETY: asks who we are.
    if unsafe { libc::geteuid() } != 0 {
        println!("not checked: only root may become somebody else");
        return None;
    }
    if feature::is_disabled("abstract") {
        println!("not checked: other users do not find files of ours");
        return None;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The bare call changes this thread only, which ends soon.
            // SAFETY: three integers.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(changed, 0);
            work()
        });
        Some(thread.join().unwrap())
    })
}

#[test]
fn another_user_is_let_in_by_its_slot_and_with_the_cookie() {
    let wire = Wire::new();
    if let Some(socket) = as_nobody(|| wire.member()) {
        // With a slot, but without the proof.
        let unproven = as_nobody(|| wire.connect()).unwrap();
        send(&unproven, &Message::Fetch(1, wire.segment(1)));
        assert!(receive(&unproven).is_none());
        drop(socket);
    }
    wire.ends();
}

#[test]
fn another_user_without_a_slot_is_turned_away() {
    let wire = Wire::new();
    let stays = wire.member();
    wire.family.declare_dead(wire.me).unwrap();
    let turned_away = as_nobody(|| {
        let socket = wire.connect();
        let hello = Message::Hello(hello(&wire.family)).encode();
        // It may be closed by now.
        let _ = socket::send(socket.as_fd(), hello.as_bytes(), None);
        receive(&socket).is_none()
    });
    assert_ne!(turned_away, Some(false));
    drop(stays);
    wire.ends();
}

/// Who connected to a listener, and said what.
fn what_is_said(listener: &socket::Listener) -> (OwnedFd, Option<Vec<u8>>) {
    let mut came = None;
    wait_until("somebody comes", || {
        came = socket::accept(listener).unwrap();
        came.is_some()
    });
    let came = came.unwrap();
    let said = receive(&came).map(|(bytes, _)| bytes);
    (came, said)
}

#[test]
fn another_users_listener_is_not_told_the_cookie() {
    let (family, _fd) = Family::create().unwrap();
    let listen = || {
        socket::bind(&socket_name(family.id()))
            .and_then(socket::Bound::listen)
            .unwrap()
    };
    let Some(listener) = as_nobody(listen) else {
        return;
    };
    let connected = Connection::connect(family.id(), COOKIE, &mut || true);
    assert!(matches!(connected, Ok(None)), "{connected:?}");
    assert_eq!(what_is_said(&listener).1, None);
    // A member that is no tracker has no business there either.
    let me = family.join().unwrap();
    let reached = Connection::reach(&family, COOKIE, &mut || true);
    assert!(
        matches!(reached, Ok(Reached::Stranger(why)) if why.contains("another user")),
        "{reached:?}"
    );
    assert_eq!(what_is_said(&listener).1, None);
    // The family's tracker has.
    let tracker = family.join_as_tracker().unwrap();
    let reached = std::thread::scope(|scope| {
        let asks = scope.spawn(|| Connection::reach(&family, COOKIE, &mut || true));
        let (came, said) = what_is_said(&listener);
        let expected = Message::Hello(hello(&family)).encode();
        assert_eq!(said.as_deref(), Some(expected.as_bytes()));
        drop(came);
        asks.join().unwrap()
    });
    assert!(
        matches!(reached, Ok(Reached::Stranger(why)) if why.contains("another user")),
        "{reached:?}"
    );
    family.declare_dead(tracker).unwrap();
    family.declare_dead(me).unwrap();
}

#[test]
fn a_tracker_has_its_slot_before_it_can_be_reached() {
    let wire = Wire::new();
    let found = as_nobody(
        || match Connection::reach(&wire.family, COOKIE, &mut || true) {
            Ok(Reached::Up(connection)) => connection.tracker_pid(),
            other => panic!("{other:?}"),
        },
    );
    assert!(found.is_none_or(|pid| pid == wire.tracker));
    let socket = wire.connect();
    send(&socket, &Message::Hello(hello(&wire.family)));
    assert_eq!(ready(&socket).unwrap().0.status, Status::In);
    drop(socket);
    wire.ends();
}
