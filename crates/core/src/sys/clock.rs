//! Time that every process of the machine agrees on.

use rustix::time::ClockId;

/// The monotonic clock as the kernel's last tick left it: a few milliseconds late, and far
/// quicker to read.
#[cfg(target_os = "linux")]
const ROUGH: ClockId = ClockId::MonotonicCoarse;
#[cfg(not(target_os = "linux"))]
const ROUGH: ClockId = ClockId::Monotonic;

/// Whole seconds of the monotonic clock.
pub fn monotonic_s() -> u64 {
    let now = rustix::time::clock_gettime(ROUGH);
    u64::try_from(now.tv_sec).unwrap_or(0)
}
