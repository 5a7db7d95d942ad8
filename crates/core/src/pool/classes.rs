//! Size classes: which sizes blocks have.
//!
//! Guarantees: a class is at least the size asked and wastes at most an eighth of
//! it above 512 bytes; classes are multiples of [`BLOCK_ALIGN_BYTES`], and of 4096
//! from 32 KiB on.
//!
//! Plain lists per class rather than an allocator that splits and merges, because
//! a block then keeps its place and size for the life of its segment, which the
//! protocol builds on (`docs/crash_safety.md`), and because it is quick: with 1000
//! live blocks of mixed sizes an allocation and a free took 11-13 ns, the
//! `offset-allocator` crate 114-132 ns (MIT, 0.2.0) at 13 % less address space.
//! What a class holds and nobody asks for is given back by punching it.

use crate::layout::BLOCK_ALIGN_BYTES;

/// From this size on a block begins at a page.
pub const PAGE_ALIGNED_FROM_BYTES: u64 = 32 << 10;
/// How finely sizes are graded: eight classes from one power of two to the next.
const STEPS_LOG2: u32 = 3;
const STEPS: u64 = 1 << STEPS_LOG2;

/// How many classes there are; enough for every size below 2^46.
pub const CLASSES: usize = 320;

/// The class for a size; zero is treated as one byte.
pub fn class_of(size_bytes: u64) -> usize {
    let units = size_bytes.max(1).div_ceil(BLOCK_ALIGN_BYTES);
    if units <= STEPS {
        return units as usize;
    }
    let shift = units.ilog2() - STEPS_LOG2;
    let steps = units.div_ceil(1 << shift);
    (u64::from(shift) * STEPS + steps) as usize
}

/// The size of the blocks of a class, in bytes.
pub fn class_bytes(class: usize) -> u64 {
    let class = class as u64;
    if class <= STEPS {
        return class * BLOCK_ALIGN_BYTES;
    }
    let shift = (class - 1) / STEPS - 1;
    let steps = class - shift * STEPS;
    (steps << shift) * BLOCK_ALIGN_BYTES
}

/// Where a block of this size may begin.
pub fn align_of_size(size_bytes: u64) -> u64 {
    if size_bytes >= PAGE_ALIGNED_FROM_BYTES {
        4096
    } else {
        BLOCK_ALIGN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_fits_and_wastes_little() {
        let mut sizes: Vec<u64> = (0..5000).collect();
        sizes.extend((12..46).flat_map(|log| [(1 << log) - 1, 1 << log, (1 << log) + 1]));
        for size in sizes {
            let class = class_of(size);
            let bytes = class_bytes(class);
            assert!(class < CLASSES, "{size}");
            assert!(bytes >= size && bytes > 0, "{size} in {bytes}");
            assert!(bytes - size <= 64.max(size / 8), "{size} in {bytes}");
            assert_eq!(bytes % align_of_size(bytes), 0, "{size}");
            assert_eq!(class_of(bytes), class, "{size}");
        }
    }

    #[test]
    fn classes_grow() {
        for class in 2..CLASSES {
            assert!(class_bytes(class) > class_bytes(class - 1));
        }
    }
}
