//! What a run has found, as it is kept in a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::statistics::Spread;

/// Raised when the meaning of a figure changes: such results are not compared.
const FORMAT: u32 = 1;

/// The results of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) format: u32,
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) cpu_method: String,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) rows: Vec<Row>,
}

/// One server in one scenario.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) variant: String,
    pub(crate) server: String,
    /// Each figure of each round; none where the round failed.
    pub(crate) figures: BTreeMap<String, Vec<Option<f64>>>,
    /// What a reader should know.
    pub(crate) notes: Vec<String>,
    /// What must not be: lost messages, errors.
    pub(crate) faults: Vec<String>,
}

/// The figures of one round.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// The names of the figures of the loads.
pub(crate) mod name {
    pub(crate) const RATE: &str = "msg/s";
    pub(crate) const BYTES: &str = "MB/s";
    pub(crate) const CPU: &str = "CPU s/1,000";
    pub(crate) const PEAK: &str = "peak PSS MiB";
    pub(crate) const P50: &str = "p50 ms";
    pub(crate) const P99: &str = "p99 ms";
}

impl Results {
    pub(crate) fn new(command: String, machine: Machine, cpu_method: &str) -> Self {
        Self {
            format: FORMAT,
            command,
            machine,
            cpu_method: cpu_method.to_owned(),
            ..Self::default()
        }
    }

    /// The row of a server, made where there is none.
    pub(crate) fn row(&mut self, scenario: &str, variant: &str, server: &str) -> &mut Row {
        let is_it = |row: &Row| {
            (&*row.scenario, &*row.variant, &*row.server) == (scenario, variant, server)
        };
        let at = self.rows.iter().position(is_it).unwrap_or_else(|| {
            self.rows.push(Row {
                scenario: scenario.to_owned(),
                variant: variant.to_owned(),
                server: server.to_owned(),
                ..Row::default()
            });
            self.rows.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or made just now")]
        &mut self.rows[at]
    }

    /// The row of another server for the same as this one.
    pub(crate) fn beside(&self, row: &Row, server: &str) -> Option<&Row> {
        self.rows.iter().find(|other| {
            other.server == server && other.scenario == row.scenario && other.variant == row.variant
        })
    }

    /// Reads some.
    ///
    /// # Errors
    /// Where the file is not of this format.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let results: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} holds no results", path.display()))?;
        if results.format != FORMAT {
            bail!("{} is of another version of the benchmark", path.display());
        }
        Ok(results)
    }

    /// Writes them.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

impl Row {
    /// Adds a round: its figures, or nothing where it failed.
    pub(crate) fn add(&mut self, round: usize, figures: &Figures) {
        for (name, figure) in figures {
            let rounds = self.figures.entry((*name).to_owned()).or_default();
            rounds.resize(round, None);
            rounds.push(Some(*figure));
        }
    }

    /// Adds a note, once.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds a fault, once.
    pub(crate) fn fault(&mut self, fault: impl Into<String>) {
        let fault = fault.into();
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// A figure over the rounds.
    pub(crate) fn spread(&self, name: &str) -> Option<Spread> {
        Spread::of(self.figures.get(name)?.iter().flatten().copied())
    }

    /// The median of this row's figure by the other's of the same round.
    pub(crate) fn ratio(&self, other: &Self, name: &str) -> Option<Spread> {
        let (own, others) = (self.figures.get(name)?, other.figures.get(name)?);
        let pairs = own.iter().zip(others);
        Spread::of(pairs.filter_map(|(own, other)| Some((*own)? / (*other)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut results = Results::new(String::new(), Machine::default(), "");
        for (server, rates) in [("postroad", [10.0, 40.0]), ("postfix", [5.0, 10.0])] {
            for (round, rate) in rates.into_iter().enumerate() {
                let row = results.row("s2", "", server);
                row.add(round, &Figures::from([(name::RATE, rate)]));
            }
        }
        // A round that failed for one of them counts for neither.
        let figures = Figures::from([(name::RATE, 1.0)]);
        results.row("s2", "", "postroad").add(2, &figures);
        results.row("s2", "", "postfix").add(3, &figures);
        let row = &results.rows[0];
        let beside = results.beside(row, "postfix").unwrap();
        assert_eq!(row.ratio(beside, name::RATE).unwrap().median, 3.0);
        assert_eq!(row.spread(name::RATE).unwrap().max, 40.0);
        assert_eq!(row.ratio(beside, name::CPU), None);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/results.json");
        let mut results = Results::new("bench".to_owned(), Machine::default(), "");
        let row = results.row("s1", "kept", "exim");
        row.add(1, &Figures::from([(name::CPU, 6.4)]));
        row.note("slow");
        row.note("slow");
        results.write(&path).unwrap();
        let read = Results::read(&path).unwrap();
        assert_eq!(read.rows[0].figures[name::CPU], [None, Some(6.4)]);
        assert_eq!(read.rows[0].notes, ["slow"]);
        results.format += 1;
        results.write(&path).unwrap();
        assert!(Results::read(&path).is_err());
    }
}
