//! A members tracker for crash tests, which is this very test binary; and figures of how
//! long those who live took to go on.
//!
//! A test is run twice, in processes of their own: with a tracker, and with one that was
//! killed before anything happened. A binary that uses this has a test `members` that calls
//! [`be_tracker`]: `members` is what the tracker's executable is called with.

#![allow(dead_code)] // each takes its part

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use shared_numpy_core::members;
use shared_numpy_core::participation::{self, Hold};

const VARIABLE: &str = "SHARED_NUMPY_TEST_WITH_TRACKER";
/// Marks the processes of one run.
const RUN: &str = "SHARED_NUMPY_TEST_RUN";
const RUNNING: &str = "running";
const KILLED: &str = "killed";
/// Who takes longer hangs.
const HANGS: Duration = Duration::from_secs(10);

/// Runs `work` twice: see the module. `test` is the name of the test that calls this.
pub(crate) fn with_a_tracker_and_without(test: &str, work: fn()) {
    if std::env::var_os(VARIABLE).is_some() {
        work();
        return print_figures();
    }
    for tracker in [RUNNING, KILLED] {
        let done = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, tracker)
            .env(RUN, format!("{}-{tracker}", std::process::id()))
            .output()
            .unwrap();
        let [out, err] = [&done.stdout, &done.stderr].map(|it| String::from_utf8_lossy(it));
        assert!(done.status.success(), "tracker {tracker}:\n{out}\n{err}");
        for line in out.lines().filter(|line| line.starts_with(FIGURE)) {
            println!("tracker {tracker}: {}", &line[FIGURE.len()..]);
        }
    }
}

/// To be called by every process before anything else.
pub(crate) fn configure() {
    let is_running = std::env::var(VARIABLE).is_ok_and(|it| it == RUNNING);
    let executable = is_running.then(executable).unwrap_or_default();
    participation::configure(participation::Options {
        executable,
        ..participation::Options::default()
    });
}

/// Has this process's family served, and the tracker killed if that is what is tested. To be
/// called once, by the process that starts the others.
pub(crate) fn begin(hold: &Hold) {
    if std::env::var(VARIABLE).is_ok_and(|it| it == KILLED) {
        participation::configure(participation::Options {
            executable: executable(),
            ..participation::Options::default()
        });
        hold.send(&mut || true).unwrap().1.withdraw();
        for pid in trackers() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        let begin = Instant::now();
        while !trackers().is_empty() {
            assert!(begin.elapsed() < HANGS);
            std::thread::sleep(Duration::from_millis(2));
        }
        configure();
    } else {
        hold.send(&mut || true).unwrap().1.withdraw();
        assert_eq!(trackers().len(), 1);
    }
}

fn executable() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// The trackers of this run.
fn trackers() -> Vec<i32> {
    let mark = format!("{RUN}={}", std::env::var(RUN).unwrap());
    let is_one = |pid: &i32| {
        let read = |what| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let words = |bytes: Vec<u8>| -> Vec<Vec<u8>> {
            bytes.split(|&it| it == 0).map(<[u8]>::to_vec).collect()
        };
        words(read("cmdline")).get(1).map(Vec::as_slice) == Some(members::MODE.as_bytes())
            && words(read("environ")).contains(&mark.clone().into_bytes())
    };
    let list = std::fs::read_dir("/proc").unwrap();
    let pids = list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_one).collect()
}

/// The body of the test `members`.
pub(crate) fn be_tracker() {
    let mode = std::env::args().nth(1);
    if mode.as_deref() == Some(members::MODE) && std::env::var_os(RUN).is_some() {
        std::process::exit(i32::from(members::server::run()));
    }
}

const FIGURE: &str = "figure: ";
static FIGURES: Mutex<BTreeMap<String, (Duration, String)>> = Mutex::new(BTreeMap::new());

/// Notes how long somebody took to go on after a death at `point`; the worst is told.
pub(crate) fn note(who: &str, point: &str, took: Duration) {
    assert!(took < HANGS, "{who} took {took:?} after a death at {point}");
    let mut figures = FIGURES.lock().unwrap();
    let worst = figures.entry(who.to_owned()).or_default();
    if took >= worst.0 {
        *worst = (took, point.to_owned());
    }
}

fn print_figures() {
    for (who, (took, point)) in FIGURES.lock().unwrap().iter() {
        // A line of its own, after what the harness has written.
        println!(
            "\n{FIGURE}{who}: {} ms at worst ({point})",
            took.as_millis()
        );
    }
}

/// The time since `death`, or since `begin` if that was later.
pub(crate) fn since(death: Instant, begin: Instant) -> Duration {
    death.max(begin).elapsed()
}
