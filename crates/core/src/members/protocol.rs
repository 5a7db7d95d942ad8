//! The messages between a process and the members tracker: their bytes, and nothing else.
//!
//! One message is one `SOCK_SEQPACKET` record. Numbers are little-endian. Unused bytes are
//! zero, and a message with anything else there is refused. A *participant* is the word that
//! the shared format has for one (slot and generation).
//!
//! HELLO (48 bytes; process to tracker, first on each connection; with the family's
//! descriptor from the process that starts the tracker) and READY (24 bytes; the reply; with
//! the family's descriptor for a process that connected):
//!
//! | offset | HELLO | READY |
//! | --- | --- | --- |
//! | 0 | u8 kind = 1 | u8 kind = 2 |
//! | 1 | u8 flags: 1 = serve this family | u8 status ([`Status`]) |
//! | 2 | u16 protocol version | u16 protocol version |
//! | 4 | magic `SNPM` | u32 pid of the tracker |
//! | 8 | u64 family, low half | u64 family, low half |
//! | 16 | u64 family, high half | u64 family, high half |
//! | 24 | 16 bytes cookie | |
//! | 40 | u64 zero | |
//!
//! JOINED (16 bytes; process to tracker, one way; perhaps with a pidfd of the sender), GUARDED
//! (16 bytes; process to tracker, one way): a process that may still receive what the sender
//! sent, when the sender has ended; DROPPED (16 bytes; process to tracker, one way): an owner
//! of whose memory others have dropped much;
//! REGISTER (24 bytes; one way; with the segment), FETCH (24 bytes) and its answer FETCHED
//! (24 bytes; with the segment if its status is 0):
//!
//! | offset | JOINED = 3 | REGISTER = 4 | FETCH = 5 | FETCHED = 6 | GUARDED = 7 | DROPPED = 8 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | 0 | u8 kind | u8 kind | u8 kind | u8 kind | u8 kind | u8 kind |
//! | 1 | zero | zero | zero | u8 status ([`Answer`]) | zero | zero |
//! | 4 | zero | zero | u32 request | u32 request | u32 pid of the guardian | zero |
//! | 8 | u64 participant: the sender | u64 participant: the owner | u64 participant: the owner | u64 participant: the owner | u64 its start time, clock ticks since boot | u64 participant: the owner |
//! | 16 | | u64 number of the segment | u64 number of the segment | u64 number of the segment | | |

use crate::helper::wire::{self, get, get_u16, get_u32, get_u64, require};
use crate::layout::Participant;
use crate::sys::process::ProcessId;
use crate::tracker::address::Token;

pub use crate::helper::wire::Malformed;

/// The version that both sides must speak.
pub const VERSION: u16 = 2;

/// The longest message, in bytes.
pub const MESSAGE_MAX_BYTES: usize = HELLO_BYTES;

const HELLO_BYTES: usize = 48;
const READY_BYTES: usize = 24;
const JOINED_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 24;

const HELLO: u8 = 1;
const READY: u8 = 2;
const JOINED: u8 = 3;
const REGISTER: u8 = 4;
const FETCH: u8 = 5;
const FETCHED: u8 = 6;
const GUARDED: u8 = 7;
const DROPPED: u8 = 8;

const MAGIC: [u8; 4] = *b"SNPM";
const SERVE: u8 = 1;

/// An encoded message.
pub type Encoded = wire::Encoded<MESSAGE_MAX_BYTES>;

/// The first message of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Whether the receiver shall serve this family (said by the process that starts it).
    pub serve: bool,
    /// The sender's protocol version.
    pub version: u16,
    /// The family's identity.
    pub family: [u64; 2],
    /// The proof of belonging.
    pub cookie: Token,
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
    /// The family that it serves.
    pub family: [u64; 2],
}

/// Whether a process was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It is.
    In = 0,
    /// The family has a tracker; this one ends.
    AddressTaken = 1,
    /// Wrong cookie, or another family.
    Refused = 2,
    /// Other protocol version.
    Version = 3,
    /// No descriptors, no memory or no slots left.
    Busy = 4,
    /// There is no place for its socket here; this one ends.
    NoAddress = 5,
}

impl Status {
    const ALL: [Status; 6] = [
        Status::In,
        Status::AddressTaken,
        Status::Refused,
        Status::Version,
        Status::Busy,
        Status::NoAddress,
    ];
}

/// Names a segment: whose, and which of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// Who allocates there.
    pub owner: Participant,
    /// The number in the owner's chain.
    pub number: u64,
}

/// What became of a FETCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// The segment comes along.
    Here = 0,
    /// It is not known, or not any more.
    Unknown = 1,
    /// It cannot be sent now.
    Busy = 2,
}

/// A message to the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// The sender has this slot now.
    Joined(Participant),
    /// This process may receive what the sender sent, also when the sender has ended.
    Guarded(ProcessId),
    /// Keep this segment.
    Register(SegmentId),
    /// Send me that segment.
    Fetch(u32, SegmentId),
    /// Others have dropped much of this owner's memory since it last allocated.
    Dropped(Participant),
}

/// A message from the tracker, after READY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// What became of it.
    pub answer: Answer,
    /// Which request this answers.
    pub request: u32,
    /// Which segment that was.
    pub segment: SegmentId,
}

impl Hello {
    fn encode(&self) -> Encoded {
        let mut to = Encoded::new(HELLO_BYTES);
        to.put(0, [HELLO, if self.serve { SERVE } else { 0 }]);
        to.put(2, self.version.to_le_bytes());
        to.put(4, MAGIC);
        to.put(8, self.family[0].to_le_bytes());
        to.put(16, self.family[1].to_le_bytes());
        to.put(24, self.cookie);
        to
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        require(bytes.len() == HELLO_BYTES && get(bytes, 4)? == MAGIC)?;
        require(bytes[1] & !SERVE == 0 && get_u64(bytes, 40)? == 0)?;
        Ok(Hello {
            serve: bytes[1] & SERVE != 0,
            version: get_u16(bytes, 2)?,
            family: [get_u64(bytes, 8)?, get_u64(bytes, 16)?],
            cookie: get(bytes, 24)?,
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
        to.put(8, self.family[0].to_le_bytes());
        to.put(16, self.family[1].to_le_bytes());
        to
    }

    /// Reads a reply.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        require(bytes.len() == READY_BYTES && bytes[0] == READY)?;
        let status = Status::ALL.get(usize::from(bytes[1])).ok_or(Malformed)?;
        Ok(Ready {
            status: *status,
            version: get_u16(bytes, 2)?,
            pid: get_u32(bytes, 4)?,
            family: [get_u64(bytes, 8)?, get_u64(bytes, 16)?],
        })
    }
}

impl SegmentId {
    fn encode(self, kind: u8, second: u8, request: u32) -> Encoded {
        let mut to = Encoded::new(SEGMENT_BYTES);
        to.put(0, [kind, second]);
        to.put(4, request.to_le_bytes());
        to.put(8, self.owner.pack().to_le_bytes());
        to.put(16, self.number.to_le_bytes());
        to
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        require(bytes.len() == SEGMENT_BYTES && get_u16(bytes, 2)? == 0)?;
        Ok(SegmentId {
            owner: participant(bytes)?,
            number: get_u64(bytes, 16)?,
        })
    }
}

fn participant(bytes: &[u8]) -> Result<Participant, Malformed> {
    let word = get_u64(bytes, 8)?;
    Participant::unpack(word).ok_or(Malformed)
}

fn encode_participant(kind: u8, who: Participant) -> Encoded {
    let mut to = Encoded::new(JOINED_BYTES);
    to.put(0, [kind]);
    to.put(8, who.pack().to_le_bytes());
    to
}

impl Message {
    /// The message's bytes.
    pub fn encode(&self) -> Encoded {
        match self {
            Message::Hello(hello) => hello.encode(),
            Message::Joined(who) => encode_participant(JOINED, *who),
            Message::Dropped(owner) => encode_participant(DROPPED, *owner),
            Message::Guarded(guardian) => {
                let mut to = Encoded::new(JOINED_BYTES);
                to.put(0, [GUARDED]);
                to.put(4, guardian.pid.to_le_bytes());
                to.put(8, guardian.start_ticks.to_le_bytes());
                to
            }
            Message::Register(segment) => segment.encode(REGISTER, 0, 0),
            Message::Fetch(request, segment) => segment.encode(FETCH, 0, *request),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for anything that [`Message::encode`] cannot have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let kind = *bytes.first().ok_or(Malformed)?;
        if kind == HELLO {
            return Hello::decode(bytes).map(Message::Hello);
        }
        let second = *bytes.get(1).ok_or(Malformed)?;
        require(second == 0)?;
        let request = get_u32(bytes, 4)?;
        match kind {
            JOINED | DROPPED => {
                require(bytes.len() == JOINED_BYTES && request == 0 && get_u16(bytes, 2)? == 0)?;
                participant(bytes).map(match kind {
                    JOINED => Message::Joined,
                    _ => Message::Dropped,
                })
            }
            GUARDED => {
                require(bytes.len() == JOINED_BYTES && get_u16(bytes, 2)? == 0)?;
                Ok(Message::Guarded(ProcessId {
                    pid: request,
                    start_ticks: get_u64(bytes, 8)?,
                }))
            }
            REGISTER => {
                require(request == 0)?;
                SegmentId::decode(bytes).map(Message::Register)
            }
            FETCH => SegmentId::decode(bytes).map(|segment| Message::Fetch(request, segment)),
            _ => Err(Malformed),
        }
    }
}

impl Fetched {
    /// The message's bytes.
    pub fn encode(&self) -> Encoded {
        self.segment
            .encode(FETCHED, self.answer as u8, self.request)
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        require(bytes.first() == Some(&FETCHED))?;
        let segment = SegmentId::decode(bytes)?;
        let answer = match bytes[1] {
            0 => Answer::Here,
            1 => Answer::Unknown,
            2 => Answer::Busy,
            _ => return Err(Malformed),
        };
        Ok(Fetched {
            answer,
            request: get_u32(bytes, 4)?,
            segment,
        })
    }
}

#[cfg(test)]
mod tests;
