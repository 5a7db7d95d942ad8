//! Time that every process of the machine agrees on.

/// Whole seconds of the monotonic clock.
pub fn monotonic_s() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0)
}
