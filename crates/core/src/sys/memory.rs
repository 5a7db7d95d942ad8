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
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24684084 kB\nMemFree:        24501200 kB\n\
                    MemAvailable:   24427320 kB\nBuffers:            1304 kB\n\
                    HugePages_Total:       0\n";
        assert_eq!(
            parse_meminfo(text),
            Some((24_427_320 * 1024, 24_684_084 * 1024))
        );
        // Before Linux 3.14, and nonsense.
        assert_eq!(
            parse_meminfo("MemTotal: 1000 kB\nMemFree: 10 kB\nCached: 5 kB\n"),
            None
        );
        assert_eq!(
            parse_meminfo("MemTotal: 1000 kB\nMemAvailable: many kB\n"),
            None
        );
        assert_eq!(
            parse_meminfo("MemTotal: 1 kB\nMemAvailable: 18446744073709551615 kB\n"),
            None
        );
        assert_eq!(parse_meminfo(""), None);
    }

    #[test]
    fn this_machine_has_memory() {
        let machine = machine().unwrap();
        assert!(machine.limit_bytes > 1 << 20 && machine.free_bytes() > 0);
        for group in groups() {
            assert!(group.limit_bytes > 0 && group.path.exists());
        }
    }

    /// Files as `path: text`, and what is found: (path, used, limit).
    fn check(cgroup: &str, mountinfo: &str, files: &[(&str, &str)], expected: &[(&str, u64, u64)]) {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(found.1.to_owned())
        };
        let found = groups_from(cgroup, mountinfo, &read);
        let found: Vec<_> = found
            .iter()
            .map(|group| {
                (
                    group.path.to_str().unwrap(),
                    group.used_bytes,
                    group.limit_bytes,
                )
            })
            .collect();
        assert_eq!(found, expected);
    }

    const SYSTEMD_MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
26 22 0:24 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,inode64
29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
    const V2_STAT: &str = "anon 52428800\nfile 41943040\nkernel 1048576\nshmem 31457280\nfile_mapped 0\n\
                           inactive_anon 83886080\nactive_anon 0\ninactive_file 8388608\nactive_file 2097152\n\
                           unevictable 0\nslab_reclaimable 524288\n";

    #[test]
    fn version_2_under_systemd_limits_through_every_slice() {
        let base = "/sys/fs/cgroup/user.slice";
        let at = |rest: &str| format!("{base}/{rest}");
        let service = "user-1000.slice/user@1000.service/app.slice/run-u7.scope";
        let files = [
            (at(&format!("{service}/memory.max")), "104857600\n"),
            (at(&format!("{service}/memory.current")), "94371840\n"),
            (at(&format!("{service}/memory.stat")), V2_STAT),
            // The ones between have no limit.
            (
                at("user-1000.slice/user@1000.service/app.slice/memory.max"),
                "max\n",
            ),
            (
                at("user-1000.slice/user@1000.service/memory.max"),
                "18446744073709551615\n",
            ),
            (at("user-1000.slice/memory.max"), "1073741824\n"),
            (at("user-1000.slice/memory.current"), "1000\n"),
            (at("memory.max"), "max\n"),
        ];
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .collect();
        let own = at(&format!("{service}/memory.max"));
        let slice = at("user-1000.slice/memory.max");
        check(
            &format!("0::/user.slice/{service}\n"),
            SYSTEMD_MOUNTS,
            &files,
            &[
                // Cache counts as free, shared memory does not.
                (&own, 94_371_840 - 10_485_760, 104_857_600),
                (&slice, 1000, 1 << 30),
            ],
        );
    }

    #[test]
    fn version_2_in_docker_has_the_limit_at_the_root_of_the_mount() {
        let mounts = "\
610 609 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
";
        let files = [
            ("/sys/fs/cgroup/memory.max", "536870912\n"),
            ("/sys/fs/cgroup/memory.current", "4096\n"),
        ];
        let expected = [("/sys/fs/cgroup/memory.max", 4096, 512 << 20)];
        check("0::/\n", mounts, &files, &expected);
        // A path of the host's, and one outside of the namespace.
        check(
            "0::/system.slice/docker-4f1e.scope\n",
            mounts,
            &files,
            &expected,
        );
        check("0::/../user.slice\n", mounts, &files, &expected);
    }

    const V1_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn version_1_of_a_hybrid_system() {
        let root = "/sys/fs/cgroup/memory";
        let cgroup =
            "9:name=systemd:/\n4:memory:/jobs/7e96\n3:cpuset:/\n2:cpu,cpuacct:/\n0::/jobs/7e96\n";
        let stat = "cache 9228288\nrss 8048640\nshmem 9084928\ninactive_file 12288\nactive_file 131072\n\
                    hierarchical_memory_limit 209715200\ntotal_cache 90959872\ntotal_shmem 9084928\n\
                    total_inactive_file 67203072\ntotal_active_file 14671872\n";
        let at = |rest: &str| format!("{root}/{rest}");
        let files = [
            (at("jobs/7e96/memory.limit_in_bytes"), "209715200\n"),
            (at("jobs/7e96/memory.usage_in_bytes"), "100000000\n"),
            (at("jobs/7e96/memory.stat"), stat),
            (at("jobs/memory.limit_in_bytes"), "9223372036854771712\n"),
            (at("jobs/memory.usage_in_bytes"), "100000000\n"),
            (at("memory.limit_in_bytes"), "1000000000\n"),
            (at("memory.usage_in_bytes"), "300000000\n"),
        ];
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .collect();
        let own = at("jobs/7e96/memory.limit_in_bytes");
        let own = (
            own.as_str(),
            100_000_000 - 67_203_072 - 14_671_872,
            209_715_200,
        );
        let top = at("memory.limit_in_bytes");
        let top = (top.as_str(), 300_000_000, 1_000_000_000);
        check(cgroup, V1_MOUNTS, &files, &[own, top]);

        // A parent without hierarchy is not charged for its children.
        let flat = at("jobs/memory.use_hierarchy");
        let mut files = files;
        files.push((&flat, "0\n"));
        check(cgroup, V1_MOUNTS, &files, &[own]);
        files.last_mut().unwrap().1 = "1\n";
        check(cgroup, V1_MOUNTS, &files, &[own, top]);
    }

    #[test]
    fn version_1_in_docker_mounts_its_own_group() {
        let mounts = "\
610 609 0:33 /docker/4f1e /sys/fs/cgroup/memory ro,nosuid master:14 - cgroup cgroup rw,memory
";
        let files = [
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "4096\n"),
            (
                "/sys/fs/cgroup/memory/inner/memory.limit_in_bytes",
                "1024\n",
            ),
            ("/sys/fs/cgroup/memory/inner/memory.usage_in_bytes", "512\n"),
        ];
        let own = (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            4096,
            512 << 20,
        );
        let inner = (
            "/sys/fs/cgroup/memory/inner/memory.limit_in_bytes",
            512,
            1024,
        );
        check("11:memory:/docker/4f1e\n", mounts, &files, &[own]);
        check(
            "11:memory:/docker/4f1e/inner\n",
            mounts,
            &files,
            &[inner, own],
        );
        // A longer name with the same beginning is another group.
        check("11:memory:/docker/4f1e2/inner\n", mounts, &files, &[own]);
    }

    #[test]
    fn what_is_missing_or_nonsense_limits_nothing() {
        check("", "", &[], &[]);
        check("0::/a\n", "", &[], &[]);
        check("0::/a\n", SYSTEMD_MOUNTS, &[], &[]);
        check("garbage\n::\n", "garbage - \n1 2 3 - cgroup2\n", &[], &[]);
        let files = [("/sys/fs/cgroup/a/memory.max", "12 bananas\n")];
        check("0::/a\n", SYSTEMD_MOUNTS, &files, &[]);
        // A limit without a figure of what is in use.
        let files = [("/sys/fs/cgroup/a/memory.max", "12\n")];
        check("0::/a\n", SYSTEMD_MOUNTS, &files, &[]);
        // More cache than use, as can be when the two are read one after the other.
        let files = [
            ("/sys/fs/cgroup/a/memory.max", "12\n"),
            ("/sys/fs/cgroup/a/memory.current", "10\n"),
            ("/sys/fs/cgroup/a/memory.stat", "inactive_file 11\n"),
        ];
        check(
            "0::/a\n",
            SYSTEMD_MOUNTS,
            &files,
            &[("/sys/fs/cgroup/a/memory.max", 0, 12)],
        );
    }

    #[test]
    fn names_with_blanks() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/a\"), r"/a\");
        assert_eq!(unescape(r"/a\9zz"), r"/a\9zz");
    }
}
