//! This process as a participant, and its forked children.
//!
//! One process is one participant, so each scenario runs in a process of its own
//! ([`alone`]): figures of the whole process then mean something.

mod alone;
mod descriptors;
mod forks;
mod garbage;
#[path = "../garbage_common/mod.rs"]
mod garbage_common;
mod handlers;
mod handles;
mod queues;
mod slots;
mod threads;
