//! Queues in a family with a tracker: what the dead put can be had, and goes when nobody has
//! the queue any more.

use std::time::{Duration, Instant};

use shared_numpy_core::error::Error;
use shared_numpy_core::participation::{self, Handle, Hold};
use shared_numpy_core::queue::{Item, Message, Queue, QueueOptions};

const LONG: Option<u64> = Some(30_000_000_000);

fn on() -> bool {
    true
}

/// Forks a child that is killed when its work is done, as late as can be: no handler of its
/// own runs.
fn killed_after(work: impl FnOnce()) {
    // SAFETY: the child calls what is made to be called there, and ends by a signal.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
        if good {
            // SAFETY: ends this process.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(1) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFSIGNALED(status), "a child failed");
}

fn small() -> Queue {
    let options = QueueOptions {
        capacity_bytes: 4096,
        inline_max_bytes: 512,
        ..QueueOptions::default()
    };
    Queue::create(options, &mut on).unwrap()
}

/// Items of three kinds: inline, with a payload in a block, and with a block.
fn put(queue: &Queue, n: u64) {
    let text = n.to_le_bytes().repeat(if n % 3 == 1 { 500 } else { 8 });
    let hold = participation::allocate(100, &mut on).unwrap();
    let word = hold.mapping().shared_word(hold.offset_bytes()).unwrap();
    word.store(n, std::sync::atomic::Ordering::Relaxed);
    let with: &[&Hold] = if n % 3 == 2 { &[&hold] } else { &[] };
    let item = Item {
        parts: &[&text],
        holds: with,
    };
    queue.put(item, LONG, &mut on).unwrap();
}

fn get(queue: &Queue, n: u64) {
    let mut message = Message::default();
    queue.get(&mut message, LONG, &mut on).unwrap();
    let text = message.to_vec().unwrap();
    assert_eq!(text.len(), if n % 3 == 1 { 4000 } else { 64 });
    assert!(text.chunks(8).all(|word| word == n.to_le_bytes()));
    assert_eq!(message.holds().len(), usize::from(n % 3 == 2));
    for hold in message.holds() {
        let word = hold.mapping().shared_word(hold.offset_bytes()).unwrap();
        assert_eq!(word.load(std::sync::atomic::Ordering::Relaxed), n);
    }
}

/// One process is one participant: one after the other.
#[test]
fn in_a_family_with_a_tracker() {
    participation::configure(participation::Options {
        executable: env!("CARGO_BIN_EXE_shared-numpy-tracker").into(),
        ..participation::Options::default()
    });
    what_the_dead_put();
    what_was_put_elsewhere_by_who_is_killed();
    what_was_put_elsewhere_and_is_thrown_away();
}

fn block() -> Hold {
    participation::allocate(4096, &mut on).unwrap()
}

fn put_block(queue: &Queue, hold: &Hold) {
    let item = Item {
        parts: &[],
        holds: &[hold],
    };
    queue.put(item, LONG, &mut on).unwrap();
}

/// Nothing of ours is in use any more.
fn all_comes_back(what: &str) {
    let begin = Instant::now();
    loop {
        participation::trim(false).unwrap();
        let stats = participation::stats().unwrap();
        if (stats.in_use_bytes, stats.in_flight) == (0, 0) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{what} stays");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The owner never heard of the queue, whose only process is dead.
fn what_was_put_elsewhere_by_who_is_killed() {
    let hold = block();
    killed_after(|| {
        let theirs = small();
        put_block(&theirs, &hold);
        std::mem::forget(theirs);
    });
    drop(hold);
    all_comes_back("what a queue of the dead has");
    // The same for a queue in a queue.
    let hold = block();
    killed_after(|| {
        let (outer, inner) = (small(), small());
        put_block(&inner, &hold);
        put_block(&outer, inner.hold());
        std::mem::forget((outer, inner));
    });
    drop(hold);
    all_comes_back("what a queue in a queue of the dead has");
}

/// The owner never heard of the queue, nor has its last process anything of the owner's.
fn what_was_put_elsewhere_and_is_thrown_away() {
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let (to_last, last) = std::os::unix::net::UnixDatagram::pair().unwrap();
    for socket in [&ours, &theirs, &to_last, &last] {
        // A side that failed says nothing.
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
    }
    let mut byte = [0];
    // Before there is anything that it would inherit.
    let closer = forked(|| {
        let mut bytes = [0; Handle::BYTES];
        last.recv(&mut bytes).unwrap();
        let handle = Handle::from_bytes(&bytes).unwrap();
        participation::join(&handle, [0; 16], &mut on).unwrap();
        let queue = Queue::open(participation::receive(&handle, &mut on).unwrap()).unwrap();
        last.send(&[1]).unwrap();
        last.recv(&mut [0]).unwrap();
        drop(queue);
        last.send(&[1]).unwrap();
        // Lives on, as the other does: no death makes anybody look after what they left.
        last.recv(&mut [0]).unwrap();
    });
    let hold = block();
    let forwarder = forked(|| {
        let queue = small();
        put_block(&queue, &hold);
        let (handle, _) = queue.send(&mut on).unwrap();
        theirs.send(&handle.to_bytes()).unwrap();
        theirs.recv(&mut [0]).unwrap();
        drop(queue);
        participation::drop_inherited().unwrap();
        theirs.send(&[1]).unwrap();
        theirs.recv(&mut [0]).unwrap();
    });
    drop(hold);
    let mut bytes = [0; Handle::BYTES];
    ours.recv(&mut bytes).unwrap();
    to_last.send(&bytes).unwrap();
    to_last.recv(&mut byte).unwrap();
    ours.send(&[1]).unwrap();
    ours.recv(&mut byte).unwrap();
    to_last.send(&[1]).unwrap();
    to_last.recv(&mut byte).unwrap();
    all_comes_back("what the last one threw away");
    for (child, pipe) in [(forwarder, &ours), (closer, &to_last)] {
        pipe.send(&[1]).unwrap();
        child.ends_well();
    }
}

/// A forked child.
struct Child(libc::pid_t);

impl Child {
    fn ends_well(self) {
        let mut status = 0;
        // SAFETY: waits for our own child and writes into a local.
        assert_eq!(unsafe { libc::waitpid(self.0, &mut status, 0) }, self.0);
        assert_eq!(status, 0, "a child failed");
    }
}

fn forked(work: impl FnOnce()) -> Child {
    // SAFETY: the child calls what is made to be called there, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    Child(pid)
}

fn what_the_dead_put() {
    let queue = small();
    // From here on the tracker is there, which children find by the family.
    queue.send(&mut on).unwrap().1.withdraw();

    // A producer whose pool, rings among it, nobody else had attached.
    killed_after(|| (0..300).for_each(|n| put(&queue, n)));
    (0..100).for_each(|n| get(&queue, n));
    // Another process gets on where we stopped.
    killed_after(|| (100..200).for_each(|n| get(&queue, n)));
    (200..300).for_each(|n| get(&queue, n));
    assert_eq!(queue.size(), Ok(0));

    // A queue whose creator is dead.
    killed_after(|| {
        let mine = small();
        (0..100).for_each(|n| put(&mine, n));
        let (handle, _) = mine.send(&mut on).unwrap();
        let bytes = handle.to_bytes();
        let item = Item {
            parts: &[&bytes],
            holds: &[],
        };
        queue.put(item, LONG, &mut on).unwrap();
        std::mem::forget(mine);
    });
    let mut message = Message::default();
    queue.get(&mut message, LONG, &mut on).unwrap();
    let handle = Handle::from_bytes(message.bytes()).unwrap();
    let theirs = Queue::open(participation::receive(&handle, &mut on).unwrap()).unwrap();
    (0..50).for_each(|n| get(&theirs, n));
    (100..200).for_each(|n| put(&theirs, n));
    (50..150).for_each(|n| get(&theirs, n));
    drop(theirs);

    // Items of a dead producer in a queue that nobody has any more: the tracker gives their
    // memory back, though they never expire.
    let other = small();
    let (sent_back, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
    killed_after(|| {
        let hold = participation::allocate(100, &mut on).unwrap();
        let item = Item {
            parts: &[],
            holds: &[&hold],
        };
        other.put(item, LONG, &mut on).unwrap();
        sent_back.send(&hold.handle().unwrap().to_bytes()).unwrap();
    });
    let mut bytes = [0; Handle::BYTES];
    receiver.recv(&mut bytes).unwrap();
    let name = Handle::from_bytes(&bytes).unwrap();
    // Held by the queue, though its owner is dead.
    drop(participation::receive(&name, &mut on).unwrap());
    // We are the last to close it, and have not its producer's memory attached.
    drop(other);
    let begin = Instant::now();
    loop {
        match participation::receive(&name, &mut on) {
            Err(Error::Stale | Error::TrackerUnavailable(_)) => break,
            Ok(hold) => drop(hold),
            Err(other) => panic!("{other}"),
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "it stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(queue);
    participation::trim(false).unwrap();
    assert_eq!(participation::stats().unwrap().in_use_bytes, 0);
}
