//! Death at the points of the queue while others are at it, and asleep in it: they go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::queue_common::on;
use super::roles::{self, ITEMS, LONG_NS, Peer, Progress, get_checked, publish, put_checked};
use super::tracker_common::{note, since};
use super::{go_on, small_queue};
use shared_numpy_core::error::Error;
use shared_numpy_core::latest::Latest;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::queue::Item;

/// When the child died, for threads that may come before.
#[derive(Default)]
struct Death(std::sync::OnceLock<Instant>);

impl Death {
    fn note(&self, who: &str, point: &str, begin: Instant) {
        if let Some(&death) = self.0.get() {
            note(who, point, since(death, begin));
        }
    }
}

/// Tells threads that it is over, also when a check has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_nanos(LONG_NS), "it hangs");
        sleep(Duration::from_micros(500));
    }
}

/// A child puts and dies; one thread waits for what it puts, another puts too.
pub(crate) fn die_as_producer(point: &str) -> bool {
    let queue = small_queue(0);
    let progress = Progress::new();
    let child = Peer::start("producer", point, &queue, &progress);
    let (death, is_over) = (Death::default(), AtomicBool::new(false));
    let got = [const { AtomicU64::new(0) }; 3];
    let (was_killed, hello) = std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                // The last is 0's. Each one's come in order.
                let (who, n) = get_checked(&queue);
                assert_eq!(got[who as usize].fetch_add(1, Ordering::AcqRel), n);
                if who == 0 {
                    return;
                }
            }
        });
        let other = scope.spawn(|| {
            let mut puts = 0;
            while !is_over.load(Ordering::Acquire) {
                let begin = Instant::now();
                put_checked(&queue, 2, puts);
                death.note("who puts meanwhile", point, begin);
                puts += 1;
                // Now and then nobody puts, and the getter sleeps.
                sleep(Duration::from_millis(puts % 3));
            }
            puts
        });
        let over = Over(&is_over);
        let ended = child.end();
        let begin = *death.0.get_or_init(Instant::now);
        // What it has put is got, though it may have woken nobody.
        until(|| got[1].load(Ordering::Acquire) >= progress.puts());
        note("who waits for an item", point, begin.elapsed());
        drop(over);
        let puts = other.join().unwrap();
        put_checked(&queue, 0, 0);
        until(|| got[2].load(Ordering::Acquire) == puts);
        ended
    });
    let [_, theirs, _] = got.map(AtomicU64::into_inner);
    assert!(theirs == progress.puts() || theirs == progress.puts() + 1);
    go_on(point, queue, (progress.into_holds(), hello));
    was_killed
}

/// A child gets and dies; a thread waits for the room that this makes.
pub(crate) fn die_as_consumer(point: &str) -> bool {
    const PUTS: u64 = ITEMS + 20;
    const PLACES: u64 = 4;
    let queue = small_queue(PLACES);
    let progress = Progress::new();
    let child = Peer::start("consumer", point, &queue, &progress);
    let put = AtomicU64::new(0);
    let mut next = 0;
    let (was_killed, hello) = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..PUTS {
                put_checked(&queue, 1, n);
                put.store(n + 1, Ordering::Release);
            }
        });
        let ended = child.end();
        let begin = Instant::now();
        until(|| queue.size().unwrap() == PLACES || put.load(Ordering::Acquire) == PUTS);
        note("who waits for room", point, begin.elapsed());
        while next < PUTS {
            let (who, n) = get_checked(&queue);
            let gets = progress.gets();
            let is_next = n == next || next == 0 && (gets..=gets + 1).contains(&n);
            assert!(who == 1 && is_next, "{n} after {next}, {gets} got");
            next = n + 1;
        }
        ended
    });
    go_on(point, queue, (progress.into_holds(), hello));
    was_killed
}

/// A child writes frames and dies; a thread waits for each.
pub(crate) fn die_as_writer(point: &str) -> bool {
    let queue = small_queue(0);
    let channel = Latest::create(&mut on).unwrap();
    let (handle, sent) = channel.send(&mut on).unwrap();
    let item = Item {
        parts: &[&handle.to_bytes()],
        holds: &[],
    };
    let progress = Progress::new();
    let child = Peer::start("writer", point, &queue, &progress);
    let (death, newest) = (Death::default(), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let (was_killed, hello) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seen = 0;
            while !is_over.load(Ordering::Acquire) {
                match channel.wait(seen, Some(100_000_000), &mut on) {
                    Ok(frame) => {
                        roles::check_frame(&frame);
                        assert!(frame.number > seen);
                        seen = frame.number;
                        newest.store(seen, Ordering::Release);
                    }
                    Err(Stop::TimedOut) => {}
                    Err(other) => {
                        assert_eq!(other, Stop::Failed(Error::PeerDied));
                        // Nobody writes any more.
                        sleep(Duration::from_millis(1));
                    }
                }
            }
        });
        let _over = Over(&is_over);
        queue.put(item, None, &mut on).unwrap();
        let ended = child.end();
        let begin = *death.0.get_or_init(Instant::now);
        until(|| newest.load(Ordering::Acquire) >= progress.puts());
        note("who waits for a frame", point, begin.elapsed());
        if ended.0 {
            until(|| channel.become_writer().is_ok());
            note("who writes next", point, begin.elapsed());
        } else {
            channel.become_writer().unwrap();
        }
        let next = channel.read(&mut on).unwrap().map_or(1, |it| it.number + 1);
        publish(&channel, next);
        until(|| newest.load(Ordering::Acquire) == next);
        ended
    });
    sent.withdraw();
    drop(channel);
    while queue.size().unwrap() > 0 {
        // The handle, if the child died before it had it.
        queue.get(&mut Default::default(), None, &mut on).unwrap();
    }
    go_on(point, queue, (progress.into_holds(), hello));
    was_killed
}
