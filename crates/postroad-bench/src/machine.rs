//! The machine that the figures are of.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

/// Facts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) kernel: String,
    pub(crate) memory_mib: u64,
    pub(crate) file_system: String,
    pub(crate) date: String,
}

impl Machine {
    /// This one, with the file system that a directory is on.
    pub(crate) fn here(directory: &Path) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field("/proc/cpuinfo", "model name"),
            kernel: read("/proc/sys/kernel/osrelease"),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .trim_end_matches("kB")
                .trim()
                .parse()
                .map_or(0, |kib: u64| kib / 1024),
            file_system: file_system(&read("/proc/mounts"), directory),
            date: jiff::Timestamp::now()
                .strftime("%Y-%m-%d %H:%M UTC")
                .to_string(),
        }
    }

    /// In one line.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{} cores of {}, {} MiB, Linux {}, {}, {}",
            self.cores, self.processor, self.memory_mib, self.kernel, self.file_system, self.date
        )
    }
}

/// Octets that are free where a directory is.
pub(crate) fn free_space(directory: &Path) -> anyhow::Result<u64> {
    let stat = statvfs(directory).context("asking for free space")?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Allows this process and the servers as many descriptors as the system lets it.
pub(crate) fn raise_descriptors() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of descriptors")
}

/// The first line that a program prints, on either output.
pub(crate) fn first_line(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat());
    let text = text.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(key, _)| key.trim() == name);
    let value = values.next().map(|(_, value)| value.trim().to_owned());
    value.unwrap_or_default()
}

/// The type of the mount that a directory is below, from the longest path that fits.
fn file_system(mounts: &str, directory: &Path) -> String {
    let rows = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((Path::new(words.next()?), words.next()?))
    });
    let fitting = rows.filter(|(at, _)| directory.starts_with(at));
    let best = fitting.max_by_key(|(at, _)| at.components().count());
    best.map(|(_, kind)| kind.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_directory() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /srv/run tmpfs rw 0 0\n";
        for (directory, want) in [("/srv/run/bench", "tmpfs"), ("/srv/running", "ext4")] {
            assert_eq!(file_system(mounts, Path::new(directory)), want);
        }
    }

    #[test]
    fn this_machine_has_facts() {
        let machine = Machine::here(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory_mib > 0, "{machine:?}");
        assert!(free_space(Path::new("/")).is_ok());
    }
}
