//! A child holds what its parent held; what is inherited is told apart.

use crate::world::World;

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
