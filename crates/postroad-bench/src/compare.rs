//! What has changed since a baseline.

use std::fmt::Write as _;

use crate::results::{Results, name};
use crate::table::number;

/// Below this a change is noise.
const NOISE: f64 = 0.15;

/// Figures of which more is better; of all others less is.
const MORE_IS_BETTER: [&str; 2] = [name::RATE, name::BYTES];

/// The changes of each row that both have: medians, with a warning where one is worse by more
/// than noise.
pub(crate) fn changes(baseline: &Results, now: &Results) -> String {
    let mut text = format!("Since the baseline of {}:\n\n", baseline.machine.date);
    if baseline.machine.processor != now.machine.processor
        || baseline.machine.cores != now.machine.cores
    {
        text.push_str("The baseline is of another machine: only ratios can be compared.\n\n");
    }
    let mut compared = false;
    for row in &now.rows {
        let Some(before) = baseline.beside(row, &row.server) else {
            continue;
        };
        for figure in row.figures.keys() {
            let (Some(before), Some(after)) = (before.spread(figure), row.spread(figure)) else {
                continue;
            };
            compared = true;
            let change = change(before.median, after.median);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:8} {} {} {figure}: {} -> {} ({:+.0} %){}",
                row.server,
                row.scenario,
                row.variant,
                number(before.median),
                number(after.median),
                change * 100.0,
                verdict(figure, change)
            );
        }
    }
    if !compared {
        text.push_str("nothing in it was measured now\n");
    }
    text
}

fn change(before: f64, after: f64) -> f64 {
    if before == 0.0 {
        return if after == 0.0 { 0.0 } else { f64::INFINITY };
    }
    after / before - 1.0
}

fn verdict(figure: &str, change: f64) -> &'static str {
    let more_is_better = MORE_IS_BETTER.iter().any(|name| figure.contains(name));
    let gain = if more_is_better { change } else { -change };
    if change.abs() <= NOISE {
        ""
    } else if gain > 0.0 {
        "  better"
    } else {
        "  WARNING: worse"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::results::Figures;

    fn results(rate: f64, cpu: f64) -> Results {
        let mut results = Results::new(String::new(), Machine::default(), "");
        let figures = Figures::from([(name::RATE, rate), (name::CPU, cpu)]);
        results.row("s2", "each", "postroad").add(0, &figures);
        results
    }

    #[test]
    fn changes_beyond_noise_are_told() {
        let before = results(1000.0, 1.0);
        for (rate, cpu, rate_told, cpu_told) in [
            (1100.0, 1.1, "(+10 %)\n", "(+10 %)\n"),
            (800.0, 0.5, "(-20 %)  WARNING: worse\n", "(-50 %)  better\n"),
            (
                2000.0,
                2.0,
                "(+100 %)  better\n",
                "(+100 %)  WARNING: worse\n",
            ),
        ] {
            let text = changes(&before, &results(rate, cpu));
            let line = |name: &str| text.lines().find(|l| l.contains(name)).unwrap();
            assert!(line(name::RATE).ends_with(rate_told.trim_end()), "{text}");
            assert!(line(name::CPU).ends_with(cpu_told.trim_end()), "{text}");
        }
    }

    #[test]
    fn what_only_one_has_is_left_out() {
        let empty = Results::new(String::new(), Machine::default(), "");
        assert!(changes(&empty, &results(1.0, 1.0)).contains("nothing"));
        assert!(changes(&results(1.0, 1.0), &empty).contains("nothing"));
    }
}
