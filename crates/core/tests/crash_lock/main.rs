//! Death at every fault point of the locks: the others go on by themselves, learn of
//! it, and nothing stays held. `docs/locks.md` is the page this holds to.
//!
//! Run with `cargo test -p shared-numpy-core --features fault --test crash_lock`.
//!
//! Of each kind of object there is one scene. Two *others* (threads of this process with
//! slots of their own) use the object at the same time as a child that is killed. The
//! death is told to nobody: a tracker notices it; or there was one and was killed beforehand,
//! and the others find out in their waits. With `--nocapture` it tells how long they
//! took to go on.

mod scenes;
#[path = "../tracker_common/mod.rs"]
mod tracker_common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use scenes::{SCENES, Scene};
use shared_numpy_core::fault::{self, LOCK_POINTS};
use shared_numpy_core::layout::Participant;
use shared_numpy_core::lock::wait::Wait;
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::participation::{self, Handle, Hold, Presence};
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::sys::anon;

const SCENE: &str = "SNP_TEST_SCENE";
/// A block in the family where all play.
const HANDLE: &str = "SNP_TEST_HANDLE";
const MEMORY_FD: &str = "SNP_TEST_MEMORY_FD";
const MEMORY_BYTES: usize = 1 << 16;
/// No wait here is longer; one that takes it has hung.
const PATIENCE_NS: u64 = 30_000_000_000;

/// A process's, or a thread's, view of the scene.
#[derive(Clone)]
pub(crate) struct Player {
    family: Arc<Family>,
    presence: Presence,
    memory: Arc<Mapping>,
    pub(crate) me: Participant,
    /// When the child died, and at which point it was to.
    death: Option<Arc<(OnceLock<Instant>, String)>>,
}

impl Player {
    fn new(hold: &Hold, memory: &Arc<Mapping>) -> Self {
        let segment = hold.segment().unwrap();
        let family = segment.family();
        Player {
            family: Arc::clone(family),
            presence: hold.presence().unwrap(),
            memory: Arc::clone(memory),
            me: family.join().unwrap(),
            death: None,
        }
    }

    /// One whose waits are looked at.
    fn timed(mut self, death: &Arc<(OnceLock<Instant>, String)>) -> Self {
        self.death = Some(Arc::clone(death));
        self
    }

    /// Whether a participant is gone, by proof.
    pub(crate) fn is_gone(&self, who: Participant) -> bool {
        self.presence.is_gone(who)
    }

    fn leave(&self) {
        self.family.declare_dead(self.me).unwrap();
    }

    pub(crate) fn memory(&self) -> &Mapping {
        &self.memory
    }

    /// Waits; whoever has left the family is gone.
    pub(crate) fn wait<T>(&self, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
        self.wait_for(PATIENCE_NS, run)
    }

    pub(crate) fn wait_for<T>(&self, timeout_ns: u64, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
        let begin = Instant::now();
        let done = run(&mut Wait {
            me: self.me,
            watch: Some(&self.presence),
            timeout_ns: Some(timeout_ns),
            is_gone: &mut |who| self.is_gone(who),
            keep_going: &mut || true,
        });
        if let Some(death) = &self.death
            && let (Some(&died), point) = (death.0.get(), &death.1)
        {
            let kind = point.split('.').next().unwrap();
            tracker_common::note(kind, point, tracker_common::since(died, begin));
        }
        done
    }
}

fn inherited(variable: &str) -> OwnedFd {
    let number = std::env::var(variable).unwrap();
    let path = format!("/proc/self/fd/{number}");
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn map(fd: &OwnedFd) -> Arc<Mapping> {
    Arc::new(Mapping::new(fd, MEMORY_BYTES, false).unwrap())
}

/// Not a test: where the tracker begins.
#[test]
fn members() {
    tracker_common::be_tracker();
}

/// Not a test: where children begin.
#[test]
fn child_of_a_test() {
    let Ok(name) = std::env::var(SCENE) else {
        return;
    };
    tracker_common::configure();
    let handle = std::env::var(HANDLE).unwrap();
    let handle: Vec<u8> = (0..handle.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&handle[at..at + 2], 16).unwrap())
        .collect();
    let handle = Handle::from_bytes(&handle).unwrap();
    participation::join(&handle, [0; 16], &mut || true).unwrap();
    let hold = participation::receive(&handle, &mut || true).unwrap();
    let memory = map(&inherited(MEMORY_FD));
    // The slot that this process has, as a tracker knows it.
    let mut child = Player::new(&hold, &memory);
    child.leave();
    child.me = hold.me().unwrap();
    let scene = SCENES.iter().find(|scene| scene.name == name).unwrap();
    child.introduce();
    println!("@");
    (scene.child)(&child);
}

fn start(scene: &Scene, point: &str, hold: &Hold, memory: &OwnedFd) -> Child {
    // Without CLOEXEC; closed here once the child runs.
    let memory = rustix::io::dup(memory).unwrap();
    let (handle, _) = hold.send(&mut || true).unwrap();
    let bytes = handle.to_bytes();
    let handle: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Command::new(std::env::current_exe().unwrap())
        .args([
            "child_of_a_test",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(SCENE, scene.name)
        .env(HANDLE, handle)
        .env(MEMORY_FD, memory.as_raw_fd().to_string())
        .env(fault::VARIABLE, point)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Plays a scene whose child is killed at `point`, if it comes there.
fn play(scene: &Scene, point: &str, hold: &Hold) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let memory_fd = anon::create(MEMORY_BYTES as u64).unwrap();
    let memory = map(&memory_fd);
    let survivor = Player::new(hold, &memory);
    (scene.set)(&survivor);
    let death = Arc::new((OnceLock::new(), point.to_owned()));
    let status = std::thread::scope(|scope| {
        let mut child = start(scene, point, hold, &memory_fd);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut words = lines.by_ref().map(Result::unwrap);
        assert!(
            words.any(|line| line.contains('@')),
            "a child that is ready"
        );
        for index in 0..2 {
            let other = Player::new(hold, &memory).timed(&death);
            scope.spawn(move || {
                (scene.other)(&other, index);
                other.leave();
            });
        }
        // Until its end: nobody reads what the test harness says there.
        lines.for_each(drop);
        let status = child.wait().unwrap();
        death.0.set(Instant::now()).unwrap();
        status
    });
    let was_killed = status.signal() == Some(9);
    assert!(was_killed || status.success(), "{} {point}", scene.name);
    // All players are gone but the survivor: what does it find?
    let died_at = point.split(':').next().filter(|_| was_killed);
    (scene.check)(&survivor, died_at);
    survivor.leave();
    participation::trim(false).unwrap(); // finds the dead, whose slots are free then
    was_killed
}

#[test]
fn death_at_every_point_stops_nobody() {
    let test = "death_at_every_point_stops_nobody";
    tracker_common::with_a_tracker_and_without(test, death_at_every_point);
}

fn death_at_every_point() {
    tracker_common::configure();
    let hold = participation::allocate(8, &mut || true).unwrap();
    tracker_common::begin(&hold);
    let mut reached = BTreeSet::new();
    for scene in SCENES {
        for &point in LOCK_POINTS.iter().filter(|point| scene.has(point)) {
            // The third time is in the middle of things where the first is at the start.
            for fault in [point.to_owned(), format!("{point}:3")] {
                if play(scene, &fault, &hold) {
                    reached.insert(point);
                }
            }
        }
    }
    let all: BTreeSet<_> = LOCK_POINTS.iter().copied().collect();
    assert_eq!(
        reached, all,
        "a fault point that no child dies at proves nothing"
    );
}
