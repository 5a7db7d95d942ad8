//! Where in a queue: how many items came before, and at which place in a ring.

/// A word that `head`, `tail` and bases of rings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u64);

const PLACE_BITS: u32 = 24;
const PLACES: u64 = 1 << PLACE_BITS;
const COUNTS: u64 = 1 << (64 - PLACE_BITS);

impl Mark {
    /// The beginning of a queue.
    pub const START: Mark = Mark(0);

    /// The place, in units.
    pub const fn place(self) -> u64 {
        self.0 % PLACES
    }

    /// How many items came before, modulo 2^40.
    pub const fn count(self) -> u64 {
        self.0 >> PLACE_BITS
    }

    /// The mark after one item of so many units.
    #[must_use]
    pub const fn after(self, units: u64) -> Mark {
        let place = self.place().wrapping_add(units) % PLACES;
        let count = (self.count() + 1) % COUNTS;
        Mark((count << PLACE_BITS) | place)
    }

    /// How many items lie between an earlier mark and this one.
    pub const fn items_since(self, earlier: Mark) -> u64 {
        self.count().wrapping_sub(earlier.count()) % COUNTS
    }

    /// How many units lie between an earlier mark of the same ring and this one.
    pub const fn units_since(self, earlier: Mark) -> u64 {
        self.place().wrapping_sub(earlier.place()) % PLACES
    }

    /// Whether this mark is not before `other`.
    pub const fn has_reached(self, other: Mark) -> bool {
        self.items_since(other) < COUNTS / 2
    }
}

/// How many items are not done with, when `done` of those before `tail` are.
pub const fn unfinished(tail: Mark, done: u64) -> u64 {
    tail.count().wrapping_sub(done) % COUNTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_round() {
        let last = Mark(u64::MAX);
        assert_eq!(last.after(1), Mark::START);
        assert_eq!(last.after(3).place(), 2);
        assert_eq!(last.after(3).items_since(last), 1);
        assert_eq!(last.after(3).units_since(last), 3);
        assert!(last.after(1).has_reached(last) && !last.has_reached(last.after(1)));
        assert!(last.has_reached(last));
        assert_eq!(unfinished(Mark::START.after(5).after(5), 1), 1);
        assert_eq!(unfinished(Mark::START, COUNTS - 1), 1);
    }
}
