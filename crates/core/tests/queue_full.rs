//! A queue whose segment has no token left: what must have one is refused, what need not goes on.
//!
//! Where the table of tokens cannot grow, as on kernels before 5.14, it is short enough to be
//! filled; so that feature is switched off, in a process of its own.

mod queue_common;

use queue_common::{bytes, fill, on, queue, settle};
use shared_numpy_core::error::Error;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::queue::{Item, Message, QueueOptions};

const NO_WAIT: Option<u64> = Some(0);
/// How many tokens such a segment has.
const TOKENS: usize = 8192;

#[test]
fn a_table_of_tokens_that_is_full_is_no_end() {
    // SAFETY: the only test here, and nothing else in this process reads the environment yet.
    unsafe { std::env::set_var("SHARED_NUMPY_DISABLE", "populate") };
    let queue = queue(QueueOptions {
        inline_max_bytes: 64,
        ..QueueOptions::default()
    });
    let hold = fill(100, 1);
    let item = Item {
        parts: &[],
        holds: &[&hold],
    };
    let mut count = 0;
    let full = loop {
        match queue.put(item, NO_WAIT, &mut on) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Stop::Failed(Error::Full { .. })), "{full:?}");
    // The queue's own rings have some of them.
    assert!((TOKENS - 20..=TOKENS).contains(&count), "{count}");
    // What would go by a block of its own goes through the ring.
    let payload = |n| bytes(n, 200);
    for n in 0..100 {
        let text = payload(n);
        let item = Item {
            parts: &[&text],
            holds: &[],
        };
        queue.put(item, NO_WAIT, &mut on).unwrap();
    }
    let mut message = Message::default();
    for _ in 0..count {
        queue.get(&mut message, NO_WAIT, &mut on).unwrap();
        assert_eq!(message.holds().len(), 1);
    }
    // There is room again.
    queue.put(item, NO_WAIT, &mut on).unwrap();
    for n in 0..100 {
        queue.get(&mut message, NO_WAIT, &mut on).unwrap();
        assert_eq!(message.to_vec().unwrap(), payload(n));
    }
    queue.get(&mut message, NO_WAIT, &mut on).unwrap();
    assert_eq!(message.holds().len(), 1);
    drop(hold);
    drop(message);
    settle(vec![queue]);
}
