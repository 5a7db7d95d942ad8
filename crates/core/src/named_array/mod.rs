//! Named arrays: segments with a header, for programs that know nothing of each other.
//!
//! Guarantees:
//!
//! - Two steps make one: [`claim`] makes the name, exclusively, and [`fill`] the
//!   array. In between the maker can have the name's removal arranged, so that being
//!   killed while memory is reserved leaves nothing.
//! - Memory is committed before the array is handed out; what is handed out was checked.
//!   Before that it is compared with what there is ([`limit`]).
//! - Nobody but the creator's user gets in before the array is complete.
//! - An array opens only if it belongs to this user or to root, or to whom the caller
//!   trusts; [`remove`] removes only what it looked at.
//!
//! Killed between two steps, a creator leaves an empty file or one that begins with
//! [`header::MAKING`]. Both are errors to whoever opens them, and can be removed.

pub mod header;

use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::name::SegmentName;
use crate::pool::limit;
use crate::segment::{self, CreateOptions, Reserve, Segment};
use crate::sys::shm::{self, Identity, OpenFlags, Status};
use header::{Kind, Place, Spec};

/// Whose file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This user's or root's.
    OwnOrRoot,
    /// This user's one, whoever that is.
    User(u32),
    /// Exactly this file, whosever it is.
    File(Identity),
}

impl Owner {
    fn check(self, name: &SegmentName, status: &Status) -> Result<()> {
        let is_right = match self {
            Owner::OwnOrRoot => status.uid == 0 || status.uid == shm::own_uid(),
            Owner::User(uid) => status.uid == uid,
            Owner::File(identity) => {
                if status.identity != identity {
                    return Err(Error::Replaced {
                        name: name.display(),
                    });
                }
                true
            }
        };
        if is_right {
            return Ok(());
        }
        Err(Error::NotOwner {
            name: name.display(),
            uid: status.uid,
        })
    }
}

/// A named array, mapped into this process.
#[derive(Debug, Clone)]
pub struct NamedArray {
    name: SegmentName,
    identity: Identity,
    mapping: Arc<Mapping>,
    spec: Spec,
    place: Place,
}

/// Makes the name `name`, which must be free, for [`fill`].
///
/// # Errors
///
/// `EEXIST` as [`Error::Os`] when it is taken, [`Error::NoPlace`], and the system's.
pub fn claim(name: &SegmentName) -> Result<Identity> {
    let fd = segment::create_file(name, 0o600)?;
    let mark = || {
        // The umask may have taken the creator's own rights.
        shm::set_mode(&fd, 0o600)?;
        shm::write_start(&fd, &header::MAKING.to_ne_bytes())?;
        Ok(shm::status(&fd)?.identity)
    };
    mark().map_err(|errno| {
        if let Ok(status) = shm::status(&fd) {
            discard(name, status.identity);
        }
        match errno {
            Errno::NOSPC => Error::NoSpace {
                name: name.display(),
                size_bytes: header::FIXED_BYTES as u64,
                free_bytes: 0,
            },
            errno => Error::os("create shared memory", name.display(), errno),
        }
    })
}

/// Removes what could not be completed. Should it fail the first error is the one to tell.
fn discard(name: &SegmentName, identity: Identity) {
    let _ = shm::unlink_if(name, identity);
}

/// Makes an array of zero bytes in the file that [`claim`] made, with these
/// permission bits.
///
/// `keep_going` is asked between steps of a long reservation.
///
/// # Errors
///
/// [`Error::NoSpace`], [`Error::Limit`], [`Error::NoMemory`], [`Error::Interrupted`],
/// [`Error::Foreign`] for an array that cannot be; [`Error::Replaced`] and `ENOENT` when the name was
/// removed meanwhile. The name is removed then.
pub fn fill(
    name: SegmentName,
    identity: Identity,
    spec: Spec,
    mode: u32,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<NamedArray> {
    fill_claimed(&name, identity, &spec, mode, keep_going)
        .inspect_err(|_| discard(&name, identity))
        .map(|(mapping, place)| NamedArray {
            name,
            identity,
            mapping,
            spec,
            place,
        })
}

fn fill_claimed(
    name: &SegmentName,
    identity: Identity,
    spec: &Spec,
    mode: u32,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<(Arc<Mapping>, Place)> {
    let (bytes, place) = header::make(spec).map_err(|reason| Error::Foreign {
        name: name.display(),
        reason,
    })?;
    let fd = segment::reopen(name, identity, false)?;
    let options = CreateOptions {
        mode: 0o600,
        reserve: Reserve::Always,
    };
    let size_bytes = place.offset_bytes + place.len_bytes;
    // What the file system has no room for is told below, in its own words.
    if shm::free_bytes(&fd).is_ok_and(|free_bytes| size_bytes as u64 <= free_bytes) {
        limit::check(size_bytes as u64, 0)?;
    }
    let (_, mapping) = Segment::fill(name, &fd, size_bytes, options, keep_going)?;
    header::write(&mapping, &bytes)?;
    if mode & 0o777 != 0o600 {
        shm::set_mode(&fd, mode & 0o777)
            .map_err(|errno| Error::os("set the mode of shared memory", name.display(), errno))?;
    }
    Ok((mapping, place))
}

/// What stands at the name is no file that could be a segment.
fn refuse_other_files(name: &SegmentName, error: Error) -> Error {
    match error.errno() {
        // A fifo or a device, a directory, a symbolic link, a socket.
        Some(Errno::INVAL | Errno::ISDIR | Errno::LOOP | Errno::NXIO) => Error::Foreign {
            name: name.display(),
            reason: "it is not a named array: it is not a regular file",
        },
        _ => error,
    }
}

impl NamedArray {
    /// Opens the named array `name`.
    ///
    /// # Errors
    ///
    /// Those of [`Segment::attach`]; [`Error::NotOwner`], [`Error::Replaced`] for another
    /// file than `owner` names, [`Error::Foreign`] for what is no complete named array,
    /// [`Error::NoSpace`] and [`Error::Limit`] for one with holes that cannot be filled.
    pub fn attach(name: SegmentName, read_only: bool, owner: Owner) -> Result<Self> {
        let check = |fd: &_, status: &Status| {
            owner.check(&name, status)?;
            // Copied here with holes: a first touch could find no memory.
            if !read_only && status.committed_bytes < status.size_bytes {
                limit::check(status.size_bytes - status.committed_bytes, 0)?;
                match shm::reserve(fd, status.size_bytes, &mut || true) {
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    Err(Errno::NOSPC) => {
                        return Err(Error::NoSpace {
                            name: name.display(),
                            size_bytes: status.size_bytes - status.committed_bytes,
                            free_bytes: shm::free_bytes(fd).unwrap_or(0),
                        });
                    }
                    Err(errno) => {
                        let name = name.display();
                        return Err(Error::os("reserve shared memory", name, errno));
                    }
                }
            }
            Ok(())
        };
        let flags = OpenFlags::empty();
        let segment = Segment::attach_checked(name.clone(), flags, 0, read_only, check)
            .map_err(|error| refuse_other_files(&name, error))?;
        let (spec, place) = header::read(segment.mapping()).map_err(|reason| Error::Foreign {
            name: name.display(),
            reason,
        })?;
        Ok(NamedArray {
            name,
            identity: segment.identity(),
            mapping: Arc::clone(segment.mapping()),
            spec,
            place,
        })
    }

    /// The canonical name.
    pub fn name(&self) -> &SegmentName {
        &self.name
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The memory, header included.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// What the array is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where its bytes lie in the mapping.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether the name still leads to this array.
    pub fn is_linked(&self) -> bool {
        shm::identity(&self.name) == Ok(self.identity)
    }

    /// Removes the name, if it still leads to this array; says whether it did.
    ///
    /// # Errors
    ///
    /// The system's, other than that the name is gone.
    pub fn unlink(&self) -> Result<bool> {
        match shm::unlink_if(&self.name, self.identity) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::STALE) => Ok(false),
            Err(errno) => Err(Error::os(
                "unlink shared memory",
                self.name.display(),
                errno,
            )),
        }
    }
}

/// Removes the name of a named array, or of one that was never completed; mappings of
/// it live on.
///
/// # Errors
///
/// `ENOENT` when there is none; [`Error::NotOwner`]; [`Error::Foreign`] for what is no
/// named array; [`Error::Replaced`] when somebody else's file came there meanwhile.
pub fn remove(name: &SegmentName, owner: Owner) -> Result<Identity> {
    const UNLINK: &str = "unlink shared memory";
    let os = |errno| refuse_other_files(name, Error::os(UNLINK, name.display(), errno));
    let fd = shm::open(name, OpenFlags::RDONLY, 0).map_err(os)?;
    let status = shm::status(&fd).map_err(os)?;
    if !status.is_regular {
        return Err(os(Errno::INVAL));
    }
    owner.check(name, &status)?;
    // An empty one has a maker that did not get far.
    if status.size_bytes != 0 {
        let mut magic = [0; 8];
        let count = shm::read_start(&fd, &mut magic).map_err(os)?;
        if count < magic.len() || header::kind(u64::from_ne_bytes(magic)) == Kind::Other {
            return Err(Error::Foreign {
                name: name.display(),
                reason: header::NO_HEADER,
            });
        }
    }
    let now = shm::status_of(name).map_err(os)?;
    if (now.identity, now.uid) != (status.identity, status.uid) {
        return Err(Error::Replaced {
            name: name.display(),
        });
    }
    shm::unlink(name).map_err(os)?;
    Ok(status.identity)
}
