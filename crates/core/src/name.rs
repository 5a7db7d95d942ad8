//! What a segment may be called.
//!
//! A [`SegmentName`] is a single file name under `/dev/shm`: not empty, no NUL,
//! no slash inside, at most 255 bytes. Leading slashes, which the C library
//! drops too, are dropped here once, so that `x`, `/x` and `//x` are one name
//! and every process prints it alike.

use std::ffi::{CStr, CString};

use crate::error::{Error, Result};

/// The longest name, in bytes, without its slash (`NAME_MAX` of tmpfs).
pub const NAME_MAX_BYTES: usize = 255;

/// A canonical segment name, without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SegmentName(CString);

impl SegmentName {
    /// Checks `raw` and brings it to canonical form.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] for a name that is empty, holds a NUL or a slash after
    /// its leading ones, is `.` or `..`, or is longer than [`NAME_MAX_BYTES`].
    pub fn new(raw: &[u8]) -> Result<Self> {
        let bad = |reason| Error::BadName {
            name: String::from_utf8_lossy(raw).into_owned(),
            reason,
        };
        let start = raw.iter().position(|&b| b != b'/').unwrap_or(raw.len());
        let bare = &raw[start..];
        if bare.is_empty() {
            return Err(bad("it is empty"));
        }
        if bare.contains(&0) {
            return Err(bad("embedded null character"));
        }
        if bare.contains(&b'/') {
            return Err(bad("a slash is allowed at the start only"));
        }
        if bare == b"." || bare == b".." {
            return Err(bad("it names a directory"));
        }
        if bare.len() > NAME_MAX_BYTES {
            return Err(bad("it is longer than 255 bytes"));
        }
        CString::new(bare)
            .map(SegmentName)
            .map_err(|_| bad("embedded null character"))
    }

    /// The name for a system call.
    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }

    /// The name's bytes, without a slash and without a terminator.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    /// The name for people: bytes that are not UTF-8 are replaced.
    pub fn display(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_slashes_are_one_name() {
        let plain = SegmentName::new(b"psm_1").unwrap();
        assert_eq!(plain, SegmentName::new(b"/psm_1").unwrap());
        assert_eq!(plain, SegmentName::new(b"///psm_1").unwrap());
        assert_eq!(plain.as_bytes(), b"psm_1");
    }

    #[test]
    fn names_that_no_segment_can_have() {
        for raw in [
            &b""[..],
            b"/",
            b"//",
            b"a/b",
            b"/a/",
            b"a\0",
            b"\0a",
            b".",
            b"/..",
            &[b'x'; 256],
        ] {
            assert!(
                matches!(SegmentName::new(raw), Err(Error::BadName { .. })),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn names_that_look_odd_and_are_fine() {
        for raw in [
            &b"..."[..],
            b"a:b",
            b"a\nb",
            b"\xff\xfe",
            "größe".as_bytes(),
            &[b'x'; 255],
        ] {
            assert_eq!(SegmentName::new(raw).unwrap().as_bytes(), raw);
        }
    }
}
