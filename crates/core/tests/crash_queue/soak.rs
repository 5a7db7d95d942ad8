//! Random kills: items with checksums between processes that are killed at any moment.

use std::time::{Duration, Instant};

use super::queue_common::in_use;
use super::roles::{Peer, Progress, get_if_there, put_checked};
use super::small_queue;
use shared_numpy_core::participation;
use shared_numpy_core::queue::Queue;

fn seconds() -> u64 {
    std::env::var("SHARED_NUMPY_SOAK_S").map_or(2, |text| text.parse().unwrap())
}

/// Puts and gets in turn until it is killed. Every item is checked.
pub(crate) fn work(queue: &Queue, _progress: &Progress) {
    let who = u64::from(std::process::id());
    for n in 0.. {
        put_checked(queue, who, n);
        if queue.size().unwrap() > 5 {
            get_if_there(queue);
        }
    }
}

/// Workers come and are killed; this process puts and gets with them.
pub(crate) fn run() {
    let end = Instant::now() + Duration::from_secs(seconds());
    let queue = small_queue(40);
    let progress = Progress::new();
    let mut workers = Vec::new();
    let mut hellos = Vec::new();
    let mut n = 0;
    while Instant::now() < end {
        if workers.len() < 3 {
            workers.push(Peer::start("worker", "", &queue, &progress));
        }
        // A different stretch of work each time.
        for _ in 0..(n % 97) * 20 {
            if queue.size().unwrap() > 20 {
                get_if_there(&queue);
            } else {
                put_checked(&queue, 0, n);
            }
            n += 1;
        }
        n += 1;
        std::thread::sleep(Duration::from_millis(n % 13 * 5));
        let mut worker: Peer = workers.remove(0);
        worker.kill();
        hellos.extend(worker.end().1);
        // Two of the dead stay within reach.
        if hellos.len() > 2 {
            hellos.remove(0);
        }
    }
    for mut worker in workers {
        worker.kill();
        hellos.extend(worker.end().1);
    }
    while queue.size().unwrap() > 0 {
        get_if_there(&queue);
    }
    drop(queue);
    drop((progress.into_holds(), hellos));
    assert_eq!(in_use(), 0);
    assert_eq!(participation::stats().unwrap().in_flight, 0);
}
