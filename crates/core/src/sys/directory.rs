//! Directories of ours on disk: where sockets are when they need a file, and the books of
//! trackers.
//!
//! Guarantees: a directory is used only if it is one (no link to it), belongs to our user, and
//! is closed to all others. It goes with the last file in it.
//!
//! They are `shared_numpy-<uid>` in `$XDG_RUNTIME_DIR`, if there is one, else in `/tmp`. Who
//! looks for something looks in both: whoever put it there may have another environment.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::fd::above_stdio;

/// How long another may keep a directory locked, which it does for microseconds.
const LOCKED_AT_MOST: Duration = Duration::from_secs(1);

/// Where our directory may be, the first choice first.
pub fn all() -> impl Iterator<Item = PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let ours = format!("shared_numpy-{}", rustix::process::geteuid().as_raw());
    let parents = runtime.into_iter().chain([PathBuf::from("/tmp")]);
    parents
        .filter(|parent| parent.is_absolute())
        .map(move |parent| parent.join(&ours))
}

/// Removes a directory of ours unless something is in it.
pub fn remove_if_empty(path: &Path) {
    let _ = rustix::fs::rmdir(path);
}

/// A directory of ours.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// A lock on it ends with this.
    fd: OwnedFd,
}

impl Directory {
    /// Opens it if it is as it should be. Its name stays so: nobody but us and root can
    /// rename what is ours in `/tmp`, which is sticky, or in a directory of ours.
    ///
    /// # Errors
    ///
    /// `EPERM` if it is not; the system's.
    pub fn open(path: &Path) -> Result<Self, Errno> {
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
    ///
    /// # Errors
    ///
    /// As [`Directory::open`].
    pub fn make(path: &Path) -> Result<Self, Errno> {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path),
            Err(errno) => Err(errno),
        }
    }

    /// Locks it until it is dropped.
    ///
    /// # Errors
    ///
    /// `EWOULDBLOCK` when somebody else keeps it for a second; the system's.
    pub fn lock(&self) -> Result<(), Errno> {
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }

    /// The paths of what is in it.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten();
        entries.flatten().map(|entry| entry.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_others_could_enter_or_lead_elsewhere_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = std::env::temp_dir().join(format!("snp_directory_{}", std::process::id()));
        std::fs::create_dir(&scratch).unwrap();
        let place = scratch.join("ours");
        let refused = |expected| {
            assert_eq!(Directory::make(&place).unwrap_err(), expected);
            assert_eq!(Directory::open(&place).unwrap_err(), expected);
        };
        for mode in [0o755, 0o710, 0o701, 0o500] {
            std::fs::create_dir(&place).unwrap();
            std::fs::set_permissions(&place, PermissionsExt::from_mode(mode)).unwrap();
            refused(Errno::PERM);
            std::fs::remove_dir(&place).unwrap();
        }
        let real = scratch.join("real");
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
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn it_stays_while_something_is_in_it_and_one_has_the_lock() {
        let path = std::env::temp_dir().join(format!("snp_directory_lock_{}", std::process::id()));
        let one = Directory::make(&path).unwrap();
        one.lock().unwrap();
        let other = Directory::make(&path).unwrap();
        assert_eq!(other.lock().unwrap_err(), Errno::WOULDBLOCK);
        std::fs::write(one.file(b"x"), "").unwrap();
        drop(one);
        other.lock().unwrap();
        assert_eq!(other.files().collect::<Vec<_>>(), [other.file(b"x")]);
        remove_if_empty(&path);
        assert!(path.exists());
        std::fs::remove_file(other.file(b"x")).unwrap();
        remove_if_empty(&path);
        assert!(!path.exists());
    }
}
