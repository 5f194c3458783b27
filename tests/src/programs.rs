//! The workspace's programs, and those of others, run to their end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::process::PATIENCE;

/// What a developer's own environment must not lend to a program under test.
const NOT_INHERITED: [&str; 4] = [
    "POSTROAD_CONFIG",
    "POSTROAD_LOG",
    "RUST_BACKTRACE",
    "NOTIFY_SOCKET",
];

/// The path of one of the workspace's programs, built once for each test process, in the profile
/// of the test itself.
///
/// # Panics
/// Where the build fails.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        if let Some(given) = std::env::var_os("POSTROAD_BIN_DIR") {
            return given.into();
        }
        let test = std::env::current_exe().expect("a test program has a path");
        let (target, profile) = place_of(&test).expect("it stands in the target directory");
        build(&target, &profile);
        let directory = if profile == "dev" { "debug" } else { &profile };
        target.join(directory)
    });
    directory.join(name)
}

/// The directory of what is built, and of what is fetched for tests.
///
/// # Panics
/// Where the test stands in none.
#[must_use]
pub fn target_directory() -> PathBuf {
    let test = std::env::current_exe().expect("a test program has a path");
    let (target, _) = place_of(&test).expect("it stands in the target directory");
    target
}

/// The target directory and the profile that a program of this package at `target/debug/deps/name`
/// (a test) or `target/debug/name` is of.
fn place_of(test: &Path) -> Option<(PathBuf, String)> {
    let beside = test.parent()?;
    let directory = if beside.ends_with("deps") {
        beside.parent()?
    } else {
        beside
    };
    let target = directory.parent()?.to_owned();
    let name = directory.file_name()?.to_str()?;
    // The one profile whose directory has another name.
    let profile = if name == "debug" { "dev" } else { name };
    Some((target, profile.to_owned()))
}

fn build(target: &Path, profile: &str) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["build", "--workspace", "--bins", "--examples"])
        .args(["--locked", "--quiet", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A program to be started with arguments, and nothing of ours in its environment.
pub(crate) fn command(path: &Path, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments).kill_on_drop(true);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command
}

/// Runs a program to its end; gives its exit code, output and errors.
///
/// # Errors
/// Where it cannot be run, or does not end.
pub async fn run(
    path: impl AsRef<Path>,
    arguments: &[&str],
    input: &[u8],
) -> anyhow::Result<Finished> {
    run_with(path, arguments, &[], input).await
}

/// The same with variables in its environment.
///
/// # Errors
/// Where it cannot be run, or does not end.
pub async fn run_with(
    path: impl AsRef<Path>,
    arguments: &[&str],
    environment: &[(&str, &str)],
    input: &[u8],
) -> anyhow::Result<Finished> {
    let path = path.as_ref();
    let mut child = command(path, arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", path.display()))?;
    let mut stdin = child.stdin.take().context("the input is piped")?;
    let feed = async {
        // A program that reads nothing of it is judged by what it says.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let all = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE * 2, all)
        .await
        .with_context(|| format!("{} does not end", path.display()))??;
    Ok(Finished {
        code: output.status.code().unwrap_or(-1),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Finished {
    /// Insists on exit code 0.
    ///
    /// # Panics
    /// Where it is another; shows what was printed.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.said());
        self
    }

    /// All that it printed.
    #[must_use]
    pub fn said(&self) -> String {
        format!("output:\n{}\nerrors:\n{}", self.output, self.errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_stand_where_the_test_does() {
        for (test, target, profile) in [
            ("/w/target/debug/deps/system-1", "/w/target", "dev"),
            ("/w/target/debug/postroad-crash", "/w/target", "dev"),
            ("/w/target/release/deps/system-1", "/w/target", "release"),
            ("/t/x86_64/bench/deps/system-1", "/t/x86_64", "bench"),
            ("/w/target/release/postroad-crash", "/w/target", "release"),
        ] {
            let expected = (PathBuf::from(target), profile.to_owned());
            assert_eq!(place_of(Path::new(test)), Some(expected), "{test}");
        }
    }
}
