//! A family with a tracker, which is this very test binary too: it dies, or an owner does.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use shared_numpy_core::members::client::Connection;
use shared_numpy_core::members::protocol::{
    Answer, Fetched, Hello, MESSAGE_MAX_BYTES, Message, SegmentId, VERSION,
};
use shared_numpy_core::members::server;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::idle::TELL_EVERY_BYTES;
use shared_numpy_core::pool::owner::{Pool, PoolOptions};
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::pool::tokens::IN_FLIGHT_VARIABLE;
use shared_numpy_core::sys::socket::{self, Received};
use shared_numpy_core::sys::{anon, fd, shm};

use crate::harness::{
    self, PATIENCE, Peer, SEGMENT_FD, Survivor, fill, inherited, is_filled, listen, options, tell,
};

const COOKIE: [u8; 16] = [5; 16];
/// Whole pages, so that giving one back shows.
const BLOCK_BYTES: u64 = 64 << 10;

/// In a child: the tracker.
pub(crate) fn be_tracker() {
    let number = std::env::var(SEGMENT_FD).unwrap().parse().unwrap();
    assert_eq!(server::run_on(fd::take_number(number).unwrap()), 0);
}

/// In a child: an owner that tells the tracker.
pub(crate) fn be_bearer(family: &Arc<Family>) {
    let me = family.join().unwrap();
    let mut file = Some(inherited(SEGMENT_FD));
    let mut pool = Pool::new(
        Arc::clone(family),
        me,
        PoolOptions {
            source: Box::new(move |size| {
                let file = file.take().expect("one segment is enough");
                shm::set_len(&file, size).unwrap();
                Ok(file)
            }),
            ..options()
        },
    );
    let names: Vec<_> = (0..5)
        .map(|_| pool.allocate(BLOCK_BYTES, &mut || true).unwrap())
        .collect();
    let holder = pool.holder(0).unwrap();
    for name in &names {
        fill(holder.segment(), name.offset_bytes, name.size_bytes, 7);
        holder.make_token(name.block, 0).unwrap();
    }
    // Without a tracker, if that has died already.
    if let Some((connection, _)) = Connection::connect(family.id(), COOKIE, &mut || true).unwrap() {
        let fd = pool.segment_fd(0).unwrap();
        for number in [0, 0, 0] {
            let told = connection.register(me, number, fd.as_fd(), &mut || true);
            assert!(told.is_ok());
        }
    }
    let shared = names[1];
    tell(&[
        shared.block as u64,
        shared.generation,
        me.slot as u64,
        me.generation,
    ]);
    // To the end: killed by the parent.
    listen();
}

/// In a child: drops what is the parent's, and tells the tracker.
pub(crate) fn be_dropper(family: &Arc<Family>) {
    let me = family.join().unwrap();
    let owner = PoolSegment::attach(inherited(SEGMENT_FD), Arc::clone(family))
        .unwrap()
        .owner();
    let connected = Connection::connect(family.id(), COOKIE, &mut || true).unwrap();
    for _ in 0..3 {
        assert!(family.has_dropped(owner, TELL_EVERY_BYTES).unwrap());
        // Without a tracker, if that has died already.
        if let Some((connection, _)) = &connected {
            connection.dropped(owner);
        }
    }
    family.declare_dead(me).unwrap();
}

/// Much of the survivor's memory is dropped by a child, of which the tracker is told; one of
/// both dies at `point`. Whether it did.
pub(crate) fn die_dropping(point: &str, is_tracker: bool) -> bool {
    let mut survivor = Survivor::new();
    let kept = survivor.allocate(1);
    let segment_fd = survivor.pool.segment_fd(0).unwrap();
    let (ours, theirs) = first_connection(&survivor);
    let (of_tracker, of_dropper) = match is_tracker {
        true => (Some(point), None),
        false => (None, Some(point)),
    };
    let mut tracker = Peer::start("tracker", of_tracker, &survivor.family_fd, &theirs, &[]);
    drop(theirs);
    let mut buffer = [0; MESSAGE_MAX_BYTES];
    await_tracker(&mut tracker, || {
        matches!(
            socket::receive(&ours, &mut buffer),
            Ok(Received::Message(..))
        )
    });
    let mut dropper = Peer::start("dropper", of_dropper, &survivor.family_fd, &segment_fd, &[]);
    let mut was_killed = dropper.ended_by_kill();
    if is_tracker {
        // Told three times, it marks the survivor once; or dies over it.
        let dies = point == "surplus.marked";
        await_tracker(&mut tracker, || {
            let seen = survivor.family.dropped_while_idle(survivor.me);
            !dies && seen.unwrap().is_some()
        });
        was_killed |= tracker.has_ended();
    }
    // It may not have come to its mark yet, and is not to come to it from here on.
    tracker.kill();
    tracker.ended_by_kill();
    // The survivor goes on, whatever it finds in its slot.
    let more = survivor.allocate(2);
    assert_eq!(survivor.family.dropped_while_idle(survivor.me), Ok(None));
    assert!(survivor.is_intact(kept, 1) && survivor.is_intact(more, 2));
    survivor.recover(&[]);
    was_killed
}

/// The tracker's end of a connection; ours has the HELLO in it.
fn first_connection(survivor: &Survivor) -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = socket::pair().unwrap();
    let hello = Message::Hello(Hello {
        serve: true,
        version: VERSION,
        family: survivor.family.id(),
        cookie: COOKIE,
    });
    let family_fd = Some(survivor.family_fd.as_fd());
    socket::send(ours.as_fd(), hello.encode().as_bytes(), family_fd).unwrap();
    (ours, theirs)
}

/// Waits until `is_done`, or the tracker has died.
fn await_tracker(tracker: &mut Peer, mut is_done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_done() && !tracker.has_ended() {
        assert!(begin.elapsed() < PATIENCE, "the tracker does nothing");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// An owner dies, and so does, at `point`, the tracker that frees in its place, or the owner
/// earlier than it would. Whether somebody died at the point.
pub(crate) fn die_with_a_tracker(point: &str, is_tracker: bool) -> bool {
    let survivor = Survivor::new();
    let segment_fd = anon::create(0).unwrap();
    let (ours, theirs) = first_connection(&survivor);
    let (of_tracker, of_bearer) = match is_tracker {
        true => (Some(point), None),
        false => (None, Some(point)),
    };
    let words = [(IN_FLIGHT_VARIABLE, "0".to_owned())];
    let mut tracker = Peer::start("tracker", of_tracker, &survivor.family_fd, &theirs, &words);
    drop(theirs);
    let mut buffer = [0; MESSAGE_MAX_BYTES];
    await_tracker(&mut tracker, || {
        matches!(
            socket::receive(&ours, &mut buffer),
            Ok(Received::Message(..))
        )
    });
    let mut bearer = Peer::start("bearer", of_bearer, &survivor.family_fd, &segment_fd, &[]);
    let heard = bearer.hear();
    let is_bearer_dead = heard.is_none();
    let mut held = None;
    if let Some(words) = heard {
        let mut holder = harness::attach(&survivor.family, &segment_fd, survivor.me);
        let info = holder.take(words[0] as usize, words[1]).unwrap();
        let owner = holder.segment().owner();
        bearer.kill();
        // Four of five are given back; the tokens of the dead expire at once.
        await_tracker(&mut tracker, || {
            let before = holder.segment().layout().data as u64;
            shm::status(&segment_fd).unwrap().committed_bytes < before + 2 * BLOCK_BYTES
        });
        let segment = holder.segment();
        assert!(is_filled(segment, info.offset_bytes, info.size_bytes, 7));
        held = Some((holder, info, owner));
    }
    assert!(bearer.ended_by_kill());
    if let Some((holder, info, owner)) = &mut held {
        holder.release(info.block).unwrap();
        let id = SegmentId {
            owner: *owner,
            number: 0,
        };
        let fetch = Message::Fetch(1, id).encode();
        await_tracker(&mut tracker, || {
            // A dead one does not answer.
            let _ = socket::send(ours.as_fd(), fetch.as_bytes(), None);
            match socket::receive(&ours, &mut buffer) {
                Ok(Received::Message(len, _)) => Fetched::decode(&buffer[..len])
                    .is_ok_and(|fetched| fetched.answer == Answer::Unknown),
                _ => false,
            }
        });
    }
    let was_killed = is_bearer_dead || tracker.has_ended();
    tracker.kill();
    tracker.ended_by_kill();
    let segment = match PoolSegment::attach(&segment_fd, Arc::clone(&survivor.family)) {
        Ok(segment) => Arc::new(segment),
        // It never became a segment.
        Err(_) => {
            survivor.recover(&[]);
            return was_killed;
        }
    };
    // What the tracker had begun is done again.
    survivor.recover(&[Arc::clone(&segment)]);
    let mut closer = survivor.inherit(&segment);
    segment.expire_tokens(|_| true).unwrap();
    closer.collect(&mut Vec::new()).unwrap();
    survivor.verify(&segment);
    assert_eq!(closer.blocks_left().unwrap(), 0);
    was_killed
}
