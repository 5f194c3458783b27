//! What has happened to messages, kept in files of JSON lines for `postroad trace`.
//!
//! Whoever records an event only adds a line to a buffer in memory; one thread hands that to the
//! kernel at least once a second. So a `kill -9` loses a second of history at most, a power loss
//! some more, and nothing is ever synced: mail goes first. Where the buffer is full, or the disk,
//! events are dropped, counted, and told of in the log once a minute.

mod files;
mod read;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::history::{Event, History, Wanted};
use postroad_queue::{BoxFuture, StoreError};

use crate::content::blocking;
use crate::history::files::{LINE_MAX, Writer};
use crate::io::{Io, failed};
use crate::watch::now;

pub use read::HistoryFiles;

/// Octets of events that may wait to be written; beyond, they are dropped.
const PENDING_MAX: usize = 8 << 20;
/// Octets at which the thread is woken before its time.
const WRITE_AT: usize = 256 << 10;
/// How long an event waits to be written, at most.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// How often what is too old is looked for, and dropped events are told of.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// For how long.
    pub keep: Duration,
    /// Octets of all files, at most (but for one event, where that is longer than a sixteenth).
    pub size_max: u64,
}

/// A history in files in a directory of its own. Cloning it gives another handle; the last one
/// to go writes what is left.
#[derive(Clone, Debug)]
pub struct FileHistory(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    pending: Mutex<Vec<u8>>,
    wake: Condvar,
    stop: AtomicBool,
    writer: Mutex<Writer>,
    dropped: AtomicU64,
}

impl FileHistory {
    /// Opens the history in a directory, or makes one (readable for its owner alone). One process
    /// has it open at a time; others may read it meanwhile, by [`HistoryFiles`]. Blocks.
    ///
    /// # Errors
    /// Where the directory cannot be made or listed.
    pub fn open(dir: impl AsRef<Path>, options: HistoryOptions) -> Result<Self, StoreError> {
        let dir = dir.as_ref();
        Io::default().make_dir(dir)?;
        let mut writer = Writer::new(dir, options)?;
        writer.tidy(now());
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            pending: Mutex::default(),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            writer: Mutex::new(writer),
            dropped: AtomicU64::new(0),
        });
        let writes = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writes.run())
            .map_err(|error| failed("starting a thread for", dir, error))?;
        Ok(Self(Arc::new(Handle {
            shared,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Events that were not kept, since the start: nothing could keep up with them, or they could
    /// not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.shared.dropped.load(Ordering::Relaxed)
    }
}

impl History for FileHistory {
    fn record(&self, event: Event) {
        self.0.shared.record(&event);
    }

    fn find<'a>(
        &'a self,
        wanted: &'a Wanted,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Event>, StoreError>> {
        let (shared, wanted) = (Arc::clone(&self.0.shared), wanted.clone());
        Box::pin(blocking(move || {
            shared.flush(now());
            HistoryFiles::new(&shared.dir).find(&wanted, max)
        }))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        {
            let _pending = lock(&self.shared.pending);
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.shared.wake.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join(); // a panic there has been reported
        }
    }
}

impl Shared {
    fn record(&self, event: &Event) {
        // Made before the lock is taken.
        let line = serde_json::to_vec(event).map(|mut line| {
            line.push(b'\n');
            line
        });
        let Ok(line) = line else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut pending = lock(&self.pending);
        if line.len() > LINE_MAX || pending.len() + line.len() > PENDING_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = pending.len();
        pending.extend_from_slice(&line);
        let enough = before < WRITE_AT && pending.len() >= WRITE_AT;
        drop(pending);
        if enough {
            self.wake.notify_one();
        }
    }

    /// Writes until there is nobody left who records anything.
    fn run(&self) {
        let mut tidied = now();
        let mut told = 0;
        loop {
            let pending = lock(&self.pending);
            let stop = self.stop.load(Ordering::Relaxed);
            if !stop && pending.len() < WRITE_AT {
                let woken = self.wake.wait_timeout(pending, FLUSH_EVERY);
                drop(woken);
            } else {
                drop(pending);
            }
            let now = now();
            self.flush(now);
            if now.since(tidied) >= TIDY_EVERY || now < tidied || stop {
                tidied = now;
                lock(&self.writer).tidy(now);
                told = self.tell(told);
            }
            if stop {
                return;
            }
        }
    }

    /// Hands to the kernel what waits for that.
    fn flush(&self, now: Timestamp) {
        let mut writer = lock(&self.writer);
        let mut lines = std::mem::take(&mut *lock(&self.pending));
        if lines.is_empty() {
            return;
        }
        if let Err(error) = writer.write(now, &lines) {
            let events = memchr::memchr_iter(b'\n', &lines).count();
            let before = self
                .dropped
                .fetch_add(u64::try_from(events).unwrap_or(u64::MAX), Ordering::Relaxed);
            if before == 0 {
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "history cannot be written; it has gaps from now on, mail is not touched by that");
            }
        }
        // The memory is used again, unless it was an unusual lot.
        lines.clear();
        if lines.capacity() <= 2 * WRITE_AT {
            let mut pending = lock(&self.pending);
            if pending.is_empty() {
                *pending = lines;
            }
        }
    }

    /// Says how much was dropped since that was said last.
    fn tell(&self, told: u64) -> u64 {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > told {
            tracing::warn!(
                events = dropped - told,
                dir = %self.dir.display(),
                "history has gaps: so many events could not be written down"
            );
        }
        dropped
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
