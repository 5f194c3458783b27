//! Processes by their descent, for machines without cgroups.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    pid: i32,
    parent: i32,
    zombie: bool,
    /// Ticks of it and of its children that have ended and been waited for.
    ticks: u64,
    /// Those of the children alone.
    ticks_of_children: u64,
}

/// Makes this process the parent of all that servers leave behind.
pub(super) fn adopt() -> anyhow::Result<()> {
    prctl::set_child_subreaper(true).context("becoming a subreaper")
}

/// The CPU time of all that descends from this process, ended or not.
pub(super) fn usage() -> anyhow::Result<Duration> {
    reap();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")?;
    let per_second = u64::try_from(per_second)?.max(1);
    let all = all();
    let own = Pid::this().as_raw();
    let waited = all.iter().find(|s| s.pid == own);
    let alive = below(&all, own).map(|s| s.ticks);
    let ticks = waited.map_or(0, |s| s.ticks_of_children) + alive.sum::<u64>();
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// All that descends from this process, and has not ended.
pub(super) fn descendants() -> Vec<Pid> {
    let all = all();
    let found = below(&all, Pid::this().as_raw()).filter(|s| !s.zombie);
    found.map(|s| Pid::from_raw(s.pid)).collect()
}

/// Waits for those that have ended. A child that is waited for elsewhere too is over for that one
/// as well: its status is of no interest once its server has stopped.
pub(super) fn reap() {
    let own = Pid::this().as_raw();
    for stat in all() {
        if stat.parent == own && stat.zombie {
            let _ = waitpid(Pid::from_raw(stat.pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn below(all: &[Stat], top: i32) -> impl Iterator<Item = &Stat> {
    let mut found = HashSet::from([top]);
    loop {
        let before = found.len();
        let children = all.iter().filter(|s| found.contains(&s.parent));
        let children: Vec<i32> = children.map(|s| s.pid).collect();
        found.extend(children);
        if found.len() == before {
            break;
        }
    }
    all.iter()
        .filter(move |s| s.pid != top && found.contains(&s.pid))
}

fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let stats = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?;
        name.parse::<i32>().ok()?;
        parse(&fs::read_to_string(path.join("stat")).ok()?)
    });
    stats.collect()
}

/// A line of /proc/PID/stat: the name of the program, in brackets, may hold anything.
fn parse(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |n: usize| words.get(n).and_then(|w| w.parse::<u64>().ok());
    let ticks_of_children = ticks(13)? + ticks(14)?;
    Some(Stat {
        pid: pid.parse().ok()?,
        parent: words.get(1)?.parse().ok()?,
        zombie: *words.first()? == "Z",
        ticks: ticks(11)? + ticks(12)? + ticks_of_children,
        ticks_of_children,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, parent: i32) -> Stat {
        let text = format!(
            "{pid} (a) b (c) S {parent} 1 1 0 -1 4194304 1 2 3 4 10 20 300 400 20 0 1 0 5 6"
        );
        parse(&text).unwrap()
    }

    #[test]
    fn a_line_of_stat() {
        let stat = stat(42, 7);
        assert_eq!((stat.pid, stat.parent, stat.zombie), (42, 7, false));
        assert_eq!((stat.ticks, stat.ticks_of_children), (730, 700));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn descent() {
        let all = [stat(1, 0), stat(2, 1), stat(4, 3), stat(3, 2), stat(5, 1)];
        let found: Vec<i32> = below(&all, 2).map(|s| s.pid).collect();
        assert_eq!(found, [4, 3]);
    }

    #[test]
    fn this_process_is_known() {
        assert!(all().iter().any(|s| s.pid == Pid::this().as_raw()));
        assert!(usage().is_ok());
    }
}
