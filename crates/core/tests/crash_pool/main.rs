//! Death at every fault point, and at random ones: nothing freed early, nothing
//! leaked, survivors go on. `docs/crash_safety.md` is the page this holds to.
//!
//! Run with `cargo test -p shared-numpy-core --features fault --test crash_pool`; the
//! soak takes `SHARED_NUMPY_SOAK_S` seconds (2).

mod harness;
mod participant;
mod roles;
mod soak;
mod tracked;

use std::collections::BTreeSet;
use std::sync::Arc;

use harness::{Peer, Survivor, is_filled};
use roles::{DEAD, OFFER};
use shared_numpy_core::fault::POINTS;
use shared_numpy_core::inspect;
use shared_numpy_core::pool::holder::Holder;
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::sys::anon;

/// Not a test: where children begin.
#[test]
fn child_of_a_test() {
    roles::run();
}

/// A child works in a segment of the survivor.
fn die_in_a_segment_of_the_survivor(role: &str, point: &str) -> bool {
    let mut survivor = Survivor::new();
    let kept = survivor.allocate(1);
    let sent = survivor.allocate(2);
    let holder = survivor.pool.holder(0).unwrap();
    let segment = Arc::clone(holder.segment());
    let token = holder.make_token(sent.block, 0).unwrap();
    survivor.pool.lend(0).unwrap();
    // Not held by the survivor: only the token, then the child, keeps it.
    survivor.pool.release(sent.segment, sent.block).unwrap();
    let gone = survivor.family.join().unwrap();
    let offer = [
        sent.block as u64,
        sent.generation,
        token.index as u64,
        token.generation,
    ];
    let dead = [gone.slot as u64, gone.generation];
    let segment_fd = survivor.pool.segment_fd(0).unwrap();
    let handle = participant::handle(&survivor, &segment_fd, sent, token);
    let words = [
        (OFFER, harness::join(&offer)),
        (DEAD, harness::join(&dead)),
        (participant::HANDLE, harness::join(&handle)),
    ];
    let mut child = Peer::start(role, Some(point), &survivor.family_fd, &segment_fd, &words);
    let was_killed = child.ended_by_kill();

    survivor.family.declare_dead(gone).unwrap();
    // While the dead count, what they hold is not freed.
    survivor.pool.collect().unwrap();
    assert!(survivor.is_intact(kept, 1) && survivor.is_intact(sent, 2));
    assert!(inspect::verify(&segment).unwrap().is_empty());
    survivor.recover(&[Arc::clone(&segment)]);
    survivor.pool.collect().unwrap();
    survivor.verify(&segment);

    // The survivor goes on, in all memory there is, and its own is left alone.
    let mut more: Vec<_> = (0..500).map(|_| survivor.allocate(9)).collect();
    assert!(survivor.is_intact(kept, 1));
    if !segment.tokens_in_flight().unwrap().is_empty() {
        assert!(survivor.is_intact(sent, 2), "freed though a token holds it");
    }
    more.push(kept);
    for name in more {
        survivor.pool.release(name.segment, name.block).unwrap();
    }
    segment.expire_tokens(|_| true).unwrap();
    survivor.pool.collect().unwrap();
    survivor.verify(&segment);
    assert_eq!(survivor.pool.stats().in_use_bytes, 0);
    was_killed
}

/// A child owns the segment; the survivor holds a block of it.
fn die_as_owner(point: &str) -> bool {
    let survivor = Survivor::new();
    let segment_fd = anon::create(0).unwrap();
    let mut child = Peer::start("owner", Some(point), &survivor.family_fd, &segment_fd, &[]);
    let mut held = None;
    if let Some(words) = child.hear() {
        let mut holder = harness::attach(&survivor.family, &segment_fd, survivor.me);
        let info = holder.take(words[0] as usize, words[1]).unwrap();
        held = Some((holder, info));
        child.say(&[]);
    }
    let was_killed = child.ended_by_kill();
    let segment = match &held {
        Some((holder, _)) => Arc::clone(holder.segment()),
        None => match PoolSegment::attach(&segment_fd, Arc::clone(&survivor.family)) {
            Ok(segment) => Arc::new(segment),
            // It never became a segment: it goes with its descriptor.
            Err(_) => {
                survivor.recover(&[]);
                return was_killed;
            }
        },
    };
    assert!(inspect::verify(&segment).unwrap().is_empty());
    survivor.recover(&[Arc::clone(&segment)]);
    let mut closer = survivor.inherit(&segment);
    if let Some((mut holder, info)) = held {
        let is_intact = is_filled(&segment, info.offset_bytes, info.size_bytes, 7);
        assert!(is_intact && !closer.close(info.block).unwrap());
        assert_eq!(holder.held_blocks(), 1);
        holder.release(info.block).unwrap();
    }
    segment.expire_tokens(|_| true).unwrap();
    closer.collect(&mut Vec::new()).unwrap();
    survivor.verify(&segment);
    assert_eq!(closer.blocks_left().unwrap(), 0);
    was_killed
}

/// A child takes over from a dead owner, and dies over it.
fn die_as_heir(point: &str) -> bool {
    let survivor = Survivor::new();
    let owner = survivor.family.join().unwrap();
    let mut pool = shared_numpy_core::pool::owner::Pool::new(
        Arc::clone(&survivor.family),
        owner,
        harness::options(),
    );
    let names: Vec<_> = (0..3)
        .map(|_| pool.allocate(1000, &mut || true).unwrap())
        .collect();
    let segment_fd = pool.segment_fd(0).unwrap();
    let mut holder: Holder = harness::attach(&survivor.family, &segment_fd, survivor.me);
    let info = holder.take(names[1].block, names[1].generation).unwrap();
    harness::fill(holder.segment(), info.offset_bytes, info.size_bytes, 3);
    survivor.family.declare_dead(owner).unwrap();
    let mut child = Peer::start("heir", Some(point), &survivor.family_fd, &segment_fd, &[]);
    let was_killed = child.ended_by_kill();
    let segment = Arc::clone(holder.segment());
    survivor.recover(&[Arc::clone(&segment)]);
    let mut closer = survivor.inherit(&segment);
    assert_eq!(closer.blocks_left().unwrap(), 1);
    let is_intact = is_filled(&segment, info.offset_bytes, info.size_bytes, 3);
    assert!(is_intact, "given back though held");
    holder.release(names[1].block).unwrap();
    closer.collect(&mut Vec::new()).unwrap();
    assert_eq!(closer.blocks_left().unwrap(), 0);
    survivor.verify(&segment);
    was_killed
}

/// A child closes in the place of the survivor, which sleeps and then goes on.
fn die_as_borrower(point: &str) -> bool {
    let mut survivor = Survivor::new();
    let large = |survivor: &mut Survivor, seed| {
        let name = survivor.pool.allocate(64 << 10, &mut || true).unwrap();
        let segment = survivor.pool.segment(0).unwrap();
        harness::fill(segment, name.offset_bytes, name.size_bytes, seed);
        name
    };
    let kept = large(&mut survivor, 1);
    let held = large(&mut survivor, 2);
    let dropped: Vec<_> = (0..4).map(|seed| large(&mut survivor, seed)).collect();
    let small = survivor.allocate(4);
    let segment_fd = survivor.pool.segment_fd(0).unwrap();
    let other = survivor.family.join().unwrap();
    let mut holder = harness::attach(&survivor.family, &segment_fd, other);
    let segment = Arc::clone(holder.segment());
    for name in dropped.iter().chain([&held, &small]) {
        holder.take(name.block, name.generation).unwrap();
        survivor.pool.release(name.segment, name.block).unwrap();
    }
    for name in dropped.iter().chain([&small]) {
        holder.release(name.block).unwrap();
    }
    survivor.pool.lend(0).unwrap();
    let before = survivor.pool.stats();
    let role = "borrower";
    let mut child = Peer::start(role, Some(point), &survivor.family_fd, &segment_fd, &[]);
    let was_killed = child.ended_by_kill();
    // The survivor sleeps no more. What it may not look at now it finds later.
    assert_eq!(survivor.pool.collect(), Ok(()));
    survivor.family.declare_dead(other).unwrap();
    assert!(survivor.is_intact(kept, 1) && survivor.is_intact(held, 2));
    let again = survivor.family.join().unwrap();
    let mut later = harness::attach(&survivor.family, &segment_fd, again);
    assert_eq!(later.held_blocks(), 0);
    survivor.bury(Some(child.pid()));
    recover_all_but(&survivor, &segment);
    survivor.pool.collect().unwrap();
    // Only what was kept is left; and what has no pages is not counted.
    let stats = survivor.pool.stats();
    assert_eq!(stats.in_use_bytes, kept.size_bytes as u64);
    assert_eq!(
        stats.recycled_bytes + stats.punched_bytes,
        before.in_use_bytes - stats.in_use_bytes
    );
    assert_eq!(
        before.committed_bytes - stats.committed_bytes,
        stats.punched_bytes
    );
    // And it is used again, with new numbers.
    for seed in 10..16 {
        let name = large(&mut survivor, seed);
        assert!(survivor.is_intact(name, seed));
        later.take(name.block, name.generation).unwrap();
    }
    assert_eq!(survivor.pool.stats().punched_bytes, 0);
    assert!(survivor.is_intact(kept, 1));
    survivor.family.declare_dead(again).unwrap();
    survivor.recover(&[Arc::clone(&segment)]);
    survivor.pool.collect().unwrap();
    survivor.verify(&segment);
    was_killed
}

/// Recovers the dead, of whom others than those in use now may be.
fn recover_all_but(survivor: &Survivor, segment: &Arc<PoolSegment>) {
    let segments = [Arc::clone(segment)];
    shared_numpy_core::recover::recover_all(&survivor.family, survivor.me, &segments).unwrap();
}

/// Points that a tracker passes.
const OF_TRACKERS: &[&str] = &[
    "bury.", "close.", "collect.", "dead.", "expire.", "join.", "orphan.", "recover.", "trim.",
];
/// And those of who tells it something.
const OF_TRACKED: &[&str] = &["register."];
/// Of whom it is told that their memory was dropped.
const OF_DROPPERS: &[&str] = &["surplus."];

#[test]
fn death_at_every_point_leaves_nothing_and_takes_nothing() {
    let mut reached = BTreeSet::new();
    for &point in POINTS {
        // The third time is in the middle of things where the first is at the start.
        for fault in [point.to_owned(), format!("{point}:3")] {
            let mut runs = Vec::new();
            for role in ["member", "participant", "recoverer"] {
                runs.push(die_in_a_segment_of_the_survivor(role, &fault));
            }
            runs.push(die_as_owner(&fault));
            runs.push(die_as_heir(&fault));
            runs.push(die_as_borrower(&fault));
            let begins = |prefix: &&str| point.starts_with(prefix);
            for (prefixes, is_tracker) in [(OF_TRACKERS, true), (OF_TRACKED, false)] {
                if prefixes.iter().any(begins) {
                    runs.push(tracked::die_with_a_tracker(&fault, is_tracker));
                }
            }
            if OF_DROPPERS.iter().any(begins) {
                runs.push(tracked::die_dropping(&fault, false));
                runs.push(tracked::die_dropping(&fault, true));
            }
            if runs.contains(&true) {
                reached.insert(point);
            }
        }
    }
    let all: BTreeSet<_> = POINTS.iter().copied().collect();
    assert_eq!(
        reached, all,
        "a fault point that no child dies at proves nothing"
    );
}
