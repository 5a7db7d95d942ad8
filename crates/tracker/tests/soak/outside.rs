//! Processes and segments as `/proc` shows them to anybody.
//!
//! Guarantee: only processes that carry this run's mark in their environment are touched,
//! so that other tests on the machine are left alone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

/// The variable that marks the processes of one run; forks and executables keep it.
pub(crate) const MARK: &str = "SNP_TEST_SOAK_MARK";
/// How the kernel shows the files of our segments.
const FILE: &str = "/memfd:shared_numpy";

/// The processes of one run.
pub(crate) struct Marked {
    value: String,
}

impl Marked {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Marked {
            value: format!("{}-{number}", std::process::id()),
        }
    }

    /// That of the run which this process belongs to.
    pub(crate) fn own() -> Self {
        Marked {
            value: std::env::var(MARK).unwrap(),
        }
    }

    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    /// Those that run.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.value);
        let has_mark = |pid: &i32| {
            // Empty for a zombie, which has no memory.
            std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
                let mut words = environ.split(|&byte| byte == 0);
                words.any(|word| word == mark.as_bytes())
            })
        };
        all().filter(has_mark).collect()
    }

    /// Kills all of them, also those that are being forked meanwhile.
    pub(crate) fn kill_all(&self) {
        let mut tries = 0;
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                // SAFETY: it has the mark, so it is ours.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            tries += 1;
            assert!(tries < 10_000, "they do not die");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The inodes of the segments that they have.
    pub(crate) fn segments(&self) -> BTreeSet<u64> {
        self.processes().into_iter().flat_map(segments_of).collect()
    }

    pub(crate) fn describe(&self) -> String {
        let describe = |pid: i32| {
            let read = |what| std::fs::read_to_string(format!("/proc/{pid}/{what}"));
            let name = read("comm").unwrap_or_default();
            let segments = segments_of(pid);
            format!("{pid} ({}): {segments:?}", name.trim())
        };
        let all: Vec<_> = self.processes().into_iter().map(describe).collect();
        all.join("; ")
    }
}

fn all() -> impl Iterator<Item = i32> {
    let list = std::fs::read_dir("/proc").unwrap();
    list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The inodes of the segments that a process maps or has open.
pub(crate) fn segments_of(pid: i32) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    for line in maps.lines().filter(|line| line.contains(FILE)) {
        let inode = line.split_whitespace().nth(4).unwrap();
        found.insert(inode.parse().unwrap());
    }
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return found; // it ended
    };
    for fd in fds.flatten() {
        use std::os::unix::fs::MetadataExt;
        let is_ours = std::fs::read_link(fd.path())
            .is_ok_and(|to| to.to_str().is_some_and(|to| to.starts_with(FILE)));
        if is_ours && let Ok(status) = std::fs::metadata(fd.path()) {
            found.insert(status.ino());
        }
    }
    found
}

/// The processes, of whatever kind, that have one of these.
pub(crate) fn who_has(segments: &BTreeSet<u64>) -> Vec<i32> {
    all()
        .filter(|&pid| !segments_of(pid).is_disjoint(segments))
        .collect()
}
