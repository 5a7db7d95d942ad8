//! When to read: not at every message.
//!
//! A message wakes whoever waits for it, and the sender pays for that: 15 to 100 us
//! on a machine whose other cores sleep, against 1 us for the message itself. What
//! a message says is safe in the socket's buffer, and matters at the latest when a
//! connection ends or another one asks. So after a wake the tracker *naps*: it is
//! woken by connections that come or end, not by messages, and reads those from
//! time to time. When none have come for a while it waits for them again, and
//! then costs nothing at all.
//!
//! A nap must not last so long that a busy sender fills its buffer (some 250
//! messages) and has to wait: it shrinks as more messages are found at its end.

use std::time::{Duration, Instant};

const SHORTEST: Duration = Duration::from_micros(125);
const LONGEST: Duration = Duration::from_millis(1);

/// So many messages in one nap are a burst: nap less.
const MANY: usize = 64;
/// So few leave room for longer naps.
const FEW: usize = 16;
/// After so long without a message, wait for one.
const QUIET: Duration = Duration::from_millis(100);

/// | state | meaning | next |
/// | --- | --- | --- |
/// | `Waiting` | a message wakes us | `Napping` with the first one |
/// | `Napping` | messages are read at `until` | `Waiting` after `QUIET` without any |
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    Waiting,
    Napping {
        until: Instant,
        length: Duration,
        last_message: Instant,
    },
}

impl Pace {
    /// The first message after a quiet time.
    pub(super) fn nap(now: Instant) -> Self {
        Pace::Napping {
            until: now + SHORTEST,
            length: SHORTEST,
            last_message: now,
        }
    }

    /// When the nap is over.
    pub(super) fn until(self) -> Option<Instant> {
        match self {
            Pace::Waiting => None,
            Pace::Napping { until, .. } => Some(until),
        }
    }

    /// What to do after a nap in which `found` messages came.
    pub(super) fn after(self, found: usize, now: Instant) -> Self {
        let Pace::Napping {
            length,
            last_message,
            ..
        } = self
        else {
            return self;
        };
        let last_message = if found == 0 { last_message } else { now };
        if now.saturating_duration_since(last_message) >= QUIET {
            return Pace::Waiting;
        }
        let length = match found {
            MANY.. => length / 2,
            ..=FEW => length * 2,
            _ => length,
        }
        .clamp(SHORTEST, LONGEST);
        Pace::Napping {
            until: now + length,
            length,
            last_message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(pace: Pace) -> Option<Duration> {
        match pace {
            Pace::Waiting => None,
            Pace::Napping { length, .. } => Some(length),
        }
    }

    #[test]
    fn naps_grow_while_little_comes_and_end_in_waiting() {
        let mut now = Instant::now();
        let mut pace = Pace::nap(now);
        let mut naps = 0;
        while let Some(until) = pace.until() {
            now = until;
            let before = length(pace);
            pace = pace.after(0, now);
            assert!(length(pace).is_none_or(|after| Some(after) >= before));
            naps += 1;
            assert!(naps < 300);
        }
        assert!(matches!(pace.after(5, now), Pace::Waiting));
    }

    #[test]
    fn bursts_make_naps_short() {
        let mut now = Instant::now();
        let mut pace = Pace::nap(now);
        for _ in 0..10 {
            now += LONGEST;
            pace = pace.after(1, now);
        }
        assert_eq!(length(pace), Some(LONGEST));
        for _ in 0..10 {
            now += LONGEST;
            pace = pace.after(250, now);
        }
        assert_eq!(length(pace), Some(SHORTEST));
        assert_eq!(length(pace.after(MANY - 1, now)), Some(SHORTEST));
    }
}
