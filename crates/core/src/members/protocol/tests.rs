//! Messages: there and back, byte for byte, and no others.

use super::*;
use crate::helper::wire::testing::{noise, the_page_has_the_tables_of};

fn segment() -> SegmentId {
    SegmentId {
        owner: Participant {
            slot: 3,
            generation: 7,
        },
        number: 9,
    }
}

fn hello() -> Hello {
    Hello {
        serve: true,
        version: VERSION,
        family: [1, 2],
        cookie: [3; 16],
    }
}

#[test]
fn messages_come_back_as_written() {
    for message in [
        Message::Hello(hello()),
        Message::Hello(Hello {
            serve: false,
            ..hello()
        }),
        Message::Joined(segment().owner),
        Message::Dropped(segment().owner),
        Message::Guarded(ProcessId {
            pid: 12,
            start_ticks: 34,
        }),
        Message::Register(segment()),
        Message::Fetch(u32::MAX, segment()),
    ] {
        assert_eq!(Message::decode(message.encode().as_bytes()), Ok(message));
    }
    for status in Status::ALL {
        let ready = Ready {
            status,
            version: VERSION,
            pid: 12,
            family: [4, 5],
        };
        assert_eq!(Ready::decode(ready.encode().as_bytes()), Ok(ready));
    }
    for answer in [Answer::Here, Answer::Unknown, Answer::Busy] {
        let fetched = Fetched {
            answer,
            request: 77,
            segment: segment(),
        };
        assert_eq!(Fetched::decode(fetched.encode().as_bytes()), Ok(fetched));
    }
}

/// The bytes that the tables above promise; a change here is a new version.
#[test]
fn the_bytes_are_as_documented() {
    let message = Message::Fetch(5, segment()).encode();
    assert_eq!(
        message.as_bytes(),
        b"\x05\0\0\0\x05\0\0\0\x31\0\x07\0\0\0\0\0\x09\0\0\0\0\0\0\0"
    );
    let message = Message::Joined(segment().owner).encode();
    assert_eq!(
        message.as_bytes(),
        b"\x03\0\0\0\0\0\0\0\x31\0\x07\0\0\0\0\0"
    );
    let message = Message::Hello(hello()).encode();
    assert_eq!(&message.as_bytes()[..9], b"\x01\x01\x02\0SNPM\x01");
    assert_eq!(message.as_bytes().len(), 48);
}

#[test]
fn the_page_in_docs_has_the_same_tables() {
    the_page_has_the_tables_of(
        include_str!("../../../../../docs/members.md"),
        include_str!("../protocol.rs"),
        16,
    );
}

#[test]
fn nothing_but_a_whole_message_is_one() {
    for good in [
        Message::Hello(hello()),
        Message::Joined(segment().owner),
        Message::Dropped(segment().owner),
        Message::Guarded(ProcessId {
            pid: 12,
            start_ticks: 34,
        }),
        Message::Register(segment()),
        Message::Fetch(1, segment()),
    ] {
        let good = good.encode();
        let good = good.as_bytes();
        for len in 0..good.len() {
            assert_eq!(Message::decode(&good[..len]), Err(Malformed), "{len}");
        }
        let mut long = good.to_vec();
        long.push(0);
        assert_eq!(Message::decode(&long), Err(Malformed));
    }
    let good = Message::Register(segment()).encode();
    // No kind, an answer's kind, unused bytes, a participant that is none.
    for (offset, value) in [(0, 0), (0, 2), (0, 6), (1, 1), (2, 1), (4, 1), (8, 0)] {
        let mut bad = good.as_bytes().to_vec();
        bad[offset] = value;
        assert_eq!(Message::decode(&bad), Err(Malformed), "{offset} {value}");
    }
}

#[test]
fn noise_never_panics() {
    noise(|round, noise: &mut [u8; MESSAGE_MAX_BYTES]| {
        if round % 3 == 0 {
            noise[1..8].fill(0);
        }
        let len = round % (noise.len() + 1);
        let _ = Message::decode(&noise[..len]);
        let _ = Ready::decode(&noise[..len]);
        let _ = Fetched::decode(&noise[..len]);
    });
}
