//! Where a test of garbage gets its decisions from.

/// A stream of numbers.
pub(crate) trait Choices {
    /// Any word.
    fn any(&mut self) -> u64;

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize;

    /// Whether nothing is left to decide with.
    fn is_over(&self) -> bool;

    /// Words that look at borders of checks, among random ones.
    fn word(&mut self) -> u64 {
        let low = |choices: &mut Self| choices.below(100) as u64;
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => low(self),
            // Participants, tokens and slots; marks; the shapes of records.
            4 => low(self) << 16 | self.below(0x10000) as u64,
            5 => low(self) << 24 | low(self),
            6 => (self.below(9) as u64) << 32 | low(self),
            _ => self.any(),
        }
    }
}

/// xorshift: the same numbers in each run.
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}

impl Choices for Seeded {
    fn any(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.any() >> 16) % limit as u64) as usize
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// A fuzzer's bytes, as few for each decision as can express it: so that one byte changed is
/// one decision changed. Zeros at the end.
pub(crate) struct Given<'a>(pub(crate) &'a [u8]);

impl Given<'_> {
    fn number(&mut self, bytes: usize) -> u64 {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        let mut word = [0; 8];
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }
}

impl Choices for Given<'_> {
    fn any(&mut self) -> u64 {
        self.number(8)
    }

    fn below(&mut self, limit: usize) -> usize {
        let bytes = match limit {
            0..=1 => 0,
            2..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 4,
        };
        (self.number(bytes) % limit as u64) as usize
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}
