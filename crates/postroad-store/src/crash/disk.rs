//! What a disk may have after a power cut, from what was done to it before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Dice;
use super::faults::Op;

/// What becomes of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All of it is lost.
    Lost,
    /// All of it is there, as after a kill.
    Kept,
    /// Of names and writes some, in any order; of a write some, too.
    Some(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not synced yet.
    Open,
    /// On the disk.
    Sure,
    /// A sync has failed since: nobody will ever know.
    Doubtful,
}

enum Change<'a> {
    Length(u64),
    Write(u64, &'a [u8]),
}

/// A file, change by change.
#[derive(Default)]
struct File<'a>(Vec<(Change<'a>, Fate)>);

#[derive(Clone)]
enum Name {
    Dir(PathBuf),
    Is(PathBuf, u32),
    Moved(PathBuf, PathBuf, u32),
    Gone(PathBuf),
}

#[derive(Default)]
struct Names {
    files: BTreeMap<PathBuf, u32>,
    dirs: BTreeSet<PathBuf>,
}

/// Makes in `into` (an empty directory) what a disk may have of a store to which all that was done.
pub(crate) fn power_cut(ops: &[Op], cut: Cut, into: &Path) {
    let mut files: BTreeMap<u32, File<'_>> = BTreeMap::new();
    // As the process sees them; on the disk; and what is on the way there.
    let (mut seen, mut names) = (Names::default(), Names::default());
    let mut open: Vec<Name> = Vec::new();
    for op in ops {
        let name = match op {
            Op::Mark(_) => continue,
            Op::MakeDir(path) => Name::Dir(path.clone()),
            Op::Create(path, file, length) => {
                let made = Change::Length(*length);
                files.entry(*file).or_default().0.push((made, Fate::Open));
                Name::Is(path.clone(), *file)
            }
            Op::Write(file, at, bytes) => {
                let change = Change::Write(*at, bytes);
                files.entry(*file).or_default().0.push((change, Fate::Open));
                continue;
            }
            Op::Truncate(file, length) => {
                let change = Change::Length(*length);
                files.entry(*file).or_default().0.push((change, Fate::Open));
                continue;
            }
            Op::Sync(file) => {
                files.entry(*file).or_default().fare(Fate::Sure);
                continue;
            }
            Op::SyncFailed(file) => {
                files.entry(*file).or_default().fare(Fate::Doubtful);
                continue;
            }
            Op::SyncDir(dir) => {
                for name in open.extract_if(.., |name| name.is_in(dir)) {
                    names.apply(&name);
                }
                continue;
            }
            Op::Rename(from, to) => Name::Moved(from.clone(), to.clone(), seen.files[from]),
            Op::Link(from, to) => Name::Is(to.clone(), seen.files[from]),
            Op::Remove(path) => Name::Gone(path.clone()),
        };
        seen.apply(&name);
        open.push(name);
    }
    let mut dice = Dice::new(match cut {
        Cut::Some(seed) => seed,
        Cut::Lost | Cut::Kept => 0,
    });
    for name in open {
        if kept(cut, &mut dice) {
            names.apply(&name);
        }
    }
    for dir in &names.dirs {
        std::fs::create_dir_all(into.join(dir)).unwrap();
    }
    // In an order that does not depend on names, since ids differ from run to run.
    let mut named: Vec<_> = names
        .files
        .iter()
        .map(|(path, file)| (file, path))
        .collect();
    named.sort();
    for (file, path) in named {
        let to = into.join(path);
        if to.parent().unwrap().exists() {
            std::fs::write(to, files[file].content(cut, &mut dice)).unwrap();
        }
    }
}

fn kept(cut: Cut, dice: &mut Dice) -> bool {
    match cut {
        Cut::Lost => false,
        Cut::Kept => true,
        Cut::Some(_) => dice.flip(),
    }
}

impl Name {
    fn is_in(&self, dir: &Path) -> bool {
        let here = |path: &Path| path.parent() == Some(dir);
        match self {
            Self::Dir(path) | Self::Is(path, _) | Self::Gone(path) => here(path),
            // In one transaction, whichever directory it is that is synced.
            Self::Moved(from, to, _) => here(from) || here(to),
        }
    }
}

impl Names {
    fn apply(&mut self, name: &Name) {
        match name {
            Name::Dir(path) => {
                self.dirs.insert(path.clone());
            }
            Name::Is(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            Name::Moved(from, to, file) => {
                self.files.remove(from);
                self.files.insert(to.clone(), *file);
            }
            Name::Gone(path) => {
                self.files.remove(path);
            }
        }
    }
}

impl File<'_> {
    fn fare(&mut self, fate: Fate) {
        for change in self.0.iter_mut().rev() {
            match change.1 {
                Fate::Open => change.1 = fate,
                Fate::Sure | Fate::Doubtful => break,
            }
        }
    }

    fn content(&self, cut: Cut, dice: &mut Dice) -> Vec<u8> {
        let mut content = Vec::new();
        for (change, fate) in &self.0 {
            let whole = match (fate, cut) {
                (Fate::Sure, _) | (_, Cut::Kept) => true,
                (_, Cut::Lost) => continue,
                (_, Cut::Some(_)) => match dice.below(3) {
                    0 => continue,
                    1 => true,
                    _ => false,
                },
            };
            match change {
                Change::Length(length) => {
                    content.resize(usize::try_from(*length).unwrap(), 0);
                }
                Change::Write(at, bytes) => {
                    let at = usize::try_from(*at).unwrap();
                    if whole {
                        put(&mut content, at, bytes);
                    } else {
                        tear(&mut content, at, bytes, dice);
                    }
                }
            }
        }
        content
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

/// A write of which only some has got to the disk.
fn tear(content: &mut Vec<u8>, at: usize, bytes: &[u8], dice: &mut Dice) {
    let boundary = [1, 8, 512, 4096][dice.below(4)];
    let end = at + bytes.len();
    match dice.below(4) {
        // Its length, and nothing of what it was.
        0 => {
            if content.len() < end {
                content.resize(end, 0);
            }
        }
        // Some sectors.
        1 => {
            let mut from = at;
            while from < end {
                let to = (from + 1).next_multiple_of(boundary.max(8)).min(end);
                if dice.flip() {
                    put(content, from, &bytes[from - at..to - at]);
                }
                from = to;
            }
        }
        // Its start.
        _ => {
            let cut = (at + dice.below(bytes.len())) / boundary * boundary;
            if cut > at {
                put(content, at, &bytes[..cut - at]);
            }
        }
    }
}
