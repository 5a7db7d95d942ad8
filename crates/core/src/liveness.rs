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
//! | `LIVE` | no such pid, or a process with another start time, or a zombie without threads | dead |
//! | `LIVE` | it runs, and the family segment is not among its mappings: it called `exec` | dead |
//! | `LIVE` | of another pid namespace or boot; `/proc` hides it or shows another namespace; not readable | cannot tell |
//! | `RESERVED` | seen so for a second, in several looks; no process maps the family but those of `LIVE` slots; its reserver was in our pid namespace | dead |
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
use crate::sys::process::{self, MappedFile, Reach, Stat};

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
    /// Whether the process that reserved it is of our namespace; `None`: it was gone.
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
            Some(_) => {
                return match family.identity(participant(slot, seen)) {
                    Ok(identity) => Ok(!self.is_gone(&identity)),
                    // It left this instant.
                    Err(Error::Stale) => Ok(true),
                    Err(error) => Err(error),
                };
            }
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

    /// Whether there is no such process any more; `false` also when that cannot be told.
    fn is_gone(&self, identity: &Identity) -> bool {
        let Some(pid) = pid_of(identity).filter(|_| self.can_judge(identity)) else {
            return false;
        };
        match Stat::of(pid) {
            Ok(Some(stat)) => stat.start_ticks != identity.start_ticks || stat.has_ended(),
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
        self.can_see
            && self.is_ours(identity)
            && identity.start_ticks != 0
            && pid_of(identity).is_some()
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
            Ok(Some(stat)) if stat.start_ticks != identity.start_ticks => {
                match process::shares_clock(pid) {
                    true => Verdict::Dead,
                    false => Verdict::CannotTell,
                }
            }
            Ok(Some(stat)) if stat.has_ended() => Verdict::Dead,
            Ok(Some(_)) if !self.can_see_maps => Verdict::CannotTell,
            Ok(Some(_)) => match self.file.is_mapped_by(pid) {
                Some(true) => Verdict::Alive,
                None => Verdict::CannotTell,
                // Whose mappings were those? Its own if it is there before and after.
                Some(false) => match Stat::of(pid) {
                    Ok(Some(after)) if after.start_ticks == identity.start_ticks => Verdict::Dead,
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
        let by_ours = reserver.map(|identity| self.is_ours(&identity));
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
        // Who may not be looked at is a suspect, unless it is older than the family's
        // oldest: as root one may signal what one may not look at.
        let (accounted, oldest_ticks) = self.accounted(family)?;
        let is_meant = |pid| !accounted.contains(&pid);
        let somebody = process::somebody_maps(&self.file, oldest_ticks, is_meant);
        Ok(match somebody {
            Some(false) => Verdict::Dead,
            Some(true) | None => Verdict::CannotTell,
        })
    }

    /// The processes that have slots, in our namespace, and when the oldest started.
    fn accounted(&self, family: &Family) -> Result<(BTreeSet<u32>, u64)> {
        let mut pids = BTreeSet::new();
        let mut oldest_ticks = self.own.start_ticks;
        for slot in 0..SLOTS {
            let seen = family.slot(slot)?;
            if seen.state == LIVE
                && let Ok(identity) = family.identity(participant(slot, seen))
                && self.is_ours(&identity)
            {
                pids.extend(pid_of(&identity));
                oldest_ticks = oldest_ticks.min(identity.start_ticks);
            }
        }
        Ok((pids, oldest_ticks))
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

/// A pid that a process can have.
fn pid_of(identity: &Identity) -> Option<u32> {
    let pid = i32::try_from(identity.pid).ok()?;
    u32::try_from(pid).ok().filter(|&pid| pid > 0)
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shm;

    fn family() -> (Family, (u64, u64)) {
        let (family, fd) = Family::create().unwrap();
        let file = shm::status(&fd).unwrap().identity;
        (family, (file.dev, file.ino))
    }

    /// A look that counts.
    fn look(undertaker: &mut Undertaker, family: &Family, slot: usize) -> Verdict {
        if let Some(known) = undertaker.reserved.get_mut(&slot) {
            known.last -= LOOK_APART;
        }
        let seen = family.slot(slot).unwrap();
        undertaker.verdict(family, slot, seen).unwrap()
    }

    /// Looks until it is dead: for an instant, a child that another test starts has our
    /// mappings.
    fn is_found_dead(undertaker: &mut Undertaker, family: &Family, slot: usize) {
        let begin = Instant::now();
        while look(undertaker, family, slot) != Verdict::Dead {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn judge(file: (u64, u64), change: impl FnOnce(&mut Identity)) -> Verdict {
        let mut identity = Identity::own();
        change(&mut identity);
        Undertaker::new(file).of_process(&identity)
    }

    #[test]
    fn this_process_lives_and_is_not_buried() {
        let (family, file) = family();
        let me = family.join().unwrap();
        let other_slot_of_ours = family.join().unwrap();
        assert_eq!(bury(&family, file, Some(me)), Ok(0));
        assert_eq!(bury(&family, file, None), Ok(0));
        assert!(family.counts(me) && family.counts(other_slot_of_ours));
        assert_eq!(judge(file, |_| ()), Verdict::Alive);
    }

    #[test]
    fn mappings_are_read_ever_more_rarely_and_a_death_is_found_all_the_same() {
        let (family, fd) = Family::create().unwrap();
        let file = shm::status(&fd).unwrap().identity;
        let who = family.join().unwrap();
        let mut undertaker = Undertaker::new((file.dev, file.ino));
        for (is_due, wait) in [(false, 1), (false, 1), (true, 2), (false, 2), (true, 4)] {
            if is_due {
                undertaker.mapped.get_mut(&who.slot).unwrap().look_at = Instant::now();
            }
            assert_eq!(undertaker.bury(&family, None), Ok(0));
            let known = &undertaker.mapped[&who.slot];
            assert_eq!(known.wait, wait * EXEC_FIRST);
        }
        // Its process ended, and another has its number.
        let bytes = crate::layout::FAMILY_BYTES;
        let mapping = crate::mapping::Mapping::new(&fd, bytes, false).unwrap();
        let at = crate::layout::slot_offset(who.slot)
            + std::mem::offset_of!(crate::layout::Slot, start_ticks);
        let started = mapping.load_u64(at).unwrap();
        mapping.store_u64(at, started - 1).unwrap();
        assert_eq!(undertaker.bury(&family, None), Ok(1));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let (_family, file) = family();
        assert_eq!(judge(file, |own| own.start_ticks -= 1), Verdict::Dead);
    }

    #[test]
    fn what_cannot_be_told_is_not_dead() {
        let (_family, file) = family();
        for change in [
            (|own| own.pid_namespace += 1) as fn(&mut Identity),
            |own| own.pid_namespace = 0,
            |own| own.boot = [1, 1],
            |own| own.start_ticks = 0,
            |own| own.pid = 0,
            |own| own.pid = u64::MAX,
            |own| own.pid = 1 << 31,
        ] {
            assert_eq!(judge(file, change), Verdict::CannotTell);
        }
    }

    #[test]
    fn without_the_family_among_our_own_mappings_nobody_is_said_to_have_called_exec() {
        // A file that nobody maps: as where `/proc` writes devices in another way.
        let (_family, (dev, ino)) = family();
        let not_mapped = (dev, ino + 1_000_000);
        assert_eq!(judge(not_mapped, |_| ()), Verdict::CannotTell);
    }

    #[test]
    fn a_child_that_ended_is_dead_also_as_a_zombie() {
        let (family, file) = family();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let found = process::ProcessId::or_zombie(child.id());
        let identity = Identity {
            pid: u64::from(found.pid),
            start_ticks: found.start_ticks,
            ..Identity::own()
        };
        let mut undertaker = Undertaker::new(file);
        // It called exec: the family is not in it, as in no process of another program.
        let begin = Instant::now();
        while undertaker.of_process(&identity) != Verdict::Dead {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
        undertaker.can_see_maps = false;
        assert_eq!(undertaker.of_process(&identity), Verdict::CannotTell);
        child.kill().unwrap();
        while Stat::of(found.pid).unwrap().unwrap().state != b'Z' {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(undertaker.of_process(&identity), Verdict::Dead);
        child.wait().unwrap();
        assert_eq!(undertaker.of_process(&identity), Verdict::Dead);
        drop(family);
    }

    #[test]
    fn a_joiner_that_died_is_seen_to_by_the_tracker_only() {
        let (family, file) = family();
        let joiner = family.claim_for_test();
        let mut member = Undertaker::new(file);
        let mut tracker = Undertaker::of_tracker(file);
        for _ in 1..LOOKS {
            for undertaker in [&mut member, &mut tracker] {
                let found = look(undertaker, &family, joiner.slot);
                assert_eq!(found, Verdict::CannotTell);
            }
        }
        is_found_dead(&mut tracker, &family, joiner.slot);
        // A stranger may be that joiner, where nobody can look.
        tracker.stranger_came();
        for undertaker in [&mut member, &mut tracker] {
            let found = look(undertaker, &family, joiner.slot);
            assert_eq!(found, Verdict::CannotTell);
        }
    }

    #[test]
    fn looks_that_follow_each_other_at_once_are_one() {
        let (family, file) = family();
        let joiner = family.claim_for_test();
        let mut undertaker = Undertaker::of_tracker(file);
        for _ in 0..3 * LOOKS {
            assert_eq!(undertaker.bury(&family, None), Ok(0));
        }
        assert_eq!(undertaker.reserved[&joiner.slot].looks, 1);
    }

    #[test]
    fn a_child_that_never_was_is_waited_for_longer_while_its_parent_runs() {
        let (family, file) = family();
        let parent = family.join().unwrap();
        let child = family.reserve_for_child(parent).unwrap();
        let mut undertaker = Undertaker::new(file);
        for _ in 1..LOOKS_IF_PARENT_RUNS {
            let found = look(&mut undertaker, &family, child.slot);
            assert_eq!(found, Verdict::CannotTell);
        }
        is_found_dead(&mut undertaker, &family, child.slot);
        // And when it is gone, no longer than others.
        let mut undertaker = Undertaker::new(file);
        assert_eq!(undertaker.bury(&family, Some(parent)), Ok(0));
        family.declare_dead(parent).unwrap();
        for _ in 2..LOOKS {
            let found = look(&mut undertaker, &family, child.slot);
            assert_eq!(found, Verdict::CannotTell);
        }
        is_found_dead(&mut undertaker, &family, child.slot);
    }

    #[test]
    fn a_slot_that_became_live_while_it_was_judged_is_left_alone() {
        let (family, file) = family();
        let parent = family.join().unwrap();
        let child = family.reserve_for_child(parent).unwrap();
        let seen = family.slot(child.slot).unwrap();
        family.adopt(child, parent).unwrap();
        assert_eq!(family.declare_dead_if(child.slot, seen), Ok(false));
        assert!(family.counts(child));
        let _ = file;
    }

    #[test]
    fn a_family_of_garbage_is_judged_without_harm() {
        let (family, file) = family();
        let me = family.join().unwrap();
        let mut undertaker = Undertaker::of_tracker(file);
        for (at, state) in [(1, LIVE), (2, RESERVED), (3, 9), (4, 15)] {
            let before = family.slot(at).unwrap();
            let after = Packed {
                state,
                by: 4095,
                generation: Packed::GENERATION_LAST,
            };
            assert!(family.swap(at, before, after).unwrap());
        }
        for _ in 0..2 * LOOKS {
            undertaker.bury(&family, Some(me)).unwrap();
        }
        assert!(family.counts(me));
    }
}
