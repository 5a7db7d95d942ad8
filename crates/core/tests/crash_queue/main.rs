//! Death at every fault point of the queue, and at random ones: no item lost but those that
//! the dead had taken, none got twice, none torn; the others go on; nothing is left. With a
//! tracker, and with one that was killed beforehand. `docs/queue.md` is the page this holds to.
//!
//! Run with `cargo test -p shared-numpy-core --features fault --test crash_queue`; the
//! soak takes `SHARED_NUMPY_SOAK_S` seconds (2). With `--nocapture` it tells how long the
//! others took to go on.

mod among_others;
#[path = "../queue_common/mod.rs"]
mod queue_common;
mod roles;
mod soak;
#[path = "../tracker_common/mod.rs"]
mod tracker_common;

use std::collections::BTreeSet;
use std::time::Instant;

use queue_common::{in_use, on, queue};
use roles::{ITEMS, Peer, Progress, get_checked, put_checked};
use shared_numpy_core::fault::QUEUE_POINTS;
use shared_numpy_core::latest::Latest;
use shared_numpy_core::participation::{self, Handle, Hold};
use shared_numpy_core::queue::{Item, Message, Queue, QueueOptions};
use tracker_common::note;

/// Plays a role whose child is killed at a point; whether it was.
type Role = fn(&str) -> bool;

/// Not a test: where the tracker begins.
#[test]
fn members() {
    tracker_common::be_tracker();
}

/// Not a test: where children begin.
#[test]
fn child_of_a_test() {
    roles::run();
}

/// A queue whose ring is small, so that it grows, and whose payloads soon go by a block.
fn small_queue(maxsize: u64) -> Queue {
    queue(QueueOptions {
        maxsize,
        capacity_bytes: 4096,
        inline_max_bytes: 512,
    })
}

/// The survivor goes on with the queue, and nothing is left when it is done.
fn go_on(point: &str, queue: Queue, held: (Vec<Hold>, Option<Hold>)) {
    let batch = match queue.maxsize() {
        0 => 50,
        maxsize => maxsize.min(50),
    };
    for first in (0..50).step_by(batch as usize) {
        for n in first..first + batch {
            let begin = Instant::now();
            put_checked(&queue, 9, n);
            note("who puts next", point, begin.elapsed());
        }
        for n in first..first + batch {
            let begin = Instant::now();
            assert_eq!(get_checked(&queue), (9, n));
            note("who gets next", point, begin.elapsed());
        }
    }
    assert_eq!(queue.size(), Ok(0));
    drop(held);
    drop(queue);
    // Looks for the dead and at what they left in the queue.
    assert_eq!(in_use(), 0);
    assert_eq!(participation::stats().unwrap().in_flight, 0);
}

/// A child puts and dies: what it has put is there, whole and in order, and no more than
/// the one item that it was at.
fn die_as_producer(point: &str) -> bool {
    let queue = small_queue(0);
    let progress = Progress::new();
    let (was_killed, hello) = Peer::start("producer", point, &queue, &progress).end();
    let done = progress.puts();
    let size = queue.size().unwrap();
    // `done` is written after put returns.
    assert!(
        size == done || size == done + 1,
        "{size} items, {done} puts"
    );
    assert!(was_killed || done == ITEMS);
    for n in 0..size {
        assert_eq!(get_checked(&queue), (1, n));
    }
    go_on(point, queue, (progress.into_holds(), hello));
    was_killed
}

/// A child gets and dies: the others are still there.
fn die_as_consumer(point: &str) -> bool {
    let queue = small_queue(0);
    let progress = Progress::new();
    for n in 0..ITEMS {
        put_checked(&queue, 1, n);
    }
    let (was_killed, hello) = Peer::start("consumer", point, &queue, &progress).end();
    let done = progress.gets();
    let size = queue.size().unwrap();
    let taken = ITEMS - size;
    assert!(
        taken == done || taken == done + 1,
        "{taken} taken, {done} got"
    );
    for n in taken..ITEMS {
        assert_eq!(get_checked(&queue), (1, n));
    }
    go_on(point, queue, (progress.into_holds(), hello));
    was_killed
}

/// A child puts and gets by itself, in a queue with places, and dies; what is left is a
/// stretch without gaps.
fn die_as_both(point: &str) -> bool {
    let queue = small_queue(64);
    let progress = Progress::new();
    let (was_killed, hello) = Peer::start("both", point, &queue, &progress).end();
    let (puts, gets) = (progress.puts(), progress.gets());
    let size = queue.size().unwrap();
    let mut next = None;
    for _ in 0..size {
        let (who, n) = get_checked(&queue);
        assert_eq!(who, 1);
        assert!(next.is_none_or(|next| n == next), "{n} after {next:?}");
        assert!((gets..=gets + 1).contains(&n) || next.is_some());
        next = Some(n + 1);
    }
    assert!(next.is_none_or(|next| (puts..=puts + 1).contains(&next)));
    go_on(point, queue, (progress.into_holds(), hello));
    was_killed
}

/// The child made the queue, and dies; who has it goes on with it.
fn die_as_creator(point: &str) -> bool {
    let ours = small_queue(0);
    let progress = Progress::new();
    let mut child = Peer::start("creator", point, &ours, &progress);
    let mut message = Message::default();
    let received = ours
        .get(&mut message, Some(roles::LONG_NS), &mut on)
        .is_ok();
    let theirs = received.then(|| {
        let handle = Handle::from_bytes(message.bytes()).unwrap();
        Queue::open(participation::receive(&handle, &mut on).unwrap()).unwrap()
    });
    child.say();
    let (was_killed, hello) = child.end();
    if let Some(queue) = theirs {
        let size = queue.size().unwrap();
        let first = ITEMS - size;
        assert!(first == progress.gets() || first == progress.gets() + 1);
        for n in first..ITEMS {
            assert_eq!(get_checked(&queue), (1, n));
        }
        for n in 0..100 {
            put_checked(&queue, 9, n);
        }
        for n in 0..100 {
            assert_eq!(get_checked(&queue), (9, n));
        }
    }
    drop(message);
    go_on(point, ours, (progress.into_holds(), hello));
    was_killed
}

/// The child writes frames and dies; the newest is whole, and another takes its place.
fn die_as_writer(point: &str) -> bool {
    let queue = small_queue(0);
    let channel = Latest::create(&mut on).unwrap();
    let (handle, sent) = channel.send(&mut on).unwrap();
    let item = Item {
        parts: &[&handle.to_bytes()],
        holds: &[],
    };
    queue.put(item, None, &mut on).unwrap();
    let progress = Progress::new();
    let (was_killed, hello) = Peer::start("writer", point, &queue, &progress).end();
    let done = progress.puts();
    let newest = channel.read(&mut on).unwrap();
    let number = newest.as_ref().map_or(0, |newest| newest.number);
    assert!(
        number == done || number == done + 1,
        "{number} after {done}"
    );
    if let Some(newest) = &newest {
        roles::check_frame(newest);
    }
    channel.become_writer().unwrap();
    for next in number + 1..number + 10 {
        roles::publish(&channel, next);
        let read = channel.read(&mut on).unwrap().unwrap();
        assert_eq!(read.number, next);
        roles::check_frame(&read);
    }
    sent.withdraw();
    drop((newest, channel));
    while queue.size().unwrap() > 0 {
        // The handle, if the child died before it had it.
        queue.get(&mut Message::default(), None, &mut on).unwrap();
    }
    go_on(point, queue, (progress.into_holds(), hello));
    was_killed
}

#[test]
fn death_at_every_point_loses_and_leaves_nothing() {
    let test = "death_at_every_point_loses_and_leaves_nothing";
    tracker_common::with_a_tracker_and_without(test, death_at_every_point);
}

fn death_at_every_point() {
    // First: after it nothing else configures this process.
    let hold = queue_common::fill(1, 0);
    tracker_common::configure();
    tracker_common::begin(&hold);
    drop(hold);
    let mut reached = BTreeSet::new();
    for &point in QUEUE_POINTS {
        let roles: [(&str, Role); 8] = [
            ("", die_as_producer),
            ("", die_as_consumer),
            ("", die_as_both),
            ("", die_as_creator),
            ("", die_as_writer),
            ("put grow retire", among_others::die_as_producer),
            ("get retire", among_others::die_as_consumer),
            ("latest", among_others::die_as_writer),
        ];
        // The first time is where a child says hello, later ones are in the middle of things.
        for fault in [
            point.to_owned(),
            format!("{point}:3"),
            format!("{point}:40"),
        ] {
            let kind = point.split('.').next().unwrap();
            let is_meant = |kinds: &str| kinds.is_empty() || kinds.contains(kind);
            let roles = roles.iter().filter(|(kinds, _)| is_meant(kinds));
            let runs: Vec<bool> = roles.map(|(_, die)| die(&fault)).collect();
            if runs.contains(&true) {
                reached.insert(point);
            }
        }
    }
    let all: BTreeSet<_> = QUEUE_POINTS.iter().copied().collect();
    assert_eq!(
        reached, all,
        "a fault point that no child dies at proves nothing"
    );
    soak::run();
    who_is_left_alone_is_told();
}

/// `PeerDied`, and when it is not.
fn who_is_left_alone_is_told() {
    use shared_numpy_core::error::Error;
    use shared_numpy_core::lock::wait::Stop;
    // It died: `get` raises when everything was got.
    let queue = small_queue(0);
    let progress = Progress::new();
    let (was_killed, hello) = Peer::start("producer", "put.released:6", &queue, &progress).end();
    assert!(was_killed);
    for n in 0..5 {
        assert_eq!(get_checked(&queue), (1, n));
    }
    let mut message = Message::default();
    let alone = queue.get(&mut message, Some(roles::LONG_NS), &mut on);
    assert_eq!(alone, Err(Stop::Failed(Error::PeerDied)));
    // A handle on its way is somebody who may come.
    let (_, sent) = queue.send(&mut on).unwrap();
    let waited = queue.get(&mut message, Some(1_000_000_000), &mut on);
    assert_eq!(waited, Err(Stop::TimedOut));
    sent.withdraw();
    go_on("", queue, (progress.into_holds(), hello));
    // It closed: nobody died, and who waits waits.
    let queue = small_queue(0);
    let progress = Progress::new();
    let (was_killed, hello) = Peer::start("producer", "", &queue, &progress).end();
    assert!(!was_killed);
    for n in 0..ITEMS {
        assert_eq!(get_checked(&queue), (1, n));
    }
    let waited = queue.get(&mut message, Some(1_000_000_000), &mut on);
    assert_eq!(waited, Err(Stop::TimedOut));
    go_on("", queue, (progress.into_holds(), hello));
    // It died with the queue full: `put` raises.
    let queue = small_queue(2);
    let progress = Progress::new();
    let (was_killed, hello) = Peer::start("producer", "put.released:3", &queue, &progress).end();
    assert!(was_killed);
    let item = Item {
        parts: &[b"more"],
        holds: &[],
    };
    let alone = queue.put(item, Some(roles::LONG_NS), &mut on);
    assert_eq!(alone, Err(Stop::Failed(Error::PeerDied)));
    for n in 0..2 {
        assert_eq!(get_checked(&queue), (1, n));
    }
    drop(message);
    drop(queue);
    drop((progress.into_holds(), hello));
    assert_eq!(in_use(), 0);
}
