//! Where a helper listens, and is found: under an abstract name, or, where those cannot
//! serve (another kernel, a sandbox), as a socket file in a directory of ours.
//!
//! Guarantees:
//!
//! - Of those who want a name one gets it; nobody can connect before its owner says so
//!   ([`Bound::listen`]), and nobody who listens is taken its place from.
//! - The directory is closed to all others ([`directory`]). So another user is found under an
//!   abstract name, and never in a file.
//! - Names vanish with their owner. What a killed one left in a directory, the next who comes
//!   there removes: nobody listens at it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::{BACKLOG, connect_to, unconnected};
use crate::sys::directory::{self, Directory};
use crate::sys::feature;

/// What abstract names are as a feature of the system.
const FEATURE: &str = "abstract";
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
    for path in directory::all() {
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
    for path in directory::all() {
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

/// Removes files whose owners were killed. Those who live see somebody come and go.
fn sweep(directory: &Directory) {
    for file in directory.files().take(SWEPT_AT_MOST) {
        if is_left_over(&file) {
            let _ = rustix::fs::unlink(file.as_path());
        }
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
        sweep(&directory);
        let socket = unconnected()?;
        match rustix::net::bind(&socket, &address) {
            Ok(()) => {
                let file = SocketFile::new(file, directory.path())?;
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
        directory::remove_if_empty(&self.directory);
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
    fn a_path_that_is_too_long_is_an_error() {
        let scratch = Scratch::new("long");
        let place = scratch.0.join("sockets");
        let errno = bind_in(&place, &[b'x'; 108]).unwrap_err();
        assert_eq!(errno, Errno::NAMETOOLONG);
    }
}
