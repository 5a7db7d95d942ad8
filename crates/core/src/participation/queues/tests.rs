//! What is remembered of queues that were closed.

use super::*;
use crate::layout::queues::PEERS;
use crate::participation::{self, Options};
use crate::queue::{Item, Queue, QueueOptions};

fn is_known(container: &Container) -> bool {
    lock().queues.known.contains_key(container)
}

/// A queue, and somebody else who has it open.
fn queue_of_two() -> (Queue, Container, impl Fn()) {
    participation::configure(Options::default());
    let queue = Queue::create(QueueOptions::default(), &mut || true).unwrap();
    let root = queue.hold();
    let (container, at) = (root.container().unwrap(), root.offset_bytes() + PEERS);
    let segment = root.segment().unwrap();
    let other = segment.family().join().unwrap();
    write_peer(segment.mapping(), at, other, HAS_COME).unwrap();
    let end = move || {
        segment.family().declare_dead(other).unwrap();
    };
    (queue, container, end)
}

fn put(queue: &Queue) {
    let hold = participation::allocate(100, &mut || true).unwrap();
    let item = Item {
        parts: &[],
        holds: &[&hold],
    };
    queue.put(item, None, &mut || true).unwrap();
}

#[test]
fn a_queue_that_is_closed_everywhere_is_forgotten() {
    let (queue, container, end) = queue_of_two();
    put(&queue);
    end();
    assert!(is_known(&container));
    queue.close().unwrap();
    assert!(!is_known(&container));
}

#[test]
fn a_queue_that_is_open_elsewhere_is_remembered_for_what_was_sent_to_it() {
    let (queue, container, end) = queue_of_two();
    queue.close().unwrap();
    assert!(!is_known(&container));
    end();
    let (queue, container, end) = queue_of_two();
    put(&queue);
    let hold = participation::receive(&queue.hold().handle().unwrap(), &mut || true);
    queue.close().unwrap();
    drop(queue);
    audit_all().unwrap();
    assert!(is_known(&container));
    drop(hold);
    end();
    audit_all().unwrap();
    assert!(!is_known(&container));
}
