//! Next hops that misbehave: each row of `data/hops.table` against the outbound role, over real
//! sockets, all at once.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

mod queue;
mod round;
mod table;
mod world;

use std::collections::BTreeSet;

use table::Row;

const TABLE: &str = include_str!("../../data/hops.table");
/// Kinds of misbehaviour that the table has at least.
const ROWS_MIN: usize = 60;

#[test]
fn the_table_is_whole() {
    let rows = table::read(TABLE).unwrap();
    let kinds: BTreeSet<_> = rows.iter().map(|row| row.kind.as_str()).collect();
    assert!(kinds.len() >= ROWS_MIN, "{} kinds only", kinds.len());
    let names: BTreeSet<_> = rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names.len(), rows.len(), "two rows of one name");
}

/// All rows together, since most of their time is spent waiting; those with hosts that are silent
/// apart from the others, so that nobody else is in a hurry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_the_table_says() {
    let rows = table::read(TABLE).unwrap();
    // `HOPS=cut,greeting`: the rows with such names only, for whoever looks into one.
    let chosen = std::env::var("HOPS").unwrap_or_default();
    let is_chosen = |row: &Row| chosen.split(',').any(|part| row.name.contains(part));
    let rows = rows.into_iter().filter(is_chosen);
    let (hasty, patient): (Vec<_>, Vec<_>) = rows.partition(|row| row.host.tries_patience());
    let (mut faults, more) = tokio::join!(round::run(&patient, false), round::run(&hasty, true));
    faults.extend(more);
    let count = patient.len() + hasty.len();
    assert!(
        faults.is_empty(),
        "{} faults in {count} rows:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
