//! Fields of messages: fixed places, little-endian, checked when read.

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// An encoded message of at most `MAX` bytes.
#[derive(Debug, Clone)]
pub struct Encoded<const MAX: usize> {
    bytes: [u8; MAX],
    len: usize,
}

impl<const MAX: usize> Encoded<MAX> {
    /// `len` zeros.
    pub(crate) fn new(len: usize) -> Self {
        Encoded {
            bytes: [0; MAX],
            len,
        }
    }

    pub(crate) fn put<const N: usize>(&mut self, offset: usize, field: [u8; N]) {
        self.put_all(offset, &field);
    }

    pub(crate) fn put_all(&mut self, offset: usize, field: &[u8]) {
        self.bytes[offset..offset + field.len()].copy_from_slice(field);
    }

    /// The message's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The field of `N` bytes at `offset`.
pub(crate) fn get<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Malformed> {
    bytes
        .get(offset..offset + N)
        .and_then(|field| field.try_into().ok())
        .ok_or(Malformed)
}

pub(crate) fn get_u16(bytes: &[u8], offset: usize) -> Result<u16, Malformed> {
    get(bytes, offset).map(u16::from_le_bytes)
}

pub(crate) fn get_u32(bytes: &[u8], offset: usize) -> Result<u32, Malformed> {
    get(bytes, offset).map(u32::from_le_bytes)
}

pub(crate) fn get_u64(bytes: &[u8], offset: usize) -> Result<u64, Malformed> {
    get(bytes, offset).map(u64::from_le_bytes)
}

pub(crate) fn require(condition: bool) -> Result<(), Malformed> {
    condition.then_some(()).ok_or(Malformed)
}

#[cfg(test)]
pub(crate) mod testing;
