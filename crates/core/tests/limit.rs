//! The limit set by the environment, and the one of a real control group: what a
//! process that starts with it sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use shared_numpy_core::pool::limit::{VARIABLE, check};

/// What a child says of growth by `size_bytes` upon `committed_bytes`: "" or the error.
fn ask(size_bytes: u64, committed_bytes: u64, set: &[(&str, &str)]) -> String {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command
        .args(["--exact", "child", "--ignored", "--nocapture", "-q"])
        .env_remove(VARIABLE)
        .env("ASK", format!("{size_bytes} {committed_bytes}"))
        .envs(set.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let answer = text.split("<<").nth(1).unwrap_or_else(|| panic!("{text}"));
    answer.split(">>").next().unwrap().to_owned()
}

#[test]
#[ignore = "asked by the others"]
fn child() {
    let numbers = std::env::var("ASK").unwrap();
    if let Ok(group) = std::env::var("GROUP") {
        fs::write(
            Path::new(&group).join("cgroup.procs"),
            std::process::id().to_string(),
        )
        .unwrap();
    }
    let (size_bytes, committed_bytes) = numbers.split_once(' ').unwrap();
    let refused = check(
        size_bytes.parse().unwrap(),
        committed_bytes.parse().unwrap(),
    );
    println!(
        "<<{}>>",
        refused
            .err()
            .map_or(String::new(), |error| error.to_string())
    );
}

#[test]
fn the_variable_limits_what_is_committed_in_all() {
    let set = [(VARIABLE, "1M")];
    assert_eq!(ask(1 << 20, 0, &set), "");
    assert_eq!(ask(1 << 19, 1 << 19, &set), "");
    let refused = ask(1, 1 << 20, &set);
    for part in [
        "1 bytes asked",
        "1048576 bytes in use",
        "limit is 1048576",
        VARIABLE,
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    // It wins over looks that need no repetition.
    assert!(ask(u64::MAX, u64::MAX, &set).contains(VARIABLE));
    assert_eq!(ask(1 << 20, 1 << 40, &[(VARIABLE, " ")]), "");
}

#[test]
fn a_value_that_is_no_size_is_an_error_that_shows_it() {
    let refused = ask(1, 0, &[(VARIABLE, "plenty")]);
    assert!(
        refused.contains(VARIABLE) && refused.contains("plenty"),
        "{refused}"
    );
}

#[test]
fn the_checks_of_memory_can_be_turned_off() {
    assert_ne!(ask(1 << 60, 0, &[]), "");
    assert_eq!(
        ask(1 << 60, 0, &[("SHARED_NUMPY_DISABLE", "memory_check")]),
        ""
    );
}

/// Makes a control group with a limit where this process may; the tests of the
/// parser do without.
fn limited_group(limit_bytes: u64) -> Option<PathBuf> {
    let name = format!("snp_limit_{}", std::process::id());
    for (root, file) in [
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ] {
        let group = Path::new(root).join(&name);
        if fs::create_dir(&group).is_err() {
            continue;
        }
        if fs::write(group.join(file), limit_bytes.to_string()).is_ok() {
            return Some(group);
        }
        let _ = fs::remove_dir(&group);
    }
    None
}

#[test]
fn a_control_group_is_obeyed_where_one_can_be_made() {
    let Some(group) = limited_group(64 << 20) else {
        eprintln!("skipped: no control group can be made here");
        return;
    };
    let set = [("GROUP", group.to_str().unwrap())];
    let within = ask(16 << 20, 0, &set);
    let beyond = ask(64 << 20, 0, &set);
    fs::remove_dir(&group).unwrap();
    assert_eq!(within, "");
    assert!(
        beyond.contains("the limit is 67108864 bytes")
            && beyond.contains(group.file_name().unwrap().to_str().unwrap()),
        "{beyond}"
    );
}
