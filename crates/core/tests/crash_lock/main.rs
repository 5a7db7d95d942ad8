//! Death at every fault point of the locks: the others go on by themselves, learn of
//! it, and nothing stays held. `docs/locks.md` is the page this holds to.
//!
//! Run with `cargo test -p shared-numpy-core --features fault --test crash_lock`.
//!
//! Of each kind of object there is one scene. Two *others* (threads of this process with
//! slots of their own) use the object at the same time as a child that is killed. The
//! death is told to nobody but the family, as a tracker would do; the others find it
//! in their waits.

mod scenes;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use scenes::{SCENES, Scene};
use shared_numpy_core::fault::{self, LOCK_POINTS};
use shared_numpy_core::layout::Participant;
use shared_numpy_core::lock::wait::Wait;
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::sys::anon;

const SCENE: &str = "SNP_TEST_SCENE";
const FAMILY_FD: &str = "SNP_TEST_FAMILY_FD";
const MEMORY_FD: &str = "SNP_TEST_MEMORY_FD";
const MEMORY_BYTES: usize = 1 << 16;
/// No wait here is longer; one that takes it has hung.
const PATIENCE_NS: u64 = 30_000_000_000;

/// A process's, or a thread's, view of the scene.
#[derive(Clone)]
pub(crate) struct Player {
    family: Arc<Family>,
    memory: Arc<Mapping>,
    pub(crate) me: Participant,
}

impl Player {
    fn new(family: &Arc<Family>, memory: &Arc<Mapping>) -> Self {
        Player {
            family: Arc::clone(family),
            memory: Arc::clone(memory),
            me: family.join().unwrap(),
        }
    }

    pub(crate) fn memory(&self) -> &Mapping {
        &self.memory
    }

    /// Waits; whoever has left the family is gone.
    pub(crate) fn wait<T>(&self, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
        self.wait_for(PATIENCE_NS, run)
    }

    pub(crate) fn wait_for<T>(&self, timeout_ns: u64, run: impl FnOnce(&mut Wait<'_>) -> T) -> T {
        run(&mut Wait {
            me: self.me,
            timeout_ns: Some(timeout_ns),
            is_gone: &mut |who| !self.family.counts(who),
            keep_going: &mut || true,
        })
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

/// Not a test: where children begin.
#[test]
fn child_of_a_test() {
    let Ok(name) = std::env::var(SCENE) else {
        return;
    };
    let family = Arc::new(Family::attach(inherited(FAMILY_FD)).unwrap());
    let child = Player::new(&family, &map(&inherited(MEMORY_FD)));
    let scene = SCENES.iter().find(|scene| scene.name == name).unwrap();
    child.introduce();
    println!("@{} {}", child.me.slot, child.me.generation);
    (scene.child)(&child);
    family.declare_dead(child.me).unwrap();
}

fn start(scene: &Scene, point: &str, fds: [&OwnedFd; 2]) -> Child {
    // Without CLOEXEC; closed here once the child runs.
    let [family, memory] = fds.map(|fd| rustix::io::dup(fd).unwrap());
    Command::new(std::env::current_exe().unwrap())
        .args([
            "child_of_a_test",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(SCENE, scene.name)
        .env(FAMILY_FD, family.as_raw_fd().to_string())
        .env(MEMORY_FD, memory.as_raw_fd().to_string())
        .env(fault::VARIABLE, point)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Plays a scene whose child is killed at `point`, if it comes there.
fn play(scene: &Scene, point: &str) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let (family, family_fd) = Family::create().unwrap();
    let family = Arc::new(family);
    let memory_fd = anon::create(MEMORY_BYTES as u64).unwrap();
    let memory = map(&memory_fd);
    let survivor = Player::new(&family, &memory);
    (scene.set)(&survivor);
    let status = std::thread::scope(|scope| {
        let mut child = start(scene, point, [&family_fd, &memory_fd]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let who = lines.by_ref().map(Result::unwrap).find_map(|line| {
            let words = line.split_once('@')?.1.to_owned();
            let (slot, generation) = words.split_once(' ')?;
            Some(Participant {
                slot: slot.parse().ok()?,
                generation: generation.parse().ok()?,
            })
        });
        let who = who.expect("a child that says who it is");
        for index in 0..2 {
            let other = Player::new(&family, &memory);
            scope.spawn(move || (scene.other)(&other, index));
        }
        // Until its end: nobody reads what the test harness says there.
        lines.for_each(drop);
        let status = child.wait().unwrap();
        family.declare_dead(who).unwrap();
        status
    });
    let was_killed = status.signal() == Some(9);
    assert!(was_killed || status.success(), "{} {point}", scene.name);
    // All players are gone but the survivor: what does it find?
    let died_at = point.split(':').next().filter(|_| was_killed);
    (scene.check)(&survivor, died_at);
    was_killed
}

#[test]
fn death_at_every_point_stops_nobody() {
    let mut reached = BTreeSet::new();
    for scene in SCENES {
        for &point in LOCK_POINTS.iter().filter(|point| scene.has(point)) {
            // The third time is in the middle of things where the first is at the start.
            for fault in [point.to_owned(), format!("{point}:3")] {
                if play(scene, &fault) {
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
