//! How much free memory a pool keeps, and for how long.
//!
//! Guarantees: what a process frees itself is never more than the limit for longer than the
//! call that frees it; what others dropped, which may be much and at once, has time to be
//! used again, and whatever of it was not used for a while goes back, a step at a time. So
//! an idle process keeps little of its own, and a pipeline that has gigabytes under way,
//! dropped at once and allocated again, keeps its pages.
//!
//! Numbers only: [`super::chain`] does what is said here.

/// No collection gives more back than this, so that no allocation waits for long: punching
/// takes some 0.4 s for a GiB.
const STEP_BYTES: u64 = 64 << 20;

/// The free memory of a pool that is committed, in bytes.
#[derive(Debug)]
pub(super) struct FreeMemory {
    keep_bytes: u64,
    /// Memory above the limit that was not used for so long goes back.
    decay_after_s: u64,
    bytes: u64,
    /// The least that was free since `checked_s`: what is below was not used since.
    lowest_bytes: u64,
    /// What collections found above the limit and nobody has used since. It has time.
    spared_bytes: u64,
    /// The last check, in seconds of the monotonic clock.
    checked_s: u64,
}

impl FreeMemory {
    pub(super) fn new(keep_bytes: u64, decay_after_s: u64) -> Self {
        FreeMemory {
            keep_bytes,
            decay_after_s,
            bytes: 0,
            lowest_bytes: 0,
            spared_bytes: 0,
            checked_s: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory became free.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Free memory is used, or was given back. On the way of each allocation: no branches.
    pub(super) fn take(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.lowest_bytes = self.lowest_bytes.min(self.bytes);
        self.spared_bytes = self.spared_bytes.min(self.above_limit());
    }

    /// A collection is over: what it found has time.
    pub(super) fn has_collected(&mut self) {
        self.spared_bytes = self.above_limit();
    }

    /// Down to what free memory is to be brought at once, after this process freed some.
    pub(super) fn limit_after_release(&self) -> Option<u64> {
        let limit_bytes = self.keep_bytes.saturating_add(self.spared_bytes);
        // A block that is used and freed in turn lowers what is spared by its size: where
        // there is such, only much more than that is too much.
        let slack_bytes = match self.spared_bytes {
            0 => 0,
            _ => self.keep_bytes,
        };
        (self.bytes > limit_bytes.saturating_add(slack_bytes)).then_some(limit_bytes)
    }

    /// Down to what it is to be brought after a collection. The clock is read only if
    /// there is something that could be too much.
    pub(super) fn limit_after_collection(&mut self, now_s: impl FnOnce() -> u64) -> Option<u64> {
        if self.bytes <= self.keep_bytes {
            return None;
        }
        let now_s = now_s();
        if now_s.saturating_sub(self.checked_s) < self.decay_after_s {
            return None;
        }
        let unused_bytes = self.lowest_bytes.saturating_sub(self.keep_bytes);
        if unused_bytes > STEP_BYTES {
            // Giving it back lowers the mark: the next collection goes on with the rest.
            return Some(self.bytes - STEP_BYTES);
        }
        self.checked_s = now_s;
        self.lowest_bytes = self.bytes - unused_bytes;
        (unused_bytes > 0).then_some(self.lowest_bytes)
    }

    fn above_limit(&self) -> u64 {
        self.bytes.saturating_sub(self.keep_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const KEEP: u64 = 256 * MIB;
    const AFTER_S: u64 = 5;

    /// What others dropped is found; what is too much goes. How much went.
    fn collect(free: &mut FreeMemory, found_bytes: u64, now_s: u64) -> u64 {
        free.add(found_bytes);
        free.has_collected();
        let before = free.bytes();
        if let Some(limit_bytes) = free.limit_after_collection(|| now_s) {
            free.take(before - limit_bytes);
        }
        before - free.bytes()
    }

    /// This process frees a block; how much goes.
    fn release(free: &mut FreeMemory, bytes: u64) -> u64 {
        free.add(bytes);
        let before = free.bytes();
        if let Some(limit_bytes) = free.limit_after_release() {
            free.take(before - limit_bytes);
        }
        before - free.bytes()
    }

    #[test]
    fn what_a_process_frees_itself_goes_at_once() {
        let mut free = FreeMemory::new(KEEP, AFTER_S);
        let gone: u64 = (0..100).map(|_| release(&mut free, 100 * MIB)).sum();
        assert_eq!((free.bytes(), gone), (KEEP, 100 * 100 * MIB - KEEP));
        // Also when there was a time at which others had dropped much.
        free.take(KEEP);
        collect(&mut free, 2048 * MIB, 100);
        for _ in 0..20 {
            free.take(free.bytes().min(100 * MIB));
        }
        free.take(free.bytes());
        for _ in 0..20 {
            release(&mut free, 100 * MIB);
        }
        assert_eq!(free.bytes(), KEEP);
    }

    #[test]
    fn batches_that_are_dropped_at_once_and_allocated_again_lose_nothing() {
        for batch_s in [0, 1, 3, 20] {
            let mut free = FreeMemory::new(KEEP, AFTER_S);
            for batch in 0..50 {
                let now_s = 1000 + batch * batch_s;
                assert_eq!(collect(&mut free, 2048 * MIB, now_s), 0);
                for _ in 0..64 {
                    // Looked at now and then, and small ones of its own meanwhile.
                    assert_eq!(collect(&mut free, 0, now_s), 0);
                    free.take(MIB);
                    assert_eq!(release(&mut free, MIB), 0);
                    free.take(32 * MIB);
                }
                assert_eq!(free.bytes(), 0);
            }
        }
    }

    #[test]
    fn what_is_not_used_goes_in_steps_and_what_is_used_stays() {
        let mut free = FreeMemory::new(KEEP, AFTER_S);
        assert_eq!(collect(&mut free, 4096 * MIB, 1000), 0);
        let mut gone = 0;
        for now_s in 1000..1100 {
            // A working set of 512 MiB, in use and free in turn.
            free.take(512 * MIB);
            let step = collect(&mut free, 512 * MIB, now_s);
            assert!(step <= STEP_BYTES);
            assert!(step == 0 || now_s >= 1000 + AFTER_S);
            gone += step;
        }
        assert_eq!(free.bytes(), KEEP + 512 * MIB);
        assert_eq!(gone, 4096 * MIB - free.bytes());
    }

    #[test]
    fn without_too_much_nobody_asks_for_the_time() {
        let mut free = FreeMemory::new(KEEP, AFTER_S);
        free.add(KEEP);
        assert_eq!(free.limit_after_collection(|| unreachable!()), None);
    }
}
