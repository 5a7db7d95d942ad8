//! A latest-value channel, and all that can be asked of it.

use shared_numpy_core::latest::{Latest, Received};
use shared_numpy_core::layout::latest::LATEST_BYTES;
use shared_numpy_core::participation;
use shared_numpy_core::queue::audit::end_dead_tokens;

use super::choices::Choices;
use super::queue::waiting;
use super::queue_common::{bytes, on, segment_of, start};
use super::{scribble, touch};

/// A channel, of which this process may be the writer.
pub(crate) struct World {
    channel: Latest,
    frame: Option<Received>,
}

/// One thing that can be asked for.
pub(crate) type Operation = fn(&mut World, &mut dyn Choices);

/// Everything that can be asked for.
pub(crate) const OPERATIONS: [Operation; 7] = [
    World::write,
    World::publish,
    World::read,
    World::wait,
    World::stop_writing,
    World::open_again,
    World::audit,
];

impl World {
    pub(crate) fn new(choices: &mut dyn Choices) -> Self {
        start();
        let mut world = World {
            channel: Latest::create(&mut on).unwrap(),
            frame: None,
        };
        world.write(choices);
        for _ in 0..choices.below(6) {
            world.publish(choices);
        }
        world
    }

    /// Garbage over the channel's block.
    pub(crate) fn scribble(&mut self, choices: &mut dyn Choices) {
        let hold = self.channel.hold();
        let at = hold.offset_bytes();
        scribble(choices, hold.mapping(), at, at + LATEST_BYTES);
    }

    /// Each operation.
    pub(crate) fn everything(&mut self, choices: &mut dyn Choices) {
        for operation in OPERATIONS {
            operation(self, choices);
        }
    }

    fn write(&mut self, _: &mut dyn Choices) {
        let _ = self.channel.become_writer();
        let _ = (self.channel.has_writer(), self.channel.is_writer());
    }

    fn publish(&mut self, choices: &mut dyn Choices) {
        let text = bytes(3, choices.below(300));
        let _ = self.channel.publish_copy(&text, &mut on);
    }

    fn keep(&mut self, received: Option<Received>) {
        if let Some(frame) = &received {
            assert!(frame.bytes <= frame.hold.size_bytes() && frame.number > 0);
            touch(frame.hold.mapping(), frame.hold.offset_bytes(), frame.bytes);
        }
        self.frame = received;
    }

    fn read(&mut self, _: &mut dyn Choices) {
        let _ = self.channel.number();
        let received = self.channel.read(&mut on).ok().flatten();
        self.keep(received);
    }

    fn wait(&mut self, choices: &mut dyn Choices) {
        let after = choices.word();
        let received = waiting(choices, |soon, on| self.channel.wait(after, soon, on));
        self.keep(received.ok());
    }

    fn stop_writing(&mut self, _: &mut dyn Choices) {
        let _ = self.channel.stop_writing();
    }

    fn open_again(&mut self, _: &mut dyn Choices) {
        let handle = self.channel.hold().handle().unwrap();
        let opened = participation::receive(&handle, &mut on).and_then(Latest::open);
        if let Ok(again) = opened {
            let received = again.read(&mut on).ok().flatten();
            self.keep(received);
        }
    }

    fn audit(&mut self, _: &mut dyn Choices) {
        let segments = [segment_of(self.channel.hold())];
        let _ = end_dead_tokens(&segments, &segments);
    }
}
