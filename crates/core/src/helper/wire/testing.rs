//! What the tests of both protocols do: compare tables with a page, and make noise.

/// Fails unless every row of the tables at the head of `source` stands in `page`, and
/// there are more than so many.
#[track_caller]
pub(crate) fn the_page_has_the_tables_of(page: &str, source: &str, more_than: usize) {
    let rows = source
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| line.starts_with('|'));
    assert!(rows.clone().count() > more_than);
    for row in rows {
        assert!(page.lines().any(|line| line == row), "{row}");
    }
}

/// Calls `look` with 20 000 rounds of random bytes, the same in every run; the first is a
/// message's kind, or one that none has.
pub(crate) fn noise<const N: usize>(mut look: impl FnMut(usize, &mut [u8; N])) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = [0_u8; N];
    for round in 0..20_000 {
        for byte in &mut noise {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        noise[0] %= 8;
        look(round, &mut noise);
    }
}
