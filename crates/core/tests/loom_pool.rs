//! Rule P1 run through its interleavings by the loom model checker (`make loom`).
//!
//! The functions under test are the ones the pool uses. "Memory" is a cell that the
//! closer writes when a block is free and holders read while they hold: loom
//! reports any execution in which the two are not ordered, which is a block that
//! was freed early. One test leaves out a step and expects to be caught, so that
//! a model that sees nothing does not pass for a proof.

#![cfg(loom)]

use std::convert::Infallible;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use shared_numpy_core::pool::protocol::{self, Closed};
use shared_numpy_core::sync::{AtomicU64, Ordering};

const BIT: u64 = 1;
const OPEN: u64 = 1;
/// Loom explores every execution with at most so many forced switches between threads.
const PREEMPTIONS: usize = 3;

const ENTRY_FREE: u64 = 0;
const ENTRY_MAKING: u64 = 1;
const ENTRY_READY: u64 = 2;

/// The word `closer`: nobody closes, the owner does, a borrower does.
const OWNER: u64 = 1;
const BUSY: u64 = 2;
const BORROWER: u64 = 3;

/// One block, two rows, the tokens' row, one token and the block's count of them.
struct Block {
    closer: AtomicU64,
    generation: AtomicU64,
    rows: [AtomicU64; 2],
    token_row: AtomicU64,
    token: AtomicU64,
    counted: AtomicU64,
    dirty: AtomicU64,
    moves: AtomicU64,
    memory: UnsafeCell<u32>,
}

// SAFETY: `memory` is what the protocol under test is to guard; loom checks that it does.
unsafe impl Sync for Block {}
// SAFETY: plain words.
unsafe impl Send for Block {}

impl Block {
    fn held_by(row: Option<usize>) -> Arc<Self> {
        let bit = |at| AtomicU64::new(if row == Some(at) { BIT } else { 0 });
        Arc::new(Block {
            closer: AtomicU64::new(OWNER),
            generation: AtomicU64::new(OPEN),
            rows: [bit(0), bit(1)],
            token_row: AtomicU64::new(0),
            token: AtomicU64::new(ENTRY_FREE),
            counted: AtomicU64::new(0),
            dirty: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            memory: UnsafeCell::new(0),
        })
    }

    fn use_memory(&self) {
        // SAFETY: reads a word; that nobody writes meanwhile is what loom checks.
        self.memory.with(|word| unsafe { assert_eq!(*word, 0) });
    }

    fn take(&self, row: usize) -> bool {
        let taken = protocol::take(&self.rows[row], BIT, &self.generation, OPEN, &self.moves);
        if !taken {
            protocol::withdraw(&self.rows[row], BIT, &self.dirty, 1);
        }
        taken
    }

    fn release(&self, row: usize) {
        protocol::release(&self.rows[row], BIT, &self.dirty, 1);
    }

    /// As the closer's `is_held`.
    fn is_held(&self) -> bool {
        for _ in 0..3 {
            let seen = protocol::scan(&self.moves, || -> Result<_, Infallible> {
                let rows =
                    self.rows[0].load(Ordering::Acquire) | self.rows[1].load(Ordering::Acquire);
                Ok((rows, self.token_row.load(Ordering::Acquire)))
            });
            let Ok(Some((rows, tokens))) = seen else {
                return true;
            };
            if rows != 0 || tokens == 0 {
                return rows != 0;
            }
            let found = || Ok::<_, Infallible>(self.has_token());
            if protocol::settle_token(&self.token_row, BIT, found) != Ok(false) {
                return true;
            }
        }
        true
    }

    /// As `find_tokens`: the count decides, or the table does.
    fn has_token(&self) -> bool {
        !protocol::counted(&self.counted).are_all_ended()
            && self.token.load(Ordering::Acquire) != ENTRY_FREE
    }

    /// What the closer does, once.
    fn close(&self) -> Closed {
        let is_held = || Ok::<_, Infallible>(self.is_held());
        let Ok(closed) = protocol::close(&self.generation, OPEN, is_held);
        if closed == Closed::Free {
            // SAFETY: writes a word; that nobody reads meanwhile is what loom checks.
            self.memory.with_mut(|word| unsafe { *word = 1 });
        }
        closed
    }

    /// A hold passes from one row to the other, as in a fork whose parent drops.
    fn pass(&self, from: usize, to: usize, leave_trace: bool) {
        self.rows[to].fetch_or(BIT, Ordering::AcqRel);
        if leave_trace {
            self.moves.fetch_add(1, Ordering::AcqRel);
        }
        self.release(from);
    }
}

impl Block {
    fn make_token(&self) {
        self.token.store(ENTRY_MAKING, Ordering::Release);
        protocol::count_token(&self.counted, 0);
        protocol::mark_token(&self.token_row, BIT);
        self.token.store(ENTRY_READY, Ordering::Release);
    }

    /// Into row 0.
    fn claim_token(&self) {
        self.rows[0].fetch_or(BIT, Ordering::AcqRel);
        self.token
            .compare_exchange(ENTRY_READY, ENTRY_FREE, Ordering::AcqRel, Ordering::Acquire)
            .unwrap();
        protocol::count_end(&self.counted);
    }
}

impl Block {
    fn write_memory(&self) {
        // SAFETY: writes a word; that nobody uses it meanwhile is what loom checks.
        self.memory.with_mut(|word| unsafe { *word = 0 });
    }

    /// What an owner does that collects, finds the block free and allocates it again, into
    /// row 0, if it has the role; whether it has allocated. `is_busy` as it should be.
    fn collect_and_open(&self, is_busy: bool) -> bool {
        if is_busy && protocol::pass_closer(&self.closer, OWNER, BUSY).is_err() {
            return false;
        }
        let generation = self.generation.load(Ordering::Acquire);
        let is_held = || Ok::<_, Infallible>(self.is_held());
        let is_free = if protocol::is_open(generation) {
            protocol::close(&self.generation, generation, is_held) == Ok(Closed::Free)
        } else {
            protocol::is_free_since(is_held) == Ok(true)
        };
        if is_busy {
            protocol::end_turn(&self.closer, OWNER);
        }
        if is_free {
            // It is on a list of the owner's, who commits and opens it. No role is needed.
            self.write_memory();
            self.rows[0].fetch_or(BIT, Ordering::AcqRel);
            self.generation.store(OPEN + 2, Ordering::Release);
            self.use_memory();
        }
        is_free
    }

    /// What a tracker does while the owner sleeps: closes the block, if it is open, and
    /// punches it.
    fn close_in_its_place(&self) {
        if protocol::pass_closer(&self.closer, OWNER, BORROWER).is_err() {
            return;
        }
        let generation = self.generation.load(Ordering::Acquire);
        if protocol::is_open(generation) {
            let is_held = || Ok::<_, Infallible>(self.is_held());
            if protocol::close(&self.generation, generation, is_held) == Ok(Closed::Free) {
                self.write_memory();
            }
        }
        let _ = protocol::pass_closer(&self.closer, BORROWER, OWNER);
    }
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(run);
}

fn take_use_release(block: &Block, row: usize) {
    if block.take(row) {
        block.use_memory();
        block.release(row);
    }
}

#[test]
fn two_takers_against_the_closer() {
    model(|| {
        let block = Block::held_by(None);
        let takers: Vec<_> = (0..2)
            .map(|row| {
                let block = Arc::clone(&block);
                thread::spawn(move || take_use_release(&block, row))
            })
            .collect();
        let closed = block.close();
        for taker in takers {
            taker.join().unwrap();
        }
        // Nobody is left: if the block is still open, the hint to look again is there.
        if closed != Closed::Free {
            assert_eq!(block.dirty.load(Ordering::Acquire), 1);
            assert_eq!(block.close(), Closed::Free);
        }
        assert_eq!(block.generation.load(Ordering::Relaxed), OPEN + 1);
        assert!(!block.take(0), "nobody takes a closed block");
    });
}

#[test]
fn a_drop_and_a_take_against_the_closer() {
    model(|| {
        let block = Block::held_by(Some(0));
        let holder = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                block.use_memory();
                block.release(0);
            })
        };
        let taker = {
            let block = Arc::clone(&block);
            thread::spawn(move || take_use_release(&block, 1))
        };
        let closed = block.close();
        holder.join().unwrap();
        taker.join().unwrap();
        if closed != Closed::Free {
            assert_eq!(block.close(), Closed::Free);
        }
    });
}

#[test]
fn an_heir_sees_who_took_while_the_closer_died() {
    model(|| {
        let block = Block::held_by(None);
        let taker = {
            let block = Arc::clone(&block);
            thread::spawn(move || take_use_release(&block, 0))
        };
        let dead = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                // Killed right after the bump of a close.
                block.generation.store(OPEN + 1, Ordering::Release);
            })
        };
        // Somebody looked and found the block closed.
        if block.generation.load(Ordering::Acquire) != OPEN {
            let is_free = protocol::is_free_since(|| Ok::<_, Infallible>(block.is_held()));
            if is_free == Ok(true) {
                // SAFETY: writes a word; that nobody reads meanwhile is what loom checks.
                block.memory.with_mut(|word| unsafe { *word = 1 });
            }
        }
        taker.join().unwrap();
        dead.join().unwrap();
    });
}

fn holds_that_move(leave_trace: bool) {
    model(move || {
        let block = Block::held_by(Some(1));
        let mover = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                for (from, to) in [(1, 0), (0, 1), (1, 0)] {
                    block.pass(from, to, leave_trace);
                }
                block.use_memory();
            })
        };
        assert_ne!(block.close(), Closed::Free);
        mover.join().unwrap();
    });
}

#[test]
fn a_hold_that_moves_is_not_overlooked() {
    holds_that_move(true);
}

#[test]
#[should_panic]
fn a_hold_that_moves_without_a_trace_is_overlooked() {
    holds_that_move(false);
}

#[test]
fn a_block_that_is_held_can_be_taken() {
    model(|| {
        let block = Block::held_by(Some(1));
        let holder = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                for (from, to) in [(1, 0), (0, 1), (1, 0)] {
                    assert!(block.take(to), "stale, though row {from} holds it");
                    block.release(from);
                }
                block.use_memory();
            })
        };
        assert_eq!(block.close(), Closed::Held);
        holder.join().unwrap();
    });
}

#[test]
fn a_token_is_a_hold_from_sender_to_claimer() {
    model(|| {
        let block = Block::held_by(Some(1));
        let sender = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                block.make_token();
                block.release(1);
            })
        };
        let claimer = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                if block.token.load(Ordering::Acquire) != ENTRY_READY {
                    return;
                }
                block.claim_token();
                block.use_memory();
                block.release(0);
            })
        };
        let closed = block.close();
        sender.join().unwrap();
        claimer.join().unwrap();
        let is_claimed = block.token.load(Ordering::Acquire) == ENTRY_FREE;
        assert!(is_claimed || closed != Closed::Free);
        if closed != Closed::Free {
            let last = block.close();
            assert_eq!(last == Closed::Free, is_claimed);
        }
    });
}

#[test]
fn a_token_that_is_sent_on_is_not_overlooked() {
    model(|| {
        let block = Block::held_by(None);
        // In flight already: its bit is no news to a scan, so the table must be.
        block.make_token();
        let relay = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                block.claim_token();
                block.use_memory();
                block.make_token();
                block.release(0);
            })
        };
        assert_ne!(block.close(), Closed::Free);
        relay.join().unwrap();
        assert_ne!(block.close(), Closed::Free);
        block.claim_token();
        block.use_memory();
        block.release(0);
        assert_eq!(block.close(), Closed::Free);
    });
}

/// An owner that wakes up, a tracker that thinks it sleeps, and somebody who takes by a
/// handle of the block's last life.
fn a_lent_role(is_busy: bool) {
    model(move || {
        let block = Block::held_by(None);
        let borrower = {
            let block = Arc::clone(&block);
            thread::spawn(move || block.close_in_its_place())
        };
        let taker = {
            let block = Arc::clone(&block);
            thread::spawn(move || take_use_release(&block, 1))
        };
        let is_open_again = block.collect_and_open(is_busy);
        borrower.join().unwrap();
        taker.join().unwrap();
        if is_open_again {
            // What the owner has opened and holds nobody takes away.
            assert_eq!(block.generation.load(Ordering::Acquire), OPEN + 2);
            block.use_memory();
        } else {
            // Whoever closed it, or nobody: the owner finds it when it looks again.
            assert!(block.collect_and_open(is_busy));
        }
        assert_eq!(block.closer.load(Ordering::Acquire), OWNER);
    });
}

#[test]
fn an_owner_that_wakes_up_and_who_closes_in_its_place_do_not_meet() {
    a_lent_role(true);
}

#[test]
#[should_panic]
fn an_owner_that_is_not_marked_busy_loses_what_it_uses() {
    a_lent_role(false);
}

#[test]
fn a_role_that_a_dead_borrower_had_is_taken_back() {
    model(|| {
        let block = Block::held_by(None);
        let taker = {
            let block = Arc::clone(&block);
            thread::spawn(move || take_use_release(&block, 1))
        };
        let dead = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                // Killed right after the bump of a close.
                protocol::pass_closer(&block.closer, OWNER, BORROWER).unwrap();
                block.generation.store(OPEN + 1, Ordering::Release);
            })
        };
        // Somebody found it dead; it may be anywhere before that.
        let seen = block.closer.load(Ordering::Acquire);
        if seen == BORROWER && protocol::pass_closer(&block.closer, seen, OWNER).is_ok() {
            dead.join().unwrap();
            block.collect_and_open(true);
        } else {
            dead.join().unwrap();
        }
        taker.join().unwrap();
    });
}
