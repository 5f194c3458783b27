//! The count of what became of the letters of a load.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::bail;

use crate::letters::Letter;
use crate::process::{Log, PATIENCE};
use crate::sink::{Received, Sink};

/// Letters that a complaint names, at most.
const NAMED_MAX: usize = 10;

/// What became of letters.
#[derive(Debug, Default)]
pub struct Account {
    acknowledged: BTreeSet<Letter>,
    /// Removed by an operator, who was told so.
    removed: BTreeSet<Letter>,
    /// Perhaps removed: the service was killed before it could tell.
    unsure: BTreeSet<Letter>,
    arrived: BTreeMap<Letter, u64>,
    damaged: Vec<String>,
}

impl Account {
    /// Of letters that were acknowledged.
    #[must_use]
    pub fn of(acknowledged: BTreeSet<Letter>) -> Self {
        Self {
            acknowledged,
            ..Self::default()
        }
    }

    /// The first were removed by an operator, the others perhaps: that these do not arrive is no
    /// loss, and that those do is a fault.
    pub fn excuse(&mut self, removed: BTreeSet<Letter>, unsure: BTreeSet<Letter>) {
        (self.removed, self.unsure) = (removed, unsure);
    }

    /// Counts what arrives, until nothing is missing; or nothing more comes.
    pub async fn collect(&mut self, sink: &Sink) {
        while !self.lost().is_empty() {
            match tokio::time::timeout(PATIENCE, sink.take()).await {
                Ok(messages) => self.count(&messages),
                Err(_) => return,
            }
        }
    }

    /// Counts what has arrived.
    pub fn count(&mut self, messages: &[Received]) {
        for message in messages {
            match Letter::arrived(message) {
                Ok(letter) => *self.arrived.entry(letter).or_default() += 1,
                Err(fault) => self.damaged.push(fault.to_string()),
            }
        }
    }

    /// How many letters were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Those of them that are missing.
    #[must_use]
    pub fn lost(&self) -> Vec<Letter> {
        let excused = |l: &&Letter| self.removed.contains(l) || self.unsure.contains(l);
        let missing = |l: &&Letter| !self.arrived.contains_key(l) && !excused(l);
        self.acknowledged.iter().filter(missing).copied().collect()
    }

    /// Those that arrived although an operator was told that they are removed.
    #[must_use]
    pub fn returned(&self) -> Vec<Letter> {
        let all = self.arrived.keys();
        all.filter(|l| self.removed.contains(l)).copied().collect()
    }

    /// Those that arrived and were never acknowledged.
    #[must_use]
    pub fn unasked(&self) -> Vec<Letter> {
        let all = self.arrived.keys();
        let unasked = all.filter(|l| !self.acknowledged.contains(l));
        unasked.copied().collect()
    }

    /// How often one came that had come before.
    #[must_use]
    pub fn duplicated(&self) -> u64 {
        self.arrived.values().map(|n| n - 1).sum()
    }

    /// The late ones that came more than once: nothing can have been in flight of them.
    #[must_use]
    pub fn late_repeated(&self) -> Vec<Letter> {
        let repeated = self.arrived.iter().filter(|(l, n)| l.late && **n > 1);
        repeated.map(|(letter, _)| *letter).collect()
    }

    /// Insists that all arrived, whole, what was removed did not, and at most so many came again.
    ///
    /// # Errors
    /// Where it is not so; it shows what the log says of the first ones.
    pub fn check(&self, duplicated_max: u64, log: &Log) -> anyhow::Result<()> {
        for (what, letters) in [
            ("lost", self.lost()),
            ("removed, and back again", self.returned()),
            ("late, and here more than once", self.late_repeated()),
        ] {
            if !letters.is_empty() {
                let said = mentions(log, &letters);
                bail!("{what}: {letters:?} ({self}); of the first ones the log has\n{said}");
            }
        }
        if !self.damaged.is_empty() {
            bail!("corrupted: {:?} ({self})", self.damaged);
        }
        if self.duplicated() > duplicated_max {
            bail!("{duplicated_max} can have been in flight ({self})");
        }
        Ok(())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let big = self.acknowledged.iter().filter(|l| l.is_big()).count();
        let late = self.acknowledged.iter().filter(|l| l.late).count();
        let (lost, removed) = (self.lost().len(), self.removed.len());
        let (duplicated, damaged) = (self.duplicated(), self.damaged.len());
        write!(
            f,
            "{} acknowledged ({big} big, {late} deferred to the end, {removed} removed by an operator), {lost} lost, {duplicated} duplicated, {damaged} corrupted",
            self.acknowledged.len()
        )
    }
}

/// The lines of a log about the first of these.
fn mentions(log: &Log, letters: &[Letter]) -> String {
    let needles: Vec<_> = letters
        .iter()
        .take(NAMED_MAX)
        .map(Letter::address)
        .collect();
    let mut lines = log.lines();
    lines.retain(|line| needles.iter().any(|needle| line.contains(needle)));
    lines.join("\n")
}
