//! Giving back what starting up has touched.
//!
//! Loading a program runs through much of the C library once, and the kernel maps
//! sixteen pages for each page touched: a megabyte that a small, long-lived
//! process never needs again. The pages stay in the page cache; those that are
//! needed come back at their next use.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;

use rustix::mm::Advice;

/// Unmaps the code pages of this process that are as they are on disk.
///
/// Does nothing where `/proc` does not tell which those are.
pub fn release_code() {
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for range in unmodified_code(&smaps) {
        let (start, len) = (range.start as *mut c_void, range.len());
        // SAFETY: the range is executable, not writable, mapped privately from a
        // file, and has no page of its own (`unmodified_code` has seen to that; code
        // does not change while this, the only thread, runs here). Dropping its
        // pages therefore changes no byte: each comes back from the file.
        let _ = unsafe { rustix::mm::madvise(start, len, Advice::LinuxDontNeed) };
    }
}

/// Mappings of a file's code in which no page differs from the file.
fn unmodified_code(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut code = None;
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::parse(line) {
            code = mapping.is_file_code.then_some(mapping.range);
        } else if line.strip_prefix("Anonymous:").is_some_and(is_zero) {
            found.extend(code.take());
        }
    }
    found
}

/// The rest of a line of smaps: a number of kilobytes.
fn is_zero(rest: &str) -> bool {
    rest.trim() == "0 kB"
}

struct Mapping {
    range: Range<usize>,
    is_file_code: bool,
}

impl Mapping {
    /// The first line of a mapping: `start-end perms offset dev inode path`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let is_code = words.next()? == "r-xp";
        let inode = words.nth(2)?;
        Some(Mapping {
            range: start..end,
            is_file_code: is_code && inode != "0",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unmodified_file_code_is_given_back() {
        let smaps = "\
1000-3000 r-xp 00000000 fe:01 17   /bin/a
Rss:                   8 kB
Anonymous:             0 kB
3000-4000 rw-p 00002000 fe:01 17   /bin/a
Anonymous:             0 kB
4000-5000 r-xp 00000000 fe:01 18   /lib/patched.so
Anonymous:             4 kB
5000-6000 r-xp 00000000 00:00 0    [vdso]
Anonymous:             0 kB
6000-7000 r-xp 00000000 fe:01 19   /lib/b.so
Rss:                   4 kB
";
        let found = unmodified_code(smaps);
        assert_eq!((found.len(), found[0].clone()), (1, 0x1000..0x3000));
    }

    #[test]
    fn the_program_goes_on() {
        release_code();
        assert_eq!(std::env::args().count(), std::env::args_os().count());
    }
}
