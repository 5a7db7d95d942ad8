//! Whether one block is held, by rows and by tokens together.
//!
//! Guarantee: the answer "no" is of one moment, however often a hold moved from a row into a
//! token and on while this looked. For those who decide what a queue's end is; closers have
//! the tokens' row, which keeps a trace of each token until they clear it.
//!
//! How: the words of the token table are read before the look and after it. A word only goes
//! on (its generation grows), so one that is the same was so all the time between. No token
//! of the block was made or ended then: a hold could move between rows only, of which `moves`
//! has the trace (`docs/crash_safety.md`, "Why the scan is exact").

use core::mem::offset_of;

use super::segment::PoolSegment;
use super::tokens::{FREE, MAKING};
use crate::error::Result;
use crate::layout::{Packed, Token};
use crate::sync::{Ordering, fence};

/// How often a look that was overtaken is taken again.
const TRIES: usize = 16;

impl PoolSegment {
    /// Whether a block is held, as `look` finds it, which reads rows and tokens, the rows by a
    /// scan, and says `None` when they kept moving. `None`: it cannot be told.
    ///
    /// # Errors
    ///
    /// Those of `look`.
    pub(crate) fn is_held_at_once(
        &self,
        block: usize,
        mut look: impl FnMut() -> Result<Option<bool>>,
    ) -> Result<Option<bool>> {
        let mut before = Vec::new();
        for _ in 0..TRIES {
            before.clear();
            for index in 0..self.tokens_high()? {
                // Acquire: who sees a token gone sees the bit that its claimer had set.
                before.push(self.token_word(index)?.load(Ordering::Acquire));
            }
            match look()? {
                Some(true) => return Ok(Some(true)),
                // After the bits, which were read with acquire: who saw one cleared sees the
                // token that its owner had made before.
                Some(false) if !self.has_a_token_moved(block, &before)? => return Ok(Some(false)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether a token of this block, or one that cannot be told from it, was made or ended
    /// since the words were `before`.
    fn has_a_token_moved(&self, block: usize, before: &[u64]) -> Result<bool> {
        for index in 0..self.tokens_high()? {
            let word = self.token_word(index)?;
            let now = word.load(Ordering::Acquire);
            let before = before.get(index).copied().unwrap_or(0);
            if now == before {
                continue;
            }
            let (was, is) = (Packed::unpack(before), Packed::unpack(now));
            // One life of the entry, of which the block can be read: it went by, or began.
            let lives = is.generation.wrapping_sub(was.generation);
            let is_one = lives == 0 || lives == 1 && was.state == FREE;
            if !is_one || was.state == MAKING || is.state == MAKING {
                return Ok(true);
            }
            let holds = self.token_field(index, offset_of!(Token, block))?;
            // The field is that life's if the word is still the same after it.
            fence(Ordering::Acquire);
            if holds == block as u64 || word.load(Ordering::Relaxed) != now {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::family::Family;
    use crate::pool::holder::Holder;
    use crate::pool::owner::{Pool, PoolOptions};
    use crate::pool::tokens::TokenName;

    /// A block that nobody holds but the token with index 5, all before it being free.
    struct World {
        _pool: Pool,
        holder: Holder,
        block: usize,
        other: usize,
        generation: u64,
        token: TokenName,
    }

    impl World {
        fn new() -> Self {
            let family = Arc::new(Family::create().unwrap().0);
            let options = PoolOptions {
                first_segment_bytes: 1 << 20,
                ..PoolOptions::default()
            };
            let owner = family.join().unwrap();
            let mut pool = Pool::new(Arc::clone(&family), owner, options);
            let names = [(); 2].map(|()| pool.allocate(1000, &mut || true).unwrap());
            let fd = pool.segment_fd(0).unwrap();
            let segment = Arc::new(PoolSegment::attach(&fd, Arc::clone(&family)).unwrap());
            let sender = family.join().unwrap();
            segment.register_row(sender, None).unwrap();
            let mut holder = Holder::new(segment, sender).unwrap();
            let [block, other] = names.each_ref().map(|name| name.block);
            for name in names {
                holder.take(name.block, name.generation).unwrap();
                pool.release(name.segment, name.block).unwrap();
            }
            let tokens = [(); 6].map(|()| holder.make_token(block, 0).unwrap());
            for early in &tokens[..5] {
                assert!(holder.segment().withdraw_token(*early, block).unwrap());
            }
            holder.release(block).unwrap();
            World {
                _pool: pool,
                holder,
                block,
                other,
                generation: names[0].generation,
                token: tokens[5],
            }
        }

        fn is_held(&self) -> bool {
            let segment = self.holder.segment();
            let rows = segment.scan(0).unwrap().unwrap().by_rows;
            let tokens = segment.tokens_in_flight().unwrap();
            let block = self.block as u64;
            rows >> block & 1 == 1 || tokens.iter().any(|token| token.block == block)
        }
    }

    /// A look that reads entry 3 before the hold comes there, and entry 5 after it left.
    #[test]
    fn a_hold_that_moves_twice_during_a_look_is_found() {
        let mut world = World::new();
        let segment = Arc::clone(world.holder.segment());
        let mut looks = 0;
        let found = segment.is_held_at_once(world.block, || {
            looks += 1;
            if looks > 1 {
                return Ok(Some(world.is_held()));
            }
            let (block, generation) = (world.block, world.generation);
            world.holder.claim(world.token, block, generation)?;
            let moved = world.holder.make_token(block, 0)?;
            assert!(moved.index < world.token.index || moved.index > 5);
            world.holder.release(block)?;
            Ok(Some(false))
        });
        assert_eq!((found, looks), (Ok(Some(true)), 2));
    }

    #[test]
    fn tokens_that_come_and_go_during_a_look_are_found() {
        let mut world = World::new();
        let segment = Arc::clone(world.holder.segment());
        assert!(segment.withdraw_token(world.token, world.block).unwrap());
        let (block, other) = (world.block, world.other);
        let found = segment.is_held_at_once(block, || {
            // Of another block.
            let token = world.holder.make_token(other, 0)?;
            segment.withdraw_token(token, other)?;
            world.holder.make_token(other, 0)?;
            Ok(Some(false))
        });
        assert_eq!(found, Ok(Some(false)));
        world.holder.take(block, world.generation).unwrap();
        let mut looks = 0;
        let found = segment.is_held_at_once(block, || {
            looks += 1;
            let token = world.holder.make_token(block, 0)?;
            segment.withdraw_token(token, block)?;
            Ok(Some(false))
        });
        assert_eq!((found, looks), (Ok(None), TRIES));
    }
}
