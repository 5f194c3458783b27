//! Whether deny.toml allows the licence of every crate. `cargo deny check` says so too, and more;
//! this needs nothing that CI does not have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use cargo_metadata::{CargoOpt, MetadataCommand};

pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(root.join("deny.toml")).context("reading deny.toml")?;
    let allowed = allowed(&text)?;
    // All features, as `[graph]` has it.
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .context("asking cargo for the dependency graph")?;
    if metadata.packages.len() < 100 {
        bail!(
            "only {} packages found: the search itself is broken",
            metadata.packages.len()
        );
    }
    let faults: Vec<_> = metadata
        .packages
        .iter()
        .filter_map(|package| {
            let why = fault(package.license.as_deref(), &allowed)?;
            Some(format!("{} {}: {why}", package.name, package.version))
        })
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    bail!(
        "licences that deny.toml does not allow:\n  {}",
        faults.join("\n  ")
    );
}

/// The list `allow` under `[licenses]`.
fn allowed(text: &str) -> anyhow::Result<BTreeSet<String>> {
    let list = text
        .split("\n[")
        .find_map(|table| table.strip_prefix("licenses]"))
        .and_then(|table| table.split_once("\nallow = ["))
        .and_then(|(_, list)| list.split_once(']'))
        .map(|(list, _)| list)
        .context("deny.toml has no list `allow` under [licenses]")?;
    let names: BTreeSet<_> = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        bail!("deny.toml allows no licence at all: the search itself is broken");
    }
    Ok(names)
}

/// What is wrong with a package's licence.
fn fault(licence: Option<&str>, allowed: &BTreeSet<String>) -> Option<String> {
    let Some(licence) = licence else {
        return Some("names no licence".to_owned());
    };
    match Expression::of(licence).allows(allowed) {
        Some(true) => None,
        Some(false) => Some(licence.to_owned()),
        None => Some(format!("`{licence}` is no SPDX expression")),
    }
}

/// What is left to read of an SPDX expression: names, WITH, AND, OR in the order in which they
/// bind, and parentheses. `MIT/Apache-2.0` is an old way to write OR.
struct Expression {
    /// The last one comes first.
    words: Vec<String>,
}

impl Expression {
    fn of(text: &str) -> Self {
        let spaced = text
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ");
        let words = spaced.split_whitespace().rev().map(str::to_owned);
        Self {
            words: words.collect(),
        }
    }

    /// Whether the allowed licences are enough; `None` where it makes no sense.
    fn allows(mut self, allowed: &BTreeSet<String>) -> Option<bool> {
        let enough = self.either(allowed)?;
        self.words.is_empty().then_some(enough)
    }

    fn either(&mut self, allowed: &BTreeSet<String>) -> Option<bool> {
        let mut enough = self.both(allowed)?;
        while self.take("OR") {
            enough |= self.both(allowed)?;
        }
        Some(enough)
    }

    fn both(&mut self, allowed: &BTreeSet<String>) -> Option<bool> {
        let mut enough = self.one(allowed)?;
        while self.take("AND") {
            enough &= self.one(allowed)?;
        }
        Some(enough)
    }

    fn one(&mut self, allowed: &BTreeSet<String>) -> Option<bool> {
        if self.take("(") {
            let enough = self.either(allowed)?;
            return self.take(")").then_some(enough);
        }
        let mut name = self.name()?;
        if self.take("WITH") {
            // With an exception it is a licence of its own, allowed by its whole name.
            name = format!("{name} WITH {}", self.name()?);
        }
        Some(allowed.contains(&name))
    }

    fn name(&mut self) -> Option<String> {
        self.words
            .pop()
            .filter(|word| !["(", ")", "OR", "AND", "WITH"].contains(&word.as_str()))
    }

    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.last().is_some_and(|next| next == word);
        if is_next {
            self.words.pop();
        }
        is_next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> BTreeSet<String> {
        ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into()
    }

    #[test]
    fn expressions() {
        for (licence, enough) in [
            ("MIT", Some(true)),
            ("GPL-3.0-only", Some(false)),
            ("GPL-3.0-only OR MIT", Some(true)),
            ("GPL-3.0-only/MIT", Some(true)),
            ("Unlicense / MIT", Some(true)),
            ("GPL-3.0-only AND MIT", Some(false)),
            ("MIT AND GPL-3.0-only", Some(false)),
            ("ISC AND (Apache-2.0 OR GPL-3.0-only)", Some(true)),
            ("ISC AND (AGPL-3.0-only OR GPL-3.0-only)", Some(false)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(false)),
            // AND binds more closely.
            ("MIT OR ISC AND GPL-3.0-only", Some(true)),
            ("(MIT OR ISC) AND GPL-3.0-only", Some(false)),
            ("GPL-3.0-only AND ISC OR MIT", Some(true)),
            ("GPL-3.0-only AND (ISC OR MIT)", Some(false)),
            ("Apache-2.0 WITH LLVM-exception", Some(false)),
            ("Apache-2.0 WITH LLVM-exception OR MIT", Some(true)),
            ("", None),
            ("MIT OR", None),
            ("MIT ISC", None),
            ("(MIT", None),
            ("MIT)", None),
            ("WITH MIT", None),
            ("MIT WITH", None),
        ] {
            assert_eq!(Expression::of(licence).allows(&list()), enough, "{licence}");
        }
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(fault(Some("MIT"), &list()), None);
        assert_eq!(
            fault(Some("GPL-3.0-only"), &list()).as_deref(),
            Some("GPL-3.0-only")
        );
        assert_eq!(fault(None, &list()).as_deref(), Some("names no licence"));
        let odd = fault(Some("MIT OR"), &list()).unwrap();
        assert!(odd.contains("no SPDX expression"), "{odd}");
    }

    #[test]
    fn the_list_of_deny_toml() {
        let text = "[graph]\nx = 1\n\n[licenses]\nversion = 2\nallow = [\n    \"MIT\", \"ISC\",\n    # \"GPL-3.0-only\",\n    \"Apache-2.0\",\n]\n\n[bans]\ndeny = [\"x\"]\n";
        assert_eq!(allowed(text).unwrap(), list());
        assert!(allowed("[bans]\nallow = [\"MIT\"]\n").is_err());
        assert!(allowed("[graph]\n\n[licenses]\nallow = [\n]\n").is_err());
    }
}
