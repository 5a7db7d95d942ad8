//! The latest-value channel: within a process, between processes, and its page.

mod queue_common;

use std::time::{Duration, Instant};

use queue_common::{in_use, on, start};
use shared_numpy_core::error::Error;
use shared_numpy_core::fault::QUEUE_POINTS;
use shared_numpy_core::latest::{Latest, Received};
use shared_numpy_core::layout::latest::CHANNELS;
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::participation;

const PAGE: &str = include_str!("../../../docs/latest.md");
const LONG: Option<u64> = Some(20_000_000_000);
/// Words of a frame, all of which are its number.
const WORDS: usize = 20_000;

fn frame(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(WORDS)
}

/// The number in every word of a frame.
fn number_of(received: &Received) -> u64 {
    let mut bytes = Vec::new();
    let at = received.hold.offset_bytes();
    received
        .hold
        .mapping()
        .append_bytes(at, received.bytes, &mut bytes)
        .unwrap();
    assert_eq!(bytes.len(), 8 * WORDS);
    let first = bytes[..8].to_vec();
    assert!(bytes.chunks(8).all(|word| word == first), "a torn frame");
    u64::from_le_bytes(first.try_into().unwrap())
}

/// Runs `work` in a forked child; whether it returned `true`.
fn fork(work: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: the child calls what is made to be called there, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(false);
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    pid
}

fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

#[test]
fn one_process_and_several() {
    start();
    the_newest_is_read();
    readers_keep_what_they_have();
    no_frame_is_torn();
    a_writer_that_died_is_replaced();
}

fn the_newest_is_read() {
    let channel = Latest::create(&mut on).unwrap();
    assert!(channel.read(&mut on).unwrap().is_none());
    let nobody = channel.publish_copy(&frame(1), &mut on);
    assert!(matches!(nobody, Err(Error::NotAllowed(_))));
    assert_eq!(channel.has_writer(), Ok(false));
    assert_eq!(channel.become_writer(), Ok(true));
    assert_eq!(channel.become_writer(), Ok(false));
    assert_eq!(channel.has_writer(), Ok(true));
    assert_eq!(channel.is_writer(), Ok(true));
    assert_eq!(channel.number(), Ok(0));
    for number in 1..=20 {
        assert_eq!(channel.publish_copy(&frame(number), &mut on), Ok(number));
        let received = channel.read(&mut on).unwrap().unwrap();
        assert_eq!((received.number, number_of(&received)), (number, number));
    }
    let none = channel.wait(20, Some(1_000_000), &mut on).unwrap_err();
    assert_eq!(none, Stop::TimedOut);
    assert_eq!(channel.wait(19, LONG, &mut on).unwrap().number, 20);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| channel.wait(20, LONG, &mut on).unwrap().number);
        channel.publish_copy(&frame(21), &mut on).unwrap();
        assert_eq!(waiting.join().unwrap(), 21);
    });
    let stopped = channel.wait(21, None, &mut || false).unwrap_err();
    assert_eq!(stopped, Stop::Interrupted);
    channel.stop_writing().unwrap();
    assert_eq!(channel.has_writer(), Ok(false));
    // It cannot come, and this is not a wait without an end.
    let ended = channel.wait(21, None, &mut on).unwrap_err();
    assert_eq!(ended, Stop::Failed(Error::WriterEnded));
    assert_eq!(channel.wait(20, None, &mut on).unwrap().number, 21);
    drop(channel);
    // Nobody has been the writer yet: whoever is early waits.
    let channel = Latest::create(&mut on).unwrap();
    let early = channel.wait(0, Some(600_000_000), &mut on).unwrap_err();
    assert_eq!(early, Stop::TimedOut);
    drop(channel);
    assert_eq!(in_use(), 0);
}

fn readers_keep_what_they_have() {
    let channel = Latest::create(&mut on).unwrap();
    channel.become_writer().unwrap();
    let mut kept = Vec::new();
    for number in 1..=30 {
        channel.publish_copy(&frame(number), &mut on).unwrap();
        kept.push(channel.read(&mut on).unwrap().unwrap());
    }
    for (index, received) in kept.iter().enumerate() {
        assert_eq!(number_of(received), index as u64 + 1);
    }
    drop(kept);
    // The four newest and nothing else.
    let most = 5 * (8 * WORDS as u64 + 20_000);
    assert!(in_use() < most, "{}", in_use());
    drop(channel);
    assert_eq!(in_use(), 0);
}

fn no_frame_is_torn() {
    let channel = Latest::create(&mut on).unwrap();
    channel.become_writer().unwrap();
    let last = 300;
    let readers: Vec<_> = (0..2)
        .map(|_| {
            fork(|| {
                let mut seen = 0;
                while seen < last {
                    let received = channel.wait(seen, LONG, &mut on).unwrap();
                    assert!(received.number > seen);
                    assert_eq!(number_of(&received), received.number);
                    seen = received.number;
                }
                true
            })
        })
        .collect();
    for number in 1..=last {
        channel.publish_copy(&frame(number), &mut on).unwrap();
    }
    for reader in readers {
        assert_eq!(wait(reader), 0);
    }
    drop(channel);
    assert_eq!(in_use(), 0);
}

fn a_writer_that_died_is_replaced() {
    let channel = Latest::create(&mut on).unwrap();
    let writer = fork(|| {
        channel.become_writer().unwrap();
        for number in 1.. {
            channel.publish_copy(&frame(number), &mut on).unwrap();
        }
        false
    });
    let received = channel.wait(10, LONG, &mut on).unwrap();
    assert!(matches!(channel.become_writer(), Err(Error::NotAllowed(_))));
    // SAFETY: our own child, not waited for yet.
    assert_eq!(unsafe { libc::kill(writer, libc::SIGKILL) }, 0);
    wait(writer);
    assert_eq!(number_of(&received), received.number);
    // What it had published is there; then nothing comes.
    let newest = channel.read(&mut on).unwrap().unwrap();
    assert_eq!(number_of(&newest), newest.number);
    let begin = Instant::now();
    let died = channel.wait(newest.number, LONG, &mut on).unwrap_err();
    assert_eq!(died, Stop::Failed(Error::PeerDied));
    assert!(begin.elapsed() < Duration::from_secs(15), "it timed out");
    assert_eq!(channel.has_writer(), Ok(false));
    channel.become_writer().unwrap();
    let next = newest.number + 1;
    assert_eq!(channel.publish_copy(&frame(next), &mut on), Ok(next));
    let read = channel.read(&mut on).unwrap().unwrap();
    assert_eq!((read.number, number_of(&read)), (next, next));
    channel.stop_writing().unwrap();
    drop((received, newest, read, channel));
    assert_eq!(in_use(), 0);
    assert_eq!(participation::stats().unwrap().in_flight, 0);
}

#[test]
fn the_page_tells_the_offsets_of_the_code() {
    for each in CHANNELS {
        let heading = format!("### `{}`\n", each.name);
        let section = PAGE.split_once(&heading).expect(each.name).1;
        let section = section.split("\n#").next().unwrap();
        let told: Vec<_> = section
            .lines()
            .filter_map(|line| {
                let mut cells = line.split('|').skip(1).map(str::trim);
                let offset: usize = cells.next()?.parse().ok()?;
                let size: usize = cells.next()?.parse().ok()?;
                Some((offset, size, cells.next()?.trim_matches('`').to_owned()))
            })
            .collect();
        let real: Vec<_> = each
            .fields
            .iter()
            .map(|field| (field.offset_bytes, field.size_bytes, field.name.to_owned()))
            .collect();
        assert_eq!(told, real, "{}", each.name);
    }
    for point in QUEUE_POINTS.iter().filter(|it| it.starts_with("latest.")) {
        assert!(PAGE.contains(&format!("| `{point}` |")), "{point}");
    }
}
