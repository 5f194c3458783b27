//! The project's own tool. `cargo xtask help` lists what it does.

mod crash;
mod deps;
mod licences;
mod purity;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

/// The project's own tool.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Everything that CI checks, in order: fmt, clippy, deps, licences, tidy, pure, doc, test
    Ci {
        /// Leave these steps out
        #[arg(long, value_delimiter = ',')]
        skip: Vec<String>,
    },
    /// Check that each crate is built on the crates it may be built on, and on nothing else
    Deps,
    /// Check that deny.toml allows the licence of each crate
    Licences,
    /// Check the rules that no compiler knows: file sizes, banned calls, links, names
    Tidy,
    /// Build the pure crates without default features, and for WebAssembly where that target is installed
    Pure,
    /// Measure Postroad beside its peers, in release; docs/benchmarks.md says what and how
    #[command(disable_help_flag = true)]
    Bench {
        /// What the benchmark itself takes; `--help` shows it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill the relay under load, again and again, and count what is lost
    Crash(crash::Crash),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Ci { skip } => ci(&skip),
        Task::Deps => deps::check(&root()?),
        Task::Licences => licences::check(&root()?),
        Task::Tidy => tidy::check(&root()?),
        Task::Pure => pure(&root()?),
        Task::Crash(crash) => crash::run(&root()?, &crash),
        Task::Bench { arguments } => bench(&root()?, &arguments),
    }
}

fn ci(skip: &[String]) -> anyhow::Result<()> {
    const STEPS: [&str; 8] = [
        "fmt", "clippy", "deps", "licences", "tidy", "pure", "doc", "test",
    ];
    if let Some(unknown) = skip.iter().find(|s| !STEPS.contains(&s.as_str())) {
        bail!(
            "no step is called `{unknown}`; the steps are {}",
            STEPS.join(", ")
        );
    }
    let root = root()?;
    for step in STEPS
        .into_iter()
        .filter(|step| !skip.iter().any(|s| s == step))
    {
        eprintln!("== {step}");
        match step {
            "fmt" => cargo(&root, &["fmt", "--all", "--check"], &[])?,
            "clippy" => {
                cargo(
                    &root,
                    &[
                        "clippy",
                        "--workspace",
                        "--all-targets",
                        "--locked",
                        "--",
                        "-D",
                        "warnings",
                    ],
                    &[],
                )?;
            }
            "deps" => deps::check(&root)?,
            "licences" => licences::check(&root)?,
            "tidy" => tidy::check(&root)?,
            "pure" => pure(&root)?,
            "doc" => {
                cargo(
                    &root,
                    &["doc", "--workspace", "--no-deps", "--locked"],
                    &[("RUSTDOCFLAGS", "-D warnings")],
                )?;
            }
            _ => cargo(&root, &["test", "--workspace", "--locked"], &[])?,
        }
    }
    Ok(())
}

fn pure(root: &Path) -> anyhow::Result<()> {
    const WASM: &str = "wasm32-unknown-unknown";
    let mut arguments = vec!["check", "--locked", "--no-default-features"];
    for package in purity::PURE {
        arguments.extend(["--package", package]);
    }
    cargo(root, &arguments, &[])?;
    if !has_target(root, WASM)? {
        eprintln!("not for {WASM}: that target is not installed");
        return Ok(());
    }
    arguments.extend(["--target", WASM]);
    cargo(root, &arguments, &[])
}

/// Builds what is measured, and what measures it, and runs the latter.
fn bench(root: &Path, arguments: &[String]) -> anyhow::Result<()> {
    const PACKAGE: &str = "postroad-bench";
    cargo(
        root,
        &["build", "--release", "--locked", "-p", "postroad"],
        &[],
    )?;
    let mut run = vec!["run", "--release", "--locked", "-p", PACKAGE, "--"];
    run.extend(arguments.iter().map(String::as_str));
    cargo(root, &run, &[])
}

/// Whether the toolchain in use can build for a target.
fn has_target(root: &Path, target: &str) -> anyhow::Result<bool> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(root)
        .output()
        .context("asking rustc where it is")?;
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || sysroot.is_empty() {
        bail!("rustc does not say where it is");
    }
    let libraries = Path::new(&sysroot).join("lib/rustlib").join(target);
    Ok(libraries.exists())
}

fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root)
        .status()
        .with_context(|| format!("starting cargo {}", arguments.join(" ")))?;
    if !status.success() {
        bail!("cargo {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// The top of the workspace: the parent of this package.
fn root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map(Path::to_owned)
        .context("xtask has no parent directory")
}
