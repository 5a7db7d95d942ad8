//! Taking, dropping, tokens: who holds what, and who may not.

use std::sync::{Arc, Mutex};

use shared_numpy_core::error::Error;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::segment::PoolSegment;

use crate::world::{World, is_stale};

#[test]
fn what_another_holds_is_not_freed() {
    let mut world = World::new();
    let name = world.allocate(100);
    let (_who, mut other) = world.attach(0);
    other.take(name.block, name.generation).unwrap();
    other.retain(name.block).unwrap();
    world.release(name);
    assert_ne!(world.in_use(), 0);
    assert!(!other.release(name.block).unwrap());
    assert_ne!(world.in_use(), 0);
    assert!(other.release(name.block).unwrap());
    assert_eq!(world.in_use(), 0);
    assert!(is_stale(other.take(name.block, name.generation)));
}

#[test]
fn who_was_declared_dead_takes_nothing() {
    let mut world = World::new();
    let name = world.allocate(100);
    let (who, mut other) = world.attach(0);
    world.family.declare_dead(who).unwrap();
    let refused = other.take(name.block, name.generation);
    assert!(matches!(refused.unwrap_err(), Error::NotAllowed(_)));
    world.family.declare_dead(world.me).unwrap();
    assert!(world.pool.allocate(1, &mut || true).is_err());
}

#[test]
fn a_row_is_registered_once() {
    let mut world = World::new();
    world.allocate(100);
    let segment = world.pool.segment(0).unwrap();
    let again = segment.register_row(world.me, None);
    assert!(matches!(again.unwrap_err(), Error::NotAllowed(_)));
}

#[test]
fn threads_share_one_bit() {
    let mut world = World::new();
    let name = world.allocate(100);
    let (_who, other) = world.attach(0);
    let other = Mutex::new(other);
    let stale = name.generation.wrapping_sub(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let lock = || other.lock().unwrap();
                    lock().take(name.block, name.generation).unwrap();
                    assert!(is_stale(lock().take(name.block, stale)));
                    lock().release(name.block).unwrap();
                }
            });
        }
        for _ in 0..200 {
            assert_ne!(world.in_use(), 0);
        }
    });
    assert_eq!(other.lock().unwrap().held_blocks(), 0);
    world.release(name);
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_token_holds_until_it_is_claimed_once() {
    let mut world = World::new();
    let name = world.allocate(100);
    let mine = world.pool.holder(0).unwrap();
    let token = mine.make_token(name.block, 0).unwrap();
    let twin = mine.make_token(name.block, 0).unwrap();
    world.release(name);
    assert_ne!(world.in_use(), 0);
    let (_who, mut other) = world.attach(0);
    other.claim(token, name.block, name.generation).unwrap();
    // The second unpickling of the same bytes is a take.
    other.claim(token, name.block, name.generation).unwrap();
    other.release(name.block).unwrap();
    other.release(name.block).unwrap();
    assert_ne!(world.in_use(), 0, "the twin still holds");
    other.claim(twin, name.block, name.generation).unwrap();
    other.release(name.block).unwrap();
    assert_eq!(world.in_use(), 0);
    assert!(is_stale(other.claim(twin, name.block, name.generation)));
    assert_eq!(other.segment().tokens_in_flight().unwrap(), []);
}

#[test]
fn tokens_expire() {
    let mut world = World::new();
    let name = world.allocate(100);
    let mine = world.pool.holder(0).unwrap();
    mine.make_token(name.block, 7).unwrap();
    let segment = Arc::clone(mine.segment());
    world.release(name);
    assert_eq!(segment.expire_tokens(|token| token.made_s > 7).unwrap(), 0);
    assert_ne!(world.in_use(), 0);
    assert_eq!(segment.expire_tokens(|token| token.made_s == 7).unwrap(), 1);
    assert_eq!(world.in_use(), 0);
}

#[test]
fn another_familys_segment_is_refused() {
    let mut world = World::new();
    world.allocate(1);
    let fd = world.pool.segment_fd(0).unwrap();
    let (stranger, family_fd) = Family::create().unwrap();
    let refused = PoolSegment::attach(&fd, Arc::new(stranger));
    assert!(matches!(refused.unwrap_err(), Error::WrongSegment(_)));
    assert!(matches!(
        Family::attach(&fd).unwrap_err(),
        Error::WrongSegment(_)
    ));
    assert!(Family::attach(&family_fd).is_ok());
}
