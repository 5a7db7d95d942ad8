//! A process that does as it is told: one line in, one line out.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use shared_numpy_core::error::{Error, Result};
use shared_numpy_core::sys::shm::Identity;
use shared_numpy_core::tracker::address::VARIABLE;
use shared_numpy_core::tracker::client::{self, Options, Outcome};
use shared_numpy_core::tracker::protocol::ResourceType;

use super::{answer, signal, tracker, wait_until};

/// Tells the child which test to be; its value is the pid of its
/// `multiprocessing` parent, or empty.
const ROLE: &str = "SNP_TEST_PROGRAM";

/// The other side of a running program.
pub(crate) struct Program {
    child: std::process::Child,
    input: Option<std::process::ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
    errors: std::thread::JoinHandle<String>,
}

/// How to start a program.
#[derive(Default)]
pub(crate) struct Start<'a> {
    /// The address in its environment.
    pub(crate) address: Option<&'a str>,
    /// Its `multiprocessing` parent.
    pub(crate) parent: Option<u32>,
    /// Features that it and its tracker do without.
    pub(crate) without: Option<&'a str>,
}

impl Program {
    /// A program that knows of no tracker.
    pub(crate) fn new() -> Self {
        Self::start(Start::default())
    }

    pub(crate) fn start(how: Start<'_>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "program::obey", "--ignored", "--nocapture"])
            .env(
                ROLE,
                how.parent.map_or(String::new(), |pid| pid.to_string()),
            )
            .env_remove(VARIABLE)
            // By its group a descendant is known.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(address) = how.address {
            command.env(VARIABLE, address);
        }
        if let Some(features) = how.without {
            command.env("SHARED_NUMPY_DISABLE", features);
        }
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Program {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            errors,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives one order and returns the answer.
    #[track_caller]
    pub(crate) fn does(&mut self, order: &str) -> String {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{order}").unwrap();
        answer(&mut self.output)
    }

    /// Gives an order that is not answered.
    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.input.as_mut().unwrap(), "{order}").unwrap();
    }

    /// The tracker's pid.
    #[track_caller]
    pub(crate) fn tracker_pid(&mut self) -> u32 {
        self.does("pid").parse().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        signal(self.pid(), libc::SIGKILL);
        self.child.wait().unwrap();
    }

    /// Ends normally; its group may live on.
    pub(crate) fn exits(&mut self) {
        self.input = None;
        self.child.wait().unwrap();
    }

    /// Ends normally and returns what was written to its stderr, by itself and by the
    /// tracker: read until nobody holds it any more.
    pub(crate) fn ends(mut self) -> String {
        self.exits();
        self.errors()
    }

    /// What was written to its stderr, when all who hold it are gone.
    #[track_caller]
    pub(crate) fn errors(mut self) -> String {
        self.input = None;
        wait_until("its stderr is closed", || self.errors.is_finished());
        let _ = self.child.wait();
        self.errors.join().unwrap()
    }
}

/// The program itself. Not a test: an ordinary run passes over it.
#[test]
#[ignore = "run by other tests, as another process"]
fn obey() {
    let Ok(parent) = std::env::var(ROLE) else {
        return;
    };
    let mut puppet = Puppet {
        // Copies, so that orders can still come when 0, 1 and 2 are closed.
        out: File::from(above(std::io::stdout().as_fd())),
        hoard: Vec::new(),
        parent: parent.parse().ok(),
    };
    let input = BufReader::new(File::from(above(std::io::stdin().as_fd())));
    puppet.configure();
    for line in input.lines() {
        let answer = puppet.obey(&line.unwrap());
        writeln!(puppet.out, "@{answer}").unwrap();
    }
    // Past the test harness, which would say how it went.
    std::process::exit(0);
}

fn above(fd: std::os::fd::BorrowedFd<'_>) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(fd, 100).unwrap()
}

struct Puppet {
    out: File,
    hoard: Vec<OwnedFd>,
    parent: Option<u32>,
}

impl Puppet {
    fn configure(&self) {
        client::shared().configure(&Options::from_environment(tracker(), self.parent));
    }

    fn obey(&mut self, order: &str) -> String {
        let client = client::shared();
        let go_on = &mut || true;
        let rtype = ResourceType::SharedMemory;
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        match verb {
            "ensure" => told(client.ensure_configured(go_on)),
            "pid" => client
                .pid()
                .map_or("none".to_owned(), |pid| pid.to_string()),
            "alive" => client.check_alive().to_string(),
            "address" => client.address().unwrap_or_default(),
            // Fork a child while the tracker is being started; it starts or finds one
            // too. Says both addresses, the child's and ours.
            "start_and_fork" => {
                let (mut reader, writer) = std::io::pipe().unwrap();
                let mut forks = 0;
                let outcome = client.ensure_configured(&mut || {
                    forks += 1;
                    // SAFETY: the child uses the client, allocates, and ends.
                    if forks == 1 && unsafe { libc::fork() } == 0 {
                        self.configure();
                        client.ensure_configured(&mut || true).unwrap();
                        let mut writer = &writer;
                        let _ = write!(writer, "{}", client.address().unwrap());
                        // SAFETY: ends this process at once.
                        unsafe { libc::_exit(0) };
                    }
                    true
                });
                drop(writer);
                let mut theirs = String::new();
                reader.read_to_string(&mut theirs).unwrap();
                outcome.unwrap();
                format!("{theirs} {}", client.address().unwrap())
            }
            // Make a segment and register it.
            "create" => {
                let path = format!("/dev/shm{rest}");
                std::fs::write(&path, b"x").unwrap();
                let stat = std::fs::metadata(&path).unwrap();
                let identity = Identity {
                    dev: stat.dev(),
                    ino: stat.ino(),
                };
                let stderr = std::io::stderr();
                let stderr = Some(stderr.as_fd());
                told(client.register(rtype, rest.as_bytes(), identity, stderr, go_on))
            }
            "unregister" => told(client.unregister(rtype, rest.as_bytes(), go_on)),
            // Remove a segment, as its owner or as somebody who attached it.
            "unlink" => {
                let path = format!("/dev/shm{rest}");
                let stat = std::fs::metadata(&path).unwrap();
                let identity = Identity {
                    dev: stat.dev(),
                    ino: stat.ino(),
                };
                std::fs::remove_file(&path).unwrap();
                told(client.gone(rtype, rest.as_bytes(), identity, go_on))
            }
            "close_stdio" => {
                for number in 0..3 {
                    // SAFETY: this process uses copies of them, see `obey`.
                    unsafe { libc::close(number) };
                }
                "closed".to_owned()
            }
            // Take descriptors until none is left; give them back.
            "exhaust" => {
                let limit = rustix::process::Rlimit {
                    current: Some(128),
                    maximum: Some(4096),
                };
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
                while let Ok(fd) = rustix::io::dup(&self.out) {
                    self.hoard.push(fd);
                }
                self.hoard.len().to_string()
            }
            "relax" => {
                self.hoard.clear();
                "relaxed".to_owned()
            }
            // From now on, this process and its children have so few descriptors.
            "few_descriptors" => {
                let limit = rest.parse().unwrap();
                let limit = rustix::process::Rlimit {
                    current: Some(limit),
                    maximum: Some(limit),
                };
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
                "limited".to_owned()
            }
            "ignore_sigchld" => {
                // SAFETY: ignoring a signal runs no code.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
                "ignored".to_owned()
            }
            // Fork a child that obeys the orders, separated by semicolons.
            "fork" => self.fork(rest),
            // Fork again and again while threads use the client; each child uses it
            // too. Says how many did.
            "storm" => self.storm(rest.parse().unwrap()),
            // Become another program.
            "exec" => {
                let mut words = rest.split(' ');
                let error = Command::new(words.next().unwrap()).args(words).exec();
                format!("failed: {error}")
            }
            // What a daemon does, all too thoroughly.
            "close_all" => {
                // SAFETY: this child does nothing any more that needs a descriptor.
                unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
                String::new()
            }
            // Live on in a child, so often.
            "hop" => {
                for _ in 0..rest.parse().unwrap() {
                    // SAFETY: this process has one thread that runs, and goes on as
                    // its child.
                    if unsafe { libc::fork() } != 0 {
                        // SAFETY: ends this process at once.
                        unsafe { libc::_exit(0) };
                    }
                }
                String::new()
            }
            // Wait until the program that forked us is gone.
            "orphaned" => {
                let parent = rest.parse().unwrap();
                // SAFETY: asks a number of the system.
                while unsafe { libc::getppid() } == parent {
                    std::thread::yield_now();
                }
                String::new()
            }
            "sleep" => {
                std::thread::sleep(std::time::Duration::from_secs(60));
                std::process::exit(0)
            }
            "exit" => std::process::exit(0),
            _ => format!("what is {order:?}?"),
        }
    }

    fn storm(&self, forks: u32) -> String {
        let stop = AtomicBool::new(false);
        let succeeded = std::thread::scope(|scope| {
            for number in 0..2 {
                let (who, stop) = (format!("thread{number}"), &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        use_client(&who, 10);
                    }
                });
            }
            let succeeded = (0..forks).filter(|_| {
                // SAFETY: the child uses the client, which is made for this, allocates,
                // which glibc allows, and ends.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    use_client("child", 10);
                    // SAFETY: ends this process at once.
                    unsafe { libc::_exit(7) };
                }
                let mut status = 0;
                // SAFETY: our own child, and a place for its status.
                unsafe { libc::waitpid(pid, &raw mut status, 0) };
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7
            });
            let succeeded = succeeded.count();
            stop.store(true, Ordering::Relaxed);
            succeeded
        });
        succeeded.to_string()
    }

    fn fork(&mut self, orders: &str) -> String {
        // SAFETY: the only other thread of this process waits for this one; what the
        // child does (allocate, call the client) works after a fork with glibc.
        let pid = unsafe { libc::fork() };
        if pid != 0 {
            return pid.to_string();
        }
        self.configure();
        for order in orders.split(';') {
            self.obey(order.trim());
        }
        // SAFETY: ends this process at once, as a forked child should.
        unsafe { libc::_exit(0) }
    }
}

/// Registers and takes back a name that only `who` uses, so often.
fn use_client(who: &str, times: u32) {
    let name = format!("/snp_storm_{}_{who}", std::process::id());
    let (client, go_on) = (client::shared(), &mut || true);
    for _ in 0..times {
        let unknown = Identity::default();
        let rtype = ResourceType::Dummy;
        let registered = client.register(rtype, name.as_bytes(), unknown, None, go_on);
        assert_eq!(registered, Ok(Outcome::Running));
        client.unregister(rtype, name.as_bytes(), go_on).unwrap();
    }
}

fn told(outcome: Result<Outcome>) -> String {
    match outcome {
        Ok(Outcome::Unavailable(reason)) => format!("unavailable: {reason}"),
        Ok(outcome) => format!("{outcome:?}").to_lowercase(),
        Err(Error::Os { errno, .. }) => format!("error {}", errno.raw_os_error()),
        Err(error) => error.to_string(),
    }
}
