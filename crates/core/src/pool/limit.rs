//! Whether a pool may grow: asked before memory is committed.
//!
//! The kernel answers too late. It commits shared memory until a control group is
//! full, and then kills somebody. So each growth is compared, before it happens, with
//!
//! 1. [`VARIABLE`], if it is set: what this process's pool may commit in all;
//! 2. `MemAvailable` of `/proc/meminfo`;
//! 3. the limit of every control group this process is in ([`crate::sys::memory`]).
//!
//! Best effort: others allocate between the look and the growth, and what cannot be
//! read limits nothing. `SHARED_NUMPY_DISABLE=memory_check` turns 2 and 3 off.
//!
//! A look reads some ten small files. Growth below [`SMALL_BYTES`] takes from what
//! the last look allowed, for a second at most; the variable always applies.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, LimitSource, Result};
use crate::sys::{feature, memory};

/// The variable that limits a process's pool: bytes, or with one of the suffixes
/// K, M, G and T (powers of 1024). Unset or empty: no limit.
pub const VARIABLE: &str = "SHARED_NUMPY_LIMIT";
/// Growth below this may do without a look of its own.
pub const SMALL_BYTES: u64 = 1 << 20;
/// How much growth one look allows in small steps, in bytes: less than a look may be
/// wrong by in any case.
const ALLOWANCE_BYTES: u64 = 8 << 20;
/// How long a look counts, in nanoseconds.
const ALLOWANCE_NS: u64 = 1_000_000_000;

/// What is left of the last look's allowance, in bytes, and until when it counts.
///
/// Relaxed, both: lone numbers that order nothing. Two threads that take from them at
/// once may together take some steps too many, which an estimate does not mind.
static ALLOWED_BYTES: AtomicU64 = AtomicU64::new(0);
static ALLOWED_UNTIL_NS: AtomicU64 = AtomicU64::new(0);

/// Refuses growth by `size_bytes` of a pool that has committed `committed_bytes`.
///
/// # Errors
///
/// [`Error::Limit`], with the figures; [`Error::BadSetting`] when the variable is set
/// to something that is no size.
pub fn check(size_bytes: u64, committed_bytes: u64) -> Result<()> {
    if let Some(limit_bytes) = own_limit()?
        && committed_bytes.saturating_add(size_bytes) > limit_bytes
    {
        return Err(Error::Limit {
            size_bytes,
            used_bytes: committed_bytes,
            limit_bytes,
            source: LimitSource::Variable(VARIABLE),
        });
    }
    let now_ns = now_ns();
    if size_bytes < SMALL_BYTES && take_allowance(size_bytes, now_ns) {
        return Ok(());
    }
    if feature::is_disabled("memory_check") {
        return Ok(());
    }
    let machine = memory::machine().map(|budget| (budget, LimitSource::Machine));
    let groups = memory::groups().into_iter().map(|budget| {
        let path = budget.path.display().to_string();
        (budget, LimitSource::Group(path))
    });
    let mut free_bytes = u64::MAX;
    for (budget, source) in machine.into_iter().chain(groups) {
        if size_bytes > budget.free_bytes() {
            return Err(Error::Limit {
                size_bytes,
                used_bytes: budget.used_bytes,
                limit_bytes: budget.limit_bytes,
                source,
            });
        }
        free_bytes = free_bytes.min(budget.free_bytes());
    }
    ALLOWED_BYTES.store(allowance(free_bytes - size_bytes), Ordering::Relaxed);
    ALLOWED_UNTIL_NS.store(now_ns.saturating_add(ALLOWANCE_NS), Ordering::Relaxed);
    Ok(())
}

/// What may be taken without a further look when so much is free: nothing when it
/// is nearly all gone.
fn allowance(free_bytes: u64) -> u64 {
    if free_bytes < 8 * ALLOWANCE_BYTES {
        0
    } else {
        ALLOWANCE_BYTES
    }
}

fn take_allowance(size_bytes: u64, now_ns: u64) -> bool {
    let left_bytes = ALLOWED_BYTES.load(Ordering::Relaxed);
    if now_ns >= ALLOWED_UNTIL_NS.load(Ordering::Relaxed) || left_bytes < size_bytes {
        return false;
    }
    ALLOWED_BYTES.store(left_bytes - size_bytes, Ordering::Relaxed);
    true
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}

/// The variable's value; `None` when it sets no limit.
fn own_limit() -> Result<Option<u64>> {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let text = value.to_string_lossy();
    if text.trim().is_empty() {
        return Ok(None);
    }
    match parse_size(&text) {
        Some(size_bytes) => Ok(Some(size_bytes)),
        None => Err(Error::BadSetting {
            variable: VARIABLE,
            value: text.into_owned(),
            expected: "a number of bytes, or one with the suffix K, M, G or T, as 512M",
        }),
    }
}

/// The number of bytes that `text` tells: a whole number with or without one of the
/// suffixes K, M, G, T (powers of 1024; small letters are fine, blanks around are, too).
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, factor) = match text.char_indices().next_back()? {
        (at, suffix) if suffix.is_ascii_alphabetic() => {
            let power = "KMGT".find(suffix.to_ascii_uppercase())?;
            (text[..at].trim_end(), 1_u64 << (10 * (power + 1)))
        }
        _ => (text, 1),
    };
    // `parse` would take a plus sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size_bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1K", 1024),
            ("512M", 512 << 20),
            ("2g", 2 << 30),
            (" 3 T ", 3 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Some(size_bytes), "{text:?}");
        }
        for text in [
            "",
            "G",
            "-1",
            "+1",
            "1.5G",
            "1GB",
            "1GiB",
            "1P",
            "0x10",
            "1e9",
            "ten",
            "1 2",
            "18446744073709551616",
            "99999999T",
            "5µ",
        ] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_nobody_has_is_refused_with_the_figures() {
        check(1, 0).unwrap();
        let refused = check(1 << 60, 5).unwrap_err();
        let Error::Limit {
            size_bytes,
            used_bytes,
            limit_bytes,
            ..
        } = refused
        else {
            panic!("{refused}");
        };
        assert_eq!(size_bytes, 1 << 60);
        assert!(limit_bytes >= used_bytes && limit_bytes < 1 << 60);
        let text = refused.to_string();
        assert!(text.contains("1152921504606846976 bytes asked"), "{text}");
        assert!(text.contains("/proc/meminfo"), "{text}");
    }

    #[test]
    fn little_is_left_to_take_when_little_is_free() {
        assert_eq!(allowance(u64::MAX), ALLOWANCE_BYTES);
        assert_eq!(allowance(ALLOWANCE_BYTES), 0);
    }
}
