//! The messages between a process and the tracker: their bytes, and nothing else.
//!
//! One message is one `SOCK_SEQPACKET` record, so lengths are implied and records
//! of processes that share a socket do not mix. Numbers are little-endian. Unused
//! bytes are zero, and a message with anything else there is refused, which keeps
//! them free for later use.
//!
//! HELLO (64 bytes; process to tracker, first on each connection) and
//! READY (48 bytes; the reply, the only message that a tracker sends):
//!
//! | offset | HELLO | READY |
//! | --- | --- | --- |
//! | 0 | u8 kind = 1 | u8 kind = 2 |
//! | 1 | u8 flags: 1 = bind the address | u8 status ([`Status`]) |
//! | 2 | u16 protocol version | u16 protocol version |
//! | 4 | magic `SNPT` | u32 pid of the tracker |
//! | 8 | 16 bytes address | 16 bytes address |
//! | 24 | 16 bytes cookie | 16 bytes cookie |
//! | 40 | u64 group | u64 group |
//! | 48 | u32 guardian's pid, 0 = none | |
//! | 52 | u32 zero | |
//! | 56 | u64 guardian's start time, clock ticks since boot | |
//!
//! A READY with status 0 comes with one descriptor: the group's marker file.
//!
//! REGISTER, UNREGISTER, GONE (24 bytes and the name; process to tracker, one way)
//! and ADOPT (8 bytes, the last seven zero, with one descriptor):
//!
//! | offset | REGISTER = 3, UNREGISTER = 4, GONE = 5 | ADOPT = 6 |
//! | --- | --- | --- |
//! | 0 | u8 kind | u8 kind |
//! | 1 | u8 resource type ([`ResourceType`]) | 7 bytes zero |
//! | 2 | u16 flags: 1 = registered before, with a tracker that died | |
//! | 4 | u16 length of the name | |
//! | 6 | u16 zero | |
//! | 8 | u64 device, 0 with inode 0 = not known | |
//! | 16 | u64 inode | |
//! | 24 | the name, 1 to 256 bytes, no NUL | |
//!
//! A REGISTER may come with one descriptor: the sender's standard error.

use crate::helper::wire::{self, get, get_u16, get_u32, get_u64, require};
use crate::sys::shm::Identity;

pub use crate::helper::wire::Malformed;

use super::address::Token;

/// The version that both sides must speak.
pub const VERSION: u16 = 1;

/// The longest name, in bytes: `NAME_MAX` and a leading slash.
pub const NAME_MAX_BYTES: usize = 256;

/// The longest message, in bytes.
pub const MESSAGE_MAX_BYTES: usize = ENTRY_HEAD_BYTES + NAME_MAX_BYTES;

const HELLO_BYTES: usize = 64;
const READY_BYTES: usize = 48;
const ENTRY_HEAD_BYTES: usize = 24;
const ADOPT_BYTES: usize = 8;

const HELLO: u8 = 1;
const READY: u8 = 2;
const REGISTER: u8 = 3;
const UNREGISTER: u8 = 4;
const GONE: u8 = 5;
const ADOPT: u8 = 6;

const MAGIC: [u8; 4] = *b"SNPT";
const BIND: u8 = 1;
const AGAIN: u16 = 1;

/// What a registered name stands for, and so how it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ResourceType {
    /// Nothing; cleaning it up is an error (the standard library's probe).
    Noop = 0,
    /// Nothing; leaks without a warning (the standard library's tests).
    Dummy = 1,
    /// A POSIX named semaphore.
    Semaphore = 2,
    /// A shared memory segment.
    SharedMemory = 3,
    /// The segment of an array: arrays need no unlink, so it goes without a warning.
    Array = 4,
}

impl ResourceType {
    /// Every type, in the order of their numbers.
    pub const ALL: [ResourceType; 5] = [
        ResourceType::Noop,
        ResourceType::Dummy,
        ResourceType::Semaphore,
        ResourceType::SharedMemory,
        ResourceType::Array,
    ];

    /// The standard library's word.
    pub fn name(self) -> &'static str {
        match self {
            ResourceType::Noop => "noop",
            ResourceType::Dummy => "dummy",
            ResourceType::Semaphore => "semaphore",
            ResourceType::SharedMemory => "shared_memory",
            ResourceType::Array => "array",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rtype| rtype.name() == name)
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// The first message of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Whether the tracker shall bind `address` (said by the process that starts it).
    pub bind: bool,
    /// The sender's protocol version.
    pub version: u16,
    /// The tracker's address.
    pub address: Token,
    /// The proof of belonging.
    pub cookie: Token,
    /// The group to join or to found.
    pub group: u64,
    /// Whose life also keeps the group: pid and start time in clock ticks since boot.
    pub guardian: Option<(u32, u64)>,
}

/// The tracker's answer to a [`Hello`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Whether the sender is in.
    pub status: Status,
    /// The tracker's protocol version.
    pub version: u16,
    /// The tracker's pid, in its own pid namespace.
    pub pid: u32,
    /// Where the tracker listens; all zero if nowhere.
    pub address: Token,
    /// The cookie; all zero unless the sender is in.
    pub cookie: Token,
    /// The group that the sender is in.
    pub group: u64,
}

/// Whether a process was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It is a member now.
    In = 0,
    /// The address to bind was taken: a tracker runs there; this one ends.
    AddressTaken = 1,
    /// Wrong cookie.
    Refused = 2,
    /// Other protocol version.
    Version = 3,
    /// No descriptors or no memory left.
    Busy = 4,
}

/// One name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it stands for.
    pub rtype: ResourceType,
    /// As the registering process wrote it.
    pub name: &'a [u8],
    /// Which file it was; all zero if not known.
    pub identity: Identity,
    /// Registered before, with a tracker that died: if it is gone by now, say nothing.
    pub again: bool,
}

/// A message to the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// See [`Hello`].
    Hello(Hello),
    /// Clean this up if my group ends.
    Register(Entry<'a>),
    /// My group need not clean this up any more.
    Unregister(Entry<'a>),
    /// The name was unlinked: nobody need clean it up any more.
    Gone(Entry<'a>),
    /// The descriptor that comes along is a further connection of my group.
    Adopt,
}

/// An encoded message.
pub type Encoded = wire::Encoded<MESSAGE_MAX_BYTES>;

impl Hello {
    fn encode(&self) -> Encoded {
        let mut to = Encoded::new(HELLO_BYTES);
        to.put(0, [HELLO, if self.bind { BIND } else { 0 }]);
        to.put(2, self.version.to_le_bytes());
        to.put(4, MAGIC);
        to.put(8, self.address);
        to.put(24, self.cookie);
        to.put(40, self.group.to_le_bytes());
        let (pid, start) = self.guardian.unwrap_or_default();
        to.put(48, pid.to_le_bytes());
        to.put(56, start.to_le_bytes());
        to
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        require(bytes.len() == HELLO_BYTES && get(bytes, 4)? == MAGIC)?;
        require(bytes[1] & !BIND == 0 && get_u32(bytes, 52)? == 0)?;
        let (pid, start) = (get_u32(bytes, 48)?, get_u64(bytes, 56)?);
        require(pid != 0 || start == 0)?;
        Ok(Hello {
            bind: bytes[1] & BIND != 0,
            version: get_u16(bytes, 2)?,
            address: get(bytes, 8)?,
            cookie: get(bytes, 24)?,
            group: get_u64(bytes, 40)?,
            guardian: (pid != 0).then_some((pid, start)),
        })
    }
}

impl Ready {
    /// The reply's bytes.
    pub fn encode(&self) -> Encoded {
        let mut to = Encoded::new(READY_BYTES);
        to.put(0, [READY, self.status as u8]);
        to.put(2, self.version.to_le_bytes());
        to.put(4, self.pid.to_le_bytes());
        to.put(8, self.address);
        to.put(24, self.cookie);
        to.put(40, self.group.to_le_bytes());
        to
    }

    /// Reads a reply.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        require(bytes.len() == READY_BYTES && bytes[0] == READY)?;
        let status = match bytes[1] {
            0 => Status::In,
            1 => Status::AddressTaken,
            2 => Status::Refused,
            3 => Status::Version,
            4 => Status::Busy,
            _ => return Err(Malformed),
        };
        Ok(Ready {
            status,
            version: get_u16(bytes, 2)?,
            pid: get_u32(bytes, 4)?,
            address: get(bytes, 8)?,
            cookie: get(bytes, 24)?,
            group: get_u64(bytes, 40)?,
        })
    }
}

impl<'a> Entry<'a> {
    fn encode(&self, kind: u8) -> Encoded {
        debug_assert!((1..=NAME_MAX_BYTES).contains(&self.name.len()));
        let name = &self.name[..self.name.len().min(NAME_MAX_BYTES)];
        let mut to = Encoded::new(ENTRY_HEAD_BYTES + name.len());
        to.put(0, [kind, self.rtype as u8]);
        to.put(2, if self.again { AGAIN } else { 0 }.to_le_bytes());
        to.put(4, (name.len() as u16).to_le_bytes());
        to.put(8, self.identity.dev.to_le_bytes());
        to.put(16, self.identity.ino.to_le_bytes());
        to.put_all(ENTRY_HEAD_BYTES, name);
        to
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let name = bytes.get(ENTRY_HEAD_BYTES..).ok_or(Malformed)?;
        let flags = get_u16(bytes, 2)?;
        require((1..=NAME_MAX_BYTES).contains(&name.len()) && !name.contains(&0))?;
        require(usize::from(get_u16(bytes, 4)?) == name.len())?;
        require(flags & !AGAIN == 0 && get_u16(bytes, 6)? == 0)?;
        Ok(Entry {
            rtype: ResourceType::from_number(bytes[1]).ok_or(Malformed)?,
            name,
            identity: Identity {
                dev: get_u64(bytes, 8)?,
                ino: get_u64(bytes, 16)?,
            },
            again: flags & AGAIN != 0,
        })
    }
}

impl<'a> Message<'a> {
    /// The message's bytes.
    pub fn encode(&self) -> Encoded {
        match self {
            Message::Hello(hello) => hello.encode(),
            Message::Register(entry) => entry.encode(REGISTER),
            Message::Unregister(entry) => entry.encode(UNREGISTER),
            Message::Gone(entry) => entry.encode(GONE),
            Message::Adopt => {
                let mut to = Encoded::new(ADOPT_BYTES);
                to.put(0, [ADOPT]);
                to
            }
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for anything that [`Message::encode`] cannot have written.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match *bytes.first().ok_or(Malformed)? {
            HELLO => Hello::decode(bytes).map(Message::Hello),
            REGISTER => Entry::decode(bytes).map(Message::Register),
            UNREGISTER => Entry::decode(bytes).map(Message::Unregister),
            GONE => Entry::decode(bytes).map(Message::Gone),
            ADOPT if bytes == [ADOPT, 0, 0, 0, 0, 0, 0, 0] => Ok(Message::Adopt),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests;
