//! The fork handlers: what keeps both sides of a fork right.
//!
//! | when | what | killed after it |
//! | --- | --- | --- |
//! | before | for each family in which this process holds something: a slot for the child, `RESERVED`; this process's rows copied into it | the slot's rows hold until somebody finds that there is no such child |
//! | in the parent | nothing: the slot is the child's | - |
//! | in the child | its identity, then `LIVE`; the parent's pool becomes holds; the parent's connection is let go | the child's death, found like any other |
//!
//! If no slot is free, even after a look for the dead (the one thing here that takes long),
//! or a row cannot be committed, the parent keeps what it holds for good, for both of
//! them. A fork that failed leaves a slot that nobody ever adopts; `liveness` finds those.

use super::registry::REGISTRY;
use crate::error::Result;
use crate::sys::fork::{self, Forking, Hooks};
use crate::sys::identity::Identity;

pub(super) fn install() {
    // Read before there can be a fork: the child must not wait for another's reading.
    Identity::boot();
    fork::install();
    fork::set_hooks(Hooks {
        before,
        in_parent,
        in_child,
    });
}

/// Does `work` in one process from beginning to end. `keep_going` may fork (it runs signal
/// handlers): then the parent goes on, and the child stops at once and begins anew, so
/// that it does not go on with a segment, a connection or a commit of its parent's.
///
/// What `work` gives in a child that forked meanwhile is dropped.
pub(super) fn in_one_process<T>(
    keep_going: &mut dyn FnMut() -> bool,
    mut work: impl FnMut(&mut dyn FnMut() -> bool) -> Result<T>,
) -> Result<T> {
    loop {
        let epoch = fork::epoch();
        let mut is_refused = false;
        let done = work(&mut || {
            is_refused = is_refused || !keep_going();
            !is_refused && fork::epoch() == epoch
        });
        if is_refused || fork::epoch() == epoch {
            return done;
        }
    }
}

fn before(forking: &mut Forking) {
    REGISTRY.in_hook(forking).count_child();
}

fn in_parent(forking: &mut Forking) {
    REGISTRY.in_hook(forking).forked();
}

fn in_child(forking: &mut Forking) {
    REGISTRY.in_hook(forking).become_child();
}
