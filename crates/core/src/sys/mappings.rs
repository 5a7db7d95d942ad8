//! Who maps a file: what `/proc/<pid>/maps` tells of one process or of all.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;

use super::process::{ProcessId, Reach, is_shortage, own_pid, reach};

/// Processes of our user that have `needle` among their mappings' names; `None` when
/// that cannot be told now.
///
/// A process that forks and ends while we look is not missed: the look goes on until
/// a list of all processes has none on it that we have not looked at, so that a child
/// that was not on one list is on the next. (A fork never hides: a child is on the
/// list only when it has its parent's mappings.) What is missed is a child that gets
/// the number of a process seen before, within one call.
///
/// Processes that may not be looked at (another user's, a non-dumpable one) are
/// passed over, and so is everything when there is no `/proc`.
pub fn mapping(needle: &[u8]) -> Option<Vec<ProcessId>> {
    let mut found = Vec::new();
    let looked = look_at_all(|pid| {
        match shows(pid, needle) {
            Ok(Shown::Yes) => found.extend(ProcessId::of(pid)),
            Err(error) if is_shortage(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        Ok(!found.is_empty())
    });
    match looked {
        Ok(None) => None,
        Ok(Some(_)) => Some(found),
        Err(error) if is_shortage(&error) => None,
        // There is no `/proc`.
        Err(_) => Some(Vec::new()),
    }
}

/// Whether a process that `is_meant` maps the file, or may; `None` when that cannot
/// be told. As for [`mapping`], nobody is missed who forks and ends meanwhile. A process
/// that we might signal but not look at (a non-dumpable one) may map anything, if it
/// did not start before `since_ticks`.
pub fn somebody_maps(
    file: &MappedFile,
    since_ticks: u64,
    mut is_meant: impl FnMut(u32) -> bool,
) -> Option<bool> {
    let looked = look_at_all(|pid| {
        if !is_meant(pid) {
            return Ok(false);
        }
        match shows(pid, &file.0) {
            Ok(shown) => Ok(shown == Shown::Yes),
            Err(error) if is_shortage(&error) => Err(error),
            Err(_) => Ok(reach(pid) == Reach::Ours
                && ProcessId::of(pid).is_some_and(|found| found.start_ticks >= since_ticks)),
        }
    });
    looked.ok().flatten()
}

/// Shows `meet` every process but ourselves, until it is told `true` (and says so), or
/// until a list of all processes has nobody new on it. `None` when new ones came
/// faster than one can look.
fn look_at_all(mut meet: impl FnMut(u32) -> io::Result<bool>) -> io::Result<Option<bool>> {
    // Enough while fewer processes start than we can look at; else it is tried again.
    const LISTS: usize = 32;
    let mut seen = BTreeSet::from([own_pid()]);
    for _ in 0..LISTS {
        let mut is_met = false;
        let mut is_news = false;
        for pid in list()? {
            if seen.insert(pid) {
                is_news = true;
                is_met |= meet(pid)?;
            }
        }
        if is_met || !is_news {
            return Ok(Some(is_met));
        }
    }
    Ok(None)
}

/// How `/proc/<pid>/maps` writes a file: its device and inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedFile(Vec<u8>);

impl MappedFile {
    /// The file with these numbers, as `fstat` gives them.
    pub fn new(dev: u64, ino: u64) -> Self {
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        MappedFile(format!(" {major:02x}:{minor:02x} {ino} ").into_bytes())
    }

    /// Whether this process's own mappings show the file that way: if they do not, then
    /// nobody's say anything about it.
    pub fn is_seen_in_own(&self) -> bool {
        matches!(shows(own_pid(), &self.0), Ok(Shown::Yes))
    }

    /// Whether the process `pid` maps it; `None` when that cannot be told, as for a
    /// process that is just ending.
    pub fn is_mapped_by(&self, pid: u32) -> Option<bool> {
        match shows(pid, &self.0) {
            Ok(Shown::Yes) => Some(true),
            Ok(Shown::No) => Some(false),
            Ok(Shown::Nothing) | Err(_) => None,
        }
    }
}

/// The numbers of all processes that we can see.
fn list() -> io::Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc")?;
    let mut pids = Vec::new();
    for entry in entries {
        pids.extend(pid_of(&entry?.file_name()));
    }
    Ok(pids)
}

/// Whether the process `pid` has `needle` among its mappings' names, or that cannot
/// be told for want of a descriptor or of memory.
pub fn maps(pid: u32, needle: &[u8]) -> bool {
    match shows(pid, needle) {
        Ok(shown) => shown == Shown::Yes,
        Err(error) => is_shortage(&error),
    }
}

/// What a list of mappings tells about one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Yes,
    No,
    /// The list is empty: the process, or its first thread, has ended or is about to.
    Nothing,
}

fn shows(pid: u32, needle: &[u8]) -> io::Result<Shown> {
    use std::io::Read;
    let mut file = std::fs::File::open(format!("/proc/{pid}/maps"))?;
    // In pieces: a process can have 65,530 mappings, and we promise to stay small.
    let mut buffer = [0_u8; 8192];
    let mut kept = 0;
    let mut found = Shown::Nothing;
    loop {
        match file.read(&mut buffer[kept..]) {
            Ok(0) => return Ok(found),
            Ok(count) => {
                found = Shown::No;
                let filled = kept + count;
                if contains(&buffer[..filled], needle) {
                    return Ok(Shown::Yes);
                }
                kept = needle.len().min(filled);
                buffer.copy_within(filled - kept..filled, 0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}

fn pid_of(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_is_found_by_its_numbers() {
        let fd = crate::sys::anon::create(4096).unwrap();
        let stat = rustix::fs::fstat(&fd).unwrap();
        let file = MappedFile::new(stat.st_dev, stat.st_ino);
        assert_eq!(file.is_mapped_by(own_pid()), Some(false));
        let map = crate::sys::map::Map::new(&fd, 4096, true).unwrap();
        assert!(file.is_seen_in_own());
        let other = MappedFile::new(stat.st_dev, stat.st_ino + 1);
        assert_eq!(other.is_mapped_by(own_pid()), Some(false));
        drop(map);
        assert!(!file.is_seen_in_own());
    }
}
