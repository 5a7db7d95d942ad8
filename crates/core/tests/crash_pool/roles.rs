//! What children do until they are killed, or to the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shared_numpy_core::layout::Participant;
use shared_numpy_core::liveness;
use shared_numpy_core::pool::closer::Closer;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::lend::Borrowed;
use shared_numpy_core::pool::owner::{Pool, PoolOptions};
use shared_numpy_core::pool::segment::PoolSegment;
use shared_numpy_core::pool::tokens::TokenName;
use shared_numpy_core::recover::recover;

use crate::harness::{
    FAMILY_FD, ROLE, SEGMENT_FD, attach, fill, inherited, is_filled, listen, numbers, options, tell,
};

/// A block (index, generation), a token for it (index, generation).
pub(crate) const OFFER: &str = "SNP_TEST_OFFER";
/// A slot to recover (index, generation).
pub(crate) const DEAD: &str = "SNP_TEST_DEAD";

/// How long the owner tries to be met by a taker in the middle of a close.
const UNDONE_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn run() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let family = Arc::new(Family::attach(inherited(FAMILY_FD)).unwrap());
    match role.as_str() {
        "member" => member(&family),
        "participant" => crate::participant::run(),
        "owner" => owner(&family),
        "recoverer" => recoverer(&family),
        "heir" => heir(&family),
        "borrower" => borrower(&family),
        "dropper" => crate::tracked::be_dropper(&family),
        "soaker" => soaker(&family),
        "tracker" => crate::tracked::be_tracker(),
        "bearer" => crate::tracked::be_bearer(&family),
        _ => panic!("no role {role}"),
    }
}

fn offer() -> (usize, u64, TokenName) {
    let words = numbers(&std::env::var(OFFER).unwrap());
    let token = TokenName {
        index: words[2] as usize,
        generation: words[3],
    };
    (words[0] as usize, words[1], token)
}

/// Takes, claims, makes, expires and drops in a segment of the parent.
fn member(family: &Arc<Family>) {
    let me = family.join().unwrap();
    let mut holder = attach(family, &inherited(SEGMENT_FD), me);
    let (block, generation, token) = offer();
    holder.take(block, generation).unwrap();
    assert!(holder.take(block, generation + 2).is_err());
    holder.release(block).unwrap();
    assert!(holder.take(block, generation + 2).is_err());
    holder.claim(token, block, generation).unwrap();
    holder.claim(token, block, generation).unwrap();
    holder.make_token(block, 1).unwrap();
    holder.make_token(block, 2).unwrap();
    let segment = holder.segment();
    let expired = segment.expire_tokens(|token| token.made_s == 2).unwrap();
    assert_eq!(expired, 1);
    holder.release(block).unwrap();
    holder.release(block).unwrap();
    family.declare_dead(me).unwrap();
}

/// Owns the segment, whose file the parent made.
fn owner(family: &Arc<Family>) {
    let me = family.join().unwrap();
    let mut file = Some(inherited(SEGMENT_FD));
    let mut pool = Pool::new(
        Arc::clone(family),
        me,
        PoolOptions {
            source: Box::new(move |size| {
                let file = file.take().expect("one segment is enough");
                shared_numpy_core::sys::shm::set_len(&file, size).unwrap();
                Ok(file)
            }),
            ..options()
        },
    );
    let allocate = |pool: &mut Pool, size| pool.allocate(size, &mut || true).unwrap();
    let shared = allocate(&mut pool, 1000);
    let segment = pool.segment(0).unwrap();
    fill(segment, shared.offset_bytes, shared.size_bytes, 7);
    tell(&[shared.block as u64, shared.generation]);
    listen();
    pool.lend(0).unwrap();
    pool.release(shared.segment, shared.block).unwrap();
    let blocks: Vec<_> = (0..20).map(|at| allocate(&mut pool, 1000 * at)).collect();
    for name in &blocks {
        let holder = pool.holder(0).unwrap();
        let token = holder.make_token(name.block, 1).unwrap();
        pool.release(name.segment, name.block).unwrap();
        let holder = pool.holder(0).unwrap();
        holder.claim(token, name.block, name.generation).unwrap();
        pool.release(name.segment, name.block).unwrap();
    }
    pool.collect().unwrap();
    pool.trim().unwrap();
    allocate(&mut pool, 15_000);
    allocate(&mut pool, 64);
    for _ in 0..3 {
        take_back_what_was_lent(family, &mut pool);
    }
    if std::env::var(shared_numpy_core::fault::VARIABLE)
        .is_ok_and(|at| at.starts_with("close.undone"))
    {
        be_met_while_closing(family, &mut pool);
    }
}

/// The role of closer was lent to somebody who died with it.
fn take_back_what_was_lent(family: &Arc<Family>, pool: &mut Pool) {
    let borrower = family.join().unwrap();
    let segment = Arc::clone(pool.segment(0).unwrap());
    let borrowed = Borrowed::borrow(&segment, borrower).unwrap().unwrap();
    std::mem::forget(borrowed);
    let name = pool.allocate(1000, &mut || true).unwrap();
    // While it lives the owner does without.
    pool.release(name.segment, name.block).unwrap();
    let before = pool.stats().in_use_bytes;
    pool.collect().unwrap();
    assert_eq!(pool.stats().in_use_bytes, before);
    family.declare_dead(borrower).unwrap();
    pool.collect().unwrap();
    assert!(pool.stats().in_use_bytes < before);
}

/// Another participant sets its bit and takes it back, over and over, on the block that
/// the owner opens and closes: until a close is undone, which ends the process.
fn be_met_while_closing(family: &Arc<Family>, pool: &mut Pool) {
    let me = family.join().unwrap();
    let mut taker = attach(family, &pool.segment_fd(0).unwrap(), me);
    let stop = AtomicBool::new(false);
    // Last freed, first given out: this block again and again.
    let block = pool.allocate(1000, &mut || true).unwrap().block;
    pool.release(0, block).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert!(taker.take(block, u64::MAX).is_err());
            }
        });
        let begin = Instant::now();
        while begin.elapsed() < UNDONE_WITHIN {
            let name = pool.allocate(1000, &mut || true).unwrap();
            pool.release(name.segment, name.block).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn recoverer(family: &Arc<Family>) {
    let me = family.join().unwrap();
    let words = numbers(&std::env::var(DEAD).unwrap());
    let dead = Participant {
        slot: words[0] as usize,
        generation: words[1],
    };
    let segment = PoolSegment::attach(inherited(SEGMENT_FD), Arc::clone(family)).unwrap();
    family.declare_dead(dead).unwrap();
    assert!(recover(family, me, dead, &[Arc::new(segment)]).unwrap());
    find_a_dead_child(family, me);
}

/// A child joins and ends: that is found out, and nobody else is taken for dead.
fn find_a_dead_child(family: &Arc<Family>, me: Participant) {
    // SAFETY: as in `participant`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let is_in = family.join().is_ok();
        // SAFETY: ends the process at once; no destructor has to run.
        unsafe { libc::_exit(i32::from(!is_in)) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child and writes into a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    let file = rustix::fs::fstat(inherited(FAMILY_FD)).unwrap();
    let buried = liveness::bury(family, (file.st_dev, file.st_ino), Some(me)).unwrap();
    assert_eq!(buried, 1);
}

/// Takes over the segment of a dead owner.
fn heir(family: &Arc<Family>) {
    let me = family.join().unwrap();
    let fd = inherited(SEGMENT_FD);
    let holder = attach(family, &fd, me);
    let mut closer = Closer::replace(Arc::clone(holder.segment()), me).unwrap();
    let mut freed = Vec::new();
    closer.collect(&mut freed).unwrap();
    closer.give_back(&freed, &fd).unwrap();
}

/// Closes in the place of the owner of the parent's segment, who sleeps.
fn borrower(family: &Arc<Family>) {
    let me = family.join().unwrap();
    let fd = inherited(SEGMENT_FD);
    let segment = Arc::new(PoolSegment::attach(&fd, Arc::clone(family)).unwrap());
    for _ in 0..3 {
        let borrowed = Borrowed::borrow(&segment, me).unwrap().unwrap();
        assert!(Borrowed::borrow(&segment, me).unwrap().is_none());
        // One block each time.
        let mut turns = 0;
        let mut goes_on = |_| {
            turns += 1;
            turns == 1
        };
        borrowed.close_word(0, 4096, &fd, &mut goes_on).unwrap();
    }
}

/// Receives blocks by token, checks them, keeps some, sends some back.
fn soaker(family: &Arc<Family>) {
    let me = family.join().unwrap();
    let mut holder = attach(family, &inherited(SEGMENT_FD), me);
    let mut kept = Vec::new();
    let mut step = me.generation;
    while let Some(words) = listen() {
        step = step
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (block, generation, seed) = (words[0] as usize, words[1], words[4]);
        let token = TokenName {
            index: words[2] as usize,
            generation: words[3],
        };
        let info = holder.claim(token, block, generation).unwrap();
        kept.push((info, seed));
        if step >> 60 & 1 == 0 {
            let back = holder.make_token(block, 0).unwrap();
            let words = [
                block as u64,
                generation,
                back.index as u64,
                back.generation,
                seed,
            ];
            tell(&words);
        }
        if kept.len() > 8 {
            let (info, seed) = kept.swap_remove((step >> 33) as usize % kept.len());
            let segment = holder.segment();
            assert!(is_filled(segment, info.offset_bytes, info.size_bytes, seed));
            holder.release(info.block).unwrap();
        }
    }
}
