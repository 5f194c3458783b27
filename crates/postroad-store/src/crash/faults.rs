//! Looks on while the store works on its files: writes down what it does, and makes it fail.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::Dice;
use crate::io::Call;

/// Something done to a file. Paths are relative to the store's directory; files have numbers, which
/// they keep whatever they are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    MakeDir(PathBuf),
    /// A new name of a new file of that length.
    Create(PathBuf, u32, u64),
    Write(u32, u64, Vec<u8>),
    Truncate(u32, u64),
    Sync(u32),
    /// What was written since the last sync may be lost, whatever later ones say: the kernel
    /// reports it once, and then forgets.
    SyncFailed(u32),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDir(PathBuf),
    /// Something that a test wants to know the moment of.
    Mark(usize),
}

/// Kinds of calls, to say which of them fail.
pub(crate) mod calls {
    pub(crate) const CREATE: u16 = 1;
    pub(crate) const WRITE: u16 = 2;
    pub(crate) const TRUNCATE: u16 = 4;
    pub(crate) const SYNC: u16 = 8;
    pub(crate) const SYNC_DIR: u16 = 16;
    pub(crate) const NAME: u16 = 32;
    pub(crate) const READ: u16 = 64;
    /// Those that need room.
    pub(crate) const GROW: u16 = CREATE | WRITE;
    /// All that change something.
    pub(crate) const CHANGE: u16 = GROW | TRUNCATE | SYNC | SYNC_DIR | NAME;
}

/// Which calls fail, and how.
pub(crate) struct Fault {
    /// [`calls`].
    pub(crate) calls: u16,
    /// Only for such files.
    pub(crate) only: Option<fn(&Path) -> bool>,
    /// The n-th from now on (1 is the next) …
    pub(crate) nth: u64,
    /// … and so many in all from there.
    pub(crate) times: u64,
    pub(crate) errno: Errno,
    /// A write that fails has written some of it first.
    pub(crate) torn: bool,
}

impl Fault {
    /// The n-th such call fails, once.
    pub(crate) const fn once(calls: u16, nth: u64, errno: Errno) -> Self {
        Self {
            calls,
            only: None,
            nth,
            times: 1,
            errno,
            torn: true,
        }
    }

    /// Such calls fail from the n-th on, until [`Faults::heal`].
    pub(crate) const fn from(calls: u16, nth: u64, errno: Errno) -> Self {
        Self {
            times: u64::MAX,
            ..Self::once(calls, nth, errno)
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nth, times, errno, ..
        } = self;
        write!(f, "{errno} from call {nth} on, {times} times")
    }
}

/// What is known of the files of one store, and how calls fail.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    fault: Mutex<Option<Fault>>,
    fired: AtomicU64,
    /// What was done, in order.
    trace: Mutex<Vec<String>>,
    /// The process has been killed, and just does not know yet.
    dead: AtomicBool,
    /// It is killed at that changing call from now on; at none, where it is 0.
    lives: AtomicU64,
    /// Calls fail, or will, since the process dies of itself; not since a test ends it.
    mortal: AtomicBool,
    /// Syncs wait, while a test says so.
    pub(crate) syncs_wait: AtomicBool,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    root: Option<PathBuf>,
    names: HashMap<PathBuf, u32>,
    files: u32,
    ops: Vec<Op>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// The n-th changing call from now on (1 is the next) fails with that error, once.
    pub(crate) fn fail(&self, n: u64, errno: Errno) {
        let fault = Fault::once(calls::CHANGE, n, errno);
        self.inject(Fault {
            torn: false,
            ..fault
        });
    }

    /// Instead of whatever was to fail before.
    pub(crate) fn inject(&self, fault: Fault) {
        *lock(&self.fault) = Some(fault);
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&self) {
        *lock(&self.fault) = None;
    }

    /// From now on the process changes nothing; or is another one, which does.
    pub(crate) fn kill(&self, dead: bool) {
        self.dead.store(dead, Ordering::SeqCst);
    }

    /// The process is killed at the n-th changing call from now on.
    pub(crate) fn kill_at(&self, n: u64) {
        self.lives.store(n, Ordering::SeqCst);
        self.mortal.store(n > 0, Ordering::SeqCst);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Nothing fails meanwhile.
    pub(crate) fn pause<T>(&self, work: impl FnOnce() -> T) -> T {
        let fault = lock(&self.fault).take();
        let done = work();
        *lock(&self.fault) = fault;
        done
    }

    /// How many calls have failed so far.
    pub(crate) fn fired(&self) -> u64 {
        self.fired.load(Ordering::SeqCst)
    }

    /// What has been done since the last call.
    pub(crate) fn trace(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.trace))
    }

    /// Writes down what is done from now on. What is there is taken to be on the disk.
    pub(crate) fn record(&self, root: &Path) {
        let mut log = lock(&self.log);
        log.root = Some(root.to_owned());
        log.find(root);
    }

    /// All that was written down.
    pub(crate) fn ops(&self) -> Vec<Op> {
        lock(&self.log).ops.clone()
    }

    /// How much was written down.
    pub(crate) fn len(&self) -> usize {
        lock(&self.log).ops.len()
    }

    pub(crate) fn mark(&self, mark: usize) {
        lock(&self.log).ops.push(Op::Mark(mark));
    }

    /// The number of the file of that name.
    pub(crate) fn number(&self, path: &Path) -> u32 {
        let log = lock(&self.log);
        let file = log.inside(path).and_then(|path| log.names.get(&path));
        file.copied().unwrap_or(u32::MAX)
    }

    pub(crate) fn call<T>(
        &self,
        call: Call<'_>,
        path: &Path,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let (name, kind) = kind(&call);
        if kind != calls::READ {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            lock(&self.trace).push(format!("{name} {file}"));
        }
        while kind == calls::SYNC && self.syncs_wait.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Held meanwhile, so that what is written down has the order in which it was done.
        let mut log = lock(&self.log);
        if kind != calls::READ {
            let lives = self.lives.load(Ordering::SeqCst);
            self.lives.store(lives.saturating_sub(1), Ordering::SeqCst);
            if lives == 1 {
                self.kill(true);
            }
            if self.is_dead() {
                let mortal = u64::from(self.mortal.load(Ordering::SeqCst));
                self.fired.fetch_add(mortal, Ordering::SeqCst);
                return Err(Errno::EIO.into());
            }
        }
        if let Some((errno, torn)) = self.fails(kind, path) {
            match call {
                Call::Write(disk, bytes, at) if torn => {
                    let mut dice = Dice::new(bytes.len() as u64 ^ at << 20);
                    let some = &bytes[..dice.below(bytes.len() + 1)];
                    disk.write_torn(some, at);
                    log.note(Call::Write(disk, some, at), path);
                }
                Call::Sync(disk) => log.push(Op::SyncFailed(disk.number)),
                _ => {}
            }
            return Err(errno.into());
        }
        let done = work()?;
        log.note(call, path);
        Ok(done)
    }

    fn fails(&self, kind: u16, path: &Path) -> Option<(Errno, bool)> {
        let mut fault = lock(&self.fault);
        let some = fault.as_mut()?;
        if some.calls & kind == 0 || some.only.is_some_and(|only| !only(path)) {
            return None;
        }
        some.nth = some.nth.saturating_sub(1);
        if some.nth > 0 {
            return None;
        }
        some.nth = 1;
        some.times -= 1;
        self.fired.fetch_add(1, Ordering::SeqCst);
        let how = (some.errno, some.torn);
        if some.times == 0 {
            *fault = None;
        }
        Some(how)
    }
}

fn kind(call: &Call<'_>) -> (&'static str, u16) {
    match call {
        Call::MakeDir => ("make_dir", calls::CREATE),
        Call::Create(_) => ("create", calls::CREATE),
        Call::OpenOrCreate => ("open", calls::CREATE),
        Call::Write(..) => ("write", calls::WRITE),
        Call::Truncate(..) => ("truncate", calls::TRUNCATE),
        Call::Sync(_) => ("sync", calls::SYNC),
        Call::SyncDir => ("sync_dir", calls::SYNC_DIR),
        Call::Rename(_) => ("rename", calls::NAME),
        Call::Link(_) => ("link", calls::NAME),
        Call::Remove => ("remove", calls::NAME),
        Call::Read => ("read", calls::READ),
    }
}

impl Log {
    /// The path within the store; none of the index, which is not looked at.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(self.root.as_ref()?).ok()?;
        (!inside.starts_with("index")).then(|| inside.to_owned())
    }

    fn push(&mut self, op: Op) {
        if self.root.is_some() {
            self.ops.push(op);
        }
    }

    fn new_file(&mut self, path: PathBuf, length: u64) {
        self.files += 1;
        self.names.insert(path.clone(), self.files);
        self.ops.push(Op::Create(path, self.files, length));
    }

    fn note(&mut self, call: Call<'_>, path: &Path) {
        let Some(path) = self.inside(path) else {
            return;
        };
        match call {
            Call::MakeDir => self.ops.push(Op::MakeDir(path)),
            Call::Create(length) => self.new_file(path, length),
            Call::OpenOrCreate if self.names.contains_key(&path) => {}
            Call::OpenOrCreate => self.new_file(path, 0),
            Call::Write(disk, bytes, at) => {
                self.ops.push(Op::Write(disk.number, at, bytes.to_vec()));
            }
            Call::Truncate(disk, length) => self.ops.push(Op::Truncate(disk.number, length)),
            Call::Sync(disk) => self.ops.push(Op::Sync(disk.number)),
            Call::SyncDir => self.ops.push(Op::SyncDir(path)),
            Call::Rename(from) => {
                let from = self.inside(from).unwrap();
                if let Some(file) = self.names.remove(&from) {
                    self.names.insert(path.clone(), file);
                }
                self.ops.push(Op::Rename(from, path));
            }
            Call::Link(from) => {
                let from = self.inside(from).unwrap();
                if let Some(file) = self.names.get(&from).copied() {
                    self.names.insert(path.clone(), file);
                }
                self.ops.push(Op::Link(from, path));
            }
            Call::Remove => {
                self.names.remove(&path);
                self.ops.push(Op::Remove(path));
            }
            Call::Read => {}
        }
    }

    /// What is there already.
    fn find(&mut self, dir: &Path) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let Some(inside) = self.inside(&path) else {
                continue;
            };
            if path.is_dir() {
                self.ops.push(Op::MakeDir(inside));
                self.find(&path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                self.new_file(inside, 0);
                self.ops.push(Op::Write(self.files, 0, bytes));
                self.ops.push(Op::Sync(self.files));
            }
        }
        let inside = self.inside(dir).unwrap();
        self.ops.push(Op::SyncDir(inside));
    }
}
