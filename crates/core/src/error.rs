//! One error type for the crate.
//!
//! Each variant says what was attempted, on which segment, and, where the user
//! can do something about it, what. System errors keep their errno, so that a
//! caller in another language can raise its own word for it.

use std::fmt;

use rustix::io::Errno;

/// The system's own words for `errno`: tools and people search for them.
pub fn words(errno: Errno) -> String {
    let words = std::io::Error::from(errno).to_string();
    // Rust adds a number in brackets.
    words.split(" (os error").next().unwrap_or_default().into()
}

/// The result of every fallible operation here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on shared memory failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    Os {
        /// What was attempted, as a verb phrase: `"create shared memory"`.
        operation: &'static str,
        /// The segment's name as the system knows it; empty where there is none.
        name: String,
        /// The system's reason.
        errno: Errno,
    },
    /// There is no room for a segment; nothing was left behind.
    NoSpace {
        /// The segment's name.
        name: String,
        /// How much was asked for, in bytes.
        size_bytes: u64,
        /// How much was free, in bytes.
        free_bytes: u64,
    },
    /// There is no place where segments could be (`/dev/shm` does not exist).
    NoPlace {
        /// The segment's name.
        name: String,
    },
    /// The address space, or its limit, has no room for a segment; nothing was left behind.
    NoMemory {
        /// The segment's name.
        name: String,
        /// How much was asked for, in bytes.
        size_bytes: u64,
    },
    /// A name that no segment can have.
    BadName {
        /// The name, with unprintable bytes escaped.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The segment exists and has no bytes (its creator may not be done yet).
    Empty {
        /// The segment's name.
        name: String,
    },
    /// The name now leads to another segment than the one that was opened.
    Replaced {
        /// The segment's name.
        name: String,
    },
    /// The file belongs to a user whom the caller did not say to trust.
    NotOwner {
        /// The segment's name.
        name: String,
        /// The user it belongs to.
        uid: u32,
    },
    /// The segment is not of the kind that was asked for.
    Foreign {
        /// The segment's name.
        name: String,
        /// What it lacks.
        reason: &'static str,
    },
    /// An access outside the mapping.
    OutOfBounds {
        /// Where the access began, in bytes from the start of the mapping.
        offset_bytes: u64,
        /// How long it was, in bytes.
        len_bytes: u64,
        /// The size of the mapping, in bytes.
        size_bytes: u64,
    },
    /// A write through a read-only mapping.
    ReadOnly,
    /// A handle, token or participant of an earlier life: what it named is gone.
    Stale,
    /// A handle of a family that this process is not in; [`crate::participation::join`] it.
    UnknownFamily,
    /// A handle that leads nowhere from here: another host, another or an ended program.
    ForeignHandle(&'static str),
    /// Memory that cannot be reached without a tracker, and why there is none.
    TrackerUnavailable(String),
    /// Memory that was inherited and let go of.
    Dropped,
    /// A nameless segment of another program, or of another version of this one.
    WrongSegment(&'static str),
    /// Bytes in a segment that make no sense; the segment is not to be trusted.
    Damaged(&'static str),
    /// Whoever might have put an item, or made room for one, has died.
    PeerDied,
    /// The writer of a channel has stopped, and nobody took its place.
    WriterEnded,
    /// A table of fixed size is full.
    Full {
        /// What there are too many of.
        what: &'static str,
        /// How many there can be.
        limit: usize,
    },
    /// Memory was not taken because a limit would be exceeded.
    Limit {
        /// How much more was asked for, in bytes.
        size_bytes: u64,
        /// How much of the limit is in use, in bytes.
        used_bytes: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
        /// Where it comes from.
        source: LimitSource,
    },
    /// An environment variable has a value that it cannot have.
    BadSetting {
        /// Its name.
        variable: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The participant is not, or no longer, what the operation needs.
    NotAllowed(&'static str),
    /// The caller's interrupt check asked to stop; nothing was left behind.
    Interrupted,
}

/// Where a limit of memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitSource {
    /// An environment variable.
    Variable(&'static str),
    /// What the machine has (`/proc/meminfo`).
    Machine,
    /// A control group; the file that says so.
    Group(String),
}

impl LimitSource {
    /// What is limited, and what can be done about it.
    fn words(&self) -> (String, &'static str) {
        match self {
            LimitSource::Variable(name) => (
                format!("set by {name} for what one process shares"),
                "raise or unset it",
            ),
            LimitSource::Machine => (
                "the machine's memory (MemTotal and MemAvailable in /proc/meminfo)".to_owned(),
                "end other programs",
            ),
            LimitSource::Group(path) => (
                format!("of a control group ({path})"),
                "raise it (docker run --memory=..., systemd's MemoryMax=)",
            ),
        }
    }
}

impl Error {
    /// A system error with its context.
    pub fn os(operation: &'static str, name: impl Into<String>, errno: Errno) -> Self {
        Error::Os {
            operation,
            name: name.into(),
            errno,
        }
    }

    /// Whether this process, or the system, lacks descriptors or memory: what failed may
    /// succeed later.
    pub fn is_shortage(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)
        )
    }

    /// The errno a C programmer would expect for this error, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Os { errno, .. } => Some(*errno),
            Error::NoSpace { .. } => Some(Errno::NOSPC),
            Error::NoPlace { .. } => Some(Errno::NOENT),
            Error::NoMemory { .. } | Error::Limit { .. } => Some(Errno::NOMEM),
            Error::Replaced { .. } => Some(Errno::STALE),
            Error::NotOwner { .. } => Some(Errno::PERM),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Os {
                operation, errno, ..
            } => {
                write!(f, "cannot {operation}: {}", words(*errno))
            }
            Error::NoSpace {
                size_bytes,
                free_bytes,
                ..
            } => write!(
                f,
                "no space left for shared memory: {size_bytes} bytes asked, {free_bytes} bytes free \
                 in /dev/shm; remove unused segments, ask for less, or enlarge /dev/shm \
                 (docker run --shm-size=..., or mount -o remount,size=... /dev/shm)"
            ),
            Error::NoPlace { .. } => f.write_str(
                "there is no /dev/shm here, where shared memory is: mount a tmpfs on it \
                 (mount -t tmpfs tmpfs /dev/shm)",
            ),
            Error::NoMemory { size_bytes, .. } => write!(
                f,
                "cannot map {size_bytes} bytes of shared memory: ask for less, or raise the limit \
                 of the address space (ulimit -v)"
            ),
            Error::BadName { name, reason } => {
                write!(f, "invalid shared memory name {name:?}: {reason}")
            }
            Error::Empty { name } => write!(
                f,
                "cannot mmap an empty file: shared memory {name:?} has size 0; \
                 its creator has not sized it yet, or never will"
            ),
            Error::Replaced { name } => write!(
                f,
                "shared memory {name:?} was removed and created anew by somebody else; \
                 attach again to reach the new segment"
            ),
            Error::NotOwner { name, uid } => write!(
                f,
                "shared memory {name:?} belongs to user {uid}, which is neither you nor root: \
                 pass owner={uid} if you trust that user with it"
            ),
            Error::Foreign { name, reason } => {
                write!(f, "cannot use shared memory {name:?}: {reason}")
            }
            Error::OutOfBounds {
                offset_bytes,
                len_bytes,
                size_bytes,
            } => write!(
                f,
                "{len_bytes} bytes at offset {offset_bytes} lie outside a mapping of {size_bytes} bytes"
            ),
            Error::ReadOnly => f.write_str("the shared memory was attached read-only"),
            Error::Stale => f.write_str(
                "stale handle: the memory it named was given back; \
                 keep a reference, or send the array, while others need it",
            ),
            Error::UnknownFamily => f.write_str("the handle is of another program"),
            Error::ForeignHandle(why) => write!(
                f,
                "foreign handle: {why}; send the values instead (numpy.array(a) makes a copy that \
                 travels anywhere)"
            ),
            Error::TrackerUnavailable(why) => write!(
                f,
                "the memory cannot be reached: its owner is out of reach, and there is no tracker \
                 that keeps it ({why})"
            ),
            Error::Dropped => f.write_str(
                "the array was inherited from the parent process, and drop_inherited() let it go",
            ),
            Error::WrongSegment(why) => write!(f, "not a segment that this program can use: {why}"),
            Error::Damaged(what) => write!(f, "damaged shared memory: {what}"),
            Error::PeerDied => f.write_str(
                "every other process that had the queue is gone, and the last of them died: nobody \
                 will put an item or take one",
            ),
            Error::WriterEnded => f.write_str(
                "the channel's writer has ended, and nobody took its place: there will be no \
                 newer frame until somebody publishes one",
            ),
            Error::Full { what, limit } => {
                write!(f, "no room for more {what}: the limit is {limit}")
            }
            Error::Limit {
                size_bytes,
                used_bytes,
                limit_bytes,
                source,
            } => {
                let (what, advice) = source.words();
                write!(
                    f,
                    "no memory left to share: {size_bytes} bytes asked, {used_bytes} bytes in use, \
                     the limit is {limit_bytes} bytes, {what}; drop arrays that are not needed, \
                     ask for less, or {advice}"
                )
            }
            Error::BadSetting {
                variable,
                value,
                expected,
            } => write!(f, "{variable} is {value:?}; it has to be {expected}"),
            Error::NotAllowed(why) => f.write_str(why),
            Error::Interrupted => f.write_str("interrupted while memory was being reserved"),
        }
    }
}

impl std::error::Error for Error {}
