//! How much memory a service takes.

use std::fmt;
use std::fs;

use anyhow::Context as _;
use nix::unistd::Pid;

const MIB: u64 = 1 << 20;

/// A process's memory, watched from one moment on.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pid: Pid,
    before: Figures,
}

/// Octets.
#[derive(Clone, Copy, Debug)]
struct Figures {
    resident: u64,
    peak: u64,
    anonymous: u64,
    files: u64,
}

impl Memory {
    pub(crate) fn watch(pid: Pid) -> anyhow::Result<Self> {
        // Forgets the peak so far (proc(5)), so that the start's own is none of the test's. A
        // kernel that refuses leaves the old peak: then less growth is seen, and none invented.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        Ok(Self {
            pid,
            before: Figures::of(pid)?,
        })
    }

    /// Insists that the peak since then is at most so many MiB above what was resident at the
    /// beginning, and shows the figures where it is more.
    ///
    /// # Errors
    /// Where the kernel does not say.
    ///
    /// # Panics
    /// Where it is more.
    pub fn assert_grown_below(&self, mib: u64) -> anyhow::Result<()> {
        let now = Figures::of(self.pid)?;
        let grown = now.peak.saturating_sub(self.before.resident);
        assert!(
            grown < mib * MIB,
            "{grown} octets more at the peak, {mib} MiB are the limit\nbefore: {}\nnow: {now}",
            self.before
        );
        Ok(())
    }
}

impl Figures {
    fn of(pid: Pid) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .with_context(|| format!("no {name} in /proc/{pid}/status"))?;
            let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
            Ok(kib * 1024)
        };
        Ok(Self {
            resident: field("VmRSS")?,
            peak: field("VmHWM")?,
            anonymous: field("RssAnon")?,
            files: field("RssFile")?,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resident,
            peak,
            anonymous,
            files,
        } = self;
        write!(
            f,
            "{resident} resident ({anonymous} anonymous, {files} of files), {peak} at the peak"
        )
    }
}
