//! What a pool asks before it grows: who has died, and is there memory.
//!
//! Guarantees: a process finds out by itself what died, tracker or not; for the sake of
//! speed it looks once a second at most, unless it is told to. Who is waited for is looked at
//! after slices of the wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::queues;
use crate::error::Result;
use crate::layout::{Packed, Participant};
use crate::liveness::Undertaker;
use crate::pool::family::Family;
use crate::pool::limit;
use crate::pool::owner::PoolOptions;
use crate::recover::recover_all;
use crate::sys::fork;
use crate::sys::shm::Identity;

/// How far looks are apart.
const LOOK_EVERY: Duration = Duration::from_secs(1);

// Whoever waits asks after those it waits for once a slice. That is one in most cases, who is
// looked at each time; of many each has its turn, and no crowd of waiters keeps a processor busy.
/// How far looks at those who are asked about are apart.
const ASKED_EVERY: Duration = Duration::from_millis(40);
/// How far looks at the same one are apart when many are asked about.
const EACH_EVERY: Duration = Duration::from_millis(200);
/// How far looks for an `exec` by it are apart, which take longer.
const EXEC_EVERY: Duration = Duration::from_secs(1);

/// The one who looks, for one family.
#[derive(Debug)]
pub(super) struct Watch {
    undertaker: Option<Undertaker>,
    /// The process it belongs to: it has noted who that is.
    epoch: u32,
    looked: Option<Instant>,
    /// Who was asked about, by slot, and when somebody was last.
    asked: BTreeMap<usize, Asked>,
    asked_at: Option<Instant>,
}

/// Who asks whether somebody is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// Who will not ask again.
    Once,
    /// Who waits, and asks again and again: an answer may be one or a few slices late.
    WhileWaiting,
    /// Who knows that deaths are told of: only whether this one was.
    Told,
}

/// Somebody who was asked about.
#[derive(Debug, Clone, Copy)]
struct Asked {
    seen: Packed,
    looked: Instant,
    looked_for_exec: Instant,
}

impl Watch {
    pub(super) fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Watch {
            undertaker: None,
            epoch: fork::epoch(),
            looked: None,
            asked: BTreeMap::new(),
            asked_at: None,
        }))
    }

    /// Finds the dead; how many there were.
    fn look(&mut self, family: &Family, file: Identity, me: Participant) -> Result<usize> {
        if !family.counts(me) {
            return Ok(0); // taken for dead: our slot may be another's, which recovers
        }
        self.looked = Some(Instant::now());
        let buried = self.undertaker(file).bury(family, Some(me))?;
        // Also those that others declared dead. Segments are not visited: their closers
        // look at the rows by themselves.
        let found = buried + recover_all(family, me, &[])?;
        if found > 0 {
            queues::want_audit();
        }
        Ok(found)
    }

    /// Whether this participant is gone, by proof.
    fn judge(&mut self, family: &Family, file: Identity, who: Participant) -> Result<bool> {
        if !family.counts(who) {
            return Ok(true);
        }
        let seen = family.slot(who.slot)?;
        if seen.generation != who.generation {
            return Ok(true);
        }
        // Not by this call, perhaps: a tracker looks as well.
        Ok(self.undertaker(file).bury_one(family, who.slot, seen)? || !family.counts(who))
    }

    /// As [`Watch::judge`], for somebody who asks again and again: looks when it is time.
    fn judge_in_turn(&mut self, family: &Family, file: Identity, who: Participant) -> Result<bool> {
        if !family.counts(who) {
            return Ok(true);
        }
        let seen = family.slot(who.slot)?;
        let now = Instant::now();
        let is_past = |when: Instant, by| now.saturating_duration_since(when) >= by;
        let apart = match self.asked_at {
            Some(when) if !is_past(when, ASKED_EVERY) => EACH_EVERY,
            _ => ASKED_EVERY,
        };
        let known = self.asked.get(&who.slot).filter(|it| it.seen == seen);
        let looked_for_exec = match known {
            Some(known) if !is_past(known.looked, apart) => return Ok(false),
            Some(known) => Some(known.looked_for_exec).filter(|&it| !is_past(it, EXEC_EVERY)),
            None => None,
        };
        self.asked_at = Some(now);
        let asked = Asked {
            seen,
            looked: now,
            looked_for_exec: looked_for_exec.unwrap_or(now),
        };
        self.asked.insert(who.slot, asked);
        if looked_for_exec.is_some() && self.undertaker(file).runs_likely(family, who, seen)? {
            return Ok(false);
        }
        self.judge(family, file, who)
    }

    fn undertaker(&mut self, file: Identity) -> &mut Undertaker {
        if self.epoch != fork::epoch() {
            self.epoch = fork::epoch();
            self.undertaker = None;
        }
        self.undertaker
            .get_or_insert_with(|| Undertaker::new((file.dev, file.ino)))
    }

    fn is_due(&self) -> bool {
        self.looked.is_none_or(|when| when.elapsed() >= LOOK_EVERY)
    }
}

/// Finds the dead now; how many there were. A damaged family has none.
pub(super) fn look_for_the_dead(
    watch: &Mutex<Watch>,
    family: &Family,
    file: Identity,
    me: Participant,
) -> usize {
    let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
    watch.look(family, file, me).unwrap_or(0)
}

/// Finds the dead if the last look is long enough ago; whether there were any, so that
/// memory and slots have become free. A fork asks when it finds no slot: without one the
/// parent keeps what it holds for good.
pub(super) fn make_room(
    watch: &Mutex<Watch>,
    family: &Family,
    file: Identity,
    me: Participant,
) -> bool {
    let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
    if !watch.is_due() {
        return false;
    }
    queues::want_audit();
    watch.look(family, file, me).is_ok_and(|dead| dead > 0)
}

/// Whether this participant is gone; it is declared dead then. In doubt it is not.
pub(super) fn is_gone(
    watch: &Mutex<Watch>,
    family: &Family,
    file: Identity,
    who: Participant,
    asked: Asking,
) -> bool {
    let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
    let verdict = match asked {
        Asking::Once => watch.judge(family, file, who),
        Asking::WhileWaiting => watch.judge_in_turn(family, file, who),
        Asking::Told => Ok(!family.counts(who)),
    };
    let is_gone = verdict.unwrap_or(false);
    if is_gone {
        queues::want_audit();
    }
    is_gone
}

/// What our pool in a family is made of.
pub(super) fn options(
    watch: &Arc<Mutex<Watch>>,
    family: &Arc<Family>,
    file: Identity,
    me: Participant,
) -> PoolOptions {
    let watch = Arc::clone(watch);
    let family = Arc::clone(family);
    PoolOptions {
        limit: Box::new(limit::check),
        before_growing: Box::new(move || make_room(&watch, &family, file, me)),
        ..PoolOptions::default()
    }
}
