//! Bytes that may be a message of one of the two trackers, or the address of one.
//!
//! Unused bytes of a message are zero, and others are refused: what is read is written again
//! byte for byte.

use shared_numpy_core::members::protocol as members;
use shared_numpy_core::tracker::address::Address;
use shared_numpy_core::tracker::protocol as tracker;

use super::choices::Choices;

/// Longer than any message.
pub(crate) const MAX_BYTES: usize = tracker::MESSAGE_MAX_BYTES + 8;

/// Reads them as everything that they may be.
pub(crate) fn parse(bytes: &[u8]) {
    if let Ok(message) = tracker::Message::decode(bytes) {
        assert_eq!(message.encode().as_bytes(), bytes);
    }
    if let Ok(ready) = tracker::Ready::decode(bytes) {
        assert_eq!(ready.encode().as_bytes(), bytes);
    }
    if let Ok(message) = members::Message::decode(bytes) {
        assert_eq!(message.encode().as_bytes(), bytes);
    }
    if let Ok(ready) = members::Ready::decode(bytes) {
        assert_eq!(ready.encode().as_bytes(), bytes);
    }
    if let Ok(fetched) = members::Fetched::decode(bytes) {
        assert_eq!(fetched.encode().as_bytes(), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(address) = Address::parse(text)
    {
        assert_eq!(Address::parse(&address.to_string()), Some(address));
    }
}

/// Bytes that look like a message: a kind that there is, often, and zeros, often.
pub(crate) fn noise(choices: &mut dyn Choices) -> Vec<u8> {
    let len = [8, 16, 24, 48, 64, choices.below(MAX_BYTES)][choices.below(6)];
    let zeros = choices.below(4);
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| choices.below(256) as u8)
        .map(|byte| {
            if usize::from(byte % 4) < zeros {
                0
            } else {
                byte
            }
        })
        .collect();
    if let Some(kind) = bytes.first_mut() {
        *kind %= 8;
    }
    bytes
}
