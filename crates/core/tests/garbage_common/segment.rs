//! A family and a segment of a pool, two participants, and all that they can do there.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use shared_numpy_core::error::Result;
use shared_numpy_core::inspect;
use shared_numpy_core::layout::{FAMILY_BYTES, Participant, PoolHeader, ROWS, SLOTS, slot_offset};
use shared_numpy_core::mapping::Mapping;
use shared_numpy_core::pool::closer::Closer;
use shared_numpy_core::pool::family::Family;
use shared_numpy_core::pool::holder::Holder;
use shared_numpy_core::pool::owner::{BlockName, Pool, PoolOptions};
use shared_numpy_core::pool::segment::{BlockInfo, PoolSegment};
use shared_numpy_core::pool::tokens::TokenName;
use shared_numpy_core::recover::recover_all;

use super::choices::Choices;
use super::{scribble, touch};

/// A family, a pool with one small segment, and another participant in it.
pub(crate) struct World {
    family: Arc<Family>,
    family_fd: OwnedFd,
    family_map: Mapping,
    segment_fd: OwnedFd,
    me: Participant,
    pool: Pool,
    name: BlockName,
    other: Participant,
    holder: Holder,
    /// The token that was made last.
    token: TokenName,
}

/// One thing that can be asked for.
pub(crate) type Operation = fn(&mut World, &mut dyn Choices);

/// Everything that can be asked for. The first of them are about one block.
pub(crate) const OPERATIONS: [Operation; 17] = [
    World::take,
    World::claim,
    World::hold_more_and_less,
    World::collect,
    World::allocate,
    World::release_what_was_first,
    World::trim,
    World::inspect,
    World::expire_tokens,
    World::join,
    World::fork,
    World::recover_one,
    World::declare_dead,
    World::recover,
    World::replace_the_closer,
    World::attach_again,
    World::attach_files,
];
const OF_ONE_BLOCK: usize = 3;

impl World {
    pub(crate) fn new() -> Self {
        let (family, family_fd) = Family::create().unwrap();
        let family = Arc::new(family);
        let me = family.join().unwrap();
        let options = PoolOptions {
            // So that the block below has a small segment of its own.
            own_segment_above_bytes: 4096,
            ..PoolOptions::default()
        };
        let mut pool = Pool::new(Arc::clone(&family), me, options);
        let name = pool.allocate(8192, &mut || true).unwrap();
        let other = family.join().unwrap();
        let fd = pool.segment_fd(0).unwrap();
        let segment = PoolSegment::attach(&fd, Arc::clone(&family)).unwrap();
        segment.register_row(other, Some(fd.as_fd())).unwrap();
        let segment_fd = fd.as_fd().try_clone_to_owned().unwrap();
        let mut holder = Holder::new(Arc::new(segment), other).unwrap();
        // Something is held, and something is on its way.
        holder.take(name.block, name.generation).unwrap();
        let token = holder.make_token(name.block, 1).unwrap();
        World {
            family_map: Mapping::new(&family_fd, FAMILY_BYTES, false).unwrap(),
            family,
            family_fd,
            segment_fd,
            me,
            pool,
            name,
            other,
            holder,
            token,
        }
    }

    /// Garbage over some part of the segment.
    pub(crate) fn scribble_segment(&mut self, choices: &mut dyn Choices) {
        let layout = *self.holder.segment().layout();
        let parts = [
            (0, size_of::<PoolHeader>()),
            (layout.row_owners, layout.row_owners + 8 * 8),
            (layout.row_owners, layout.dirty),
            (layout.dirty, layout.token_table),
            (layout.token_table, layout.token_table + 512),
            (layout.block_table, layout.block_table + 2048),
            (layout.rows, layout.row_word(8, 0)),
            (layout.rows, layout.row_word(ROWS, 0)),
        ];
        let (from, to) = parts[choices.below(parts.len())];
        scribble(choices, self.holder.segment().mapping(), from, to);
    }

    /// Garbage over slots of the family.
    pub(crate) fn scribble_family(&mut self, choices: &mut dyn Choices) {
        let last = [4, SLOTS][choices.below(2)];
        scribble(choices, &self.family_map, slot_offset(0), slot_offset(last));
    }

    /// Each operation, those of one block several times.
    pub(crate) fn everything(&mut self, choices: &mut dyn Choices) {
        for _ in 0..8 {
            for operation in &OPERATIONS[..OF_ONE_BLOCK] {
                operation(self, choices);
            }
        }
        for operation in &OPERATIONS[OF_ONE_BLOCK..] {
            operation(self, choices);
        }
    }

    fn check(&self, info: Result<BlockInfo>) {
        if let Ok(info) = info {
            let segment = self.holder.segment();
            assert!(info.offset_bytes >= segment.layout().data);
            touch(segment.mapping(), info.offset_bytes, info.size_bytes);
        }
    }

    /// A block's index, and a generation that it may have.
    fn block(&self, choices: &mut dyn Choices) -> (usize, u64) {
        match choices.below(4) {
            0 => (self.name.block, self.name.generation),
            1 => (self.name.block, choices.word()),
            _ => (choices.below(70), choices.word()),
        }
    }

    fn take(&mut self, choices: &mut dyn Choices) {
        let (block, generation) = self.block(choices);
        let taken = self.holder.take(block, generation);
        self.check(taken);
        self.check(self.holder.segment().block(block));
    }

    fn claim(&mut self, choices: &mut dyn Choices) {
        let (block, generation) = self.block(choices);
        let token = match choices.below(3) {
            0 => self.token,
            _ => TokenName {
                index: choices.below(1030),
                generation: choices.word(),
            },
        };
        let claimed = self.holder.claim(token, block, generation);
        self.check(claimed);
        let kept = self.holder.hold_by_token(token, block, generation);
        self.check(kept);
        if choices.below(4) == 0 {
            let _ = self.holder.segment().withdraw_token(token, block);
        }
    }

    fn hold_more_and_less(&mut self, choices: &mut dyn Choices) {
        let (block, _) = self.block(choices);
        let _ = self.holder.retain(block);
        if let Ok(token) = self.holder.make_token(block, choices.below(3) as u64) {
            assert!(token.index < self.holder.segment().layout().tokens);
            self.token = token;
        }
        let _ = self.holder.release(block);
    }

    fn collect(&mut self, _: &mut dyn Choices) {
        let _ = self.pool.collect();
    }

    fn allocate(&mut self, choices: &mut dyn Choices) {
        let size_bytes = [8192, 64, 0][choices.below(3)];
        if let Ok(name) = self.pool.allocate(size_bytes, &mut || true) {
            assert!(name.size_bytes as u64 >= size_bytes);
            let segment = self.pool.segment(name.segment).unwrap();
            touch(segment.mapping(), name.offset_bytes, name.size_bytes);
            let _ = self.pool.release(name.segment, name.block);
        }
    }

    fn release_what_was_first(&mut self, _: &mut dyn Choices) {
        let _ = self.pool.release(self.name.segment, self.name.block);
    }

    fn trim(&mut self, _: &mut dyn Choices) {
        let _ = self.pool.trim();
    }

    fn inspect(&mut self, _: &mut dyn Choices) {
        let segment = self.holder.segment();
        let _ = inspect::verify(segment);
        let _ = inspect::verify_settled(segment);
        if let Ok(found) = inspect::snapshot(segment) {
            assert!(found.blocks <= segment.layout().blocks);
            assert!(found.open <= found.blocks && found.in_flight <= segment.layout().tokens);
        }
        let _ = inspect::verify_family(&self.family);
        let _ = self.holder.inherited();
    }

    fn expire_tokens(&mut self, _: &mut dyn Choices) {
        let segment = self.holder.segment();
        let _ = segment.expire_tokens(|token| token.made_s % 2 == 0);
        let _ = segment.expire_tokens_of_the_dead(100, 0);
    }

    fn join(&mut self, _: &mut dyn Choices) {
        if let Ok(who) = self.family.join() {
            assert!(who.slot < SLOTS);
        }
    }

    fn fork(&mut self, _: &mut dyn Choices) {
        if let Ok(child) = self.family.reserve_for_child(self.other) {
            let _ = self.holder.segment().copy_row(self.other, child, None);
            let _ = self.family.adopt(child, self.other);
        }
    }

    fn recover_one(&mut self, choices: &mut dyn Choices) {
        let slot = choices.below(SLOTS);
        if let Ok(seen) = self.family.slot(slot) {
            let _ = self.family.declare_dead_if(slot, seen);
        }
    }

    fn declare_dead(&mut self, _: &mut dyn Choices) {
        let _ = self.family.declare_dead(self.me);
    }

    fn recover(&mut self, _: &mut dyn Choices) {
        let segments = [Arc::clone(self.holder.segment())];
        let _ = recover_all(&self.family, self.other, &segments);
    }

    fn replace_the_closer(&mut self, _: &mut dyn Choices) {
        let segment = Arc::clone(self.holder.segment());
        if let Ok(mut closer) = Closer::replace(Arc::clone(&segment), self.other) {
            let mut freed = Vec::new();
            let _ = closer.collect(&mut freed);
            assert!(freed.iter().all(|&block| block < segment.layout().blocks));
            let _ = closer.blocks_left();
        }
    }

    /// Who attaches now is refused, or sees tables that lie inside.
    fn attach_again(&mut self, _: &mut dyn Choices) {
        let mapping = Arc::clone(self.holder.segment().mapping());
        if let Ok(segment) = PoolSegment::over(mapping, Arc::clone(&self.family)) {
            let layout = segment.layout();
            assert!(layout.row_word(ROWS, 0) <= layout.data);
            assert!(layout.data <= segment.mapping().len());
        }
    }

    /// The same from the files, which brings another holder.
    fn attach_files(&mut self, choices: &mut dyn Choices) {
        let Ok(family) = Family::attach(&self.family_fd).map(Arc::new) else {
            return;
        };
        let Ok(segment) = PoolSegment::attach(&self.segment_fd, Arc::clone(&family)) else {
            return;
        };
        let Ok(me) = family.join() else { return };
        if segment.register_row(me, None).is_ok()
            && let Ok(mut holder) = Holder::new(Arc::new(segment), me)
        {
            let (block, generation) = self.block(choices);
            let taken = holder.take(block, generation);
            self.check(taken);
        }
    }
}
