//! Servers of other makers, run in the foreground for as long as a test has them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::process::PATIENCE;

/// The user and group `nobody` on Debian.
pub const NOBODY: u32 = 65534;

/// A running server, with a directory of its own.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    directory: TempDir,
    child: Option<Child>,
    /// What ends it at once, but in order.
    end: Signal,
}

impl Daemon {
    /// One that is not started yet: its directory is there, for all to enter.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn prepare(name: &'static str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            name,
            directory,
            child: None,
            end: Signal::SIGTERM,
        })
    }

    /// It ends by another signal than SIGTERM.
    #[must_use]
    pub fn ends_by(mut self, signal: Signal) -> Self {
        self.end = signal;
        self
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it, its output in the file `output`, and waits until it is ready.
    ///
    /// # Errors
    /// Where it is not there, ends, or does not become ready.
    pub fn start(&mut self, command: &mut Command, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let output = fs::File::create(self.directory().join("output"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}: is its package installed?", self.name))?;
        self.child = Some(child);
        self.wait_until("is ready", ready)
    }

    /// It tells nobody when it is done, so this looks again and again.
    ///
    /// # Errors
    /// Where it never is, or the server has ended; the error shows what it printed.
    #[expect(clippy::disallowed_methods, reason = "a test's own patience")]
    pub fn wait_until(&mut self, what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !done() {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || started.elapsed() > PATIENCE {
                bail!("{} never {what}:\n{}", self.name, self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it has printed, and what is in its file `log`.
    #[must_use]
    pub fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.directory().join(name)).unwrap_or_default();
        format!("{}{}", read("output"), read("log"))
    }

    /// Stops it, and waits for its end.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Ok(pid) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(pid), self.end);
        }
        let _ = child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} has said:\n{}", self.name, self.said());
        }
        self.stop();
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Where it is not there, or fails; the error shows what it printed.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        bail!("{command:?}: {}\n{out}{err}", output.status);
    }
    Ok(())
}

/// The messages in a Maildir.
#[must_use]
pub fn maildir(directory: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory.join("new")).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter_map(|path| fs::read(path).ok()).collect()
}
