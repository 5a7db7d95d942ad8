//! A queue in shared memory, for any number of producers and consumers.
//!
//! Guarantees:
//!
//! - An item is got once, whole and in the order in which the puts ended. When `put` has
//!   returned the item is there, whatever becomes of who put it.
//! - An item whose consumer dies before it has it goes to the next; a producer that dies
//!   leaves a whole item or none. Nobody waits for the dead for longer than a slice.
//! - What is in the queue is held: payloads and arrays stay until they are received or
//!   the queue is gone, and go with the queue.
//! - Without `maxsize` a put waits for nothing but memory.
//!
//! The bytes, the steps and what a kill between them leaves are told in `docs/queue.md`.
//!
//! A tour, bottom up: [`mark`] (a place in the queue), [`protocol`] (the steps that
//! decide), `open` (a queue as this process has it), `ring` (records), `rings` (the chain of rings), `waiting`, `hint`, `bell`, `put`, `get`,
//! `join` (task_done and join), [`audit`] (what the dead left in queues).

#[cfg(not(loom))]
pub mod audit;
#[cfg(not(loom))]
mod bell;
#[cfg(not(loom))]
mod get;
#[cfg(not(loom))]
mod hint;
#[cfg(not(loom))]
mod join;
pub mod mark;
#[cfg(not(loom))]
mod open;
pub mod protocol;
#[cfg(not(loom))]
mod put;
#[cfg(not(loom))]
mod ring;
#[cfg(not(loom))]
mod rings;
#[cfg(not(loom))]
mod waiting;

#[cfg(not(loom))]
pub use self::bell::forget_bell;
#[cfg(not(loom))]
pub use self::get::Message;
#[cfg(not(loom))]
pub use self::open::{CAPACITY_BYTES, INLINE_MAX_BYTES, Queue, QueueOptions};
#[cfg(not(loom))]
pub use self::put::Item;
#[cfg(not(loom))]
pub use self::ring::HANDLES_MAX;
