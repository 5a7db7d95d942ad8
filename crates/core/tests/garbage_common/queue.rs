//! A queue, and all that can be asked of it.

use shared_numpy_core::layout::queues::FIRST_RING;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::participation::{self, Hold};
use shared_numpy_core::queue::audit::end_dead_tokens;
use shared_numpy_core::queue::{Item, Message, Queue, QueueOptions};
use shared_numpy_core::sys::doorbell::Doorbell;

use super::choices::Choices;
use super::queue_common::{bytes, fill, on, queue, segment_of};
use super::{scribble, touch};

/// More than any item here has.
const ITEM_MAX_BYTES: usize = 1 << 20;

/// A queue with some items in it.
pub(crate) struct World {
    queue: Queue,
    bell: Doorbell,
    /// A block to send along.
    hold: Hold,
    messages: [Message; 2],
}

/// One thing that can be asked for.
pub(crate) type Operation = fn(&mut World, &mut dyn Choices);

/// Everything that can be asked for, the close last: what comes after it is refused.
pub(crate) const OPERATIONS: [Operation; 9] = [
    World::put,
    World::put_at_hand,
    World::get,
    World::count,
    World::task_done,
    World::ring,
    World::open_again,
    World::audit,
    World::close,
];

impl World {
    pub(crate) fn new(maxsize: u64, choices: &mut dyn Choices) -> Self {
        let queue = queue(QueueOptions {
            maxsize,
            capacity_bytes: 2048,
            inline_max_bytes: 256,
        });
        let world = World {
            queue,
            bell: Doorbell::new().unwrap(),
            hold: fill(100, 1),
            messages: Default::default(),
        };
        for n in 0..choices.below(20) as u64 {
            let text = bytes(n, choices.below(600));
            let item = Item {
                parts: &[&text],
                holds: &[&world.hold][..usize::from(n % 3 == 0)],
            };
            let _ = world.queue.put(item, Some(0), &mut on);
        }
        world
    }

    /// Garbage over the queue's block, in the header more often than elsewhere.
    pub(crate) fn scribble(&mut self, choices: &mut dyn Choices) {
        let hold = self.queue.hold();
        let end = [512, FIRST_RING, hold.size_bytes()][choices.below(3)];
        // The ring is scribbled over by itself as well.
        let from = [0, FIRST_RING][choices.below(2)];
        let (from, end) = if from < end { (from, end) } else { (0, end) };
        let at = hold.offset_bytes();
        scribble(choices, hold.mapping(), at + from, at + end);
    }

    /// Each operation but the close.
    pub(crate) fn everything(&mut self, choices: &mut dyn Choices) {
        for operation in &OPERATIONS[..OPERATIONS.len() - 1] {
            operation(self, choices);
        }
    }

    fn put(&mut self, choices: &mut dyn Choices) {
        let text = bytes(7, choices.below(3000));
        let item = Item {
            parts: &[&text],
            holds: &[&self.hold],
        };
        let _ = waiting(choices, |soon, on| self.queue.put(item, soon, on));
    }

    fn put_at_hand(&mut self, choices: &mut dyn Choices) {
        let text = bytes(8, choices.below(300));
        let item = Item {
            parts: &[&text],
            holds: &[],
        };
        let (put, _) = self.queue.put_at_hand(&[item; 3]);
        assert!(put <= 3);
        let (put, _) = waiting(choices, |soon, on| {
            self.queue.put_many(&[item; 2], soon, on)
        });
        assert!(put <= 2);
    }

    fn get(&mut self, choices: &mut dyn Choices) {
        for _ in 0..4 {
            let got = waiting(choices, |soon, on| {
                self.queue.get_many(&mut self.messages, soon, on)
            });
            for message in &self.messages[..got.unwrap_or(0)] {
                assert!(message.bytes().len() <= ITEM_MAX_BYTES);
                if let Some((hold, len)) = message.payload() {
                    assert!(len <= hold.size_bytes());
                }
                for hold in message.holds() {
                    touch(hold.mapping(), hold.offset_bytes(), hold.size_bytes());
                }
                let _ = message.to_vec();
            }
        }
    }

    fn count(&mut self, _: &mut dyn Choices) {
        let _ = (self.queue.size(), self.queue.unfinished());
        let _ = (self.queue.was_used(), self.queue.is_alone());
        let _ = self.queue.come();
    }

    fn task_done(&mut self, choices: &mut dyn Choices) {
        let _ = self.queue.task_done();
        let _: Result<(), Stop> = waiting(choices, |soon, on| self.queue.join(soon, on));
    }

    fn ring(&mut self, _: &mut dyn Choices) {
        let _ = self.queue.ring_for_items(&self.bell);
        let _ = self.queue.ring_for_room(&self.bell);
        let _ = self.queue.pass_on_ring();
        self.bell.hush();
    }

    fn open_again(&mut self, choices: &mut dyn Choices) {
        let handle = self.queue.hold().handle().unwrap();
        let opened = participation::receive(&handle, &mut on).and_then(Queue::open);
        if let (Ok(again), 0) = (opened, choices.below(2)) {
            let _ = again.get(&mut self.messages[0], Some(0), &mut on);
        }
    }

    fn audit(&mut self, _: &mut dyn Choices) {
        let segments = [segment_of(self.queue.hold())];
        let _ = end_dead_tokens(&segments, &segments);
    }

    fn close(&mut self, _: &mut dyn Choices) {
        let _ = self.queue.close();
    }
}

/// Waits not at all, or not long: a lock that garbage holds is waited for, not for ever.
pub(crate) fn waiting<T>(
    choices: &mut dyn Choices,
    ask: impl FnOnce(Option<u64>, &mut dyn FnMut() -> bool) -> T,
) -> T {
    let mut patience = 0;
    let soon = Some([0, 0, 0, 100_000][choices.below(4)]);
    ask(soon, &mut || {
        patience += 1;
        patience < 3
    })
}

/// That the process's pool is as it was: a sound queue works.
pub(crate) fn a_sound_one_works() {
    let sound = queue(QueueOptions::default());
    let item = Item {
        parts: &[b"sound"],
        holds: &[],
    };
    sound.put(item, Some(0), &mut on).unwrap();
    let mut message = Message::default();
    sound.get(&mut message, Some(0), &mut on).unwrap();
    assert_eq!(message.bytes(), b"sound");
}
