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
fn tokens_of_a_block_are_counted_around() {
    let mut tokens = BlockTokens::unpack(0);
    assert!(tokens.are_all_ended());
    for index in [0, TOKENS_MAX as usize - 1] {
        tokens = tokens.made(index);
        assert_eq!(tokens.latest, index);
        assert!(!tokens.are_all_ended());
        assert_eq!(BlockTokens::unpack(tokens.pack()), tokens);
    }
    assert!(!tokens.ended().are_all_ended());
    assert!(tokens.ended().ended().are_all_ended());
    // Both counts wrap by themselves and leave the rest of the word alone.
    let last = BlockTokens::unpack(u64::MAX);
    assert!(last.are_all_ended() && last.latest == TOKENS_MAX as usize - 1);
    let around = last.made(7).ended();
    assert_eq!((around.pack() >> 18, around.latest), (0, 7));
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
