//! A file that is read again when it has changed, never while somebody waits for it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::lines::LineError;

/// Octets of a file, at most.
pub const FILE_OCTETS_MAX: u64 = 64 << 20;
/// How often a file is looked at, at most.
const POLL: Duration = Duration::from_secs(1);

/// Why a table file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("reading {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// It is larger than [`FILE_OCTETS_MAX`].
    #[error("{0} is larger than {FILE_OCTETS_MAX} octets")]
    TooLarge(String),
    /// A line is wrong; what is behind it was not read.
    #[error("{path}:{line}: {detail}")]
    Line {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what was expected.
        detail: String,
    },
}

/// What a file said the last time that it made sense.
pub(crate) struct Watched<T>(Arc<Inner<T>>);

struct Inner<T> {
    path: PathBuf,
    parse: fn(&str) -> Result<T, LineError>,
    good: ArcSwap<T>,
    poll: Mutex<Poll>,
}

struct Poll {
    /// When to look again; `None` while somebody looks.
    next: Option<Instant>,
    /// What the file was when it was read last, whether it made sense or not; `None`: unreadable.
    stamp: Option<Stamp>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the file; blocks.
    pub(crate) fn open(
        path: &Path,
        parse: fn(&str) -> Result<T, LineError>,
    ) -> Result<Self, FileError> {
        let (stamp, text) = read(path)?;
        let good = parsed(path, &text, parse)?;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            parse,
            good: ArcSwap::from_pointee(good),
            poll: Mutex::new(Poll {
                next: Some(Instant::now() + POLL),
                stamp: Some(stamp),
            }),
        })))
    }

    /// What it says. Where it may have changed, that is found out behind the caller's back.
    pub(crate) fn get(&self) -> Arc<T> {
        if self.0.due() {
            let inner = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || inner.look());
        }
        self.0.good.load_full()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Looks now, whatever the time.
    #[cfg(test)]
    pub(crate) fn look(&self) {
        self.0.look();
    }
}

impl<T> Inner<T> {
    fn poll(&self) -> std::sync::MutexGuard<'_, Poll> {
        self.poll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to look. Then it is nobody else's until that is done.
    fn due(&self) -> bool {
        let now = Instant::now();
        let mut poll = self.poll();
        let due = poll.next.is_some_and(|next| next <= now);
        if due {
            poll.next = None;
        }
        due
    }

    fn look(&self) {
        let known = self.poll().stamp;
        let found = stamp(&self.path);
        if !matches!((&found, known), (Ok(found), Some(known)) if *found == known) {
            self.changed(known);
        }
        self.poll().next = Some(Instant::now() + POLL);
    }

    /// Takes in what the file says now, or keeps the old and says so, once for each change.
    fn changed(&self, known: Option<Stamp>) {
        let (now, read) = match read(&self.path) {
            Ok((stamp, text)) => (Some(stamp), parsed(&self.path, &text, self.parse)),
            Err(error) => (stamp(&self.path).ok(), Err(error)),
        };
        self.poll().stamp = now;
        match read {
            Ok(good) => {
                self.good.store(Arc::new(good));
                tracing::info!(path = %self.path.display(), "a table file has changed and is in force");
            }
            Err(_) if now.is_none() && known.is_none() => {}
            Err(error) => {
                tracing::error!(%error, "a table file has changed and cannot be used; what it said before stays in force");
            }
        }
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({})", self.0.path.display())
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    std::fs::metadata(path).map(|metadata| Stamp::of(&metadata))
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

fn read(path: &Path) -> Result<(Stamp, String), FileError> {
    let shown = || path.display().to_string();
    let failed = |error| FileError::Read {
        path: shown(),
        error,
    };
    // Opening a pipe waits for somebody to write.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let file = File::open(path).map_err(failed)?;
    // From before it is read: what is written meanwhile is a change.
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let mut octets = Vec::new();
    let mut bounded = file.take(FILE_OCTETS_MAX + 1);
    bounded.read_to_end(&mut octets).map_err(failed)?;
    if octets.len() as u64 > FILE_OCTETS_MAX {
        return Err(FileError::TooLarge(shown()));
    }
    let text = String::from_utf8(octets).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..good).unwrap_or_default();
        FileError::Line {
            path: shown(),
            line: before.iter().filter(|&&octet| octet == b'\n').count() + 1,
            detail: "expected UTF-8".to_owned(),
        }
    })?;
    Ok((stamp, text))
}

fn parsed<T>(
    path: &Path,
    text: &str,
    parse: fn(&str) -> Result<T, LineError>,
) -> Result<T, FileError> {
    parse(text).map_err(|LineError { number, detail }| FileError::Line {
        path: path.display().to_string(),
        line: number,
        detail,
    })
}
