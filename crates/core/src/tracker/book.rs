//! The book: what a tracker has to clean up, on disk, for the case that it is killed together
//! with everybody who could tell another one.
//!
//! Guarantees:
//!
//! - A book is whole at every instant: a new one takes the place of the old by a rename.
//! - Whoever can lock it knows that its tracker is dead ([`super::leftovers`]).
//! - Only names whose file is known are in it, so that no other file is ever meant.
//!
//! It is `names.<32 hexadecimal digits>` in a directory of ours ([`crate::sys::directory`]).
//! Numbers are little-endian.
//!
//! | part | bytes |
//! | --- | --- |
//! | head | `SNPBOOK1`, 16 bytes boot id, u64 inode of the pid namespace |
//! | for each group | u8 1, u64 group, u16 number of guardians, of each u32 pid, u64 start time |
//! | after it, for each of its names | u8 2, u8 resource type, u16 length, u64 device, u64 inode, the name |
//! | end | u8 0, u64 FNV-1a of everything before |

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::address::{self, Token};
use super::protocol::{NAME_MAX_BYTES, ResourceType};
use crate::sys::directory::{self, Directory};
use crate::sys::fd::above_stdio;
use crate::sys::identity;
use crate::sys::process::ProcessId;
use crate::sys::shm::{self, Identity};

/// What names of books begin with.
const PREFIX: &str = "names.";
const MAGIC: [u8; 8] = *b"SNPBOOK1";
const END: u8 = 0;
const GROUP: u8 = 1;
const NAME: u8 = 2;
/// More than anybody has: a hundred thousand of the longest names.
const BOOK_MAX_BYTES: u64 = 32 << 20;

/// A name that is to be cleaned up, and the file that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) rtype: ResourceType,
    pub(super) identity: Identity,
    pub(super) name: Box<[u8]>,
}

/// What is known of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) group: u64,
    pub(super) guardians: Vec<ProcessId>,
    pub(super) entries: Vec<Entry>,
}

/// A whole book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Book {
    pub(super) boot: [u64; 2],
    pub(super) pid_namespace: u64,
    pub(super) pages: Vec<Page>,
}

impl Book {
    /// One of this boot and pid namespace.
    pub(super) fn here(pages: Vec<Page>) -> Self {
        let own = identity::Identity::own();
        Book {
            boot: own.boot,
            pid_namespace: own.pid_namespace,
            pages,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for word in [self.boot[0], self.boot[1], self.pid_namespace] {
            out.extend(word.to_le_bytes());
        }
        for page in &self.pages {
            out.push(GROUP);
            out.extend(page.group.to_le_bytes());
            out.extend((page.guardians.len() as u16).to_le_bytes());
            for guardian in page.guardians.iter().take(usize::from(u16::MAX)) {
                out.extend(guardian.pid.to_le_bytes());
                out.extend(guardian.start_ticks.to_le_bytes());
            }
            for entry in &page.entries {
                out.extend([NAME, entry.rtype as u8]);
                out.extend((entry.name.len() as u16).to_le_bytes()); // at most NAME_MAX_BYTES
                out.extend(entry.identity.dev.to_le_bytes());
                out.extend(entry.identity.ino.to_le_bytes());
                out.extend_from_slice(&entry.name);
            }
        }
        out.push(END);
        let sum = checksum(&out);
        out.extend(sum.to_le_bytes());
        out
    }

    /// `None` for bytes that are no book.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return None;
        }
        let mut rest = body;
        let rest = &mut rest;
        if take::<8>(rest)? != MAGIC {
            return None;
        }
        let boot = [word(rest)?, word(rest)?];
        let mut book = Book {
            boot,
            pid_namespace: word(rest)?,
            pages: Vec::new(),
        };
        loop {
            match take::<1>(rest)? {
                [END] => return rest.is_empty().then_some(book),
                [GROUP] => {
                    let group = word(rest)?;
                    let count = u16::from_le_bytes(take(rest)?);
                    let guardians = (0..count).map(|_| {
                        Some(ProcessId {
                            pid: u32::from_le_bytes(take(rest)?),
                            start_ticks: word(rest)?,
                        })
                    });
                    let guardians = guardians.collect::<Option<_>>()?;
                    book.pages.push(Page {
                        group,
                        guardians,
                        entries: Vec::new(),
                    });
                }
                [NAME] => {
                    let [number] = take(rest)?;
                    let rtype = ResourceType::from_number(number)?;
                    let len = usize::from(u16::from_le_bytes(take(rest)?));
                    let (dev, ino) = (word(rest)?, word(rest)?);
                    let (name, after) = rest.split_at_checked(len)?;
                    *rest = after;
                    if !(1..=NAME_MAX_BYTES).contains(&len) {
                        return None;
                    }
                    book.pages.last_mut()?.entries.push(Entry {
                        rtype,
                        identity: Identity { dev, ino },
                        name: name.into(),
                    });
                }
                _ => return None,
            }
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (field, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*field)
}

fn word(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A book on disk that belongs to whoever has this.
#[derive(Debug)]
pub(super) struct Shelved {
    path: PathBuf,
    /// The lock ends with this.
    _locked: OwnedFd,
}

impl Shelved {
    /// Puts a book there under `id`, in the place of an older one of that.
    ///
    /// # Errors
    ///
    /// The system's, of the last place that was tried.
    pub(super) fn put(id: &Token, bytes: &[u8]) -> Result<Self, Errno> {
        let mut failed = Errno::NOENT;
        for path in directory::all() {
            match Self::put_in(&path, id, bytes) {
                Err(errno) => failed = errno,
                done => return done,
            }
        }
        Err(failed)
    }

    fn put_in(path: &Path, id: &Token, bytes: &[u8]) -> Result<Self, Errno> {
        let directory = Directory::make(path)?;
        let name = format!("{PREFIX}{}", address::hex(id));
        let path = directory.file(name.as_bytes());
        let new = directory.file(format!("{name}.new").as_bytes());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = above_stdio(rustix::fs::open(&new, flags | OFlags::NOFOLLOW, mode)?)?;
        let shelved = Shelved {
            path: new,
            _locked: fd,
        };
        let fd = &shelved._locked;
        // Who came before this lock found a book that is not whole, and removed it: the
        // rename fails then.
        let done = rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive)
            .and_then(|()| shm::write_start(fd, bytes))
            .and_then(|()| rustix::fs::rename(&shelved.path, &path));
        match done {
            Ok(()) => Ok(Shelved { path, ..shelved }),
            Err(errno) => {
                shelved.remove();
                Err(errno)
            }
        }
    }

    /// The books in `directory` whose trackers are dead; of bytes that are no book only the
    /// place.
    pub(super) fn left_in(directory: &Directory) -> Vec<(Self, Option<Book>)> {
        let is_book = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(PREFIX))
        };
        let books = directory.files().filter(is_book);
        books
            .filter_map(|path| Self::take_over(path).ok())
            .collect()
    }

    fn take_over(path: PathBuf) -> Result<(Self, Option<Book>), Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = above_stdio(rustix::fs::open(&path, flags, Mode::empty())?)?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        let status = shm::status(&fd)?;
        if !status.is_regular || status.uid != shm::own_uid() {
            return Err(Errno::PERM);
        }
        let mut bytes = vec![0; status.size_bytes.min(BOOK_MAX_BYTES) as usize];
        let len = shm::read_start(&fd, &mut bytes)?;
        let book = Book::from_bytes(&bytes[..len]);
        let shelved = Shelved { path, _locked: fd };
        Ok((shelved, book))
    }

    /// Takes it away, and the directory if that was the last in it.
    pub(super) fn remove(self) {
        let _ = rustix::fs::unlink(&self.path);
        if let Some(directory) = self.path.parent() {
            directory::remove_if_empty(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        let entry = |rtype, name: &[u8]| Entry {
            rtype,
            identity: Identity { dev: 7, ino: 9 },
            name: name.into(),
        };
        let guardian = ProcessId {
            pid: 5,
            start_ticks: 6,
        };
        Book::here(vec![
            Page {
                group: 1,
                guardians: vec![guardian],
                entries: vec![entry(ResourceType::SharedMemory, b"/a")],
            },
            Page {
                group: 2,
                guardians: Vec::new(),
                entries: vec![
                    entry(ResourceType::Array, &[b'x'; NAME_MAX_BYTES]),
                    entry(ResourceType::Semaphore, b"\xff"),
                ],
            },
        ])
    }

    #[test]
    fn the_page_in_docs_has_the_same_table() {
        let page = include_str!("../../../../docs/tracker.md");
        let (head, _) = include_str!("book.rs").split_once("use std").unwrap();
        let rows = head.lines().filter_map(|line| line.strip_prefix("//! |"));
        let missing: Vec<_> = rows
            .map(|row| format!("|{row}"))
            .filter(|row| !page.lines().any(|line| line == row))
            .collect();
        assert_eq!(missing, [""; 0]);
        assert_eq!(head.matches("//! |").count(), 6);
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let bytes = book().to_bytes();
        assert_eq!(Book::from_bytes(&bytes), Some(book()));
        for cut in 0..bytes.len() {
            assert_eq!(Book::from_bytes(&bytes[..cut]), None);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert_eq!(Book::from_bytes(&bad), None);
            // And with a checksum that fits: another book, or none, and no panic.
            let body = bad.len() - 8;
            let sum = checksum(&bad[..body]).to_le_bytes();
            bad[body..].copy_from_slice(&sum);
            let _ = Book::from_bytes(&bad);
        }
    }

    #[test]
    fn who_lives_has_the_lock_and_a_new_book_takes_the_place_of_the_old() {
        let path = std::env::temp_dir().join(format!("snp_book_{}", std::process::id()));
        let bytes = book().to_bytes();
        let first = Shelved::put_in(&path, &[1; 16], b"not whole").unwrap();
        let directory = Directory::open(&path).unwrap();
        assert!(Shelved::left_in(&directory).is_empty());
        let second = Shelved::put_in(&path, &[1; 16], &bytes).unwrap();
        drop(first);
        assert!(Shelved::left_in(&directory).is_empty());
        assert_eq!(directory.files().count(), 1);
        drop(second); // killed
        std::fs::write(directory.file(b"names.torn.new"), &bytes[..20]).unwrap();
        std::fs::write(directory.file(b"other"), &bytes).unwrap();
        let mut left = Shelved::left_in(&directory);
        left.sort_by_key(|(_, found)| found.is_some());
        let found: Vec<_> = left.iter().map(|(_, found)| found.clone()).collect();
        assert_eq!(found, [None, Some(book())]);
        assert!(Shelved::left_in(&directory).is_empty(), "taken over once");
        left.into_iter().for_each(|(shelved, _)| shelved.remove());
        std::fs::remove_file(directory.file(b"other")).unwrap();
        directory::remove_if_empty(&path);
        assert!(!path.exists());
    }
}
