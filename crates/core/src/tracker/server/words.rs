//! Telling the user: names as Python writes them, on a descriptor that may be slow.

use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::sys::socket::{timespec, until};

/// How long a reader may keep us from getting rid of a warning.
const PATIENCE: Duration = Duration::from_millis(500);

/// `name` as Python's `repr` of the string would be.
pub(super) fn python_repr(name: &[u8]) -> String {
    let quote = if name.contains(&b'\'') && !name.contains(&b'"') {
        '"'
    } else {
        '\''
    };
    let mut text = String::from(quote);
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                _ if character == quote => text.extend(['\\', quote]),
                _ if character.is_control() => {
                    let _ = write!(text, "\\x{:02x}", u32::from(character));
                }
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            // As `os.fsdecode` carries bytes that are no text.
            let _ = write!(text, "\\udc{byte:02x}");
        }
    }
    text.push(quote);
    text
}

/// Writes `text`; gives up when nobody reads for half a second.
///
/// The descriptor's flags belong to the program too, so they stay as they are:
/// pipes and terminals are opened a second time, non-blocking; sockets have a
/// flag per call; a regular file does not block.
pub(super) fn say(stderr: &OwnedFd, text: &str) {
    let own = reopened(stderr);
    let fd = own.as_ref().unwrap_or(stderr).as_fd();
    let is_socket = kind(stderr) == Some(FileType::Socket);
    let deadline = Instant::now() + PATIENCE;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let written = if is_socket {
            rustix::net::send(fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        } else {
            write_some(fd, rest, own.is_some())
        };
        match written {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                wait_writable(fd, until(deadline));
            }
            Err(_) => return,
        }
    }
}

/// One write. If the descriptor can block, only after a look that says it will not.
fn write_some(fd: BorrowedFd<'_>, bytes: &[u8], non_blocking: bool) -> Result<usize, Errno> {
    const ATOMIC_BYTES: usize = 4096;
    let is_file = kind(fd) == Some(FileType::RegularFile);
    if !non_blocking && !is_file && !wait_writable(fd, Duration::ZERO) {
        return Err(Errno::AGAIN);
    }
    rustix::io::write(fd, &bytes[..bytes.len().min(ATOMIC_BYTES)])
}

fn wait_writable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    matches!(poll(&mut fds, Some(&timespec(limit))), Ok(1..))
}

fn kind(fd: impl AsFd) -> Option<FileType> {
    let stat = rustix::fs::fstat(fd).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

fn reopened(fd: &OwnedFd) -> Option<OwnedFd> {
    if !matches!(kind(fd)?, FileType::Fifo | FileType::CharacterDevice) {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn as_python_writes_it() {
        for (name, expected) in [
            (&b"/psm_1"[..], "'/psm_1'"),
            (b"it's", "\"it's\""),
            (b"it's \"x\"", "'it\\'s \"x\"'"),
            (b"a\nb\\", "'a\\nb\\\\'"),
            (b"\x01\x7f", "'\\x01\\x7f'"),
            ("größe".as_bytes(), "'größe'"),
            (b"\xff/", "'\\udcff/'"),
        ] {
            assert_eq!(python_repr(name), expected);
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_does_not_hold_us_up() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer: OwnedFd = writer.into();
        say(&writer, "hello\n");
        let much = "x".repeat(1 << 20);
        say(&writer, &much);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("hello\nxxx"));
        assert!(text.len() < much.len());
    }

    #[test]
    fn a_socket_works_too() {
        let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let writer: OwnedFd = writer.into();
        say(&writer, "hello\n");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }
}
