//! Named instants at which a kill matters.
//!
//! Without the feature `fault` a point is nothing. With it, a process whose
//! environment has `SHARED_NUMPY_FAULT=<point>` or `<point>:<n>` kills itself with
//! SIGKILL when it reaches that point (for the n-th time). `docs/crash_safety.md`
//! tells what each kill leaves; `tests/crash_pool/` tries them all.

/// Every point there is; a test compares them with the crash page.
pub const POINTS: &[&str] = &[
    "allocate.committed",
    "allocate.described",
    "allocate.held",
    "allocate.opened",
    "attach.committed",
    "attach.published",
    "attach.zeroed",
    "bury.proved",
    "claim.claimed",
    "claim.held",
    "close.bumped",
    "close.closed",
    "close.undone",
    "collect.swapped",
    "dead.declared",
    "drop.bit_cleared",
    "drop.marked",
    "expire.freed",
    "fork.born",
    "fork.copied",
    "fork.counted",
    "fork.identified",
    "fork.live",
    "fork.parted",
    "fork.published",
    "fork.reserved",
    "join.identified",
    "join.live",
    "join.reserved",
    "lend.borrowed",
    "lend.busy",
    "lend.closed",
    "lend.idle",
    "lend.punched",
    "lend.reclaimed",
    "lend.restored",
    "lend.returned",
    "orphan.claimed",
    "orphan.collected",
    "orphan.emptied",
    "orphan.replaced",
    "receive.fetched",
    "recover.claimed",
    "recover.freed",
    "recover.released",
    "recover.tokens",
    "register.telling",
    "register.told",
    "segment.committed",
    "segment.created",
    "segment.sealed",
    "segment.written",
    "surplus.counted",
    "surplus.marked",
    "surplus.told",
    "take.bit_set",
    "take.checked",
    "take.refused",
    "token.filled",
    "token.freed",
    "token.making",
    "token.marked",
    "token.ready",
    "tokens.cleared",
    "trim.punched",
];

/// Every point of the locks; a test compares them with `docs/locks.md`, and
/// `tests/crash_lock/` tries them all.
pub const LOCK_POINTS: &[&str] = &[
    "barrier.arrived",
    "barrier.broke",
    "barrier.last",
    "barrier.opened",
    "bounded.inherited",
    "bounded.marked",
    "bounded.returned",
    "bounded.taken",
    "bounded.told",
    "bounded.woken",
    "condition.inherited",
    "condition.left",
    "condition.notified",
    "condition.reacquired",
    "condition.registered",
    "condition.woken",
    "event.marked",
    "event.set",
    "lock.freed",
    "lock.inherited",
    "lock.marked",
    "lock.taken",
    "lock.woken",
    "rlock.cleared",
    "rlock.named",
    "semaphore.added",
    "semaphore.marked",
    "semaphore.taken",
    "semaphore.woken",
];

/// Every point of the queue and of the latest-value channel; a test compares them with
/// `docs/queue.md` and `docs/latest.md`, and
/// `tests/crash_queue/` tries them all.
pub const QUEUE_POINTS: &[&str] = &[
    "get.committed",
    "get.copied",
    "get.ended",
    "get.held",
    "grow.linked",
    "grow.token",
    "grow.written",
    "latest.ended",
    "latest.published",
    "latest.token",
    "latest.written",
    "put.committed",
    "put.copied",
    "put.locked",
    "put.released",
    "put.tokens",
    "put.written",
    "retire.ended",
    "retire.passed",
];

/// The variable that arms a point.
pub const VARIABLE: &str = "SHARED_NUMPY_FAULT";

/// The process may be killed here.
#[inline(always)]
pub fn point(name: &'static str) {
    #[cfg(feature = "fault")]
    armed::reach(name);
    #[cfg(not(feature = "fault"))]
    let _ = name;
}

#[cfg(feature = "fault")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(super) fn reach(name: &'static str) {
        static ARMED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();
        let lists = [super::POINTS, super::LOCK_POINTS, super::QUEUE_POINTS];
        let is_known = lists.iter().any(|points| points.contains(&name));
        assert!(is_known, "{name} is in no list of points");
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var(super::VARIABLE).ok()?;
            let (point, count) = text.split_once(':').unwrap_or((&text, "1"));
            Some((point.to_owned(), AtomicU32::new(count.parse().ok()?)))
        });
        if let Some((point, left)) = armed
            && point == name
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            // Not an exit and not an abort: nothing of the process runs any more.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            std::process::abort();
        }
    }
}
