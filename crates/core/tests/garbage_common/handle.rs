//! Bytes that may be a handle, and a process that receives it.

use shared_numpy_core::participation::{self, Handle, Hold};

use super::choices::Choices;
use super::queue_common::{fill, on};
use super::touch;

/// A process with a block, and bytes that began as a handle of it.
pub(crate) struct World {
    hold: Hold,
    bytes: [u8; Handle::BYTES],
}

impl World {
    pub(crate) fn new(choices: &mut dyn Choices) -> Self {
        let hold = fill(1000, 1);
        let handle = match choices.below(2) {
            0 => hold.handle().unwrap(),
            // It stays on its way until the pool is asked to forget that.
            _ => hold.send(&mut on).unwrap().0,
        };
        World {
            hold,
            bytes: handle.to_bytes(),
        }
    }

    /// Changes one field, or a byte.
    pub(crate) fn scribble(&mut self, choices: &mut dyn Choices) {
        let at = choices.below(Handle::BYTES);
        match choices.below(3) {
            0 => self.bytes[at] = choices.below(256) as u8,
            1 => self.bytes[at / 8 * 8..][..8].copy_from_slice(&choices.word().to_le_bytes()),
            _ => self.bytes[at / 4 * 4..][..4]
                .copy_from_slice(&(choices.word() as u32).to_le_bytes()),
        }
    }

    /// Reads it, and takes what it names.
    pub(crate) fn receive(&mut self, choices: &mut dyn Choices) {
        let Ok(mut handle) = Handle::from_bytes(&self.bytes) else {
            return;
        };
        assert_eq!(Handle::from_bytes(&handle.to_bytes()), Ok(handle));
        // Nobody's descriptors but our own: others' are not to be played with.
        handle.hints.sender_pid = [0, std::process::id()][choices.below(2)];
        if choices.below(2) == 0 {
            let _ = participation::join(&handle, [0; 16], &mut on);
        }
        if let Ok(taken) = participation::receive(&handle, &mut on) {
            touch(taken.mapping(), taken.offset_bytes(), taken.size_bytes());
            assert!(!taken.is_dropped());
        }
        assert!(!self.hold.is_dropped());
    }
}

/// Bytes of any length: no handle, or one.
pub(crate) fn parse(bytes: &[u8]) {
    if let Ok(handle) = Handle::from_bytes(bytes) {
        assert_eq!(Handle::from_bytes(&handle.to_bytes()), Ok(handle));
    }
}
