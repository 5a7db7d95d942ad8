//! A child holds what its parent held; what is inherited is told apart.

use shared_numpy_core::error::Error;
use shared_numpy_core::pool::holder::Holder;

use crate::world::{World, is_stale};

/// The child of the process that has `holder`; the parent is dead.
fn fork(world: &World, holder: &mut Holder, parent: shared_numpy_core::layout::Participant) {
    let child = world.family.reserve_for_child(parent).unwrap();
    holder.segment().copy_row(parent, child, None).unwrap();
    world.family.adopt(child, parent).unwrap();
    world.family.declare_dead(parent).unwrap();
    holder.become_child(Some(child));
}

/// All words of a row.
fn row(holder: &Holder, slot: usize) -> Vec<u64> {
    let (mapping, layout) = (holder.segment().mapping(), holder.segment().layout());
    let words = 0..layout.row_words;
    words
        .map(|word| mapping.load_u64(layout.row_word(slot, word)).unwrap())
        .collect()
}

#[test]
fn a_forked_child_holds_what_its_parent_held() {
    let mut world = World::new();
    let name = world.allocate(100);
    let dropped = world.allocate(100);
    let (parent, mut holder) = world.attach(0);
    holder.take(name.block, name.generation).unwrap();
    holder.take(dropped.block, dropped.generation).unwrap();
    world.release(name);
    world.release(dropped);
    let child = world.family.reserve_for_child(parent).unwrap();
    holder.segment().copy_row(parent, child, None).unwrap();
    world.family.declare_dead(parent).unwrap();
    assert_eq!(
        world.in_use(),
        2 * 128,
        "reserved counts, whatever becomes of the parent"
    );
    world.family.adopt(child, parent).unwrap();
    holder.become_child(Some(child));
    assert!(holder.release(dropped.block).unwrap());
    assert_eq!(world.in_use(), 128);
    world.family.declare_dead(child).unwrap();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn the_owners_child_holds_what_the_owner_held() {
    let mut world = World::new();
    let name = world.allocate(100);
    let child = world.family.reserve_for_child(world.me).unwrap();
    world.pool.copy_rows(child).unwrap();
    world.release(name);
    assert_ne!(world.in_use(), 0);
    // The fork failed.
    world.family.declare_dead(child).unwrap();
    assert_eq!(world.in_use(), 0);
}

#[test]
fn a_parent_that_could_not_count_its_child_keeps_all() {
    let mut world = World::new();
    let name = world.allocate(100);
    world.pool.holder(0).unwrap().pin();
    world.release(name);
    assert_ne!(world.in_use(), 0);
    let (_who, mut other) = world.attach(0);
    assert!(other.take(name.block, name.generation).is_ok());
}

#[test]
fn what_is_inherited_is_told_apart_from_what_was_taken_since() {
    let mut world = World::new();
    let names: Vec<_> = (0..4).map(|_| world.allocate(100)).collect();
    let (parent, mut holder) = world.attach(0);
    for name in &names[..3] {
        holder.take(name.block, name.generation).unwrap();
    }
    holder.retain(names[1].block).unwrap();
    assert_eq!(holder.inherited().unwrap(), (0, 0));
    fork(&world, &mut holder, parent);
    names
        .iter()
        .for_each(|&name| world.pool.release(name.segment, name.block).unwrap());
    assert!(is_stale(holder.take(names[3].block, names[3].generation)));
    let [twice, retained, once] = [names[0], names[1], names[2]];
    assert_eq!(holder.inherited().unwrap(), (3, 3 * 128));
    let since_fork = world.allocate(100);
    holder
        .take(since_fork.block, since_fork.generation)
        .unwrap();
    world.release(since_fork);
    // Inherited, and taken once more.
    holder.take(twice.block, twice.generation).unwrap();
    assert!(holder.release_since(once.block, 0).unwrap());
    assert!(!holder.release_since(retained.block, 0).unwrap());
    assert_eq!(holder.inherited().unwrap(), (2, 2 * 128));
    assert_eq!(world.in_use(), 3 * 128);

    assert_eq!(holder.drop_inherited().unwrap(), 2);
    assert_eq!(holder.inherited().unwrap(), (0, 0));
    assert_eq!(holder.drop_inherited().unwrap(), 0);
    assert_eq!((holder.held_blocks(), world.in_use()), (2, 2 * 128));
    // Objects from before the fork end now; what was taken since is not theirs.
    assert!(holder.is_dropped(0) && !holder.is_dropped(1));
    assert!(!holder.release_since(twice.block, 0).unwrap());
    assert!(!holder.release_since(retained.block, 0).unwrap());
    assert_eq!((holder.held_blocks(), world.in_use()), (2, 2 * 128));
    assert!(holder.release(twice.block).unwrap());
    assert!(holder.release(since_fork.block).unwrap());
    assert_eq!((holder.held_blocks(), world.in_use()), (0, 0));
}

#[test]
fn a_grandchild_inherits_what_its_parent_took_and_inherited() {
    let mut world = World::new();
    let (old, new) = (world.allocate(100), world.allocate(100));
    let (parent, mut holder) = world.attach(0);
    holder.take(old.block, old.generation).unwrap();
    fork(&world, &mut holder, parent);
    holder.take(new.block, new.generation).unwrap();
    assert_eq!(holder.inherited().unwrap(), (1, 128));
    let child = shared_numpy_core::layout::Participant {
        slot: parent.slot + 1,
        generation: 1,
    };
    assert!(holder.is_by(child));
    fork(&world, &mut holder, child);
    world.release(old);
    world.release(new);
    assert_eq!(holder.inherited().unwrap(), (2, 2 * 128));
    assert!(holder.release_since(new.block, 1).unwrap());
    assert_eq!(holder.drop_inherited().unwrap(), 1);
    assert_eq!(world.in_use(), 0);
}

#[test]
fn an_inherited_hold_may_be_released_like_an_own_one() {
    let mut world = World::new();
    let name = world.allocate(100);
    let (parent, mut holder) = world.attach(0);
    holder.take(name.block, name.generation).unwrap();
    fork(&world, &mut holder, parent);
    assert!(holder.release(name.block).unwrap());
    assert_eq!(holder.inherited().unwrap(), (0, 0));
    holder.take(name.block, name.generation).unwrap();
    assert_eq!(holder.inherited().unwrap(), (0, 0));
    assert_eq!(holder.drop_inherited().unwrap(), 0);
    assert_eq!(holder.held_blocks(), 1);
    world.release(name);
    assert_eq!(world.in_use(), 128);
}

#[test]
fn a_child_that_is_not_counted_touches_no_row() {
    let mut world = World::new();
    let [held, dropped, other] = [100, 100, 100].map(|size| world.allocate(size));
    let token = world
        .pool
        .holder(0)
        .unwrap()
        .make_token(other.block, 0)
        .unwrap();
    let (parent, mut holder) = world.attach(0);
    holder.take(held.block, held.generation).unwrap();
    holder.take(dropped.block, dropped.generation).unwrap();
    holder.pin();
    let before = row(&holder, parent.slot);
    holder.become_child(None);
    world.release(held);
    world.release(dropped);
    let is_refused = |error| matches!(error, Error::NotAllowed(_));
    // What it has it may use; more it does not get.
    holder.take(held.block, held.generation).unwrap();
    assert_eq!(holder.inherited().unwrap(), (2, 2 * 128));
    assert!(is_refused(
        holder.take(other.block, other.generation).unwrap_err()
    ));
    assert!(is_refused(
        holder
            .claim(token, other.block, other.generation)
            .unwrap_err()
    ));
    assert!(is_refused(holder.make_token(held.block, 0).unwrap_err()));
    assert!(!holder.release_since(dropped.block, 0).unwrap());
    assert_eq!(holder.drop_inherited().unwrap(), 2);
    assert_eq!(holder.held_blocks(), 1);
    assert!(holder.release(held.block).unwrap());
    assert_eq!(row(&holder, parent.slot), before);
    assert_eq!(holder.segment().tokens_in_flight().unwrap().len(), 1);
    assert_eq!(world.in_use(), 3 * 128);
    world.family.declare_dead(parent).unwrap();
    assert_eq!(world.in_use(), 128, "its parent held for both");
}
