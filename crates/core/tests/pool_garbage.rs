//! Random bytes where the tables of a family and a segment should be: every operation
//! gives an error or a value inside its limits; none panics, leaves its bounds or
//! runs for ever. `SHARED_NUMPY_FUZZ_N` sets the number of rounds.

use std::os::fd::AsFd;
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
use shared_numpy_core::sys::anon;

const ROUNDS: u64 = 400;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Words that look at borders of checks, among random ones.
    fn word(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => self.next() % 100,
            4 => ((self.next() % 100) << 16) | (self.next() % 0x10000),
            _ => self.next(),
        }
    }

    fn scribble(&mut self, mapping: &Mapping, from: usize, to: usize) {
        for _ in 0..=self.below(20) {
            let at = from + self.below((to - from) / 8) * 8;
            let word = self.word();
            mapping.store_u64(at, word).unwrap();
        }
    }
}

fn rounds() -> u64 {
    std::env::var("SHARED_NUMPY_FUZZ_N").map_or(ROUNDS, |text| text.parse().unwrap())
}

/// A family, a pool with one small segment, and another participant in it.
struct World {
    family: Arc<Family>,
    family_map: Mapping,
    me: Participant,
    pool: Pool,
    name: BlockName,
    other: Participant,
    holder: Holder,
}

fn world() -> World {
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
    let holder = Holder::new(Arc::new(segment), other).unwrap();
    World {
        family,
        family_map: Mapping::new(&family_fd, FAMILY_BYTES, false).unwrap(),
        me,
        pool,
        name,
        other,
        holder,
    }
}

fn check(world: &World, info: Result<BlockInfo>) {
    if let Ok(info) = info {
        let segment = world.holder.segment();
        assert!(info.offset_bytes >= segment.layout().data);
        assert!(info.offset_bytes + info.size_bytes <= segment.mapping().len());
    }
}

/// Everything that can be asked for, with all answers allowed.
fn use_everything(world: &mut World, random: &mut Random) {
    let segment = &Arc::clone(world.holder.segment());
    for _ in 0..8 {
        let block = random.below(70);
        let generation = random.word();
        let taken = world.holder.take(block, generation);
        check(world, taken);
        check(world, segment.block(block));
        let token = TokenName {
            index: random.below(1030),
            generation: random.word(),
        };
        let claimed = world.holder.claim(token, block, generation);
        check(world, claimed);
        let _ = world.holder.retain(block);
        let _ = world.holder.make_token(block, 0);
        let _ = world.holder.release(block);
    }
    let _ = world.pool.collect();
    if let Ok(name) = world.pool.allocate(8192, &mut || true) {
        assert!(name.size_bytes >= 8192);
        let _ = world.pool.release(name.segment, name.block);
    }
    let _ = world.pool.release(world.name.segment, world.name.block);
    let _ = world.pool.trim();
    let _ = inspect::verify(segment);
    let _ = inspect::verify_settled(segment);
    let _ = inspect::snapshot(segment);
    let _ = inspect::verify_family(&world.family);
    let _ = segment.expire_tokens(|token| token.made_s % 2 == 0);
    let _ = world.family.join();
    if let Ok(child) = world.family.reserve_for_child(world.other) {
        let _ = segment.copy_row(world.other, child, None);
        let _ = world.family.adopt(child, world.other);
    }
    let _ = world.family.declare_dead(world.me);
    let _ = recover_all(&world.family, world.other, &[Arc::clone(segment)]);
    if let Ok(mut closer) = Closer::replace(Arc::clone(segment), world.other) {
        let mut freed = Vec::new();
        let _ = closer.collect(&mut freed);
        assert!(freed.iter().all(|&block| block < segment.layout().blocks));
        let _ = closer.blocks_left();
    }
    // Who attaches now is refused, or sees the same limits.
    let _ = PoolSegment::over(Arc::clone(segment.mapping()), Arc::clone(&world.family));
}

#[test]
fn garbage_in_a_segment() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..rounds() {
        let mut world = world();
        let layout = *world.holder.segment().layout();
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
        for _ in 0..=random.below(3) {
            let (from, to) = parts[random.below(parts.len())];
            random.scribble(world.holder.segment().mapping(), from, to);
            use_everything(&mut world, &mut random);
        }
    }
}

#[test]
fn garbage_in_a_family() {
    let mut random = Random(0xfeed_5678_9abc_def1);
    for _ in 0..rounds() {
        let mut world = world();
        for _ in 0..=random.below(3) {
            let last = if random.below(2) == 0 { 4 } else { SLOTS };
            random.scribble(&world.family_map, slot_offset(0), slot_offset(last));
            use_everything(&mut world, &mut random);
        }
    }
}

#[test]
fn files_of_garbage_are_refused() {
    let (family, _fd) = Family::create().unwrap();
    let family = Arc::new(family);
    let mut random = Random(0xabcd_5678_9abc_def1);
    for size in [0, 1, 8, 255, 256, 4096, FAMILY_BYTES as u64, 1 << 20] {
        let fd = anon::create(size).unwrap();
        if size >= 8 {
            let mapping = Mapping::new(&fd, size as usize, false).unwrap();
            random.scribble(&mapping, 0, size as usize);
        }
        assert!(PoolSegment::attach(&fd, Arc::clone(&family)).is_err());
        assert!(Family::attach(&fd).is_err());
    }
}
