//! The index: a sled tree from a message's id to its place in the log.
//!
//! It is never the truth and never waited for. One thread keeps it, behind everything else, for
//! messages that are still there after their first attempt; after a stop that was not clean it is
//! deleted and made anew from what the log says. Whatever is done to its files, the queue is the
//! same. Nothing reads it while the table has all messages in memory: it is kept for queues that
//! outgrow that, and for looking at a queue whose process has ended.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use postroad_queue::QueueId;
use postroad_queue::jobs::Entry;

use crate::inner::{Inner, Place};

/// Messages whose entries are out of date, at most; beyond, the index is made anew.
const STALE_MAX: usize = 65_536;
/// Messages looked at under one lock, at most.
const AT_ONCE: usize = 1024;

/// Which entries are out of date.
#[derive(Debug, Default)]
pub(crate) struct Stale(Mutex<Work>);

#[derive(Debug, Default)]
struct Work {
    ids: HashSet<QueueId>,
    all: bool,
}

impl Stale {
    /// A message has changed, or gone.
    pub(crate) fn touch(&self, id: QueueId) {
        let mut work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if work.ids.len() < STALE_MAX {
            work.ids.insert(id);
        } else {
            work.ids.clear();
            work.all = true;
        }
    }

    /// Everything is out of date.
    fn touch_all(&self) {
        let mut work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work.ids.clear();
        work.all = true;
    }

    fn take(&self) -> Work {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The open index.
#[derive(Debug)]
pub(crate) struct Index(sled::Db);

impl Index {
    /// Deletes what is there, and opens an empty one; the next update fills it. `None` where that fails: the
    /// queue does without.
    pub(crate) fn anew(inner: &Inner) -> Option<Self> {
        let path = inner.options.path.join("index");
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "the old index cannot be removed; going on without an index");
                None
            }
            _ => {
                inner.stale.touch_all();
                // sled's own files are for all to read.
                if let Err(error) = inner.io.make_dir(&path) {
                    tracing::warn!(%error, "no place for an index; going on without one");
                    return None;
                }
                Self::open(&path, inner.options.index_cache)
            }
        }
    }

    /// It is not to be used by the next start.
    pub(crate) fn remove(inner: &Inner) {
        let _ = std::fs::remove_dir_all(inner.options.path.join("index"));
    }

    /// The one that a clean stop left; a new one, where it cannot be used.
    pub(crate) fn kept(inner: &Inner) -> Option<Self> {
        let path = inner.options.path.join("index");
        let there = path.exists();
        let kept = there.then(|| Self::open(&path, inner.options.index_cache));
        kept.flatten().or_else(|| Self::anew(inner))
    }

    /// sled panics on some damage.
    pub(crate) fn open(path: &Path, cache: u64) -> Option<Self> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(Some(500))
            .use_compression(false);
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => Some(Self(db)),
            Ok(Err(error)) => {
                tracing::warn!(%error, path = %path.display(), "the index cannot be opened; going on without one");
                None
            }
            Err(_) => None,
        }
    }

    /// Brings the entries of changed messages up to date. Whether that may be done again: sled
    /// panics on some damage, and its caller has more to do.
    pub(crate) fn update(&self, inner: &Inner) -> bool {
        match catch_unwind(AssertUnwindSafe(|| self.catch_up(inner))) {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the index cannot be written; going on without one");
                false
            }
            Err(_) => {
                tracing::error!("the index has failed; going on without one");
                false
            }
        }
    }

    fn catch_up(&self, inner: &Inner) -> sled::Result<()> {
        let work = inner.stale.take();
        if work.all {
            self.0.clear()?;
            return self.fill(inner);
        }
        let ids: Vec<_> = work.ids.into_iter().collect();
        for some in ids.chunks(AT_ONCE) {
            let values: Vec<_> = {
                let table = inner.table();
                some.iter()
                    .map(|&id| (id, table.get(id).map(value)))
                    .collect()
            };
            for (id, value) in values {
                match value {
                    Some(value) => self.0.insert(id.to_bytes(), &value)?,
                    None => self.0.remove(id.to_bytes())?,
                };
            }
        }
        Ok(())
    }

    fn fill(&self, inner: &Inner) -> sled::Result<()> {
        let mut after = None;
        loop {
            let some: Vec<_> = inner
                .table()
                .after(after)
                .take(AT_ONCE)
                .map(|(id, entry)| (id, value(entry)))
                .collect();
            let Some(&(last, _)) = some.last() else {
                return Ok(());
            };
            after = Some(last);
            for (id, value) in some {
                self.0.insert(id.to_bytes(), &value)?;
            }
        }
    }

    /// At a stop, from the one thread that writes. Whether all of it is there.
    pub(crate) fn close(&self) -> bool {
        let flushed = catch_unwind(AssertUnwindSafe(|| self.0.flush()));
        if let Ok(Err(error)) = &flushed {
            tracing::warn!(%error, "the index cannot be flushed");
        }
        matches!(flushed, Ok(Ok(_)))
    }

    #[cfg(test)]
    pub(crate) fn entries(&self) -> Vec<(QueueId, Vec<u8>)> {
        let id = |key: &[u8]| QueueId::from_bytes(key.try_into().unwrap());
        self.0
            .iter()
            .map(|entry| {
                entry
                    .map(|(key, value)| (id(&key), value.to_vec()))
                    .unwrap()
            })
            .collect()
    }
}

/// Segment, offset, newest state record, whether the body has a file of its own, octets of the
/// message; big endian.
fn value(entry: &Entry<Place>) -> [u8; 21] {
    let (mut value, place) = ([0; 21], entry.place);
    let fields = place
        .segment
        .to_be_bytes()
        .into_iter()
        .chain(place.offset.to_be_bytes())
        .chain(place.state.to_be_bytes())
        .chain([u8::from(place.big)])
        .chain(entry.size().to_be_bytes());
    for (to, from) in value.iter_mut().zip(fields) {
        *to = from;
    }
    value
}
