//! What is read of memory on real and made-up machines.

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
