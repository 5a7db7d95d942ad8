//! Random words where a queue's block is: every operation gives an error or what is inside
//! the queue's limits; none panics, leaves its bounds or runs for ever.
//! `SHARED_NUMPY_FUZZ_N` sets the number of rounds.

mod queue_common;

use queue_common::{bytes, fill, on, queue, segment_of};
use shared_numpy_core::layout::queues::FIRST_RING;
use shared_numpy_core::participation;
use shared_numpy_core::queue::audit::end_dead_tokens;
use shared_numpy_core::queue::{Item, Message, Queue, QueueOptions};

const ROUNDS: u64 = 1000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Words that look at borders of checks, among random ones.
    fn word(&mut self) -> u64 {
        match self.below(7) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => self.next() % 100,
            4 => ((self.next() % 100) << 24) | (self.next() % 100),
            5 => ((self.next() % 9) << 32) | (self.next() % 100),
            _ => self.next(),
        }
    }
}

/// Overwrites words of a queue's block, in the header more often than elsewhere.
fn scribble(queue: &Queue, random: &mut Random) {
    let hold = queue.hold();
    for _ in 0..=random.below(8) {
        let end = match random.below(3) {
            0 => 512,
            1 => FIRST_RING,
            _ => hold.size_bytes(),
        };
        let at = hold.offset_bytes() + random.below(end / 8) * 8;
        let word = random.word();
        hold.mapping().store_u64(at, word).unwrap();
    }
}

fn use_everything(queue: &Queue, random: &mut Random) {
    let soon = Some(100_000);
    // A lock that garbage holds is waited for; not for ever.
    let mut patience = 0;
    let mut on_for_a_while = || {
        patience += 1;
        patience < 3
    };
    let text = bytes(7, random.below(3000));
    let hold = fill(100, 1);
    let item = Item {
        parts: &[&text],
        holds: &[&hold],
    };
    let _ = queue.put(item, soon, &mut on_for_a_while);
    let mut messages = [Message::default(), Message::default()];
    for _ in 0..4 {
        if let Ok(count) = queue.get_many(&mut messages, soon, &mut on_for_a_while) {
            for message in &messages[..count] {
                assert!(message.bytes().len() <= 1 << 20);
                if let Some((hold, len)) = message.payload() {
                    assert!(len <= hold.size_bytes());
                }
                let _ = message.to_vec();
            }
        }
    }
    let _ = queue.size();
    let _ = queue.unfinished();
    let _ = queue.task_done();
    let _ = queue.join(soon, &mut on_for_a_while);
    let _ = participation::receive(&queue.hold().handle().unwrap(), &mut on).map(Queue::open);
    let segments = [segment_of(queue.hold())];
    let _ = end_dead_tokens(&segments, &segments);
}

#[test]
fn garbage_in_a_queue_is_an_error_and_nothing_else() {
    let rounds = std::env::var("SHARED_NUMPY_FUZZ_N").map_or(ROUNDS, |text| text.parse().unwrap());
    for round in 0..rounds {
        let mut random = Random(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let queue = queue(QueueOptions {
            maxsize: round % 3 * 4,
            capacity_bytes: 2048,
            inline_max_bytes: 256,
        });
        for n in 0..random.below(20) as u64 {
            let text = bytes(n, random.below(600));
            let item = Item {
                parts: &[&text],
                holds: &[],
            };
            let _ = queue.put(item, Some(0), &mut on);
        }
        scribble(&queue, &mut random);
        use_everything(&queue, &mut random);
        drop(queue);
        participation::trim(true).unwrap();
    }
    // The pool itself is as it was: a sound queue works.
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
