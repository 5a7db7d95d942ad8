//! What programs left behind that were killed together with their trackers: found by the
//! trackers' books, and removed.
//!
//! Guarantees:
//!
//! - Nothing of a living program goes: its tracker has its book locked, or, if only that was
//!   killed, its processes have the group's marker mapped, or its guardian lives. What cannot
//!   be told (another pid namespace, no `/proc`) is left alone.
//! - Only the file that the book means is unlinked: device, inode and user are compared.
//! - It can be killed anywhere and run again; two at a time share the work.
//!
//! | killed after | what happens |
//! | --- | --- |
//! | locking a book | the lock is gone; the next one finds it |
//! | unlinking some of its names | the next one passes those over |
//! | unlinking all | the next one removes the book |

use rustix::io::Errno;

use super::book::{Book, Entry, Page, Shelved};
use super::marker;
use super::protocol::ResourceType;
use super::server::file_of;
use crate::name::SegmentName;
use crate::sys::directory::{self, Directory};
use crate::sys::process;
use crate::sys::shm;

/// A name that a dead program had left.
#[derive(Debug)]
pub struct Leftover {
    /// What it stood for.
    pub rtype: ResourceType,
    /// As it was registered.
    pub name: Box<[u8]>,
    /// Whether it could be removed.
    pub removed: Result<(), Errno>,
}

/// Removes what dead programs of this user have left behind; what that was. Whether a program
/// is dead, which takes some milliseconds, is asked for `most` of them.
pub fn collect(most: usize) -> Vec<Leftover> {
    let mut round = Round {
        here: Book::here(Vec::new()),
        device: shm::device(),
        looks: most,
        found: Vec::new(),
    };
    if !process::sees_own_namespace() {
        return round.found;
    }
    for path in directory::all() {
        let Ok(directory) = Directory::open(&path) else {
            continue;
        };
        for (shelved, book) in Shelved::left_in(&directory) {
            // Bytes that are no book: its tracker was killed while it wrote them, and the
            // one before that is there.
            if book.is_none_or(|book| round.do_with(&book)) {
                shelved.remove();
            }
        }
    }
    round.found
}

struct Round {
    here: Book,
    device: Option<u64>,
    /// How many more programs may be asked after.
    looks: usize,
    found: Vec<Leftover>,
}

impl Round {
    /// Whether nothing is left to do about a book.
    fn do_with(&mut self, book: &Book) -> bool {
        if book.boot != self.here.boot {
            return true; // the names went with that
        }
        if book.pid_namespace != self.here.pid_namespace {
            return false;
        }
        let pages = book.pages.iter().map(|page| self.do_with_page(page));
        pages.fold(true, |all, done| all & done)
    }

    fn do_with_page(&mut self, page: &Page) -> bool {
        // A container may have a `/dev/shm` of its own, where names mean nothing.
        let is_here = |entry: &Entry| self.device == Some(entry.identity.dev);
        if !page.entries.iter().all(is_here) {
            return false;
        }
        let there: Vec<_> = page.entries.iter().filter_map(file_that_is_there).collect();
        if there.is_empty() {
            return true;
        }
        if self.looks == 0 {
            return false;
        }
        self.looks -= 1;
        let removed = is_over(page).then(|| {
            let removals = there.iter().map(|(entry, file)| self.remove(entry, file));
            removals.fold(true, |all, done| all & done)
        });
        removed.unwrap_or(false)
    }

    fn remove(&mut self, entry: &Entry, file: &SegmentName) -> bool {
        let removed = match shm::unlink_if(file, entry.identity) {
            // Somebody else was quicker.
            Err(Errno::NOENT | Errno::STALE) => return true,
            done => done,
        };
        self.found.push(Leftover {
            rtype: entry.rtype,
            name: entry.name.clone(),
            removed,
        });
        removed.is_ok()
    }
}

fn is_over(page: &Page) -> bool {
    !page.guardians.iter().any(|guardian| guardian.is_alive())
        && marker::holders(page.group).is_some_and(|holders| holders.is_empty())
}

/// The file that an entry means, if it is still there.
fn file_that_is_there(entry: &Entry) -> Option<(&Entry, SegmentName)> {
    let file = file_of(entry.rtype, &entry.name)?.ok()?;
    let status = shm::status_of(&file).ok()?;
    let is_meant =
        status.identity == entry.identity && status.is_regular && status.uid == shm::own_uid();
    is_meant.then_some((entry, file))
}
