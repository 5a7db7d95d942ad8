//! When the tracker writes its book: a moment after names have changed.
//!
//! Names that come and go within that moment are never written, so that messages cost no
//! more for it. What is killed together with everybody in that moment is not in the book.

use std::time::{Duration, Instant};

use super::Server;
use super::cleanup::file_of;
use super::group::{Group, Registered};
use crate::sys::shm::{self, Identity};
use crate::tracker::address::{self, Token};
use crate::tracker::book::{Book, Entry, Page, Shelved};
use crate::tracker::protocol::ResourceType;

/// How long after a change the book is written.
const MOMENT: Duration = Duration::from_millis(50);
/// And longer by this for each name, so that it costs a part of the time.
const FOR_EACH_NAME: Duration = Duration::from_micros(100);
/// How soon a name whose file was not there yet is looked for again.
const LATER: Duration = Duration::from_secs(1);

/// The tracker's book on disk, while there is something to write in it.
#[derive(Debug, Default)]
pub(super) struct Bookkeeping {
    /// What it is called; nothing if there is no randomness to be had.
    id: Option<Token>,
    due: Option<Instant>,
    written: Option<(Shelved, Book)>,
}

impl Bookkeeping {
    pub(super) fn new() -> Self {
        Bookkeeping {
            id: address::random().ok(),
            ..Bookkeeping::default()
        }
    }

    /// Names have changed, of which there are so many.
    pub(super) fn changed(&mut self, names: usize) {
        let names = u32::try_from(names).unwrap_or(u32::MAX);
        self.due = Some(Instant::now() + MOMENT + FOR_EACH_NAME.saturating_mul(names));
    }

    /// When the book is to be written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes the book away: everything is cleaned up.
    pub(super) fn close(&mut self) {
        if let Some((shelved, _)) = self.written.take() {
            shelved.remove();
        }
    }
}

impl Server {
    /// Writes the book if its time has come.
    pub(super) fn keep_the_book(&mut self) {
        if self.book.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.book.due = None;
        let mut all_are_known = true;
        let groups = self.groups.iter();
        let pages: Vec<Page> = groups
            .map(|(&id, group)| page(id, group, &mut all_are_known))
            .filter(|page| !page.entries.is_empty())
            .collect();
        if pages.is_empty() {
            self.book.close();
        } else if let Some(id) = &self.book.id {
            let book = Book::here(pages);
            let is_written = self
                .book
                .written
                .as_ref()
                .is_some_and(|(_, old)| *old == book);
            // Where there is no place, or no room, for a book there is none: only what is
            // killed together with its tracker needs one.
            if !is_written && let Ok(shelved) = Shelved::put(id, &book.to_bytes()) {
                self.book.written = Some((shelved, book));
            }
        }
        if !all_are_known {
            self.book.due = Some(Instant::now() + LATER);
        }
    }
}

fn page(id: u64, group: &Group, all_are_known: &mut bool) -> Page {
    let mut entries = Vec::new();
    for ((rtype, name), known) in &group.names {
        let Some(identity) = identity_of(*rtype, name, known) else {
            continue;
        };
        if identity == Identity::default() {
            *all_are_known = false;
            continue;
        }
        entries.push(Entry {
            rtype: *rtype,
            identity,
            name: name.clone(),
        });
    }
    Page {
        group: id,
        guardians: group.guardians().collect(),
        entries,
    }
}

/// Which file a name leads to, zeros if that is not there yet; `None` for what is no file of
/// ours. (Names that we generate are registered before there is a file.)
fn identity_of(rtype: ResourceType, name: &[u8], known: &Registered) -> Option<Identity> {
    let file = file_of(rtype, name)?.ok()?;
    if known.identity != Identity::default() {
        return Some(known.identity);
    }
    match shm::status_of(&file) {
        Ok(status) => {
            let is_ours = status.is_regular && status.uid == shm::own_uid();
            is_ours.then_some(status.identity)
        }
        Err(_) => Some(Identity::default()),
    }
}
