//! Whether a strided view lies inside its memory.
//!
//! Guarantee: [`check`] lets no view pass that reaches a byte outside, whatever numbers
//! it is given: they come from other processes.

use crate::error::{Error, Result};

/// Checks that a view lies inside a memory of `len_bytes` bytes, however its strides run.
///
/// `axes` are pairs of (length, stride in bytes); the element at index 0 begins
/// at `offset_bytes` and each element has `item_bytes` bytes.
///
/// # Errors
///
/// [`Error::OutOfBounds`].
pub fn check(
    len_bytes: u64,
    offset_bytes: i64,
    axes: &[(i64, i64)],
    item_bytes: i64,
) -> Result<()> {
    let is_empty = axes.iter().any(|&(length, _)| length == 0);
    let mut low = i128::from(offset_bytes);
    let mut high = low;
    let mut is_sane = item_bytes >= 0;
    for &(length, stride) in axes {
        is_sane &= length >= 0;
        if !is_empty {
            // Two 64-bit factors fit in 127 bits, and so do 64 such sums when
            // each is within reach of the memory, which is checked as they grow.
            let reach = (i128::from(length) - 1) * i128::from(stride);
            low += reach.min(0);
            high += reach.max(0);
            is_sane &= low >= 0 && high <= i128::from(len_bytes);
        }
        if !is_sane {
            break;
        }
    }
    if !is_empty {
        high += i128::from(item_bytes);
    }
    if is_sane && low >= 0 && high <= i128::from(len_bytes) {
        return Ok(());
    }
    Err(Error::OutOfBounds {
        offset_bytes: u64::try_from(low.max(0)).unwrap_or(u64::MAX),
        len_bytes: u64::try_from(high - low).unwrap_or(u64::MAX),
        size_bytes: len_bytes,
    })
}

/// Where a view whose element at index 0 is at `address` begins in a memory that begins at
/// `start`: to be checked.
///
/// One without elements may point anywhere, and begins where its memory does.
pub fn offset(start: usize, address: usize, axes: &[(i64, i64)]) -> i64 {
    if axes.iter().any(|&(length, _)| length == 0) {
        return 0;
    }
    // Wraps for one that begins before its memory, and is refused then.
    address.wrapping_sub(start) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_without_elements_begins_with_its_memory() {
        assert_eq!(offset(1000, 1032, &[(3, 8), (0, -16)]), 0);
        assert_eq!(offset(1000, 1032, &[(3, 8)]), 32);
        assert_eq!(offset(1000, 992, &[]), -8);
    }

    #[test]
    fn views_stay_inside() {
        let ok = |offset, axes: &[(i64, i64)], item| check(100, offset, axes, item).is_ok();
        assert!(ok(0, &[(25, 4)], 4));
        assert!(ok(96, &[(25, -4)], 4));
        assert!(ok(0, &[(1 << 40, 0), (25, 4)], 4), "broadcast");
        assert!(ok(100, &[(0, 4)], 4), "empty at the end");
        assert!(ok(0, &[], 100) && ok(100, &[], 0));
        assert!(!ok(1, &[(25, 4)], 4));
        assert!(!ok(95, &[(25, -4)], 4));
        assert!(!ok(101, &[(0, 4)], 4) && !ok(-1, &[], 1));
        assert!(!ok(0, &[(-1, 4)], 4) && !ok(0, &[(1, 4)], -4));
        // Products and sums that wrap around in 64 bits.
        assert!(!ok(0, &[(5, 1 << 62)], 4));
        assert!(!ok(0, &[(3, i64::MAX), (3, i64::MIN)], 4));
        assert!(!ok(
            0,
            &[(i64::MAX, i64::MIN), (i64::MAX, i64::MAX)],
            i64::MAX
        ));
    }
}
