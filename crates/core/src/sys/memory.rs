//! How much memory is left: on the machine, and in each control group we are in.
//!
//! Guarantee: what cannot be read or understood is left out, never an error. All
//! of it is an estimate, true at the instant of the look: others allocate, too.
//!
//! Control groups limit a process through every ancestor of its group. Their
//! files lie below a mount of `cgroup2` (version 2) or of `cgroup` with the
//! `memory` controller (version 1), at the path that `/proc/self/cgroup` tells.
//! In a container that path may be the host's and lead nowhere here; the mount's
//! own root, which is looked at in any case, is the container's group then.
//!
//! A group's file cache counts as free: the kernel drops it before it refuses.
//! That is `inactive_file + active_file` of `memory.stat`. Shared memory is not
//! part of the two (the kernel keeps it on the lists of anonymous pages), so
//! nothing has to be taken off. Swap does not count: what is about to be
//! allocated is meant to be used.

use std::path::{Path, PathBuf};

/// One thing that limits memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// What is in use, file cache not counted.
    pub used_bytes: u64,
    /// What there is, or what may be used.
    pub limit_bytes: u64,
    /// The file that says so.
    pub path: PathBuf,
}

impl Budget {
    /// How much can still be had.
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

const MEMINFO: &str = "/proc/meminfo";

/// The machine's memory.
pub fn machine() -> Option<Budget> {
    let (available_bytes, total_bytes) = parse_meminfo(&read(Path::new(MEMINFO))?)?;
    Some(Budget {
        used_bytes: total_bytes.saturating_sub(available_bytes),
        // As told even where a container's view of the two does not fit together.
        limit_bytes: total_bytes.max(available_bytes),
        path: MEMINFO.into(),
    })
}

/// Every control group that limits this process, the nearest first.
pub fn groups() -> Vec<Budget> {
    let cgroup = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mountinfo = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    groups_from(&cgroup, &mountinfo, &read)
}

fn read(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `MemAvailable` and `MemTotal`, in bytes.
fn parse_meminfo(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    Some((field("MemAvailable:")?, field("MemTotal:")?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// As [`groups`], from these texts and from what `read` makes of a path.
fn groups_from(
    cgroup: &str,
    mountinfo: &str,
    read: &dyn Fn(&Path) -> Option<String>,
) -> Vec<Budget> {
    let mut found = Vec::new();
    for version in [Version::Two, Version::One] {
        let Some(path) = own_path(cgroup, version) else {
            continue;
        };
        let Some(mount) = Mount::find(mountinfo, version, path) else {
            continue;
        };
        let inside = mount.inside(path);
        // Up to the mount's root, which is there even if nothing below it is.
        for ancestor in Path::new(inside).ancestors() {
            let directory = mount.point.join(ancestor);
            // Version 1 charged a parent only if that asked for it.
            if version == Version::One
                && ancestor != Path::new(inside)
                && read(&directory.join("memory.use_hierarchy"))
                    .is_some_and(|text| text.trim() == "0")
            {
                break;
            }
            found.extend(budget(&directory, version, read));
        }
    }
    found
}

/// The path of our own group: the line `0::/path`, or the one with `memory` among
/// its controllers.
fn own_path(cgroup: &str, version: Version) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = match version {
            Version::Two => number == "0" && controllers.is_empty(),
            Version::One => controllers.split(',').any(|each| each == "memory"),
        };
        is_it.then_some(path)
    })
}

/// A mount of a control group file system.
#[derive(Debug)]
struct Mount {
    point: PathBuf,
    /// The path of the group that is mounted there.
    root: String,
}

impl Mount {
    /// The mount in which `path` lies; otherwise the first there is.
    fn find(mountinfo: &str, version: Version, path: &str) -> Option<Self> {
        let mut first = None;
        for mount in mountinfo
            .lines()
            .filter_map(|line| Self::parse(line, version))
        {
            if mount.strip(path).is_some() {
                return Some(mount);
            }
            first = first.or(Some(mount));
        }
        first
    }

    /// `id parent major:minor root point options [tags] - type source super-options`
    fn parse(line: &str, version: Version) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1).unwrap_or_default());
        let is_it = match version {
            Version::Two => kind == "cgroup2",
            Version::One => kind == "cgroup" && options.split(',').any(|each| each == "memory"),
        };
        let mut words = mount.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        is_it.then(|| Mount {
            point: unescape(point).into(),
            root: unescape(root),
        })
    }

    fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.root.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/'))
    }

    /// Where below the mount our group should be; nowhere below it if that cannot be
    /// said.
    fn inside<'p>(&self, path: &'p str) -> &'p str {
        match self.strip(path) {
            // Outside of what a namespace shows.
            Some(inside) if !inside.split('/').any(|part| part == "..") => inside,
            _ => "",
        }
    }
}

/// Blanks and the like stand in mountinfo as a backslash and three octal digits.
fn unescape(word: &str) -> String {
    let mut parts = word.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                plain.push(code.into());
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

fn budget(
    directory: &Path,
    version: Version,
    read: &dyn Fn(&Path) -> Option<String>,
) -> Option<Budget> {
    let (limit, usage, prefix) = match version {
        Version::Two => ("memory.max", "memory.current", ""),
        // The plain figures are those of the group without its children.
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    };
    let path = directory.join(limit);
    // "max", or a number as large as that, is no limit.
    let limit_bytes: u64 = read(&path)?.trim().parse().ok()?;
    if limit_bytes >= UNLIMITED_FROM_BYTES {
        return None;
    }
    let usage_bytes: u64 = read(&directory.join(usage))?.trim().parse().ok()?;
    let stat = read(&directory.join("memory.stat")).unwrap_or_default();
    let cache_bytes = stat_field(&stat, prefix, "inactive_file").saturating_add(stat_field(
        &stat,
        prefix,
        "active_file",
    ));
    Some(Budget {
        used_bytes: usage_bytes.saturating_sub(cache_bytes),
        limit_bytes,
        path,
    })
}

/// Version 1 says "no limit" as the largest number of whole pages there is.
const UNLIMITED_FROM_BYTES: u64 = 1 << 62;

fn stat_field(stat: &str, prefix: &str, name: &str) -> u64 {
    let value = stat.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key.strip_prefix(prefix)? == name).then(|| value.trim().parse().ok())?
    });
    value.unwrap_or(0)
}

#[cfg(test)]
mod tests;
