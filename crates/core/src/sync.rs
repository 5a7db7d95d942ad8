//! Atomics, from the standard library or, under `--cfg loom`, from the model
//! checker that runs a program through its interleavings.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
