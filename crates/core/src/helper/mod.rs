//! What the two background helpers, the tracker of names and that of members, have in
//! common: how a process starts one and waits for it, and how one lets processes in.
//!
//! `wire` has the fields of messages, `wait` and `start` are the process's side, `door`
//! and `events` are the helper's.

pub(crate) mod door;
pub(crate) mod events;
pub(crate) mod start;
pub(crate) mod wait;
pub(crate) mod wire;
