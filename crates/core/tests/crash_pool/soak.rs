//! Random deaths: a survivor sends checksummed blocks by token to children that keep
//! them, send them back and are killed at any moment.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use shared_numpy_core::error::Error;
use shared_numpy_core::pool::holder::Holder;
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::pool::tokens::TokenName;

use crate::harness::{DATA_BYTES, Peer, Survivor, is_filled};

const CHILDREN: usize = 4;
const SENT_PER_ROUND: usize = 40;

fn duration() -> Duration {
    let seconds = std::env::var("SHARED_NUMPY_SOAK_S").map_or(2.0, |text| text.parse().unwrap());
    Duration::from_secs_f64(seconds)
}

struct Child {
    peer: Peer,
    /// What was sent to it: it may die before it claims them.
    sent: HashSet<TokenName>,
}

struct Soak {
    survivor: Survivor,
    segment: Arc<PoolSegment>,
    children: Vec<Child>,
    /// What children say: block, generation, token, its generation, seed.
    said: (Sender<Vec<u64>>, Receiver<Vec<u64>>),
    seed: u64,
    random: u64,
    received: usize,
}

impl Soak {
    fn new() -> Self {
        let mut survivor = Survivor::new();
        // So that there is a segment to attach.
        survivor.allocate(0);
        let segment = Arc::clone(survivor.pool.segment(0).unwrap());
        let mut soak = Soak {
            survivor,
            segment,
            children: Vec::new(),
            said: channel(),
            seed: 0,
            random: 0x2545_f491_4f6c_dd1d,
            received: 0,
        };
        soak.children = (0..CHILDREN).map(|_| soak.start()).collect();
        soak
    }

    fn start(&self) -> Child {
        let fd = self.survivor.pool.segment_fd(0).unwrap();
        let mut peer = Peer::start("soaker", None, &self.survivor.family_fd, &fd, &[]);
        peer.forward(self.said.0.clone());
        Child {
            peer,
            sent: HashSet::new(),
        }
    }

    fn holder(&mut self) -> &mut Holder {
        self.survivor.pool.holder(0).unwrap()
    }

    fn next(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random as usize
    }

    fn send(&mut self) {
        let pool = &mut self.survivor.pool;
        pool.collect().unwrap();
        if pool.stats().in_use_bytes > DATA_BYTES / 2 {
            return;
        }
        for _ in 0..SENT_PER_ROUND {
            self.seed += 1;
            let name = self.survivor.allocate(self.seed);
            assert_eq!(name.segment, 0, "one segment must do: memory leaks");
            let token = self.holder().make_token(name.block, 0).unwrap();
            let released = self.survivor.pool.release(name.segment, name.block);
            released.unwrap();
            let at = self.next() % CHILDREN;
            self.children[at].sent.insert(token);
            self.children[at].peer.say(&[
                name.block as u64,
                name.generation,
                token.index as u64,
                token.generation,
                self.seed,
            ]);
        }
    }

    fn receive(&mut self) {
        while let Ok(words) = self.said.1.try_recv() {
            let (block, generation, seed) = (words[0] as usize, words[1], words[4]);
            let token = TokenName {
                index: words[2] as usize,
                generation: words[3],
            };
            match self.holder().claim(token, block, generation) {
                Ok(info) => {
                    assert!(is_filled(
                        &self.segment,
                        info.offset_bytes,
                        info.size_bytes,
                        seed
                    ));
                    self.survivor.pool.release(0, block).unwrap();
                    self.received += 1;
                }
                // Its sender was killed, and its tokens expired, before we listened.
                Err(error) => assert_eq!(error, Error::Stale),
            }
        }
    }

    /// Kills a child in the middle of what was just sent, and starts another.
    fn kill(&mut self) {
        let pause_us = self.next() % 20_000;
        std::thread::sleep(Duration::from_micros(pause_us as u64));
        let at = self.next() % CHILDREN;
        let new = self.start();
        let mut old = std::mem::replace(&mut self.children[at], new);
        old.peer.kill();
        assert!(old.peer.ended_by_kill(), "it ended by itself");
        self.survivor.bury(Some(old.peer.pid()));
        let segments = [Arc::clone(&self.segment)];
        let survivor = &self.survivor;
        shared_numpy_core::recover::recover_all(&survivor.family, survivor.me, &segments).unwrap();
        self.segment
            .expire_tokens(|token| {
                old.sent.contains(&token.name)
                    || !token.sender.is_some_and(|who| survivor.family.counts(who))
            })
            .unwrap();
        assert!(
            shared_numpy_core::inspect::verify(&self.segment)
                .unwrap()
                .is_empty()
        );
    }

    fn end(mut self) {
        for child in &mut self.children {
            child.peer.kill();
            child.peer.ended_by_kill();
        }
        let segment = Arc::clone(&self.segment);
        self.survivor.recover(&[Arc::clone(&segment)]);
        segment.expire_tokens(|_| true).unwrap();
        self.survivor.pool.collect().unwrap();
        self.survivor.verify(&segment);
        let first = self.holder().held_blocks();
        assert_eq!(first, 1);
        let in_use = self.survivor.pool.stats().in_use_bytes;
        assert_eq!(in_use, 1024, "the first block only");
    }
}

#[test]
fn random_deaths_leave_nothing_and_take_nothing() {
    let mut soak = Soak::new();
    let begin = Instant::now();
    let mut kills = 0;
    while begin.elapsed() < duration() {
        soak.send();
        soak.kill();
        soak.receive();
        kills += 1;
    }
    let (sent, received) = (soak.seed, soak.received);
    soak.end();
    println!("{kills} kills, {sent} blocks sent, {received} came back");
}
