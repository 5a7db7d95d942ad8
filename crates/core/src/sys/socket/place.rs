//! Where a helper listens, and is found: under an abstract name, or, where those cannot
//! serve (another kernel, a sandbox), as a socket file in a directory of ours.
//!
//! Guarantees:
//!
//! - Of those who want a name one gets it; nobody can connect before its owner says so
//!   ([`Bound::listen`]), and nobody who listens is taken its place from.
//! - A directory is used only if it is one (no link to it), belongs to our user, and is closed
//!   to all others. So another user is found under an abstract name, and never in a file.
//! - Names vanish with their owner. What a killed one left in a directory, the next who comes
//!   there removes: nobody listens at it. The directory goes with the last file in it.
//!
//! Directories are `shared_numpy-<uid>` in `$XDG_RUNTIME_DIR`, if there is one, else in `/tmp`.
//! Who looks for somebody looks in both, since that one's environment may be another.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::{BACKLOG, connect_to, unconnected};
use crate::sys::fd::above_stdio;
use crate::sys::feature;

/// What abstract names are as a feature of the system.
const FEATURE: &str = "abstract";
/// How long another may keep a directory locked, which it does for microseconds.
const LOCKED_AT_MOST: Duration = Duration::from_secs(1);
/// How often a directory that goes as its last user ends is made again.
const ROUNDS: usize = 8;
/// How many files of others are looked at for some that are left over.
const SWEPT_AT_MOST: usize = 64;

/// A name that is ours, and at which nobody is let in yet.
#[derive(Debug)]
pub struct Bound {
    // First, as in `Listener`.
    file: Option<SocketFile>,
    socket: OwnedFd,
    /// Nobody takes the file for a left over one before we listen.
    _locked: Option<Directory>,
}

/// Others connect here while this lives.
#[derive(Debug)]
pub struct Listener {
    // Dropped before the socket: who finds the file finds somebody.
    _file: Option<SocketFile>,
    socket: OwnedFd,
}

/// Takes a name.
///
/// # Errors
///
/// `EADDRINUSE` when somebody has it already, `EMFILE` and its like; when there is no place
/// for a socket at all, the reason for the last one.
pub fn bind(name: &[u8]) -> Result<Bound, Errno> {
    let mut failed = Errno::AFNOSUPPORT;
    if !feature::is_disabled(FEATURE) {
        let socket = unconnected()?;
        match rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?) {
            Ok(()) => {
                return Ok(Bound {
                    file: None,
                    socket,
                    _locked: None,
                });
            }
            Err(errno) if is_final(errno) => return Err(errno),
            Err(errno) => failed = errno,
        }
    }
    for path in directories() {
        match bind_in(&path, name) {
            Err(errno) if !is_final(errno) => failed = errno,
            done => return done,
        }
    }
    Err(failed)
}

/// Whether another kind of place would not help.
fn is_final(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ADDRINUSE | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS
    )
}

impl Bound {
    /// From now on others can connect. To them this process is at the other end, with the
    /// user that it has now.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn listen(self) -> Result<Listener, Errno> {
        rustix::net::listen(&self.socket, BACKLOG)?;
        Ok(Listener {
            _file: self.file,
            socket: self.socket,
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects to who listens under a name, wherever it found a place. Never waits.
///
/// # Errors
///
/// `ECONNREFUSED` when nobody listens there, `EAGAIN` when too many others wait
/// to be accepted; `EMFILE` and its like.
pub fn connect(name: &[u8]) -> Result<OwnedFd, Errno> {
    if !feature::is_disabled(FEATURE) {
        let done = connect_to(&SocketAddrUnix::new_abstract_name(name)?);
        if matches!(done, Ok(_) | Err(Errno::AGAIN)) || done.as_ref().is_err_and(|&it| is_final(it))
        {
            return done;
        }
    }
    for path in directories() {
        if let Ok(directory) = Directory::open(&path)
            && let Ok(address) = SocketAddrUnix::new(directory.file(name))
        {
            let done = connect_to(&address);
            if matches!(done, Ok(_) | Err(Errno::AGAIN))
                || done.as_ref().is_err_and(|&it| is_final(it))
            {
                return done;
            }
        }
    }
    Err(Errno::CONNREFUSED)
}

/// Where our directory may be, the first choice first.
fn directories() -> impl Iterator<Item = PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let ours = format!("shared_numpy-{}", rustix::process::geteuid().as_raw());
    let parents = runtime.into_iter().chain([PathBuf::from("/tmp")]);
    parents
        .filter(|parent| parent.is_absolute())
        .map(move |parent| parent.join(&ours))
}

/// A directory of ours.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// A lock on it ends with this.
    fd: OwnedFd,
}

impl Directory {
    /// Opens it if it is as it should be. Its name stays so: nobody but us and root can
    /// rename what is ours in `/tmp`, which is sticky, or in a directory of ours.
    fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = above_stdio(rustix::fs::open(path, flags, Mode::empty())?)?;
        let stat = rustix::fs::fstat(&fd)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
        if !is_ours || mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO) != Mode::RWXU {
            return Err(Errno::PERM);
        }
        let path = path.to_owned();
        Ok(Directory { path, fd })
    }

    /// The same; makes it if there is none.
    fn make(path: &Path) -> Result<Self, Errno> {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path),
            Err(errno) => Err(errno),
        }
    }

    fn lock(&self) -> Result<(), Errno> {
        let deadline = Instant::now() + LOCKED_AT_MOST;
        loop {
            match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                done => return done,
            }
        }
    }

    /// Removes files whose owners were killed. Those who live see somebody come and go.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return;
        };
        for entry in entries.take(SWEPT_AT_MOST).flatten() {
            if is_left_over(&entry.path()) {
                let _ = rustix::fs::unlink(entry.path());
            }
        }
    }

    fn file(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }
}

fn bind_in(path: &Path, name: &[u8]) -> Result<Bound, Errno> {
    for _ in 0..ROUNDS {
        let directory = Directory::make(path)?;
        directory.lock()?;
        let file = directory.file(name);
        // Too long for the kernel: `ENAMETOOLONG`.
        let address = SocketAddrUnix::new(file.as_path())?;
        if is_left_over(&file) {
            rustix::fs::unlink(file.as_path())?;
        }
        directory.sweep();
        let socket = unconnected()?;
        match rustix::net::bind(&socket, &address) {
            Ok(()) => {
                let file = SocketFile::new(file, &directory.path)?;
                return Ok(Bound {
                    file: Some(file),
                    socket,
                    _locked: Some(directory),
                });
            }
            // It went with its last file while we waited for it.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::AGAIN)
}

/// Whether a socket file is nobody's any more. While the directory is locked nobody is about
/// to listen.
fn is_left_over(file: &Path) -> bool {
    let is_socket = rustix::fs::lstat(file)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
    is_socket
        && SocketAddrUnix::new(file)
            .and_then(|address| connect_to(&address))
            .is_err_and(|errno| errno == Errno::CONNREFUSED)
}

/// A socket file that is removed when this is dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    directory: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: PathBuf, directory: &Path) -> Result<Self, Errno> {
        // Whatever the umask took away; the directory keeps others out.
        let _ = rustix::fs::chmod(path.as_path(), Mode::RUSR | Mode::WUSR);
        let stat = rustix::fs::lstat(path.as_path())?;
        Ok(SocketFile {
            directory: directory.to_owned(),
            path,
            inode: (stat.st_dev, stat.st_ino),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have cleaned up, and another taken the place.
        let is_ours = rustix::fs::lstat(self.path.as_path())
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.inode);
        if is_ours {
            let _ = rustix::fs::unlink(self.path.as_path());
        }
        // Only if it is empty.
        let _ = rustix::fs::rmdir(self.directory.as_path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory for this test alone.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("snp_place_{name}_{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn knock(directory: &Path, name: &[u8]) -> Result<OwnedFd, Errno> {
        connect_to(&SocketAddrUnix::new(
            Directory::open(directory)?.file(name),
        )?)
    }

    #[test]
    fn one_listens_and_leaves_nothing() {
        let scratch = Scratch::new("one");
        let place = scratch.0.join("sockets");
        let bound = bind_in(&place, b"a").unwrap();
        // Nobody comes before it listens, and nobody takes it for left over.
        assert_eq!(knock(&place, b"a").unwrap_err(), Errno::CONNREFUSED);
        let listener = bound.listen().unwrap();
        knock(&place, b"a").unwrap();
        assert_eq!(bind_in(&place, b"a").unwrap_err(), Errno::ADDRINUSE);
        let other = bind_in(&place, b"b").unwrap();
        drop(listener);
        assert!(!place.join("a").exists() && place.join("b").exists());
        drop(other);
        assert!(!place.exists());
    }

    #[test]
    fn what_a_killed_one_left_is_replaced_and_what_is_no_socket_is_not() {
        let scratch = Scratch::new("left");
        let place = scratch.0.join("sockets");
        let mut listener = bind_in(&place, b"a").unwrap().listen().unwrap();
        std::mem::forget(listener._file.take());
        drop(listener);
        assert!(place.join("a").exists());
        let listener = bind_in(&place, b"a").unwrap().listen().unwrap();
        knock(&place, b"a").unwrap();
        let mut other = bind_in(&place, b"b").unwrap().listen().unwrap();
        std::mem::forget(other._file.take());
        drop(other);
        // By whoever comes, also under another name; who lives is left alone.
        drop(bind_in(&place, b"c").unwrap());
        assert!(place.join("a").exists() && !place.join("b").exists());
        // Removed, and taken by another: that one's file stays.
        std::fs::remove_file(place.join("a")).unwrap();
        std::fs::write(place.join("a"), "mine").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(place.join("a")).unwrap(), b"mine");
        assert_eq!(bind_in(&place, b"a").unwrap_err(), Errno::ADDRINUSE);
    }

    #[test]
    fn a_directory_that_others_could_enter_or_lead_elsewhere_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new("refused");
        let place = scratch.0.join("sockets");
        let refused = |expected| {
            assert_eq!(bind_in(&place, b"a").unwrap_err(), expected);
            assert_eq!(knock(&place, b"a").unwrap_err(), expected);
        };
        for mode in [0o755, 0o710, 0o701, 0o500] {
            std::fs::create_dir(&place).unwrap();
            std::fs::set_permissions(&place, PermissionsExt::from_mode(mode)).unwrap();
            refused(Errno::PERM);
            std::fs::remove_dir(&place).unwrap();
        }
        let real = scratch.0.join("real");
        drop(Directory::make(&real).unwrap());
        std::os::unix::fs::symlink(&real, &place).unwrap();
        refused(Errno::NOTDIR);
        std::fs::remove_file(&place).unwrap();
        std::fs::write(&place, "").unwrap();
        refused(Errno::NOTDIR);
        std::fs::remove_file(&place).unwrap();
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir(&place).unwrap();
            std::fs::set_permissions(&place, PermissionsExt::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&place, Some(65534), None).unwrap();
            refused(Errno::PERM);
        }
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error() {
        let scratch = Scratch::new("long");
        let place = scratch.0.join("sockets");
        let errno = bind_in(&place, &[b'x'; 108]).unwrap_err();
        assert_eq!(errno, Errno::NAMETOOLONG);
    }
}
