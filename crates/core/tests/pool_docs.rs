//! The pages about the pool, held against the code.

use std::collections::BTreeSet;

use shared_numpy_core::fault::POINTS;
use shared_numpy_core::layout::STRUCTS;

const FORMAT: &str = include_str!("../../../docs/pool_format.md");

/// The cells of the table rows under the heading that names `structure`.
fn table(structure: &str) -> Vec<(usize, usize, String)> {
    let heading = format!("### `{structure}`\n");
    let after = FORMAT
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
fn the_format_page_tells_the_offsets_of_the_code() {
    for each in STRUCTS {
        let told = table(each.name);
        let real: Vec<_> = each
            .fields
            .iter()
            .map(|field| (field.offset_bytes, field.size_bytes, field.name.to_owned()))
            .collect();
        assert_eq!(told, real, "{}", each.name);
    }
}

#[test]
fn the_format_page_names_no_other_structure() {
    let told: BTreeSet<_> = FORMAT
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    let real: BTreeSet<_> = STRUCTS.iter().map(|each| each.name).collect();
    assert_eq!(told, real);
}

#[test]
fn the_crash_page_names_the_fault_points_of_the_code() {
    const CRASH: &str = include_str!("../../../docs/crash_safety.md");
    // Points are alone in the second cell of a row, as `what.happened`.
    let told: Vec<_> = CRASH
        .lines()
        .filter_map(|line| line.split('|').nth(2)?.trim().strip_prefix('`'))
        .filter_map(|cell| cell.strip_suffix('`'))
        .collect();
    let told_once: BTreeSet<_> = told.iter().copied().collect();
    assert_eq!(told.len(), told_once.len(), "a point is told twice");
    let real: BTreeSet<_> = POINTS.iter().copied().collect();
    assert_eq!(told_once, real);
}

#[test]
fn the_members_page_names_points_that_exist() {
    const MEMBERS: &str = include_str!("../../../docs/members.md");
    let told: Vec<_> = MEMBERS
        .lines()
        .filter_map(|line| line.split('|').nth(2)?.trim().strip_prefix('`'))
        .filter_map(|cell| cell.strip_suffix('`'))
        .collect();
    assert!(told.len() >= 7, "{told:?}");
    for point in told {
        assert!(POINTS.contains(&point), "{point}");
    }
}
