//! Queues within a process and between processes.
//!
//! One process is one participant, so the tests that look at figures of the whole process
//! run one after the other.

mod queue_common;

use queue_common::{bytes, fill, in_use, is_filled, on, queue, settle, with};
use shared_numpy_core::error::Error;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::participation;
use shared_numpy_core::queue::{Item, Message, Queue, QueueOptions, forget_bell};
use shared_numpy_core::sys::doorbell::Doorbell;

const NO_WAIT: Option<u64> = Some(0);
const LONG: Option<u64> = Some(20_000_000_000);

fn put(queue: &Queue, bytes: &[u8]) {
    queue
        .put(
            Item {
                parts: &[bytes],
                holds: &[],
            },
            LONG,
            &mut on,
        )
        .unwrap();
}

fn get(queue: &Queue) -> Vec<u8> {
    let mut message = Message::default();
    queue.get(&mut message, LONG, &mut on).unwrap();
    message.to_vec().unwrap()
}

#[test]
fn one_process() {
    what_is_put_is_got_in_order();
    maxsize_is_exact();
    many_at_once();
    without_maxsize_it_grows_and_shrinks();
    large_payloads_go_by_a_block();
    blocks_are_held_in_the_queue();
    a_dropped_queue_gives_memory_back();
    all_is_done_when_it_is();
    a_stale_item_is_refused_and_the_queue_goes_on();
    threads_share_a_queue();
    a_wait_can_be_interrupted();
    a_close_during_a_put_ends_it_and_tells_what_was_put();
    a_close_ends_the_waits_of_other_threads();
    what_is_not_a_queue_is_refused();
    many_blocks_are_in_flight_at_a_time();
    who_waits_without_a_thread_is_rung();
    bells_that_are_no_more_leave_room_for_others();
}

fn bells_that_are_no_more_leave_room_for_others() {
    let queue = queue(QueueOptions::default());
    let is_rung = |bell: &Doorbell| {
        assert_eq!(queue.ring_for_items(bell), Ok(true));
        put(&queue, b"x");
        get(&queue);
        bell.hush()
    };
    // As many event loops, one after the other.
    for _ in 0..100 {
        assert!(is_rung(&Doorbell::new().unwrap()));
    }
    // Each goes when it ends, also where the socket stays: a child has it.
    let bells: Vec<_> = (0..100).map(|_| Doorbell::new().unwrap()).collect();
    for bell in &bells {
        assert!(is_rung(bell));
        forget_bell(bell);
    }
    // As many as there is room for at a time.
    let (first, rest) = bells.split_at(32);
    assert!(first.iter().all(is_rung));
    let full = queue.ring_for_items(&rest[0]);
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    drop(bells);
    settle(vec![queue]);
}

fn what_is_put_is_got_in_order() {
    let queue = queue(QueueOptions::default());
    assert_eq!(queue.size(), Ok(0));
    // Around the ring several times, with every length that ends in another place.
    for round in 0..40 {
        for n in 0..100 {
            put(&queue, &bytes(round * 100 + n, (n as usize * 37) % 5000));
        }
        assert_eq!(queue.size(), Ok(100));
        for n in 0..100 {
            assert_eq!(
                get(&queue),
                bytes(round * 100 + n, (n as usize * 37) % 5000)
            );
        }
    }
    let mut message = Message::default();
    assert_eq!(
        queue.get(&mut message, NO_WAIT, &mut on),
        Err(Stop::TimedOut)
    );
    assert_eq!(
        queue.get(&mut message, Some(1_000_000), &mut on),
        Err(Stop::TimedOut)
    );
    let parts: [&[u8]; 4] = [b"in ", b"", b"several ", b"parts"];
    let item = Item {
        parts: &parts,
        holds: &[],
    };
    queue.put(item, NO_WAIT, &mut on).unwrap();
    put(&queue, b"");
    assert_eq!(get(&queue), b"in several parts");
    assert_eq!(get(&queue), b"");
    settle(vec![queue]);
}

fn maxsize_is_exact() {
    let queue = queue(QueueOptions {
        maxsize: 1000,
        capacity_bytes: 4096,
        ..QueueOptions::default()
    });
    // More than the ring holds: places are what counts.
    let text = [7_u8; 500];
    let parts = [&text[..]];
    let item = Item {
        parts: &parts,
        holds: &[],
    };
    for _ in 0..1000 {
        queue.put(item, NO_WAIT, &mut on).unwrap();
    }
    for _ in 0..2 {
        let full = queue.put(item, NO_WAIT, &mut on);
        assert_eq!(full, Err(Stop::TimedOut));
        assert_eq!(queue.size(), Ok(1000));
        assert_eq!(get(&queue), text);
        queue.put(item, NO_WAIT, &mut on).unwrap();
    }
    let full = queue.put(item, Some(2_000_000), &mut on);
    assert_eq!(full, Err(Stop::TimedOut));
    for _ in 0..1000 {
        assert_eq!(get(&queue), text);
    }
    assert_eq!(queue.size(), Ok(0));
    settle(vec![queue]);
}

fn many_at_once() {
    let queue = queue(QueueOptions {
        maxsize: 300,
        ..QueueOptions::default()
    });
    let texts: Vec<Vec<u8>> = (0..400).map(|n| bytes(n, n as usize * 90)).collect();
    let parts: Vec<[&[u8]; 1]> = texts.iter().map(|text| [&text[..]]).collect();
    let items: Vec<Item<'_>> = parts
        .iter()
        .map(|parts| Item { parts, holds: &[] })
        .collect();
    let (count, result) = queue.put_many(&items, NO_WAIT, &mut on);
    assert_eq!((count, result), (300, Err(Stop::TimedOut)));
    let mut messages: Vec<Message> = (0..70).map(|_| Message::default()).collect();
    let mut got = Vec::new();
    let mut next = 300;
    while got.len() < 400 {
        let count = queue.get_many(&mut messages, NO_WAIT, &mut on).unwrap();
        assert!((1..=70).contains(&count));
        got.extend(messages[..count].iter().map(|it| it.to_vec().unwrap()));
        if next < 400 {
            let (count, _) = queue.put_many(&items[next..], NO_WAIT, &mut on);
            next += count;
        }
    }
    assert!(got == texts);
    drop(messages);
    settle(vec![queue]);
}

fn without_maxsize_it_grows_and_shrinks() {
    let queue = queue(QueueOptions {
        capacity_bytes: 1024,
        ..QueueOptions::default()
    });
    for round in 0..3 {
        for n in 0..3000 {
            put(&queue, &bytes(n, 200 + round));
        }
        assert!(in_use() > 3000 * 200);
        for n in 0..3000 {
            assert_eq!(get(&queue), bytes(n, 200 + round));
        }
        // The first put into an empty queue goes to the first ring again.
        put(&queue, b"x");
        assert_eq!(get(&queue), b"x");
        assert!(in_use() < 100_000, "{}", in_use());
    }
    settle(vec![queue]);
}

fn large_payloads_go_by_a_block() {
    let queue = queue(QueueOptions::default());
    for n in 0..40 {
        put(&queue, &bytes(n, 100_000 + n as usize));
        put(&queue, &bytes(n, 10));
    }
    assert!(participation::stats().unwrap().in_flight == 40);
    let mut messages = Vec::new();
    for n in 0..40 {
        let mut message = Message::default();
        queue.get(&mut message, NO_WAIT, &mut on).unwrap();
        let (_, len) = message.payload().unwrap();
        assert_eq!(len, 100_000 + n as usize);
        assert!(message.to_vec().unwrap() == bytes(n, len));
        messages.push(message);
        assert_eq!(get(&queue), bytes(n, 10));
    }
    assert_eq!(participation::stats().unwrap().in_flight, 0);
    drop(messages);
    settle(vec![queue]);
}

fn blocks_are_held_in_the_queue() {
    let queue = queue(QueueOptions::default());
    let hold = fill(5000, 3);
    let item = Item {
        parts: &[b"with"],
        holds: &[&hold, &hold],
    };
    queue.put(item, NO_WAIT, &mut on).unwrap();
    drop(hold);
    // What is allocated now is other memory.
    let others: Vec<_> = (0..20).map(|_| fill(5000, 9)).collect();
    let mut message = Message::default();
    queue.get(&mut message, NO_WAIT, &mut on).unwrap();
    assert_eq!(message.bytes(), b"with");
    assert_eq!(message.holds().len(), 2);
    assert!(message.holds().iter().all(|hold| is_filled(hold, 3)));
    let holds = message.take_holds();
    drop((holds, others));
    settle(vec![queue]);
}

fn a_dropped_queue_gives_memory_back() {
    let queue = queue(QueueOptions {
        capacity_bytes: 1024,
        ..QueueOptions::default()
    });
    for n in 0..200 {
        put(&queue, &bytes(n, 50_000));
        put(&queue, &bytes(n, 300));
    }
    let hold = fill(5000, 3);
    let item = Item {
        parts: &[],
        holds: &[&hold],
    };
    queue.put(item, NO_WAIT, &mut on).unwrap();
    drop(hold);
    assert!(in_use() > 200 * 50_000);
    drop(queue);
    assert_eq!(in_use(), 0);
    assert_eq!(participation::stats().unwrap().in_flight, 0);
}

fn all_is_done_when_it_is() {
    let queue = queue(QueueOptions::default());
    queue.join(NO_WAIT, &mut on).unwrap();
    let too_often = queue.task_done().unwrap_err();
    assert_eq!(too_often.to_string(), "task_done() called too many times");
    put(&queue, b"1");
    put(&queue, b"2");
    assert_eq!(queue.unfinished(), Ok(2));
    get(&queue);
    queue.task_done().unwrap();
    assert_eq!(queue.join(NO_WAIT, &mut on), Err(Stop::TimedOut));
    std::thread::scope(|scope| {
        let joiner = scope.spawn(|| queue.join(LONG, &mut on));
        get(&queue);
        queue.task_done().unwrap();
        joiner.join().unwrap().unwrap();
    });
    assert!(queue.task_done().is_err());
    settle(vec![queue]);
}

fn a_stale_item_is_refused_and_the_queue_goes_on() {
    let queue = queue(QueueOptions::default());
    let hold = fill(1000, 1);
    put(&queue, b"before");
    let item = Item {
        parts: &[b"gone"],
        holds: &[&hold],
    };
    queue.put(item, NO_WAIT, &mut on).unwrap();
    put(&queue, b"after");
    // Somebody damages the token: as if it had been given up.
    let segment = queue_common::segment_of(&hold);
    for token in segment.tokens_in_flight().unwrap() {
        assert!(
            segment
                .withdraw_token(token.name, token.block as usize)
                .unwrap()
        );
    }
    drop(hold);
    let mut messages = [Message::default(), Message::default(), Message::default()];
    assert_eq!(queue.get_many(&mut messages, NO_WAIT, &mut on), Ok(1));
    assert_eq!(messages[0].bytes(), b"before");
    let refused = queue.get_many(&mut messages, NO_WAIT, &mut on);
    assert_eq!(refused, Err(Stop::Failed(Error::Stale)));
    assert_eq!(get(&queue), b"after");
    drop(messages);
    settle(vec![queue]);
}

fn threads_share_a_queue() {
    let queue = queue(QueueOptions {
        maxsize: 50,
        capacity_bytes: 2048,
        ..QueueOptions::default()
    });
    const EACH: u64 = 3000;
    let seen: Vec<Vec<(u64, u64)>> = std::thread::scope(|scope| {
        let queue = &queue;
        for producer in 0..3_u64 {
            scope.spawn(move || {
                for n in 0..EACH {
                    with(producer, n, |text| put(queue, text));
                }
            });
        }
        let consumers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    (0..EACH)
                        .map(|_| queue_common::checked(&get(queue)))
                        .collect()
                })
            })
            .collect();
        consumers.into_iter().map(|it| it.join().unwrap()).collect()
    });
    for (producer, last) in seen.iter().flat_map(|seen| {
        // Each consumer sees each producer's items in order.
        (0..3_u64).map(move |producer| {
            let of_it = seen.iter().filter(|(who, _)| *who == producer);
            let numbers: Vec<u64> = of_it.map(|(_, n)| *n).collect();
            assert!(numbers.is_sorted());
            (producer, numbers.len() as u64)
        })
    }) {
        assert!(producer < 3 && last <= EACH);
    }
    let mut all: Vec<_> = seen.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len() as u64, 3 * EACH);
    settle(vec![queue]);
}

fn a_wait_can_be_interrupted() {
    let queue = queue(QueueOptions {
        maxsize: 1,
        ..QueueOptions::default()
    });
    let mut message = Message::default();
    let stopped = queue.get(&mut message, None, &mut || false);
    assert_eq!(stopped, Err(Stop::Interrupted));
    put(&queue, b"1");
    let item = Item {
        parts: &[b"2"],
        holds: &[],
    };
    assert_eq!(queue.put(item, None, &mut || false), Err(Stop::Interrupted));
    assert_eq!(queue.join(None, &mut || false), Err(Stop::Interrupted));
    assert_eq!(get(&queue), b"1");
    assert_eq!(queue.size(), Ok(0));
    queue.close().unwrap();
    assert!(matches!(queue.size(), Err(Error::NotAllowed(_))));
    settle(vec![queue]);
}

fn a_close_during_a_put_ends_it_and_tells_what_was_put() {
    let queue = queue(QueueOptions {
        maxsize: 1,
        ..QueueOptions::default()
    });
    let item = Item {
        parts: &[b"next"],
        holds: &[],
    };
    // As another thread may; the last close empties the queue, which makes no room for more.
    let mut close = || queue.close().is_ok();
    let (put, done) = queue.put_many(&[item, item], None, &mut close);
    assert_eq!(put, 1);
    assert!(matches!(done, Err(Stop::Failed(Error::NotAllowed(_)))));
    settle(vec![queue]);
}

fn a_close_ends_the_waits_of_other_threads() {
    let full = QueueOptions {
        maxsize: 1,
        ..QueueOptions::default()
    };
    let (empty, full) = (queue(QueueOptions::default()), queue(full));
    put(&full, b"first");
    let item = Item {
        parts: &[b"next"],
        holds: &[],
    };
    std::thread::scope(|scope| {
        let getter = scope.spawn(|| empty.get(&mut Message::default(), LONG, &mut on));
        let putter = scope.spawn(|| full.put(item, LONG, &mut on));
        let joiner = scope.spawn(|| full.join(LONG, &mut on));
        // Asleep by then, or refused when they come.
        std::thread::sleep(std::time::Duration::from_millis(100));
        empty.close().unwrap();
        full.close().unwrap();
        for waiter in [getter, putter, joiner] {
            let done = waiter.join().unwrap();
            assert!(matches!(done, Err(Stop::Failed(Error::NotAllowed(_)))));
        }
    });
    settle(vec![empty, full]);
}

fn what_is_not_a_queue_is_refused() {
    let small = fill(100, 0);
    assert!(matches!(Queue::open(small), Err(Error::WrongSegment(_))));
    let large = fill(300_000, 0);
    assert!(matches!(Queue::open(large), Err(Error::WrongSegment(_))));
    settle(Vec::new());
}

fn many_blocks_are_in_flight_at_a_time() {
    let queue = queue(QueueOptions::default());
    const MANY: u64 = 20_000;
    for n in 0..MANY {
        let hold = fill(64, n as u8);
        let item = Item {
            parts: &[],
            holds: &[&hold],
        };
        queue.put(item, NO_WAIT, &mut on).unwrap();
    }
    // And the rings of the queue.
    assert!(participation::stats().unwrap().in_flight > MANY as usize);
    for n in 0..MANY {
        let mut message = Message::default();
        queue.get(&mut message, NO_WAIT, &mut on).unwrap();
        assert!(is_filled(&message.holds()[0], n as u8));
    }
    settle(vec![queue]);
}

fn who_waits_without_a_thread_is_rung() {
    let queue = queue(QueueOptions {
        maxsize: 2,
        ..QueueOptions::default()
    });
    let one = Doorbell::new().unwrap();
    let other = Doorbell::new().unwrap();
    // Nothing is there: rung by the next put, once.
    assert_eq!(queue.ring_for_items(&one), Ok(true));
    assert!(!one.hush());
    put(&queue, b"1");
    assert!(one.hush() && !one.hush());
    put(&queue, b"2");
    assert!(!one.hush(), "nobody asked");
    // Something is there: no waiting.
    assert_eq!(queue.ring_for_items(&one), Ok(false));
    assert_eq!(queue.ring_for_room(&other), Ok(true));
    assert_eq!(get(&queue), b"1");
    assert!(other.hush());
    assert_eq!(queue.ring_for_room(&other), Ok(false));
    assert_eq!(get(&queue), b"2");
    assert!(other.hush(), "asked is asked");
    // Of two one is rung, and passes on what it leaves.
    assert_eq!(queue.ring_for_items(&one), Ok(true));
    assert_eq!(queue.ring_for_items(&other), Ok(true));
    put(&queue, b"3");
    assert!(one.hush() != other.hush());
    queue.pass_on_ring().unwrap();
    assert!(one.hush() || other.hush());
    assert_eq!(get(&queue), b"3");
    // A bell that is gone is passed over.
    assert_eq!(queue.ring_for_items(&one), Ok(true));
    assert_eq!(queue.ring_for_items(&other), Ok(true));
    drop(one);
    put(&queue, b"4");
    assert!(other.hush());
    let many: Vec<Doorbell> = (0..40).map(|_| Doorbell::new().unwrap()).collect();
    let asked: Vec<_> = many.iter().map(|it| queue.ring_for_items(it)).collect();
    assert!(asked.contains(&Ok(false)));
    assert!(matches!(asked.last(), Some(Err(Error::Full { .. }))));
    settle(vec![queue]);
}
