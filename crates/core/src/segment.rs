//! Named segments: shared memory that unrelated processes find by name.
//!
//! Guarantees:
//!
//! - [`Segment::create`] either returns a segment of exactly the size asked, with
//!   its memory committed (see [`Reserve`]), or leaves nothing behind.
//! - A segment keeps no file descriptor; [`reopen`] opens one anew and
//!   refuses if the name leads elsewhere by then.
//! - [`unlink`] removes only the file that was opened.
//! - Memory stays mapped while an `Arc` of [`Segment::mapping`] lives, whatever
//!   happens to the name.
//!
//! Killed between any two steps of `create`, a process leaves at most the name
//! with some of its pages; the tracker removes it (its name is registered before
//! the call where nobody else can have chosen it, else right after).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::name::SegmentName;
use crate::sys::shm::{self, Identity, OpenFlags, Status};

/// Up to this size [`Reserve::Auto`] commits memory at creation.
pub const RESERVE_AUTO_MAX_BYTES: u64 = 64 << 20;

/// Whether memory is committed when a segment is created.
///
/// Without it the first touch of a page may find the file system full, which the
/// kernel tells by SIGBUS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reserve {
    /// Commit up to [`RESERVE_AUTO_MAX_BYTES`]; above, check that so much is free.
    #[default]
    Auto,
    /// Commit all of it.
    Always,
    /// Commit and check nothing.
    Never,
}

/// How a segment is created.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions {
    /// Permission bits, set exactly (the umask does not apply).
    pub mode: u32,
    /// Whether memory is committed.
    pub reserve: Reserve,
}

impl Default for CreateOptions {
    fn default() -> Self {
        CreateOptions {
            mode: 0o600,
            reserve: Reserve::Auto,
        }
    }
}

/// A named segment, mapped into this process.
#[derive(Debug, Clone)]
pub struct Segment {
    name: SegmentName,
    identity: Identity,
    mapping: Arc<Mapping>,
}

impl Segment {
    /// Creates the segment `name` of `size_bytes` bytes, all zero.
    ///
    /// `keep_going` is asked between steps of a long reservation; `false` gives
    /// [`Error::Interrupted`].
    ///
    /// # Errors
    ///
    /// `EEXIST` as [`Error::Os`] when the name is taken, [`Error::NoSpace`] when
    /// there is no room, [`Error::NoMemory`] when it cannot be mapped,
    /// [`Error::NoPlace`], and the system's. Nothing is left behind.
    pub fn create(
        name: SegmentName,
        size_bytes: usize,
        options: CreateOptions,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Self> {
        // 0600 until the mode is set below: nobody gets in earlier than meant.
        let fd = create_file(&name, options.mode & 0o600)?;
        let made = Self::fill(&name, &fd, size_bytes, options, keep_going);
        match made {
            Ok((identity, mapping)) => Ok(Segment {
                name,
                identity,
                mapping,
            }),
            Err(error) => {
                // Ours by O_EXCL, unless somebody has removed it and made another since.
                // Should it fail the first error is the one to tell.
                if let Ok(status) = shm::status(&fd) {
                    let _ = shm::unlink_if(&name, status.identity);
                }
                Err(error)
            }
        }
    }

    /// Gives the empty file `fd`, which bears `name`, its mode, memory and size, and
    /// maps it. Should it fail, the caller removes the file.
    pub(crate) fn fill(
        name: &SegmentName,
        fd: &OwnedFd,
        size_bytes: usize,
        options: CreateOptions,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<(Identity, Arc<Mapping>)> {
        let os = |operation| move |errno| Error::os(operation, name.display(), errno);
        if options.mode & 0o7777 != 0o600 {
            shm::set_mode(fd, options.mode & 0o7777)
                .map_err(os("set the mode of shared memory"))?;
        }
        let wanted_bytes = size_bytes as u64;
        let no_space = |free_bytes| Error::NoSpace {
            name: name.display(),
            size_bytes: wanted_bytes,
            free_bytes,
        };
        let free_bytes = || shm::free_bytes(fd).map_err(os("ask for free shared memory"));
        let commit = match options.reserve {
            Reserve::Auto => wanted_bytes <= RESERVE_AUTO_MAX_BYTES,
            Reserve::Always => true,
            Reserve::Never => false,
        };
        // A single step fails at once by itself; more would first fill what is left.
        let look_first = if commit {
            wanted_bytes > shm::RESERVE_STEP_BYTES
        } else {
            options.reserve != Reserve::Never
        };
        if look_first {
            let free_bytes = free_bytes()?;
            if wanted_bytes > free_bytes {
                return Err(no_space(free_bytes));
            }
        }
        // Committing sets the size as well.
        let mut is_sized = false;
        if commit {
            match shm::reserve(fd, wanted_bytes, keep_going) {
                Ok(()) => is_sized = true,
                // A file system that cannot reserve: the check above has to do.
                Err(Errno::OPNOTSUPP) => {}
                Err(Errno::NOSPC) => {
                    let held_bytes = shm::status(fd).map_or(0, |status| status.committed_bytes);
                    return Err(no_space(free_bytes()?.saturating_add(held_bytes)));
                }
                Err(Errno::CANCELED) => return Err(Error::Interrupted),
                Err(errno) => return Err(os("reserve shared memory")(errno)),
            }
        }
        if !is_sized {
            shm::set_len(fd, wanted_bytes).map_err(os("set the size of shared memory"))?;
        }
        let status = shm::status(fd).map_err(os("look at shared memory"))?;
        let mapping = shared::find_or_map(status.identity, size_bytes, false, || {
            Mapping::new(fd, size_bytes, false)
        })
        .map_err(|errno| match errno {
            Errno::NOMEM => Error::NoMemory {
                name: name.display(),
                size_bytes: wanted_bytes,
            },
            errno => os("map shared memory")(errno),
        })?;
        Ok((status.identity, mapping))
    }

    /// Opens the existing segment `name` and maps all of it.
    ///
    /// `flags` are added to the access mode that `read_only` implies.
    ///
    /// # Errors
    ///
    /// `ENOENT` as [`Error::Os`] when there is none, [`Error::Empty`] when it has
    /// no bytes, `EINVAL` when the name leads to something that is not a segment,
    /// and the system's.
    pub fn attach(name: SegmentName, flags: OpenFlags, mode: u32, read_only: bool) -> Result<Self> {
        Self::attach_checked(name, flags, mode, read_only, |_, _| Ok(()))
    }

    /// As [`Segment::attach`], if `check` agrees to the file before it is mapped.
    pub(crate) fn attach_checked(
        name: SegmentName,
        flags: OpenFlags,
        mode: u32,
        read_only: bool,
        check: impl FnOnce(&OwnedFd, &Status) -> Result<()>,
    ) -> Result<Self> {
        const ATTACH: &str = "attach to shared memory";
        let os = |errno| Error::os(ATTACH, name.display(), errno);
        let flags = (flags - OpenFlags::RWMODE) | access(read_only);
        let fd = shm::open(&name, flags, mode).map_err(os)?;
        let status = shm::status(&fd).map_err(os)?;
        if !status.is_regular {
            return Err(os(Errno::INVAL));
        }
        if status.size_bytes == 0 {
            return Err(Error::Empty {
                name: name.display(),
            });
        }
        check(&fd, &status)?;
        let size = usize::try_from(status.size_bytes).map_err(|_| os(Errno::OVERFLOW))?;
        let mapping = shared::find_or_map(status.identity, size, read_only, || {
            Mapping::new(&fd, size, read_only)
        })
        .map_err(os)?;
        Ok(Segment {
            name,
            identity: status.identity,
            mapping,
        })
    }

    /// The canonical name.
    pub fn name(&self) -> &SegmentName {
        &self.name
    }

    /// Which file was opened.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The memory. Clones of the `Arc` keep it mapped.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

/// Makes the file of a segment, which nobody has made before: empty, for its creator
/// to be filled.
///
/// # Errors
///
/// `EEXIST` as [`Error::Os`] when the name is taken, [`Error::NoPlace`], and the system's.
pub(crate) fn create_file(name: &SegmentName, mode: u32) -> Result<OwnedFd> {
    let flags = OpenFlags::CREATE | OpenFlags::EXCL | OpenFlags::RDWR;
    shm::open(name, flags, mode).map_err(|errno| match errno {
        Errno::NOENT => Error::NoPlace {
            name: name.display(),
        },
        errno => Error::os("create shared memory", name.display(), errno),
    })
}

/// Opens the file `name` again, if it is still `expected`.
///
/// # Errors
///
/// `ENOENT` when the name was removed; [`Error::Replaced`] when it now leads to
/// another segment.
pub fn reopen(name: &SegmentName, expected: Identity, read_only: bool) -> Result<OwnedFd> {
    let os = |errno| Error::os("open shared memory", name.display(), errno);
    let fd = shm::open(name, access(read_only), 0).map_err(os)?;
    if shm::status(&fd).map_err(os)?.identity != expected {
        return Err(Error::Replaced {
            name: name.display(),
        });
    }
    Ok(fd)
}

fn access(read_only: bool) -> OpenFlags {
    if read_only {
        OpenFlags::RDONLY
    } else {
        OpenFlags::RDWR
    }
}

/// Removes the name `name`, if it still leads to the file `expected` (if given).
///
/// # Errors
///
/// `ENOENT` as [`Error::Os`] when the name is gone; [`Error::Replaced`] when it
/// leads to another segment, which is left alone.
pub fn unlink(name: &SegmentName, expected: Option<Identity>) -> Result<()> {
    let removed = match expected {
        Some(identity) => shm::unlink_if(name, identity),
        None => shm::unlink(name),
    };
    removed.map_err(|errno| match errno {
        Errno::STALE => Error::Replaced {
            name: name.display(),
        },
        errno => Error::os("unlink shared memory", name.display(), errno),
    })
}

/// One mapping for all who attach to the same segment in this process.
///
/// Guarantee: it only saves work. The kernel allows a process some 65,000 mappings;
/// objects that are many and name one segment need one. When the table is busy, as
/// it may stay for ever in a child forked at a bad moment, a mapping is made as if
/// there were no table.
mod shared {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex, Weak};

    use rustix::io::Errno;

    use crate::mapping::Mapping;
    use crate::sys::shm::Identity;

    /// Which file, how much of it, and whether read-only.
    type Key = (Identity, usize, bool);

    /// Dead entries are thrown out whenever the table has grown to twice what was
    /// alive the last time, and never below this many.
    const PRUNE_FROM: usize = 64;

    #[derive(Default)]
    struct Table {
        mappings: HashMap<Key, Weak<Mapping>>,
        prune_at: usize,
    }

    pub(super) fn find_or_map(
        identity: Identity,
        len_bytes: usize,
        read_only: bool,
        map: impl FnOnce() -> Result<Mapping, Errno>,
    ) -> Result<Arc<Mapping>, Errno> {
        // Nothing here waits, not even the making of the table: whom a child forked at
        // that moment would wait for does not exist in it.
        static TABLE: Mutex<Option<Table>> = Mutex::new(None);
        let Ok(mut table) = TABLE.try_lock() else {
            return map().map(Arc::new);
        };
        let table = table.get_or_insert_default();
        let key = (identity, len_bytes, read_only);
        if let Some(mapping) = table.mappings.get(&key).and_then(Weak::upgrade) {
            return Ok(mapping);
        }
        let mapping = Arc::new(map()?);
        table.mappings.insert(key, Arc::downgrade(&mapping));
        if table.mappings.len() >= table.prune_at.max(PRUNE_FROM) {
            table.mappings.retain(|_, weak| weak.strong_count() > 0);
            table.prune_at = 2 * table.mappings.len();
        }
        Ok(mapping)
    }
}
