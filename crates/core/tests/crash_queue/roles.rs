//! What children do, and how they are started.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use shared_numpy_core::error::Error;
use shared_numpy_core::fault;
use shared_numpy_core::latest::{Latest, Received};
use shared_numpy_core::lock::wait::Stop;
use shared_numpy_core::participation::{self, Handle, Hold};
use shared_numpy_core::queue::{Item, Message, Queue, QueueOptions};
use shared_numpy_core::sync::Ordering;

use super::queue_common::{bytes, fill, is_filled, on};

/// How many items a child puts or gets.
pub(crate) const ITEMS: u64 = 120;
/// The word of [`Progress`] that counts who was heard.
const HEARD: usize = 2;
/// Longer than anything takes.
pub(crate) const LONG_NS: u64 = 60_000_000_000;

const ROLE: &str = "SHARED_NUMPY_TEST_ROLE";
const HANDLES: &str = "SHARED_NUMPY_TEST_HANDLES";

/// How far a child came: words that it writes after each step.
pub(crate) struct Progress(Hold);

impl Progress {
    pub(crate) fn new() -> Self {
        Progress(fill(64, 0))
    }

    fn word(&self, index: usize) -> &shared_numpy_core::sync::AtomicU64 {
        let at = self.0.offset_bytes() + 8 * index;
        self.0.mapping().shared_word(at).unwrap()
    }

    pub(crate) fn puts(&self) -> u64 {
        self.word(0).load(Ordering::Acquire)
    }

    pub(crate) fn gets(&self) -> u64 {
        self.word(1).load(Ordering::Acquire)
    }

    fn did(&self, index: usize) {
        self.word(index).fetch_add(1, Ordering::Release);
    }

    pub(crate) fn into_holds(self) -> Vec<Hold> {
        vec![self.0]
    }
}

/// A child.
pub(crate) struct Peer {
    child: Child,
    hello: Option<Hold>,
}

impl Peer {
    pub(crate) fn start(role: &str, point: &str, queue: &Queue, progress: &Progress) -> Self {
        let hello = Queue::create(QueueOptions::default(), &mut on).unwrap();
        let child = Self::spawn(role, point, queue, progress, &hello);
        let mut message = Message::default();
        // Keeps the child's pool attached: without a tracker nobody could reach it when
        // the child is dead.
        let hello = match hello.get(&mut message, Some(LONG_NS), &mut on) {
            Ok(()) => {
                progress.did(HEARD);
                message.take_holds().pop()
            }
            Err(Stop::Failed(_)) => None,
            Err(other) => panic!("{other:?}"),
        };
        Peer { child, hello }
    }

    fn spawn(role: &str, point: &str, queue: &Queue, progress: &Progress, hello: &Queue) -> Child {
        let (queue, _) = queue.send(&mut on).unwrap();
        let (hello, _) = hello.send(&mut on).unwrap();
        let (progress, _) = progress.0.send(&mut on).unwrap();
        let hex = |handle: Handle| -> String {
            let bytes = handle.to_bytes();
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["child_of_a_test", "--exact", "--nocapture"])
            .env(ROLE, role)
            .env(HANDLES, hex(queue) + &hex(progress) + &hex(hello))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        if !point.is_empty() {
            command.env(fault::VARIABLE, point);
        }
        command.spawn().unwrap()
    }

    pub(crate) fn say(&mut self) {
        // It may be dead.
        let _ = self.child.stdin.as_mut().unwrap().write_all(&[0]);
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for its end; whether it was killed, and what keeps its memory within reach.
    /// Panics when it failed.
    pub(crate) fn end(mut self) -> (bool, Option<Hold>) {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.wait().unwrap();
        assert!(
            status.success() || status.signal() == Some(9),
            "a child failed: {status}"
        );
        (!status.success(), self.hello.take())
    }
}

/// The item `n` of `who`: of four kinds, each of which tells who and which it is.
pub(crate) fn put_checked(queue: &Queue, who: u64, n: u64) {
    let mut text = Vec::new();
    text.extend(who.to_le_bytes());
    text.extend(n.to_le_bytes());
    let len = if n % 4 == 1 { 3000 } else { n * 7 % 300 };
    text.extend(bytes(who * 1_000_003 + n, len as usize));
    let hold = (n % 4 == 2).then(|| fill(2000, n as u8));
    let holds: Vec<&Hold> = hold.iter().collect();
    let parts = [&text[..16], &text[16..]];
    let item = Item {
        parts: &parts,
        holds: &holds,
    };
    queue.put(item, Some(LONG_NS), &mut on).unwrap();
}

fn check(message: &Message) -> (u64, u64) {
    let text = message.to_vec().unwrap();
    let word = |at: usize| u64::from_le_bytes(text[at..at + 8].try_into().unwrap());
    let (who, n) = (word(0), word(8));
    assert!(text[16..] == bytes(who * 1_000_003 + n, text.len() - 16)[..]);
    assert_eq!(message.holds().len(), usize::from(n % 4 == 2));
    for hold in message.holds() {
        assert!(is_filled(hold, n as u8));
    }
    (who, n)
}

pub(crate) fn get_checked(queue: &Queue) -> (u64, u64) {
    let mut message = Message::default();
    queue.get(&mut message, Some(LONG_NS), &mut on).unwrap();
    check(&message)
}

/// Gets one that is there; `None` for what is out of reach: its owner died, no tracker is
/// here that would have it, and this process had not attached it.
pub(crate) fn get_if_there(queue: &Queue) -> Option<(u64, u64)> {
    let mut message = Message::default();
    match queue.get(&mut message, Some(LONG_NS), &mut on) {
        Ok(()) => Some(check(&message)),
        Err(Stop::Failed(Error::Stale | Error::TrackerUnavailable(_))) => None,
        Err(other) => panic!("{other:?}"),
    }
}

/// The child's side.
pub(crate) fn run() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    super::tracker_common::configure();
    let text = std::env::var(HANDLES).unwrap();
    let all: Vec<u8> = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect();
    let mut holds = all.chunks(Handle::BYTES).map(|bytes| {
        let handle = Handle::from_bytes(bytes).unwrap();
        participation::join(&handle, [0; 16], &mut on).unwrap();
        participation::receive(&handle, &mut on).unwrap()
    });
    let queue = Queue::open(holds.next().unwrap()).unwrap();
    let progress = Progress(holds.next().unwrap());
    {
        let hello = Queue::open(holds.next().unwrap()).unwrap();
        let own = fill(100, 0);
        let item = Item {
            parts: &[],
            holds: &[&own],
        };
        let heard = progress.word(HEARD).load(Ordering::Acquire);
        hello.put(item, None, &mut on).unwrap();
        // One child says hello at a time.
        while progress.word(HEARD).load(Ordering::Acquire) == heard {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    match role.as_str() {
        "producer" => produce(&queue, &progress),
        "consumer" => {
            for n in 0..ITEMS {
                assert_eq!(get_checked(&queue), (1, n));
                progress.did(1);
            }
        }
        "both" => {
            // Ahead of itself by more than the first ring holds.
            let ahead = 50;
            for n in 0..ITEMS {
                put_checked(&queue, 1, n);
                progress.did(0);
                if n >= ahead {
                    assert_eq!(get_checked(&queue), (1, n - ahead));
                    progress.did(1);
                }
            }
            for n in ITEMS - ahead..ITEMS {
                assert_eq!(get_checked(&queue), (1, n));
                progress.did(1);
            }
        }
        "creator" => {
            let mine = Queue::create(QueueOptions::default(), &mut on).unwrap();
            produce(&mine, &progress);
            let (handle, _) = mine.send(&mut on).unwrap();
            let bytes = handle.to_bytes();
            let item = Item {
                parts: &[&bytes],
                holds: &[],
            };
            queue.put(item, None, &mut on).unwrap();
            // Until they have it: nobody else could give it to them.
            let mut byte = [0];
            let _ = std::io::stdin().read(&mut byte);
            for n in 0..10 {
                get_if_there(&mine);
                progress.did(1);
                assert!(n < 10);
            }
        }
        "writer" => {
            let mut message = Message::default();
            queue.get(&mut message, Some(LONG_NS), &mut on).unwrap();
            let handle = Handle::from_bytes(message.bytes()).unwrap();
            let channel = participation::receive(&handle, &mut on).unwrap();
            let channel = Latest::open(channel).unwrap();
            channel.become_writer().unwrap();
            for number in 1..=ITEMS {
                publish(&channel, number);
                progress.did(0);
            }
        }
        "worker" => super::soak::work(&queue, &progress),
        other => panic!("no such role: {other}"),
    }
}

/// Publishes a frame that is full of its number.
pub(crate) fn publish(channel: &Latest, number: u64) {
    let frame = fill(3000, number as u8);
    let bytes = frame.size_bytes();
    assert_eq!(channel.publish(&frame, bytes, &mut on), Ok(number));
}

pub(crate) fn check_frame(frame: &Received) {
    assert!(is_filled(&frame.hold, frame.number as u8), "a torn frame");
}

fn produce(queue: &Queue, progress: &Progress) {
    for n in 0..ITEMS {
        put_checked(queue, 1, n);
        progress.did(0);
    }
}
