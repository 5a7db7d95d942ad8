//! Threads of this process.

#![allow(unsafe_code)]

/// A number for the calling thread: not zero, and no other living thread's. One that begins
/// later may have it again.
#[inline]
pub fn own() -> u64 {
    // SAFETY: it has no preconditions and cannot fail.
    let thread = unsafe { libc::pthread_self() };
    thread as u64
}
