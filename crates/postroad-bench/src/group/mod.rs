//! The processes of a server as one: which they are, and how much CPU they have used.
//!
//! Postfix's daemons come and go, and Exim forks for every connection, twice: what has ended must
//! be counted too. A cgroup does that exactly, whatever the processes do, and does not count the
//! benchmark's own work. Where no cgroup can be made, the benchmark adopts what the servers leave
//! behind and adds up the kernel's figures of all processes that descend from it.

mod processes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;

/// How long a server may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(60);

/// How often it is looked at whether something has ended, and how often at most for a group
/// without processes.
const LOOK: Duration = Duration::from_millis(5);
const REMOVE: u32 = 2000;

/// How the CPU of a server is found out.
#[derive(Clone, Debug)]
pub(crate) enum Method {
    /// cgroup v1: `cpuacct.usage` below this directory.
    Accounting(PathBuf),
    /// cgroup v2: `cpu.stat` below this directory.
    Unified(PathBuf),
    /// The figures of the processes themselves, to a hundredth of a second.
    Processes,
}

impl Method {
    /// The best that this machine has.
    ///
    /// # Errors
    /// Where the kernel allows none.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("reading /proc/mounts")?;
        for method in candidates(&mounts) {
            let Ok(group) = Group::make(&method) else {
                continue;
            };
            if group.usage().is_ok() {
                return Ok(method);
            }
        }
        processes::adopt()?;
        Ok(Self::Processes)
    }

    /// In words.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Accounting(_) => "cgroup v1, cpuacct.usage",
            Self::Unified(_) => "cgroup v2, cpu.stat",
            Self::Processes => "/proc/*/stat of all descendants, to 10 ms",
        }
    }
}

/// The places where a cgroup might be made, the most exact first.
fn candidates(mounts: &str) -> Vec<Method> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        match kind {
            "cgroup" if options.split(',').any(|o| o == "cpuacct") => {
                found.insert(0, Method::Accounting(at.into()));
            }
            "cgroup2" => found.push(Method::Unified(at.into())),
            _ => {}
        }
    }
    found
}

/// The processes of one server. What is left of them ends with this.
#[derive(Debug)]
pub(crate) struct Group {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Accounting(PathBuf),
    Unified(PathBuf),
    Processes,
}

impl Group {
    /// A group without any processes.
    ///
    /// # Errors
    /// Where there can be none.
    pub(crate) fn make(method: &Method) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{n}", prefix());
        let make = |root: &Path| -> anyhow::Result<PathBuf> {
            let path = root.join(name);
            fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
            Ok(path)
        };
        let place = match method {
            Method::Accounting(root) => Place::Accounting(make(root)?),
            Method::Unified(root) => Place::Unified(make(root)?),
            Method::Processes => Place::Processes,
        };
        Ok(Self { place })
    }

    /// A command that runs in it, with all that comes of it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let Some(path) = self.path() else {
            return Command::new(program);
        };
        // The shell moves itself in, and then becomes the program: a safe program cannot do
        // anything between fork and exec.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(path.join("cgroup.procs"))
            .arg(program);
        command
    }

    /// The CPU time of all processes that are or were in it.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub(crate) fn usage(&self) -> anyhow::Result<Duration> {
        match &self.place {
            Place::Accounting(path) => {
                let text = fs::read_to_string(path.join("cpuacct.usage"))?;
                Ok(Duration::from_nanos(text.trim().parse()?))
            }
            Place::Unified(path) => {
                let text = fs::read_to_string(path.join("cpu.stat"))?;
                let usage = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
                let usage = usage.context("no usage_usec in cpu.stat")?;
                Ok(Duration::from_micros(usage.trim().parse()?))
            }
            Place::Processes => processes::usage(),
        }
    }

    /// The processes in it.
    pub(crate) fn members(&self) -> Vec<Pid> {
        let Some(path) = self.path() else {
            return processes::descendants();
        };
        let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        let pids = text.lines().filter_map(|line| line.parse().ok());
        pids.map(Pid::from_raw).collect()
    }

    /// The sum of the memory of its processes, in octets: what they share is counted once.
    pub(crate) fn memory(&self) -> u64 {
        self.members().into_iter().map(memory_of).sum()
    }

    /// Sends all of its processes a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        for pid in self.members() {
            // One that has ended meanwhile needs none.
            let _ = kill(pid, signal);
        }
    }

    /// Waits until nothing is left in it.
    ///
    /// # Errors
    /// Where something is, after a minute; it has been killed then.
    pub(crate) fn wait_empty(&self) -> anyhow::Result<()> {
        let started = clock::now();
        while !self.members().is_empty() {
            if started.elapsed() > STOP {
                self.kill();
                bail!("it did not stop within {STOP:?}, and was killed");
            }
            if matches!(self.place, Place::Processes) {
                processes::reap();
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Kills what is in it, and waits for the end of that.
    pub(crate) fn kill(&self) {
        let started = clock::now();
        while !self.members().is_empty() && started.elapsed() < STOP {
            self.signal(Signal::SIGKILL);
            if matches!(self.place, Place::Processes) {
                processes::reap();
            }
            std::thread::sleep(LOOK);
        }
    }

    fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Accounting(path) | Place::Unified(path) => Some(path),
            Place::Processes => None,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        if let Some(path) = self.path() {
            // It goes when the last process has been waited for, by whoever has adopted it.
            for _ in 0..REMOVE {
                if fs::remove_dir(path).is_ok() {
                    return;
                }
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// Kills whatever is in any group of this process, and removes the groups: for a run that is
/// broken off.
pub(crate) fn end_all(method: &Method) {
    let root = match method {
        Method::Accounting(root) | Method::Unified(root) => root,
        Method::Processes => {
            drop(Group {
                place: Place::Processes,
            });
            return;
        }
    };
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix()) {
            // Both kinds of cgroup list their processes in the same way.
            drop(Group {
                place: Place::Unified(entry.path()),
            });
        }
    }
}

/// What the names of the groups of this process begin with.
fn prefix() -> String {
    format!("postroad-bench-{}-", std::process::id())
}

/// The proportional set size of a process, in octets; nothing for one that has ended.
fn memory_of(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    pss(&text).unwrap_or_default()
}

fn pss(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_for_a_group() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/cpuacct cgroup rw,relatime,cpuacct 0 0\n";
        let found = candidates(mounts);
        assert!(
            matches!(&found[..], [Method::Accounting(v1), Method::Unified(v2)]
                if v1.ends_with("cpuacct") && v2.ends_with("unified")),
            "{found:?}"
        );
        assert!(candidates("proc /proc proc rw 0 0\n").is_empty());
    }

    #[test]
    fn processes_in_a_group_are_known_and_ended() {
        processes::adopt().unwrap();
        for method in [Method::find().unwrap(), Method::Processes] {
            let group = Group::make(&method).unwrap();
            let mut command = group.command(Path::new("sh"));
            let mut child = command.args(["-c", "sleep 60 & sleep 60"]).spawn().unwrap();
            while group.members().len() < 3 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(group.memory() > 0, "{method:?}");
            assert!(group.usage().unwrap() < Duration::from_secs(10));
            group.signal(Signal::SIGTERM);
            let _ = child.wait();
            group.wait_empty().unwrap();
        }
    }

    #[test]
    fn memory_of_a_process() {
        let text = "55d0-7ffc ---p 00000000 00:00 0  [rollup]\nRss: 2048 kB\nPss:     12 kB\n\
                    Pss_Dirty: 8 kB\n";
        assert_eq!(pss(text), Some(12 * 1024));
        assert_eq!(pss(""), None);
        assert!(memory_of(Pid::this()) > 0);
    }
}
