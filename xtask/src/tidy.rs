//! Rules that no compiler knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::purity;

/// Lines of a source file, at most.
const LINES_MAX: usize = 800;

/// What must not stand in Rust code: the needle, where it may stand all the same, and why not.
/// The needles are cut in two, so that this file does not break its own rules.
const BANNED: &[(&[&str], &[&str], &str)] = &[
    (&["TO", "DO"], &[], "unfinished work is absent, or an issue"),
    (
        &["FIX", "ME"],
        &[],
        "unfinished work is absent, or an issue",
    ),
    (
        &["flush", "_async("],
        &[],
        "sled's deadlocks under concurrency",
    ),
    (
        &["apply", "_batch("],
        &[],
        "sled's takes a global lock and pins the log",
    ),
    (&["unbounded", "_channel("], &[], "everything has a limit"),
    (
        &["#[ign", "ore"],
        &[],
        "a test that does not run is no test",
    ),
];

pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let files: Vec<(PathBuf, String)> = tracked(root)?
        .into_iter()
        .filter_map(|file| {
            let text = fs::read_to_string(root.join(&file)).ok()?;
            Some((file, text))
        })
        .collect();
    let mut faults = Vec::new();
    let mut sources = 0;
    for (file, text) in &files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("rs") => {
                sources += 1;
                source(file, text, &mut faults);
            }
            Some("md") => links(root, file, text, &mut faults),
            Some("toml") if file.ends_with("Cargo.toml") && file.components().count() > 1 => {
                manifest(file, text, &mut faults);
            }
            _ => {}
        }
    }
    purity::sources(&files, &mut faults);
    map(root, &mut faults)?;
    if sources < 20 {
        bail!("only {sources} source files found: the search itself is broken");
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("not tidy:\n  {}", faults.join("\n  "));
}

fn source(file: &Path, text: &str, faults: &mut Vec<String>) {
    let name = file.display();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!(
            "{name}: {lines} lines; split it, {LINES_MAX} is the most"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        for (needle, allowed, why) in BANNED {
            if line.contains(&needle.concat()) && !allowed.iter().any(|a| file.ends_with(a)) {
                faults.push(format!(
                    "{name}:{}: `{}`: {why}",
                    number + 1,
                    needle.concat()
                ));
            }
        }
    }
}

/// Every relative link in a document leads somewhere.
fn links(root: &Path, file: &Path, text: &str, faults: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        for target in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or(target);
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            let from = root
                .join(file)
                .parent()
                .map(Path::to_owned)
                .unwrap_or_default();
            if !from.join(path).exists() {
                faults.push(format!(
                    "{}:{}: the link to `{path}` leads nowhere",
                    file.display(),
                    number + 1
                ));
            }
        }
    }
}

fn manifest(file: &Path, text: &str, faults: &mut Vec<String>) {
    for wanted in [
        "[lints]\nworkspace = true",
        "rust-version.workspace = true",
        "license.workspace = true",
        "description = ",
    ] {
        if !text.contains(wanted) {
            faults.push(format!(
                "{}: `{}` is missing",
                file.display(),
                wanted.replace('\n', " ")
            ));
        }
    }
}

/// The map in ARCHITECTURE.md has a row for each crate, with the crate's own description.
fn map(root: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let architecture =
        fs::read_to_string(root.join("ARCHITECTURE.md")).context("reading ARCHITECTURE.md")?;
    let mut crates: Vec<PathBuf> = fs::read_dir(root.join("crates"))
        .context("listing crates")?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    crates.sort();
    for path in crates {
        let manifest = fs::read_to_string(path.join("Cargo.toml"))
            .with_context(|| format!("reading {}", path.display()))?;
        let description = manifest
            .lines()
            .find_map(|line| line.strip_prefix("description = \"")?.strip_suffix('"'))
            .unwrap_or_default();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !architecture.contains(&format!("| `{name}` | {description} |")) {
            faults.push(format!(
                "ARCHITECTURE.md: no row `| `{name}` | {description} |`"
            ));
        }
    }
    Ok(())
}

fn tracked(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        // The checkout may be another user's, as in a container: nothing of it is run here.
        .args(["-c", "safe.directory=*"])
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("asking git which files there are")?;
    if !output.status.success() {
        bail!(
            "git ls-files failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(line: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let text = format!("fn f() {{\n    {line}\n}}\n");
        source(Path::new("crates/x/src/y.rs"), &text, &mut faults);
        faults
    }

    /// Cut in two here as well.
    #[test]
    fn what_is_banned_is_found() {
        for (line, needle) in [
            (["db.flush", "_async().await?;"], ["flush", "_async("]),
            (["let f = tree.flush", "_async();"], ["flush", "_async("]),
            (["tree.apply", "_batch(batch)?;"], ["apply", "_batch("]),
            (["Tree::apply", "_batch(&tree, b)"], ["apply", "_batch("]),
            (
                ["mpsc::unbounded", "_channel();"],
                ["unbounded", "_channel("],
            ),
            (["// TO", "DO: later"], ["TO", "DO"]),
        ] {
            let faults = faults(&line.concat());
            assert_eq!(faults.len(), 1, "{line:?}: {faults:?}");
            let start = format!("crates/x/src/y.rs:2: `{}`: ", needle.concat());
            assert!(faults[0].starts_with(&start), "{faults:?}");
        }
        for line in ["db.flush()?;", "tree.insert(key, value)?;"] {
            assert_eq!(faults(line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn long_files_are_found() {
        for (lines, found) in [(LINES_MAX, 0), (LINES_MAX + 1, 1)] {
            let mut faults = Vec::new();
            source(Path::new("y.rs"), &"x\n".repeat(lines), &mut faults);
            assert_eq!(faults.len(), found, "{lines}");
        }
    }
}
