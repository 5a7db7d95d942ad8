//! Who has died: proof from the kernel, slot by slot (rule P4).
//!
//! Guarantee: a participant is declared dead only when it is proved that no process of
//! its own is left; whatever cannot be told counts as alive. Any member may do this at
//! any time; nothing here waits, and nothing depends on a tracker.
//!
//! A slot says which process it belongs to: pid, start time, pid namespace, boot. So no
//! connection and no message is needed, and a forked child is judged like any other.
//!
//! | slot | what is seen | verdict |
//! | --- | --- | --- |
//! | `LIVE` | no such pid, or a process with another start time (if there is one in the slot), or a zombie without threads | dead |
//! | `LIVE` | it runs, and the family segment is not among its mappings: it called `exec` | dead |
//! | `LIVE` | it is we, who joined as another program than the slot's: we called `exec` (`Family::join` sees to it: nobody else could tell) | dead |
//! | `LIVE` | of another pid namespace or boot; `/proc` hides it or shows another namespace; not readable | cannot tell |
//! | `RESERVED` | seen so for a second, in several looks; no process maps the family but those of `LIVE` slots; its reserver was in our pid namespace, and no other user's (root sees all) | dead |
//! | `RESERVED` | else | cannot tell |
//!
//! A `RESERVED` slot has no process written in it yet. Its process is either the one that
//! joins or the child of the one that forks; both have the family mapped, so a look at
//! every process finds them. What it cannot find is a child that is not born yet, because
//! its parent is still about to fork. Looks are counted, and not only time, so that a
//! machine that slept for a second does not make a parent late; while the parent runs, ten
//! seconds must go by; and of a stopped one nothing can be told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fault::point;
use crate::layout::{Packed, Participant, SLOTS};
use crate::pool::family::{Family, LIVE, RESERVED};
use crate::sys::identity::Identity;
use crate::sys::mappings::{self, MappedFile};
use crate::sys::process::{self, Reach, Stat};

/// Looks at a `RESERVED` slot count when they are so far apart.
const LOOK_APART: Duration = Duration::from_millis(250);
/// So many are needed: a second.
const LOOKS: u32 = 5;
/// So many while the process runs that reserved the slot for its child: ten seconds.
const LOOKS_IF_PARENT_RUNS: u32 = 40;

/// Looks for an `exec` cost a third of a millisecond for a process with a few hundred
/// mappings. Whoever buries at short intervals looks for it so soon, and then ever more
/// rarely, up to this.
const EXEC_FIRST: Duration = Duration::from_millis(500);
const EXEC_LAST: Duration = Duration::from_secs(60);

/// What can be said about a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its process runs and is of the family.
    Alive,
    /// There is no such process any more, or it is of the family no more.
    Dead,
    /// Nothing can be told: it counts as alive.
    CannotTell,
}

/// Judges the participants of one family, and remembers since when slots were seen
/// `RESERVED`.
#[derive(Debug)]
pub struct Undertaker {
    own: Identity,
    file: MappedFile,
    /// `/proc` shows the processes of our namespace.
    can_see: bool,
    /// Mappings tell who has the family.
    can_see_maps: bool,
    /// Some participants may be in namespaces that we cannot see into.
    strangers: bool,
    /// Whether it would be known if somebody from another namespace came to join.
    knows_who_joins: bool,
    reserved: BTreeMap<usize, Reserved>,
    mapped: BTreeMap<usize, Mapped>,
    scan: Scan,
}

/// Looks at every process, each of which takes long: one serves all slots of one
/// [`Undertaker::bury`]. Each of these has been `RESERVED` since long before it.
#[derive(Debug, Clone, Copy)]
enum Scan {
    /// Each slot has its own.
    Single,
    /// None so far.
    Shared,
    /// What it said.
    Done(Option<bool>),
}

/// A process that had the family among its mappings.
#[derive(Debug)]
struct Mapped {
    seen: Packed,
    look_at: Instant,
    wait: Duration,
}

/// A slot without a process, as seen so far.
#[derive(Debug)]
struct Reserved {
    seen: Packed,
    looks: u32,
    last: Instant,
    /// Whether the process that reserved it is of our namespace, and its children such as we
    /// can look at; `None`: it was gone.
    by_ours: Option<bool>,
}

/// Declares dead whatever is proved dead now, in a single look; how many. Slots that are
/// `RESERVED` need more than one: an [`Undertaker`] that is kept sees to them.
///
/// # Errors
///
/// Those of a damaged family.
pub fn bury(family: &Family, family_file: (u64, u64), me: Option<Participant>) -> Result<usize> {
    Undertaker::new(family_file).bury(family, me)
}

impl Undertaker {
    /// For a process that maps the family, whose file has this device and inode.
    pub fn new(family_file: (u64, u64)) -> Self {
        let file = MappedFile::new(family_file.0, family_file.1);
        Undertaker {
            own: Identity::own(),
            can_see: process::sees_own_namespace(),
            can_see_maps: file.is_seen_in_own(),
            file,
            strangers: false,
            knows_who_joins: false,
            reserved: BTreeMap::new(),
            mapped: BTreeMap::new(),
            scan: Scan::Single,
        }
    }

    /// For the tracker, from which everybody has the family who was not forked into it:
    /// it says so when a stranger comes ([`Undertaker::stranger_came`]), and therefore
    /// may judge those who died while they joined.
    pub fn of_tracker(family_file: (u64, u64)) -> Self {
        Undertaker {
            knows_who_joins: true,
            ..Self::new(family_file)
        }
    }

    /// Somebody of a namespace that we cannot see into has the family.
    pub fn stranger_came(&mut self) {
        self.strangers = true;
    }

    /// Declares dead whatever is proved dead, never `me`; how many. The caller then runs
    /// [`crate::recover::recover_all`].
    ///
    /// # Errors
    ///
    /// Those of a damaged family.
    pub fn bury(&mut self, family: &Family, me: Option<Participant>) -> Result<usize> {
        self.scan = Scan::Shared;
        let buried = self.bury_all(family, me);
        self.scan = Scan::Single;
        buried
    }

    fn bury_all(&mut self, family: &Family, me: Option<Participant>) -> Result<usize> {
        // First: what a dead parent reserved is judged by where that parent was.
        for slot in 0..SLOTS {
            self.note(family, slot, family.slot(slot)?)?;
        }
        let mut buried = 0;
        for slot in 0..SLOTS {
            let seen = family.slot(slot)?;
            let is_taken = matches!(seen.state, LIVE | RESERVED);
            if is_taken && !is(me, slot, seen) && !self.lives_likely(family, slot, seen)? {
                buried += usize::from(self.bury_one(family, slot, seen)?);
            }
        }
        Ok(buried)
    }

    /// Whether the process is there, and had the family when it was looked at lately.
    fn lives_likely(&mut self, family: &Family, slot: usize, seen: Packed) -> Result<bool> {
        if seen.state != LIVE {
            return Ok(false);
        }
        let now = Instant::now();
        match self.mapped.get_mut(&slot) {
            Some(known) if known.seen != seen => drop(self.mapped.remove(&slot)),
            Some(known) if known.look_at <= now => {
                known.wait = (known.wait * 2).min(EXEC_LAST);
                known.look_at = now + known.wait;
                return Ok(false);
            }
            Some(_) => return self.runs_likely(family, participant(slot, seen), seen),
            None => {}
        }
        let known = Mapped {
            seen,
            look_at: now + EXEC_FIRST,
            wait: EXEC_FIRST,
        };
        self.mapped.insert(slot, known);
        Ok(false)
    }

    /// Whether a participant, its slot found in the state `seen`, has a process; whether
    /// that is of the family still is not looked for.
    ///
    /// # Errors
    ///
    /// Those of a damaged family.
    pub fn runs_likely(&self, family: &Family, who: Participant, seen: Packed) -> Result<bool> {
        if seen.state != LIVE {
            return Ok(false);
        }
        match family.identity(who) {
            Ok(identity) => Ok(!self.is_gone(&identity)),
            // It left this instant.
            Err(Error::Stale) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether there is no such process any more; `false` also when that cannot be told.
    fn is_gone(&self, identity: &Identity) -> bool {
        let Some(pid) = pid_of(identity).filter(|_| self.can_judge(identity)) else {
            return false;
        };
        match Stat::of(pid) {
            Ok(Some(stat)) => is_another(&stat, identity) || stat.has_ended(),
            Ok(None) => false,
            Err(error) => is_absence(&error),
        }
    }

    /// Declares this participant dead if that is proved; `true` when it was this call.
    ///
    /// # Errors
    ///
    /// As [`Undertaker::bury`].
    pub fn bury_one(&mut self, family: &Family, slot: usize, seen: Packed) -> Result<bool> {
        if self.verdict(family, slot, seen)? != Verdict::Dead {
            return Ok(false);
        }
        self.reserved.remove(&slot);
        point("bury.proved");
        // Of a slot that changed meanwhile nothing was proved.
        family.declare_dead_if(slot, seen)
    }

    /// What can be told about the slot, found in the state `seen`.
    ///
    /// # Errors
    ///
    /// As [`Undertaker::bury`].
    pub fn verdict(&mut self, family: &Family, slot: usize, seen: Packed) -> Result<Verdict> {
        match seen.state {
            LIVE => {
                match family.identity(participant(slot, seen)) {
                    Ok(identity) => Ok(self.of_process(&identity)),
                    // It is somebody else's by now, or nobody's.
                    Err(Error::Stale) => Ok(Verdict::CannotTell),
                    Err(error) => Err(error),
                }
            }
            RESERVED => self.of_reserved(family, slot, seen),
            _ => Ok(Verdict::CannotTell),
        }
    }

    /// Whether the pid of this process means anything to us.
    pub fn can_judge(&self, identity: &Identity) -> bool {
        self.can_see && self.is_ours(identity) && pid_of(identity).is_some()
    }

    fn is_ours(&self, identity: &Identity) -> bool {
        identity.pid_namespace != 0
            && identity.pid_namespace == self.own.pid_namespace
            && identity.boot == self.own.boot
    }

    /// Of a `LIVE` slot's process.
    pub fn of_process(&mut self, identity: &Identity) -> Verdict {
        self.strangers |= !self.is_ours(identity);
        let Some(pid) = pid_of(identity).filter(|_| self.can_judge(identity)) else {
            return Verdict::CannotTell;
        };
        match Stat::of(pid) {
            Err(error) if is_absence(&error) => match process::reach(pid) {
                Reach::Nobody => Verdict::Dead,
                // `/proc` hides it: ours under another user, or somebody else's.
                Reach::Ours | Reach::Foreign => Verdict::CannotTell,
            },
            Err(_) | Ok(None) => Verdict::CannotTell,
            Ok(Some(stat)) if is_another(&stat, identity) => match process::shares_clock(pid) {
                true => Verdict::Dead,
                false => Verdict::CannotTell,
            },
            Ok(Some(stat)) if stat.has_ended() => Verdict::Dead,
            Ok(Some(_)) if !self.can_see_maps => Verdict::CannotTell,
            Ok(Some(before)) => match self.file.is_mapped_by(pid) {
                Some(true) => Verdict::Alive,
                None => Verdict::CannotTell,
                // Whose mappings were those? Its own if it is there before and after.
                Some(false) => match Stat::of(pid) {
                    Ok(Some(after)) if after.start_ticks == before.start_ticks => Verdict::Dead,
                    _ => Verdict::CannotTell,
                },
            },
        }
    }

    /// Keeps what is known of a `RESERVED` slot; forgets it when it is not any more.
    fn note(&mut self, family: &Family, slot: usize, seen: Packed) -> Result<()> {
        if seen.state != RESERVED {
            self.reserved.remove(&slot);
            return Ok(());
        }
        if self
            .reserved
            .get(&slot)
            .is_some_and(|known| known.seen == seen)
        {
            return Ok(());
        }
        let reserver = self.reserver(family, slot, seen)?;
        let by_ours = reserver.map(|identity| self.is_ours(&identity) && !is_hidden(&identity));
        let reserved = Reserved {
            seen,
            looks: 0,
            last: Instant::now(),
            by_ours,
        };
        self.reserved.insert(slot, reserved);
        Ok(())
    }

    /// The process that reserved a slot for its child, while that is there.
    fn reserver(&self, family: &Family, slot: usize, seen: Packed) -> Result<Option<Identity>> {
        if seen.by == slot || seen.by >= SLOTS {
            return Ok(None);
        }
        let parent = Participant {
            slot: seen.by,
            generation: family.slot(seen.by)?.generation,
        };
        match family.identity(parent) {
            Ok(identity) => Ok(Some(identity)),
            Err(Error::Stale) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn of_reserved(&mut self, family: &Family, slot: usize, seen: Packed) -> Result<Verdict> {
        self.note(family, slot, seen)?;
        let parent = self.reserver(family, slot, seen)?;
        let parent = parent.as_ref().and_then(pid_of);
        let now = Instant::now();
        let Some(known) = self.reserved.get_mut(&slot) else {
            return Ok(Verdict::CannotTell);
        };
        if known.looks > 0 && now.saturating_duration_since(known.last) < LOOK_APART {
            return Ok(Verdict::CannotTell);
        }
        known.last = now;
        known.looks = known.looks.saturating_add(1);
        let needed = match parent {
            Some(_) => LOOKS_IF_PARENT_RUNS,
            None => LOOKS,
        };
        let may_be_a_stranger = match known.by_ours {
            Some(by_ours) => !by_ours,
            None if seen.by == slot => self.strangers || !self.knows_who_joins,
            None => self.strangers,
        };
        let is_stopped = |pid| !matches!(Stat::of(pid), Ok(Some(stat)) if !stat.is_stopped());
        if known.looks < needed
            || may_be_a_stranger
            || !(self.can_see && self.can_see_maps)
            || parent.is_some_and(is_stopped)
        {
            return Ok(Verdict::CannotTell);
        }
        Ok(match self.somebody(family)? {
            Some(false) => Verdict::Dead,
            Some(true) | None => Verdict::CannotTell,
        })
    }

    /// Whether a process maps the family that has no slot.
    fn somebody(&mut self, family: &Family) -> Result<Option<bool>> {
        if let Scan::Done(somebody) = self.scan {
            return Ok(somebody);
        }
        // Who may not be looked at is a suspect, unless it is older than the family's
        // oldest: as root one may signal what one may not look at.
        let (accounted, oldest_ticks) = self.accounted(family)?;
        let is_meant = |pid| !is_accounted(&accounted, pid);
        let somebody = mappings::somebody_maps(&self.file, oldest_ticks, is_meant);
        if let Scan::Shared = self.scan {
            self.scan = Scan::Done(somebody);
        }
        Ok(somebody)
    }

    /// The processes that have slots, in our namespace, with their start times, and when the
    /// oldest started.
    fn accounted(&self, family: &Family) -> Result<(BTreeSet<(u32, u64)>, u64)> {
        let mut processes = BTreeSet::new();
        let mut oldest_ticks = self.own.start_ticks;
        for slot in 0..SLOTS {
            let seen = family.slot(slot)?;
            if seen.state == LIVE
                && let Ok(identity) = family.identity(participant(slot, seen))
                && self.is_ours(&identity)
            {
                processes.extend(pid_of(&identity).map(|pid| (pid, identity.start_ticks)));
                oldest_ticks = oldest_ticks.min(identity.start_ticks);
            }
        }
        Ok((processes, oldest_ticks))
    }
}

/// Whether the process that has this number now has a slot, and not only one that had the
/// number before and is not found dead yet.
fn is_accounted(accounted: &BTreeSet<(u32, u64)>, pid: u32) -> bool {
    let mut slots = accounted.range((pid, 0)..=(pid, u64::MAX)).peekable();
    slots.peek().is_some() && {
        let stat = Stat::of(pid).ok().flatten();
        // Without a start time in the slot the number tells; see `is_another`.
        slots.any(|&(_, ticks)| ticks == 0 || stat.is_some_and(|it| it.start_ticks == ticks))
    }
}

fn participant(slot: usize, seen: Packed) -> Participant {
    Participant {
        slot,
        generation: seen.generation,
    }
}

fn is(me: Option<Participant>, slot: usize, seen: Packed) -> bool {
    me.is_some_and(|me| me.slot == slot && me.generation == seen.generation)
}

/// Whether the number is another process's by now. Who had no descriptor left to read its
/// start time by (it forked, or joined, without one) has none: then this cannot be seen,
/// and is not needed, since whoever has the number tells what became of it by being gone,
/// ended or without the family. Only another member with the number hides its death.
fn is_another(stat: &Stat, identity: &Identity) -> bool {
    identity.start_ticks != 0 && stat.start_ticks != identity.start_ticks
}

/// A pid that a process can have.
fn pid_of(identity: &Identity) -> Option<u32> {
    let pid = i32::try_from(identity.pid).ok()?;
    u32::try_from(pid).ok().filter(|&pid| pid > 0)
}

/// Whether it is another user's, whose children's mappings we cannot read.
fn is_hidden(identity: &Identity) -> bool {
    pid_of(identity).is_some_and(|pid| process::reach(pid) == Reach::Foreign)
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
}

#[cfg(test)]
mod tests;
