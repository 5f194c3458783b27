//! Which crate may be built on which (ARCHITECTURE.md shows the same as a picture).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// Each library with the libraries of ours that it may be built on. Binaries, tests and tools
/// may use all.
const ARROWS: &[(&str, &[&str])] = &[
    ("postroad-mail", &[]),
    ("postroad-proto", &["mail"]),
    ("postroad-message", &["mail"]),
    ("postroad-queue", &["mail"]),
    ("postroad-routing", &["mail"]),
    ("postroad-net", &["mail", "proto"]),
    ("postroad-store", &["mail", "queue"]),
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
            "mail", "proto", "message", "queue", "net", "intake", "routing",
        ],
    ),
    (
        "postroad-service",
        &[
            "mail", "proto", "message", "queue", "net", "intake", "routing", "store", "msa", "mta",
        ],
    ),
];

/// Crates with no I/O, no clock and no runtime. `postroad-routing` is one too, but for its DNS.
const PURE: &[&str] = &[
    "postroad-mail",
    "postroad-proto",
    "postroad-message",
    "postroad-queue",
];

/// What a pure crate is never built on.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "rustls",
    "hickory-resolver",
    "sled",
    "tracing",
    "rand",
    "getrandom",
];

/// What nothing in a shipped binary is built on: one TLS stack, one crypto provider.
const BANNED: &[&str] = &["ring", "openssl-sys", "native-tls"];

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
        faults.extend(faults_of(package));
    }
    faults.extend(banned(root)?);
    if faults.is_empty() {
        return Ok(());
    }
    bail!("dependencies that must not be:\n  {}", faults.join("\n  "));
}

fn faults_of(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let direct = package
        .dependencies
        .iter()
        .filter(|d| d.kind != DependencyKind::Development);
    let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == name) else {
        let composed = [
            "postroad",
            "postroad-submission",
            "postroad-relay",
            "postroad-tests",
            "xtask",
        ];
        return if composed.contains(&name) {
            Vec::new()
        } else {
            vec![format!("{name} has no row in the table of arrows")]
        };
    };
    let mut faults = Vec::new();
    for dependency in direct {
        let to = dependency.name.as_str();
        if let Some(short) = to.strip_prefix(PREFIX)
            && !allowed.contains(&short)
        {
            faults.push(format!("{name} -> {to}"));
        }
        if to == "anyhow" {
            faults.push(format!(
                "{name} -> anyhow: the errors of a library are typed"
            ));
        }
        if PURE.contains(&name) && IMPURE.contains(&to) {
            faults.push(format!(
                "{name} -> {to}: this crate has no I/O, clock or runtime"
            ));
        }
    }
    faults
}

/// Looks for banned crates in what the binaries are built on. `cargo metadata` counts features
/// that are off; `cargo tree` shows what is compiled.
fn banned(root: &Path) -> anyhow::Result<Vec<String>> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args([
            "tree",
            "--locked",
            "--package",
            "postroad",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
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
    let names: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    if !names.contains("rustls") {
        bail!("cargo tree shows no rustls under `postroad`: the search itself is broken");
    }
    Ok(BANNED
        .iter()
        .filter(|n| names.contains(*n))
        .map(|n| format!("postroad -> … -> {n}"))
        .collect())
}
