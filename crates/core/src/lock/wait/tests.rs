//! How long slices are, and who is asked after them.

use core::cell::Cell;

use super::*;

/// A system that says at once how a sleep ended, and notes how long it was to be.
#[derive(Clone, Copy)]
struct Script<'a> {
    ends: Slept,
    can_watch: bool,
    asked_ns: &'a Cell<u64>,
}

impl<'a> Script<'a> {
    fn new(ends: Slept, can_watch: bool, asked_ns: &'a Cell<u64>) -> Self {
        Script {
            ends,
            can_watch,
            asked_ns,
        }
    }
}

impl Kernel for Script<'_> {
    fn sleep(self, _: &AtomicU64, _: u64, at_most_ns: u64) -> Slept {
        self.asked_ns.set(at_most_ns);
        self.ends
    }

    fn sleep_on_either(
        self,
        word: (&AtomicU64, u64),
        (other, seen): (&AtomicU64, u64),
        at_most_ns: u64,
    ) -> Option<Slept> {
        self.can_watch.then(|| match other.load(Ordering::Relaxed) {
            now if now == seen => self.sleep(word.0, word.1, at_most_ns),
            _ => Slept::Changed,
        })
    }

    fn wake(self, _: &AtomicU64, _: u32) -> usize {
        0
    }

    fn now_ns(self) -> u64 {
        0
    }

    fn spins(self) -> u32 {
        0
    }
}

/// Everybody is watched as long as `news` is `watched`.
struct Family {
    news: AtomicU64,
    watched: Cell<u64>,
    holds: Cell<bool>,
    reminded: Cell<u32>,
    begun: Cell<u32>,
}

impl Watch for Family {
    fn news(&self) -> &AtomicU64 {
        &self.news
    }

    fn is_watched(&self, news: u64) -> bool {
        self.watched.get() == news
    }

    fn holds(&self) -> bool {
        self.holds.get()
    }

    fn remind(&self) {
        self.reminded.set(self.reminded.get() + 1);
    }

    fn begin(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<(), Error> {
        self.begun.set(self.begun.get() + 1);
        match keep_going() {
            true => Err(Error::TrackerUnavailable("a test says so".to_owned())),
            false => Err(Error::Interrupted),
        }
    }
}

fn family(watched: u64) -> Family {
    Family {
        news: AtomicU64::new(7),
        watched: Cell::new(watched),
        holds: Cell::new(false),
        reminded: Cell::new(0),
        begun: Cell::new(0),
    }
}

fn naps(
    script: Script<'_>,
    family: Option<&Family>,
    run: impl FnOnce(&mut dyn FnMut() -> Result<Nap, Stop>),
) {
    let mut wait = Wait {
        me: Participant {
            slot: 8,
            generation: 1,
        },
        watch: family.map(|it| it as &dyn Watch),
        timeout_ns: None,
        is_gone: &mut |_| false,
        keep_going: &mut || true,
    };
    let mut naps = Naps::of(&wait, script);
    run(&mut || naps.nap(&mut wait, script, &AtomicU64::new(0), 0));
}

#[test]
fn slices_become_longer_where_everybody_is_watched() {
    let (watched, unwatched) = (family(7), family(6));
    let asked_ns = Cell::new(0);
    for (can_watch, family, then_ns) in [
        (true, Some(&watched), [2 * SLICE_NS, LONGEST_SLICE_NS]),
        (true, Some(&unwatched), [SLICE_NS; 2]),
        (true, None, [SLICE_NS; 2]),
        (false, Some(&watched), [SLICE_NS; 2]),
    ] {
        let script = Script::new(Slept::Elapsed, can_watch, &asked_ns);
        naps(script, family, |nap| {
            let mut asked = || {
                assert_eq!(nap(), Ok(Nap::Slice));
                asked_ns.get()
            };
            assert_eq!([asked(), asked()], [SLICE_NS, then_ns[0]]);
            assert_eq!((0..14).map(|_| asked()).last(), Some(then_ns[1]));
        });
    }
    // After slices 1, 2 and 4; after 8 and 16 that is not enough.
    assert_eq!((watched.reminded.get(), watched.begun.get()), (0, 0));
    assert_eq!((unwatched.reminded.get(), unwatched.begun.get()), (3, 2));
}

#[test]
fn where_news_are_not_heard_no_watch_is_begun() {
    let (family, asked_ns) = (family(6), Cell::new(0));
    let script = Script::new(Slept::Elapsed, false, &asked_ns);
    naps(script, Some(&family), |nap| {
        (0..2 * BEGINS_AFTER).for_each(|_| assert_eq!(nap(), Ok(Nap::Slice)));
    });
    assert_eq!((family.reminded.get(), family.begun.get()), (5, 0));
}

#[test]
fn who_waits_for_a_moment_begins_no_watch() {
    let (family, asked_ns) = (family(6), Cell::new(0));
    let script = Script::new(Slept::Elapsed, true, &asked_ns);
    // The clock of this system stands still, so that as much is left always.
    for (left_ns, begun) in [(BEGINS_BEFORE_NS - 1, 0), (BEGINS_BEFORE_NS, 1)] {
        let mut wait = Wait {
            me: Participant {
                slot: 8,
                generation: 1,
            },
            watch: Some(&family),
            timeout_ns: Some(left_ns),
            is_gone: &mut |_| false,
            keep_going: &mut || true,
        };
        let mut naps = Naps::of(&wait, script);
        for _ in 0..BEGINS_AFTER {
            let nap = naps.nap(&mut wait, script, &AtomicU64::new(0), 0);
            assert_eq!(nap, Ok(Nap::Slice));
        }
        assert_eq!(family.begun.get(), begun);
    }
}

#[test]
fn of_several_who_came_together_one_begins_first() {
    let asked_ns = Cell::new(0);
    let script = Script::new(Slept::Elapsed, true, &asked_ns);
    for slot in [0, 1, 7, 8, 9] {
        let family = family(6);
        let mut wait = Wait {
            me: Participant {
                slot,
                generation: 1,
            },
            watch: Some(&family),
            timeout_ns: None,
            is_gone: &mut |_| false,
            keep_going: &mut || true,
        };
        let mut naps = Naps::of(&wait, script);
        let mut slices = 0;
        while family.begun.get() == 0 {
            let nap = naps.nap(&mut wait, script, &AtomicU64::new(0), 0);
            assert_eq!(nap, Ok(Nap::Slice));
            slices += 1;
        }
        assert_eq!(slices as usize, 8 + slot % 8);
    }
}

#[test]
fn a_watch_that_takes_long_to_begin_keeps_nobody() {
    let (family, asked_ns) = (family(6), Cell::new(0));
    let script = Script::new(Slept::Elapsed, true, &asked_ns);
    let (word, refused_after) = (AtomicU64::new(0), Cell::new(u32::MAX));
    let run = |seen| {
        let mut asked = 0;
        let mut wait = Wait {
            me: Participant {
                slot: 8,
                generation: 1,
            },
            watch: Some(&family),
            timeout_ns: None,
            is_gone: &mut |_| false,
            keep_going: &mut || {
                asked += 1;
                asked <= refused_after.get()
            },
        };
        let mut naps = Naps::of(&wait, script);
        (0..BEGINS_AFTER)
            .map(|_| naps.nap(&mut wait, script, &word, seen))
            .last()
    };
    // The word is another by now: that is looked at, and the watch begun later.
    assert_eq!(run(1), Some(Ok(Nap::Slice)));
    // Asked after each slice, and then while it begins.
    refused_after.set(BEGINS_AFTER - 1);
    assert_eq!(run(0), Some(Err(Stop::Interrupted)));
    assert_eq!(family.begun.get(), 2);
}

#[test]
fn while_a_watch_holds_few_long_slices_end_with_a_look_after_the_dead() {
    let (family, asked_ns) = (family(7), Cell::new(0));
    let mut script = Script::new(Slept::Elapsed, true, &asked_ns);
    family.holds.set(true);
    let looks = |nap: &mut dyn FnMut() -> Result<Nap, Stop>| {
        (0..4 * RESTS).filter(|_| nap() == Ok(Nap::Slice)).count()
    };
    naps(script, Some(&family), |nap| {
        (0..4).for_each(|_| assert_eq!(nap(), Ok(Nap::Slice)));
        assert_eq!(looks(nap), 4);
        // Some have passed since the last one when somebody dies.
        (0..2).for_each(|_| assert_eq!(nap(), Ok(Nap::Rest)));
        family.news.store(8, Ordering::Relaxed);
        assert_eq!(nap(), Ok(Nap::Slice));
        assert_eq!(looks(nap), 16, "not everybody is watched yet");
        family.watched.set(8);
        assert_eq!(looks(nap), 4);
        // Who watched dies.
        family.holds.set(false);
        assert_eq!(looks(nap), 16);
    });
    // Nobody would have told.
    family.holds.set(true);
    script.can_watch = false;
    naps(script, Some(&family), |nap| assert_eq!(looks(nap), 16));
}

#[test]
fn after_news_slices_are_short_until_everybody_is_watched_again() {
    let (family, asked_ns) = (family(7), Cell::new(0));
    let script = Script::new(Slept::Elapsed, true, &asked_ns);
    naps(script, Some(&family), |nap| {
        let mut asked = || {
            assert_eq!(nap(), Ok(Nap::Slice));
            asked_ns.get()
        };
        assert_eq!((0..9).map(|_| asked()).last(), Some(LONGEST_SLICE_NS));
        family.news.store(8, Ordering::Relaxed);
        asked(); // does not sleep
        assert_eq!([asked(), asked(), asked()], [SLICE_NS; 3]);
        family.watched.set(8);
        assert_eq!(asked(), 8 * SLICE_NS);
    });
}

#[test]
fn only_time_that_passed_makes_slices_longer() {
    let (family, asked_ns) = (family(7), Cell::new(0));
    let script = Script::new(Slept::Signalled, true, &asked_ns);
    naps(script, Some(&family), |nap| {
        for _ in 0..9 {
            assert_eq!((nap(), asked_ns.get()), (Ok(Nap::Slice), SLICE_NS));
        }
    });
}

#[test]
fn news_are_looked_after_once_however_the_sleep_ended() {
    let (family, asked_ns) = (family(7), Cell::new(0));
    let script = Script::new(Slept::Woken, true, &asked_ns);
    naps(script, Some(&family), |nap| {
        assert_eq!(nap(), Ok(Nap::Look));
        family.news.store(8, Ordering::Relaxed);
        assert_eq!(nap(), Ok(Nap::Slice));
        assert_eq!(nap(), Ok(Nap::Look));
    });
}

#[test]
fn seldom_is_at_first_and_then_after_a_while() {
    let asked_ns = Cell::new(0);
    let script = Script::new(Slept::Woken, false, &asked_ns);
    let mut seldom = Seldom::default();
    assert!(seldom.is_due(script));
    assert!(!seldom.is_due(script));
}
