//! The page about locks, held against the code.

use std::collections::BTreeSet;

use shared_numpy_core::fault::{LOCK_POINTS, POINTS};
use shared_numpy_core::layout::cells::CELLS;

const PAGE: &str = include_str!("../../../docs/locks.md");

fn cells(line: &str) -> Vec<&str> {
    line.split('|').skip(1).map(str::trim).collect()
}

#[test]
fn the_page_tells_the_offsets_of_the_code() {
    for each in CELLS {
        let heading = format!("### `{}`\n", each.name);
        let (_, after) = PAGE.split_once(&heading).expect(each.name);
        let told: Vec<_> = after
            .split("\n#")
            .next()
            .unwrap()
            .lines()
            .map(cells)
            .filter_map(|row| {
                let offset = row.first()?.parse().ok()?;
                let size = row.get(1)?.parse().ok()?;
                Some((offset, size, row.get(2)?.trim_matches('`').to_owned()))
            })
            .collect();
        let real: Vec<(usize, usize, String)> = each
            .fields
            .iter()
            .map(|field| (field.offset_bytes, field.size_bytes, field.name.to_owned()))
            .collect();
        assert_eq!(told, real, "{}", each.name);
    }
}

#[test]
fn the_page_names_no_other_structure() {
    let told: BTreeSet<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    let real: BTreeSet<_> = CELLS.iter().map(|each| each.name).collect();
    assert_eq!(told, real);
}

#[test]
fn the_page_names_the_fault_points_of_the_code() {
    let told: Vec<_> = PAGE
        .lines()
        .filter_map(|line| {
            let row = cells(line);
            row.get(1)?.strip_prefix('`')?.strip_suffix('`')
        })
        .filter(|cell| cell.contains('.') && !cell.contains('/'))
        .collect();
    let told_once: BTreeSet<_> = told.iter().copied().collect();
    assert_eq!(told.len(), told_once.len(), "a point is told twice");
    assert_eq!(told_once, LOCK_POINTS.iter().copied().collect());
    assert!(LOCK_POINTS.iter().all(|point| !POINTS.contains(point)));
}
