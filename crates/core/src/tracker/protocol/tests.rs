//! Messages: there and back, byte for byte, and no others.

use super::*;
use crate::helper::wire::testing::{noise, the_page_has_the_tables_of};

fn entry(name: &[u8]) -> Entry<'_> {
    Entry {
        rtype: ResourceType::SharedMemory,
        name,
        identity: Identity { dev: 7, ino: 9 },
        again: false,
    }
}

fn hello() -> Hello {
    Hello {
        bind: true,
        version: VERSION,
        address: [1; 16],
        cookie: [2; 16],
        group: 3,
        guardian: Some((4, 5)),
    }
}

#[test]
fn messages_come_back_as_written() {
    let long = [b'x'; NAME_MAX_BYTES];
    for message in [
        Message::Hello(hello()),
        Message::Hello(Hello {
            bind: false,
            guardian: None,
            ..hello()
        }),
        Message::Register(entry(b"/psm_1")),
        Message::Register(Entry {
            again: true,
            rtype: ResourceType::Array,
            ..entry(&long)
        }),
        Message::Unregister(entry(b"a")),
        Message::Gone(entry(b"\xff")),
        Message::Adopt,
    ] {
        assert_eq!(Message::decode(message.encode().as_bytes()), Ok(message));
    }
    let ready = Ready {
        status: Status::Busy,
        version: VERSION,
        pid: 12,
        address: [3; 16],
        cookie: [4; 16],
        group: u64::MAX,
    };
    assert_eq!(Ready::decode(ready.encode().as_bytes()), Ok(ready));
}

/// The bytes that the tables above promise; a change here is a new version.
#[test]
fn the_bytes_are_as_documented() {
    let message = Message::Register(entry(b"ab")).encode();
    assert_eq!(
        message.as_bytes(),
        b"\x03\x03\0\0\x02\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0ab"
    );
    let message = Message::Hello(hello()).encode();
    assert_eq!(&message.as_bytes()[..8], b"\x01\x01\x01\0SNPT");
    assert_eq!(message.as_bytes().len(), 64);
    assert_eq!(Message::Adopt.encode().as_bytes(), b"\x06\0\0\0\0\0\0\0");
}

#[test]
fn the_page_in_docs_has_the_same_tables() {
    the_page_has_the_tables_of(
        include_str!("../../../../../docs/tracker.md"),
        include_str!("../protocol.rs"),
        18,
    );
}

#[test]
fn nothing_but_a_whole_message_is_one() {
    let good = Message::Register(entry(b"/psm_1")).encode();
    let good = good.as_bytes();
    for len in 0..good.len() {
        assert_eq!(Message::decode(&good[..len]), Err(Malformed), "{len}");
    }
    for (offset, value) in [
        (0, 0),
        (0, 2),
        (0, 7),
        (0, 255),
        (1, 5),
        (2, 2),
        (4, 5),
        (6, 1),
        (26, 0),
    ] {
        let mut bad = good.to_vec();
        bad[offset] = value;
        assert_eq!(Message::decode(&bad), Err(Malformed), "{offset} {value}");
    }
    let mut long = good.to_vec();
    long.resize(ENTRY_HEAD_BYTES + NAME_MAX_BYTES + 1, b'x');
    long[4..6].copy_from_slice(&((NAME_MAX_BYTES + 1) as u16).to_le_bytes());
    assert_eq!(Message::decode(&long), Err(Malformed));
}

#[test]
fn noise_never_panics() {
    noise(|round, noise: &mut [u8; MESSAGE_MAX_BYTES]| {
        let len = round % noise.len();
        let _ = Message::decode(&noise[..len]);
        let _ = Ready::decode(&noise[..len]);
    });
}
