//! A member that does as it is told: one line in, one line out.

use std::fs::File;
use std::io::{BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shared_numpy_core::layout::Participant;
use shared_numpy_core::members::client::{Connection, Fetched, Launched};
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::holder::Holder;
use shared_numpy_core::pool::owner::{Pool, PoolOptions};
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::sys::process;

use super::{answer, runs, signal, tracker, wait_until};

/// Tells the child that it is one.
const ROLE: &str = "SNP_TEST_MEMBER";

pub(crate) const COOKIE: [u8; 16] = [7; 16];

/// The other side of a running program.
pub(crate) struct Program {
    child: std::process::Child,
    input: std::process::ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Program {
    pub(crate) fn new() -> Self {
        Self::without("")
    }

    /// A program that, with its tracker, does without these features.
    pub(crate) fn without(features: &str) -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()), features)
    }

    /// A program in a pid namespace of its own; `None` where we may not make one.
    pub(crate) fn elsewhere(features: &str) -> Option<Self> {
        let unshare = ["--pid", "--fork", "--kill-child"];
        let may = Command::new("unshare").args(unshare).arg("true").status();
        if !may.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(unshare).arg(std::env::current_exe().unwrap());
        Some(Self::start(command, features))
    }

    fn start(mut command: Command, features: &str) -> Self {
        let mut child = command
            .args(["--exact", "program::obey", "--ignored", "--nocapture"])
            .env(ROLE, "1")
            .env("SHARED_NUMPY_DISABLE", features)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Program {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives one order and returns the answer.
    #[track_caller]
    pub(crate) fn does(&mut self, order: &str) -> String {
        self.tell(order);
        answer(&mut self.output)
    }

    /// Gives an order that is not answered.
    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.input, "{order}").unwrap();
    }

    /// Makes a family and its tracker: the family's name in orders, and the tracker's pid.
    #[track_caller]
    pub(crate) fn founds(&mut self) -> (String, u32) {
        let answer = self.does("found");
        let (family, pid) = answer.rsplit_once(' ').unwrap();
        (family.to_owned(), pid.parse().unwrap())
    }

    /// Joins a family.
    #[track_caller]
    pub(crate) fn joins(&mut self, family: &str) {
        assert_eq!(self.does(&format!("join {family}")), "joined");
    }

    /// Makes a pool: the name of its segment, that of a block of it, and the file.
    #[track_caller]
    pub(crate) fn owns(&mut self) -> (String, String, File) {
        let answer = self.does("own");
        let words: Vec<_> = answer.split(' ').collect();
        let path = format!("/proc/{}/fd/{}", self.pid(), words[5]);
        (
            words[..3].join(" "),
            words[3..5].join(" "),
            File::open(path).unwrap(),
        )
    }

    pub(crate) fn kill(&mut self) {
        signal(self.pid(), libc::SIGKILL);
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How much memory a file has.
pub(crate) fn committed_bytes(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.metadata().unwrap().blocks() * 512
}

/// Waits until a tracker is no more.
#[track_caller]
pub(crate) fn is_gone(pid: u32) {
    wait_until("the tracker is gone", || !runs(pid));
}

/// The program itself. Not a test: an ordinary run passes over it.
#[test]
#[ignore = "run by other tests, as another process"]
fn obey() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut puppet = Puppet::default();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        println!("@{}", puppet.obey(&words));
    }
}

#[derive(Default)]
struct Puppet {
    family: Option<(Arc<Family>, OwnedFd)>,
    me: Option<Participant>,
    connection: Option<Connection>,
    pool: Option<(Pool, OwnedFd)>,
    held: Vec<(Holder, usize)>,
}

impl Puppet {
    fn obey(&mut self, words: &[&str]) -> String {
        let numbers: Vec<u64> = words[1..]
            .iter()
            .filter_map(|word| word.parse().ok())
            .collect();
        match (words[0], numbers.as_slice()) {
            ("found", []) => {
                let (family, fd) = Family::create().unwrap();
                self.me = Some(family.join().unwrap());
                self.family = Some((Arc::new(family), fd));
                let pid = self.launch();
                let [low, high] = self.family().id();
                format!("{low} {high} {pid}")
            }
            ("launch", []) => self.launch(),
            ("launch_interrupted", []) => {
                let (family, fd) = Family::create().unwrap();
                self.me = Some(family.join().unwrap());
                let program = Path::new(tracker());
                let launched =
                    Connection::launch(program, fd.as_fd(), &family, COOKIE, &mut || false);
                self.family = Some((Arc::new(family), fd));
                match launched {
                    Err(error) => error.to_string(),
                    // It was quicker than the first look.
                    Ok(_) => "interrupted".to_owned(),
                }
            }
            ("join", &[low, high]) => self.join([low, high], COOKIE),
            ("join_with_wrong_cookie", &[low, high]) => self.join([low, high], [8; 16]),
            ("own", []) => self.own(),
            ("register", []) => self.register(),
            ("fetch", &[slot, generation, number]) => match self.fetch(slot, generation, number) {
                Fetched::Fd(_) => "here",
                Fetched::Unknown => "unknown",
                Fetched::Gone => "gone",
            }
            .to_owned(),
            ("take", &[slot, generation, number, block, life]) => {
                let Fetched::Fd(fd) = self.fetch(slot, generation, number) else {
                    return "unknown".to_owned();
                };
                let segment = PoolSegment::attach(&fd, Arc::clone(self.family())).unwrap();
                let me = self.me.unwrap();
                segment.register_row(me, Some(fd.as_fd())).unwrap();
                let mut holder = Holder::new(Arc::new(segment), me).unwrap();
                match holder.take(block as usize, life) {
                    Ok(_) => self.held.push((holder, block as usize)),
                    Err(error) => return error.to_string(),
                }
                "taken".to_owned()
            }
            ("intact", []) => {
                let is_intact = self.held.iter().all(|(holder, block)| {
                    let info = holder.segment().block(*block).unwrap();
                    let word = |at| holder.segment().mapping().load_u64(info.offset_bytes + at);
                    (0..info.size_bytes)
                        .step_by(8)
                        .all(|at| word(at) == Ok(at as u64 ^ 0xabcd))
                });
                is_intact.to_string()
            }
            ("release", []) => {
                for (mut holder, block) in self.held.drain(..) {
                    holder.release(block).unwrap();
                }
                "released".to_owned()
            }
            ("open", []) => self.connection.as_ref().unwrap().is_open().to_string(),
            ("live", &[slot, generation]) => {
                let who = Participant {
                    slot: slot as usize,
                    generation,
                };
                self.family().identity(who).is_ok().to_string()
            }
            ("me", []) => {
                let me = self.me.unwrap();
                format!("{} {}", me.slot, me.generation)
            }
            ("fork", []) => self.fork(),
            ("reserve", []) => {
                let child = self.family().reserve_for_child(self.me.unwrap()).unwrap();
                format!("{} {}", child.slot, child.generation)
            }
            ("state", &[slot]) => {
                let found = self.family().slot(slot as usize).unwrap();
                format!("{} {}", found.state, found.generation)
            }
            ("news", []) => self.news().to_string(),
            ("watched", []) => self.family().is_watched(self.news()).to_string(),
            ("remind", []) => {
                self.connection.as_ref().unwrap().remind(self.me.unwrap());
                "reminded".to_owned()
            }
            ("disconnect", []) => {
                self.connection = None;
                "disconnected".to_owned()
            }
            ("exec", []) => panic!("{}", Command::new("sleep").arg("60").exec()),
            other => panic!("no order {other:?}"),
        }
    }

    fn family(&self) -> &Arc<Family> {
        &self.family.as_ref().unwrap().0
    }

    fn launch(&mut self) -> String {
        let fd = self.family.as_ref().unwrap().1.as_fd();
        let program = Path::new(tracker());
        let family = Arc::clone(self.family());
        match Connection::launch(program, fd, &family, COOKIE, &mut || true).unwrap() {
            Launched::Up(connection) => {
                assert_eq!(connection.joined(self.me.unwrap(), &mut || true), Ok(true));
                let pid = connection.tracker_pid();
                self.connection = Some(connection);
                pid.to_string()
            }
            Launched::Unavailable(reason) => reason,
        }
    }

    fn join(&mut self, id: [u64; 2], cookie: [u8; 16]) -> String {
        let Some((connection, fd)) = Connection::connect(id, cookie, &mut || true).unwrap() else {
            return "none".to_owned();
        };
        let family = Family::attach(&fd).unwrap();
        let me = family.join().unwrap();
        assert_eq!(connection.joined(me, &mut || true), Ok(true));
        self.family = Some((Arc::new(family), fd));
        self.me = Some(me);
        self.connection = Some(connection);
        "joined".to_owned()
    }

    fn own(&mut self) -> String {
        let me = self.me.unwrap();
        let options = PoolOptions {
            first_segment_bytes: 4 << 20,
            ..PoolOptions::default()
        };
        let mut pool = Pool::new(Arc::clone(self.family()), me, options);
        let names: Vec<_> = (0..3)
            .map(|_| pool.allocate(1 << 20, &mut || true).unwrap())
            .collect();
        let shared = names[1];
        let holder = pool.holder(0).unwrap();
        for at in (0..shared.size_bytes).step_by(8) {
            let mapping = holder.segment().mapping();
            let offset = shared.offset_bytes + at;
            mapping.store_u64(offset, at as u64 ^ 0xabcd).unwrap();
        }
        let fd = pool.segment_fd(0).unwrap();
        self.pool = Some((pool, fd));
        let told = self.register();
        format!(
            "{} {} 0 {} {} {told}",
            me.slot, me.generation, shared.block, shared.generation
        )
    }

    /// Registers the pool's segment: the number of its descriptor.
    fn register(&mut self) -> String {
        use std::os::fd::AsRawFd;
        let fd = &self.pool.as_ref().unwrap().1;
        let connection = self.connection.as_ref().unwrap();
        let me = self.me.unwrap();
        match connection.register(me, 0, fd.as_fd(), &mut || true) {
            Ok(true) => fd.as_raw_fd().to_string(),
            told => format!("{told:?}"),
        }
    }

    fn fetch(&self, slot: u64, generation: u64, number: u64) -> Fetched {
        let owner = Participant {
            slot: slot as usize,
            generation,
        };
        let connection = self.connection.as_ref().unwrap();
        connection.fetch(owner, number, &mut || true).unwrap()
    }

    fn news(&self) -> u64 {
        self.family().news().unwrap().load(Ordering::Acquire)
    }

    /// A child that the tracker is told nothing about, and that nobody waits for.
    fn fork(&mut self) -> String {
        let me = self.me.unwrap();
        let family = Arc::clone(self.family());
        let child = family.reserve_for_child(me).unwrap();
        // SAFETY: the child works on shared words, reads `/proc` without allocating, and
        // sleeps until it is killed.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            if family.adopt(child, me).is_err() {
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(1) };
            }
            // What a daemon does, and what drops the parent's connection.
            // SAFETY: nothing in this process uses a descriptor any more.
            unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        let pid = u32::try_from(pid).unwrap();
        wait_until("the child is live", || family.identity(child).is_ok());
        assert!(runs(pid) && pid != process::own_pid());
        format!("{pid} {} {}", child.slot, child.generation)
    }
}
