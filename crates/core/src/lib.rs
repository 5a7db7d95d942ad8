//! Shared memory between processes: the part that knows nothing of Python.
//!
//! A tour, bottom up:
//!
//! - [`sys`]: every system call, one file per subject; the contract for other
//!   platforms stands at the top of `sys/mod.rs`.
//! - [`error`], [`name`]: what can go wrong, and what a segment may be called.
//! - [`fault`], [`sync`]: instants at which tests kill a process; atomics that a
//!   model checker can replace.
//! - [`mapping`]: mapped bytes behind bounds-checked, race-tolerant access. The
//!   only door from an offset to memory.
//! - [`layout`]: the format of nameless segments, every shared byte of it.
//! - [`list`]: the items of a `ShareableList`, in the standard library's format.
//! - [`segment`]: named segments: create (with its pages reserved), attach,
//!   unlink, open again.
//! - [`tracker`]: the helper process that unlinks what a program leaves behind:
//!   its protocol, the process's side and the helper's side.
//! - [`view`]: whether a strided view lies inside its memory.
//! - [`named_array`]: a segment with a header that tells what array it holds.
//! - [`pool`]: nameless memory held by the processes that can see it.
//! - [`participation`]: what this process is in, has and holds; forks.
//! - [`liveness`]: who has died, proved by the kernel.
//! - [`members`]: the helper process that keeps a family's descriptors, and frees in the
//!   place of owners that died.
//! - [`lock`]: locks, semaphores, conditions, events, barriers that survive the
//!   death of whoever holds them; integers in shared memory.
//! - [`queue`], [`latest`]: items, or the newest one, from process to process.
//! - [`recover`], [`inspect`]: what is repaired after a process died; every
//!   invariant checked.
//!
//! `unsafe` is denied in the crate and allowed in [`sys`] and [`mapping`] only.

#![deny(unsafe_code)]

pub mod error;
pub mod fault;
mod helper;
#[cfg(not(loom))]
pub mod inspect;
#[cfg(not(loom))]
pub mod latest;
pub mod layout;
pub mod list;
#[cfg(not(loom))]
pub mod liveness;
pub mod lock;
pub mod mapping;
#[cfg(not(loom))]
pub mod members;
pub mod name;
pub mod named_array;
#[cfg(not(loom))]
pub mod participation;
pub mod pool;
pub mod queue;
#[cfg(not(loom))]
pub mod recover;
pub mod segment;
pub mod sync;
pub mod sys;
pub mod tracker;
pub mod view;
