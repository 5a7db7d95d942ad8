//! Words are packed and unpacked, and parts follow each other.

use super::*;

#[test]
fn words_pack_and_unpack() {
    let packed = Packed {
        state: 4,
        by: 1023,
        generation: Packed::GENERATION_LAST,
    };
    assert_eq!(Packed::unpack(packed.pack()), packed);
    let someone = Participant {
        slot: 0,
        generation: 0,
    };
    assert_ne!(someone.pack(), 0);
    assert_eq!(Participant::unpack(someone.pack()), Some(someone));
    assert_eq!(Participant::unpack(0), None);
}

#[test]
fn parts_follow_each_other() {
    for (blocks, tokens) in [(64, 1), (64, 1024), (BLOCKS_MAX, TOKENS_MAX)] {
        let layout = PoolLayout::new(blocks, tokens).unwrap();
        assert_eq!(layout.row_word(ROWS, 0).next_multiple_of(4096), layout.data);
        assert!(layout.block(layout.blocks, 0) <= layout.rows);
        assert!(layout.token(layout.tokens, 0) <= layout.block_table);
    }
    for (blocks, tokens) in [(0, 1), (63, 1), (64, 0), (1 << 40, 1), (64, u64::MAX)] {
        assert!(PoolLayout::new(blocks, tokens).is_err());
    }
}
