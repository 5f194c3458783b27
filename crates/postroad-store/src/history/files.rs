//! The files of a history, as they are written: in turn, each up to a size and an age, the oldest
//! going first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::StoreError;

use crate::history::HistoryOptions;
use crate::io::failed;

/// Files that the bound on all is shared among.
const FILES: u64 = 16;
/// A file takes events for that long, at most.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Octets of a line, at most; longer ones are not written, and not read.
pub(super) const LINE_MAX: usize = 1 << 20;

/// One file: when it was begun, and its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Begun {
    pub(super) at: Timestamp,
    pub(super) size: u64,
}

impl Begun {
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        // As many digits as keep names in order until the year 5138.
        dir.join(format!("history-{:014}.log", self.at.as_millis()))
    }
}

/// The files in a directory, the oldest first.
pub(super) fn list(dir: &Path) -> Result<Vec<Begun>, StoreError> {
    let listing = |error| failed("listing", dir, error);
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(listing)? {
        let entry = entry.map_err(listing)?;
        let name = entry.file_name();
        let millis = name.to_str().and_then(|name| {
            let digits = name.strip_prefix("history-")?.strip_suffix(".log")?;
            digits.parse().ok()
        });
        // One that has gone meanwhile is none.
        if let (Some(millis), Ok(metadata)) = (millis, entry.metadata()) {
            all.push(Begun {
                at: Timestamp::from_millis(millis),
                size: metadata.len(),
            });
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Writes them. Whoever has one is the only one.
#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    options: HistoryOptions,
    /// The oldest first; the last is the one written to, where `open` is.
    files: Vec<Begun>,
    open: Option<File>,
}

impl Writer {
    /// Goes on with what is there.
    pub(super) fn new(dir: &Path, options: HistoryOptions) -> Result<Self, StoreError> {
        Ok(Self {
            dir: dir.to_owned(),
            options,
            files: list(dir)?,
            open: None,
        })
    }

    /// Hands whole lines to the kernel. Of what fails, some may have been written.
    ///
    /// # Errors
    /// Where they cannot be written; the next call tries again, in a new file or behind what is
    /// there.
    pub(super) fn write(&mut self, now: Timestamp, mut lines: &[u8]) -> Result<(), StoreError> {
        while !lines.is_empty() {
            let room = self.room(now);
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
            let fitting = lines.get(..room).unwrap_or_default();
            let cut = match memchr::memrchr(b'\n', fitting) {
                Some(end) => end + 1,
                // Not one line: it gets a file of its own, however long it is.
                None if self.current(now).is_some_and(|file| file.size > 0) => {
                    self.open = None;
                    self.begin(now)?;
                    continue;
                }
                None => memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1),
            };
            let (some, rest) = lines.split_at_checked(cut).unwrap_or((lines, &[]));
            self.append(now, some)?;
            lines = rest;
        }
        Ok(())
    }

    /// Removes what is too old, and closes the file that has taken events for long enough.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        self.forget(now, 0);
    }

    /// The file that may still be written to: also one that was begun later than it is now, since
    /// a clock that was wrong may be put back by years, and each write would make a file.
    fn current(&self, now: Timestamp) -> Option<Begun> {
        let last = self.files.last().copied();
        last.filter(|file| now.since(file.at) < AGE_MAX)
    }

    /// Octets for which the current file has room.
    fn room(&self, now: Timestamp) -> u64 {
        let size = self.current(now).map_or(0, |file| file.size);
        (self.options.size_max / FILES).saturating_sub(size)
    }

    fn append(&mut self, now: Timestamp, lines: &[u8]) -> Result<(), StoreError> {
        if self.current(now).is_none() {
            self.open = None;
            self.begin(now)?;
        }
        self.forget(now, octets(lines.len()));
        let mut file = match self.open.take() {
            Some(file) => file,
            None => self.reopen()?,
        };
        let Some(begun) = self.files.last_mut() else {
            return Ok(());
        };
        match file.write_all(lines) {
            Ok(()) => {
                begun.size += octets(lines.len());
                self.open = Some(file);
                Ok(())
            }
            Err(error) => {
                let path = begun.path(&self.dir);
                if let Ok(metadata) = file.metadata() {
                    begun.size = metadata.len();
                }
                Err(failed("writing", &path, error))
            }
        }
    }

    /// Makes a new file.
    fn begin(&mut self, now: Timestamp) -> Result<(), StoreError> {
        // Names differ, and are in order, also where the clock has gone back.
        let least = self.files.last().map_or(0, |file| file.at.as_millis() + 1);
        let begun = Begun {
            at: Timestamp::from_millis(now.as_millis().max(least)),
            size: 0,
        };
        let path = begun.path(&self.dir);
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        let file = options.open(&path);
        self.open = Some(file.map_err(|error| failed("creating", &path, error))?);
        self.files.push(begun);
        Ok(())
    }

    /// The last file, written to once more. A line that was cut off is ended first.
    fn reopen(&mut self) -> Result<File, StoreError> {
        let Some(begun) = self.files.last_mut() else {
            return Err(StoreError::Closed);
        };
        let path = begun.path(&self.dir);
        let open = || {
            let mut options = OpenOptions::new();
            options.append(true).read(true).create(true).mode(0o600);
            let mut file = options.open(&path)?;
            let size = file.metadata()?.len();
            let mut last = [b'\n'];
            if size > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            if last != [b'\n'] {
                file.write_all(b"\n")?;
            }
            Ok((file, size + u64::from(last != [b'\n'])))
        };
        let (file, size) = open().map_err(|error: io::Error| failed("opening", &path, error))?;
        begun.size = size;
        Ok(file)
    }

    /// Removes files that end before what is kept, and then the oldest until there is room; never
    /// the last, which is written to.
    fn forget(&mut self, now: Timestamp, more: u64) {
        while let &[oldest, next, ..] = self.files.as_slice() {
            let total = self.files.iter().map(|file| file.size).sum::<u64>();
            let old = now.since(next.at) > self.options.keep;
            if !old && total.saturating_add(more) <= self.options.size_max {
                return;
            }
            self.remove(oldest);
        }
        // The last one goes where nothing was written to it for that long.
        if let Some(last) = self.files.last().copied()
            && more == 0
            && now.since(last.at) > self.options.keep.saturating_add(AGE_MAX)
        {
            self.open = None;
            self.remove(last);
        }
    }

    fn remove(&mut self, file: Begun) {
        let path = file.path(&self.dir);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "old history cannot be removed; it no longer counts towards the bound");
        }
        self.files.retain(|other| *other != file);
    }
}

fn octets(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
