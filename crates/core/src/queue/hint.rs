//! How often to look before a sleep: what the waits before have taught.
//!
//! Guarantees: whatever the word holds, a wait looks [`LOOKS_LONG`] times at most; one that
//! looks in vain again and again looks hardly longer than [`LOOKS_MIN`] times on average.
//!
//! Two that answer each other, and both sleep meanwhile, would never find out that they need
//! not: to wake up takes longer than either looks. So now and then both look for longer, at
//! about the same time, since both have slept as often.

/// The smallest number of looks, and the largest; about 1 and 10 microseconds. The first that
/// wait look for half of that.
const LOOKS_MIN: u32 = 60;
const LOOKS_MAX: u32 = 600;
const LOOKS_FIRST: u32 = 300;
/// The smallest number when looking was worth it.
const LOOKS_WORTH: u32 = 240;
/// When so many waits in a row have ended with a sleep one looks for longer than another one
/// needs to wake up, about 50 microseconds, and those around it for the longest else.
const LONG_AFTER: [u32; 3] = [3, 16, 128];
const LOOKS_LONG: u32 = 3000;
const AROUND: u32 = 2;
/// At the second number it counts from the first again.
const IN_VAIN: (u32, u32) = (64, 192);

/// How many looks were worth it, and how many waits in a row have ended with a sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hint {
    looks: u32,
    in_vain: u32,
}

impl Hint {
    /// What a word says; zero: nothing yet.
    pub(super) fn of(word: u64) -> Self {
        let looks = match word as u32 {
            0 => LOOKS_FIRST,
            looks => looks.clamp(LOOKS_MIN, LOOKS_MAX),
        };
        Hint {
            looks,
            in_vain: (word >> 32) as u32,
        }
    }

    pub(super) fn word(self) -> u64 {
        u64::from(self.looks) | u64::from(self.in_vain) << 32
    }

    /// How often to look at most.
    pub(super) fn most(self) -> u32 {
        let away = LONG_AFTER.map(|count| self.in_vain.abs_diff(count));
        match away.into_iter().min() {
            Some(0) => LOOKS_LONG,
            Some(1..=AROUND) => LOOKS_MAX,
            _ => self.looks,
        }
    }

    /// After a wait that found something at this look, or slept.
    pub(super) fn after(self, found: Option<u32>) -> Self {
        match found {
            Some(count) => {
                // To sleep costs so much more that it is worth four times as many. More is
                // learned at once, less slowly.
                let enough = count.saturating_mul(4).clamp(LOOKS_WORTH, LOOKS_MAX);
                let looks = self.looks - self.looks.saturating_sub(enough) / 8;
                // What took a long look may be worth it from now on. That is to be seen.
                let in_vain = if count > LOOKS_MAX { self.next() } else { 0 };
                Hint {
                    looks: looks.max(enough),
                    in_vain,
                }
            }
            None => Hint {
                looks: (self.looks - self.looks / 8).max(LOOKS_MIN),
                in_vain: self.next(),
            },
        }
    }

    /// One more in vain.
    fn next(self) -> u32 {
        match self.in_vain.saturating_add(1) {
            count if count < IN_VAIN.1 => count,
            _ => IN_VAIN.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The looks of so many waits in a row that all end with a sleep.
    fn in_vain(mut hint: Hint, count: usize) -> Vec<u32> {
        let mut looks = Vec::new();
        for _ in 0..count {
            looks.push(hint.most());
            hint = Hint::of(hint.after(None).word());
        }
        looks
    }

    #[test]
    fn a_word_keeps_the_hint() {
        let hint = Hint {
            looks: 77,
            in_vain: 5,
        };
        assert_eq!(Hint::of(hint.word()), hint);
        assert_eq!(Hint::of(0).most(), LOOKS_FIRST);
    }

    #[test]
    fn any_word_is_bounded() {
        for word in [
            1,
            u64::MAX,
            1 << 63,
            u64::from(u32::MAX),
            0xdead_beef_dead_beef,
        ] {
            let hint = Hint::of(word);
            assert!(hint.most() <= LOOKS_LONG);
            for found in [None, Some(0), Some(LOOKS_LONG), Some(u32::MAX)] {
                let next = hint.after(found);
                assert!((LOOKS_MIN..=LOOKS_MAX).contains(&next.looks), "{next:?}");
                assert!(next.in_vain < IN_VAIN.1, "{next:?}");
            }
        }
    }

    #[test]
    fn looks_in_vain_get_few_and_are_tried_again_for_ever() {
        let looks = in_vain(Hint::of(0), 4096);
        let long: Vec<usize> = (0..looks.len())
            .filter(|&at| looks[at] == LOOKS_LONG)
            .collect();
        assert_eq!(long[..4], [3, 16, 128, 256]);
        assert!(long.windows(2).all(|pair| pair[1] - pair[0] <= 128));
        let late: u32 = looks[64..].iter().sum();
        assert!(late / (looks.len() as u32 - 64) < 2 * LOOKS_MIN);
    }

    #[test]
    fn long_waits_are_not_looked_through() {
        // What is waited for comes when looking longest would just find it.
        let mut hint = Hint::of(0);
        let mut looks = 0;
        for _ in 0..4096 {
            let most = hint.most();
            looks += most.min(LOOKS_LONG - 1);
            hint = hint.after(Some(LOOKS_LONG - 1).filter(|_| most == LOOKS_LONG));
        }
        assert!(looks / 4096 < 3 * LOOKS_MIN, "{looks}");
    }

    #[test]
    fn one_success_is_enough_to_look_longer() {
        let tired = Hint {
            looks: LOOKS_MIN,
            in_vain: 100,
        };
        let next = tired.after(Some(100));
        assert_eq!((next.most(), next.in_vain), (400, 0));
        let mut calm = next;
        for _ in 0..100 {
            calm = calm.after(Some(10));
        }
        assert!(calm.most() < LOOKS_WORTH + 8);
    }
}
