//! What the servers need of the system: files from templates, directories, commands.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Runs a command to its end; what it says is shown where it fails.
pub(super) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim().to_owned();
    if !output.status.success() {
        bail!(
            "{command:?}: {} {} {}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    Ok(text(&output.stdout))
}

pub(super) fn owned(words: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = words.iter();
    pairs
        .map(|(w, v)| ((*w).to_owned(), (*v).to_owned()))
        .collect()
}

/// Puts values in place of the words between two `@`.
pub(super) fn fill(template: &str, words: &[(String, String)]) -> anyhow::Result<String> {
    let mut text = template.to_owned();
    for (word, value) in words {
        text = text.replace(&format!("@{word}@"), value);
    }
    let left = text.lines().find(|line| {
        let word = line.split('@').nth(1).unwrap_or_default();
        !line.starts_with('#') && !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase())
    });
    match left {
        Some(line) => bail!("a word is left in: {line}"),
        None => Ok(text),
    }
}

/// Removes a directory, if it is there.
pub(super) fn clear(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

pub(super) fn size_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = metadata.blocks() * 512;
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    own + entries.map(|entry| size_of(&entry.path())).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let words = owned(&[("SMTP", "25"), ("DIR", "/d")]);
        assert_eq!(
            fill("a @SMTP@ b@c @DIR@\n", &words).unwrap(),
            "a 25 b@c /d\n"
        );
        assert!(fill("@SINK@", &words).is_err());
    }

    #[test]
    fn what_a_directory_takes() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), vec![1; 100_000]).unwrap();
        assert!(size_of(directory.path()) >= 100_000);
        assert_eq!(size_of(&directory.path().join("none")), 0);
        clear(&directory.path().join("none")).unwrap();
    }
}
