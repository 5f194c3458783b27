//! Which crate may be built on which (ARCHITECTURE.md shows the same as a picture).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::purity::{self, PURE};

/// Each library with the libraries of ours that it may be built on.
const ARROWS: &[(&str, &[&str])] = &[
    ("postroad-mail", &[]),
    ("postroad-proto", &["mail"]),
    ("postroad-message", &["mail"]),
    ("postroad-queue", &["mail"]),
    ("postroad-routing", &["mail"]),
    ("postroad-net", &["mail", "proto"]),
    ("postroad-store", &["mail", "queue"]),
    ("postroad-lookup", &["mail", "routing"]),
    ("postroad-policy", &["mail", "message"]),
    (
        "postroad-intake",
        &["mail", "proto", "message", "queue", "net"],
    ),
    (
        "postroad-msa",
        &["mail", "proto", "message", "queue", "net", "intake"],
    ),
    (
        "postroad-mta",
        &[
            "mail", "proto", "message", "queue", "net", "intake", "routing", "policy",
        ],
    ),
    (
        "postroad-service",
        &[
            "mail", "proto", "message", "queue", "net", "intake", "routing", "store", "lookup",
            "policy", "msa", "mta",
        ],
    ),
];

/// What nothing in a shipped binary is built on: one TLS stack, one crypto provider.
const BANNED: &[&str] = &["ring", "openssl-sys", "native-tls"];

/// Packages that put the crates together, and may use all.
const COMPOSED: &[&str] = &[
    "postroad",
    "postroad-submission",
    "postroad-relay",
    "postroad-bench",
    "postroad-tests",
    "xtask",
];

const PREFIX: &str = "postroad-";

pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .context("asking cargo for the dependency graph")?;
    let mut faults = Vec::new();
    for package in metadata.workspace_packages() {
        let direct = package
            .dependencies
            .iter()
            .filter(|d| d.kind != DependencyKind::Development)
            .map(|d| d.name.as_str());
        faults.extend(faults_of(package.name.as_str(), direct));
    }
    compiled(root, &mut faults)?;
    if faults.is_empty() {
        return Ok(());
    }
    bail!("dependencies that must not be:\n  {}", faults.join("\n  "));
}

/// What is wrong with a package that is built on these: its own and others' crates.
fn faults_of<'a>(name: &str, dependencies: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == name) else {
        return if COMPOSED.contains(&name) {
            Vec::new()
        } else {
            vec![format!("{name} has no row in the table of arrows")]
        };
    };
    let mut faults = Vec::new();
    for to in dependencies {
        let short = to.strip_prefix(PREFIX);
        if COMPOSED.contains(&to) || short.is_some_and(|short| !allowed.contains(&short)) {
            faults.push(format!("{name} -> {to}"));
        }
        if to == "anyhow" {
            faults.push(format!(
                "{name} -> anyhow: the errors of a library are typed"
            ));
        }
    }
    faults
}

/// Looks for crates that must not be anywhere below a package: `cargo metadata` counts features
/// that are off, `cargo tree` shows what is compiled.
fn compiled(root: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    for package in PURE {
        let tree = tree(root, package)?;
        for found in purity::impure(&tree.iter().map(String::as_str).collect()) {
            faults.push(format!(
                "{package} -> … -> {found}: this crate has no I/O, clock or runtime"
            ));
        }
    }
    let tree = tree(root, "postroad")?;
    let found = BANNED.iter().filter(|n| tree.contains(**n));
    faults.extend(found.map(|n| format!("postroad -> … -> {n}")));
    if !tree.contains("rustls") {
        bail!("cargo tree shows no rustls under `postroad`: the search itself is broken");
    }
    Ok(())
}

/// All that a package is built on, itself included.
fn tree(root: &Path, package: &str) -> anyhow::Result<BTreeSet<String>> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(["tree", "--locked", "--package", package])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .current_dir(root)
        .output()
        .context("starting cargo tree")?;
    if !output.status.success() {
        bail!(
            "cargo tree failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let tree = String::from_utf8_lossy(&output.stdout);
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_that_must_not_be() {
        for (name, to) in [
            ("postroad-mail", "postroad-proto"),
            ("postroad-net", "postroad-queue"),
            ("postroad-store", "postroad-net"),
            ("postroad-msa", "postroad-mta"),
            ("postroad-mta", "postroad-msa"),
            ("postroad-mta", "postroad-store"),
            ("postroad-intake", "postroad-store"),
            ("postroad-service", "postroad"),
        ] {
            let dependencies = ["bytes", "postroad-mail", to];
            let faults = faults_of(name, dependencies);
            assert!(faults.contains(&format!("{name} -> {to}")), "{faults:?}");
        }
        assert_eq!(faults_of("postroad-store", ["anyhow", "sled"]).len(), 1);
        assert_eq!(
            faults_of("postroad-new", []),
            ["postroad-new has no row in the table of arrows"]
        );
    }

    #[test]
    fn arrows_that_may_be() {
        let all = ["postroad-msa", "postroad-mta", "postroad-store", "anyhow"];
        for name in COMPOSED {
            assert_eq!(faults_of(name, all), [""; 0], "{name}");
        }
        for (name, allowed) in ARROWS {
            let allowed: Vec<_> = allowed.iter().map(|to| format!("{PREFIX}{to}")).collect();
            let faults = faults_of(name, allowed.iter().map(String::as_str));
            assert_eq!(faults, [""; 0], "{name}");
        }
    }

    /// The table goes from the bottom up: no crate is built on one that stands below it.
    #[test]
    fn the_table_has_no_circle() {
        for (n, (name, allowed)) in ARROWS.iter().enumerate() {
            for to in *allowed {
                let at = ARROWS
                    .iter()
                    .position(|(of, _)| of.strip_prefix(PREFIX) == Some(to));
                assert!(at.is_some_and(|at| at < n), "{name} -> {to}");
            }
        }
    }
}
