//! The page about the queue, held against the code.

use std::collections::BTreeSet;

use shared_numpy_core::fault::QUEUE_POINTS;
use shared_numpy_core::layout::queues::{
    BELL_TABLE, BELLS, Bell, FIRST_RING, PEERS, QUEUES, QueueHeader, RING_TABLE, RINGS, Ring,
};

const PAGE: &str = include_str!("../../../docs/queue.md");

/// The cells of the table rows under the heading that names `structure`.
fn table(structure: &str) -> Vec<(usize, usize, String)> {
    let heading = format!("### `{structure}`\n");
    let after = PAGE
        .split_once(&heading)
        .unwrap_or_else(|| panic!("no heading for {structure}"))
        .1;
    let section = after.split("\n#").next().unwrap();
    section
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('|').skip(1).map(str::trim);
            let offset = cells.next()?.parse().ok()?;
            let size = cells.next()?.parse().ok()?;
            Some((offset, size, cells.next()?.trim_matches('`').to_owned()))
        })
        .collect()
}

#[test]
fn the_page_tells_the_offsets_of_the_code() {
    for each in QUEUES {
        let told = table(each.name);
        let real: Vec<_> = each
            .fields
            .iter()
            .map(|field| (field.offset_bytes, field.size_bytes, field.name.to_owned()))
            .collect();
        assert_eq!(told, real, "{}", each.name);
    }
    let told: BTreeSet<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    let real: BTreeSet<_> = QUEUES.iter().map(|each| each.name).collect();
    assert_eq!(told, real);
}

#[test]
fn the_page_tells_where_the_parts_begin() {
    let header = size_of::<QueueHeader>();
    let bells = BELLS * size_of::<Bell>();
    let rings = RINGS * size_of::<Ring>();
    for row in [
        format!("| `QueueHeader` | 0 | {header} |"),
        format!("| peers | {PEERS} | 8 for each of 1024 slots |"),
        format!("| `Bell` x {BELLS} | {BELL_TABLE} | {bells} |"),
        format!("| `Ring` x {RINGS} | {RING_TABLE} | {rings} |"),
        format!("| the first ring | {FIRST_RING} | `units` x 64 |"),
    ] {
        assert!(PAGE.contains(&row), "{row}");
    }
}

#[test]
fn the_page_names_the_fault_points_of_the_code() {
    // Points are alone in the second cell of a row, as `what.happened`.
    let told: Vec<_> = PAGE
        .lines()
        .filter_map(|line| line.split('|').nth(2)?.trim().strip_prefix('`'))
        .filter_map(|cell| cell.strip_suffix('`'))
        .filter(|cell| cell.contains('.') && !cell.contains('/'))
        .collect();
    let told_once: BTreeSet<_> = told.iter().copied().collect();
    assert_eq!(told.len(), told_once.len(), "a point is told twice");
    let real: BTreeSet<_> = QUEUE_POINTS
        .iter()
        .copied()
        .filter(|point| !point.starts_with("latest."))
        .collect();
    assert_eq!(told_once, real);
}
