//! kill -9 under load, as often as one likes: the test of the whole system, from the command line.

use std::path::Path;

use clap::Args;

use crate::cargo;

/// What to do; the defaults are those of the program that does it.
#[derive(Debug, Args)]
pub(crate) struct Crash {
    /// How often to kill the service
    #[arg(long, default_value_t = 200)]
    kills: u64,
    /// What the moments of the kills depend on
    #[arg(long, default_value_t = 4711)]
    seed: u64,
    /// Senders at a time
    #[arg(long, default_value_t = 8)]
    sessions: usize,
    /// When a message counts as kept: `sync` or `os`
    #[arg(long, default_value = "sync", value_parser = ["sync", "os"])]
    durability: String,
    /// In the profile that is shipped
    #[arg(long)]
    release: bool,
}

/// Builds the service and what kills it, and lets that do so.
pub(crate) fn run(root: &Path, crash: &Crash) -> anyhow::Result<()> {
    let profile = if crash.release { "release" } else { "dev" };
    let build = ["build", "--locked", "--workspace", "--bins", "--examples"];
    cargo(root, &[&build[..], &["--profile", profile]].concat(), &[])?;
    let run = ["run", "--locked", "--quiet", "--profile", profile];
    let what = ["--package", "postroad-tests", "--bin", "postroad-crash"];
    let (kills, seed) = (crash.kills.to_string(), crash.seed.to_string());
    let sessions = crash.sessions.to_string();
    let arguments = ["--", "--kills", &kills, "--seed", &seed];
    let more = ["--sessions", &sessions, "--durability", &crash.durability];
    let all = [&run[..], &what, &arguments, &more].concat();
    cargo(root, &all, &[])
}
