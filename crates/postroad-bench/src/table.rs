//! Tables for people: Markdown that is lined up, so that it can be read and pasted as it is.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::results::{Results, Row, name};
use crate::scenario::Scenario;
use crate::statistics::Spread;

/// The server that others are compared with.
const BESIDE: &str = "postfix";

/// The table of a scenario; empty where nothing was measured.
pub(crate) fn of(results: &Results, scenario: Scenario) -> String {
    let key = scenario.to_string();
    let rows: Vec<&Row> = results.rows.iter().filter(|r| r.scenario == key).collect();
    if rows.is_empty() {
        return String::new();
    }
    let is_load = rows.iter().any(|row| row.figures.contains_key(name::RATE))
        && !matches!(scenario, Scenario::S5 | Scenario::S6 | Scenario::S8);
    let lines = if is_load {
        load(results, &rows)
    } else {
        plain(&rows)
    };
    format!("## {}\n\n{}", scenario.title(), render(&lines))
}

fn load(results: &Results, rows: &[&Row]) -> Vec<Vec<String>> {
    let head = [
        "connections",
        "server",
        "msg/s (min-max)",
        "× Postfix",
        "CPU s/1,000",
        "CPU × Postfix",
        "peak PSS MiB",
        "p50 ms",
        "p99 ms",
        "notes",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let beside = results.beside(row, BESIDE);
        let ratio = |name| {
            let ratio = beside.and_then(|beside| row.ratio(beside, name));
            ratio.map_or_else(dash, |r| number(r.median))
        };
        let median = |name| row.spread(name).map_or_else(dash, |s| number(s.median));
        let mut notes = Vec::new();
        if let Some(bytes) = row.spread(name::BYTES).filter(|_| row.scenario == "s4") {
            notes.push(format!("{} MB/s", number(bytes.median)));
        }
        let share = results.beside(row, "loop").filter(|_| row.server != "loop");
        if let Some(share) = share.and_then(|bare| row.ratio(bare, name::RATE)) {
            notes.push(format!("{:.0} % of the loop", share.median * 100.0));
        }
        lines.push(vec![
            row.variant.clone(),
            row.server.clone(),
            row.spread(name::RATE).map_or_else(dash, range),
            ratio(name::RATE),
            median(name::CPU),
            ratio(name::CPU),
            median(name::PEAK),
            median(name::P50),
            median(name::P99),
            remarks(notes, row),
        ]);
    }
    lines
}

/// A table of whatever figures the rows have, turned by a quarter: a line for each figure.
fn plain(rows: &[&Row]) -> Vec<Vec<String>> {
    let variants: Vec<&str> = rows.iter().map(|r| r.variant.as_str()).collect();
    let of_one_kind = variants.iter().all(|v| v.is_empty());
    let mut head = vec!["figure".to_owned()];
    head.extend(rows.iter().map(|row| {
        if of_one_kind {
            row.server.clone()
        } else {
            format!("{}, {}", row.server, row.variant)
        }
    }));
    let names: BTreeSet<&String> = rows.iter().flat_map(|r| r.figures.keys()).collect();
    let mut lines = vec![head];
    for name in names {
        let mut line = vec![name.clone()];
        line.extend(
            rows.iter()
                .map(|row| row.spread(name).map_or_else(dash, range)),
        );
        lines.push(line);
    }
    let mut line = vec!["notes".to_owned()];
    line.extend(rows.iter().map(|row| remarks(Vec::new(), row)));
    if line.iter().skip(1).any(|notes| !notes.is_empty()) {
        lines.push(line);
    }
    lines
}

fn remarks(mut notes: Vec<String>, row: &Row) -> String {
    notes.extend(row.notes.iter().cloned());
    notes.extend(row.faults.iter().map(|fault| format!("FAULT: {fault}")));
    notes
        .join("; ")
        .replace('|', "/")
        .replace(['\r', '\n'], " ")
}

fn range(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min < max {
        format!("{} ({}-{})", number(median), number(min), number(max))
    } else {
        number(median)
    }
}

fn dash() -> String {
    "–".to_owned()
}

/// A figure with three digits or so: what is left of a measurement after its noise.
pub(crate) fn number(figure: f64) -> String {
    let digits = match figure.abs() {
        f if f >= 100.0 || f == 0.0 => 0,
        f if f >= 10.0 => 1,
        f if f >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{figure:.digits$}");
    let (whole, rest) = match text.split_once('.') {
        Some((whole, rest)) => (whole, format!(".{rest}")),
        None => (text.as_str(), String::new()),
    };
    let mut grouped = String::new();
    for (n, digit) in whole.chars().enumerate() {
        let left = whole.len() - n;
        if n > 0 && left % 3 == 0 && whole.chars().nth(n - 1) != Some('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &rest
}

/// Lines up the cells; the first line is the head.
fn render(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let pad = width - cell.chars().count().min(*width);
            // Writing to a string does not fail.
            let _ = write!(text, "| {cell}{} ", " ".repeat(pad));
        }
        text.push_str("|\n");
        if n == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::results::Figures;

    #[test]
    fn numbers() {
        for (figure, want) in [
            (0.0, "0"),
            (0.123_45, "0.123"),
            (6.4, "6.40"),
            (12.34, "12.3"),
            (785.4, "785"),
            (-1234.0, "-1,234"),
            (-123.0, "-123"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(figure), want);
        }
    }

    #[test]
    fn a_table_of_loads() {
        let mut results = Results::new(String::new(), Machine::default(), "");
        let figures =
            |rate, cpu| Figures::from([(name::RATE, rate), (name::CPU, cpu), (name::P50, 1.5)]);
        for (server, rate, cpu) in [("postroad", 5000.0, 0.2), ("postfix", 1000.0, 2.0)] {
            results
                .row("s2", "each", server)
                .add(0, &figures(rate, cpu));
        }
        let row = results.row("s2", "each", "postroad");
        row.add(1, &figures(6000.0, 0.2));
        row.fault("lost messages");
        results.row("s2", "each", "exim").note("not installed");
        let table = of(&results, Scenario::S2);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 7);
        assert!(
            lines[4].contains("| 5,500 (5,000-6,000) | 5.00 "),
            "{table}"
        );
        assert!(lines[4].contains("| 0.100 "), "{table}");
        assert!(lines[4].contains("FAULT: lost messages"), "{table}");
        assert!(lines[6].contains("not installed"), "{table}");
        let widths: BTreeSet<_> = lines.iter().skip(2).map(|l| l.chars().count()).collect();
        assert_eq!(widths.len(), 1, "{table}");
        assert_eq!(of(&results, Scenario::S1), "");
    }

    #[test]
    fn a_table_of_other_figures() {
        let mut results = Results::new(String::new(), Machine::default(), "");
        let figures = Figures::from([("KiB a connection, plain", 7.5)]);
        results.row("s5", "", "postroad").add(0, &figures);
        let table = of(&results, Scenario::S5);
        assert!(
            table.contains("| KiB a connection, plain | 7.50"),
            "{table}"
        );
    }
}
