//! A run that is broken off leaves no server behind.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::group::{self, Method};
use crate::servers::Kind;
use crate::source::runtime;

/// The exit code of a program that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

/// From now on SIGINT and SIGTERM end the servers, remove their directories, and end this process.
///
/// # Errors
/// Where signals cannot be waited for.
pub(crate) fn clean_up(method: Method, directory: PathBuf) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            eprintln!("broken off");
            group::end_all(&method);
            for kind in Kind::value_variants() {
                let _ = fs::remove_dir_all(directory.join(kind.to_string()));
            }
            std::process::exit(INTERRUPTED);
        })
        .context("starting the thread for signals")?;
    Ok(())
}
