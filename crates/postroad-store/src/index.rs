//! The index: a sled tree from places in the log to the messages there that still wait.
//!
//! It is never the truth and never waited for. One thread keeps it, behind everything else, for
//! messages that are still there after their first attempt; after a stop that was not clean it is
//! deleted and made anew from what the log says. Whatever is done to its files, the queue is the
//! same. Nothing reads it while the table has all messages in memory: it is kept for queues that
//! outgrow that, and for looking at a queue whose process has ended.
//!
//! A key is a page of the log, [`PAGE`] octets of a segment, and the number of a part; its value
//! up to [`PART`] messages whose records begin there. One key a message would cost sled more
//! memory than the message costs the table. All numbers are big endian.
//!
//! | key | octets | | value, for each message | octets |
//! |---|---|---|---|---|
//! | segment, page | 4, 4 | | id | 16 |
//! | part | 1 | | offset, newest state record | 4, 4 |

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use postroad_queue::QueueId;

use crate::inner::Inner;
use crate::place::Place;
use crate::record::Reader;

/// Messages whose entries are out of date, at most; beyond, the index is made anew.
const STALE_MAX: usize = 65_536;
/// Messages looked at under one lock, at most.
const AT_ONCE: usize = 1024;
/// Octets of the log that one page covers.
const PAGE: u32 = 128 << 10;
/// Messages in one value, at most; so no value is longer than 4 KiB.
const PART: usize = 160;
const ENTRY: usize = 24;
const _: () = assert!(PART * ENTRY <= 4096);

/// Segment and page.
type Page = (u32, u32);

/// Which entries are out of date.
#[derive(Debug, Default)]
pub(crate) struct Stale(Mutex<Work>);

#[derive(Debug, Default)]
struct Work {
    pages: HashMap<Page, HashSet<QueueId>>,
    messages: usize,
    /// Segments that are gone.
    gone: Vec<u32>,
    all: bool,
}

impl Stale {
    /// A message has changed, has come there, or has gone from there.
    pub(crate) fn touch(&self, id: QueueId, place: Place) {
        let mut work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if work.all {
            return;
        }
        if work.messages < STALE_MAX {
            let new = work.pages.entry(page(place)).or_default().insert(id);
            work.messages += usize::from(new);
        } else {
            *work = Work {
                all: true,
                ..Work::default()
            };
        }
    }

    /// A segment has gone, with all that was in it.
    pub(crate) fn gone(&self, segment: u32) {
        let mut work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !work.all {
            work.gone.push(segment);
        }
    }

    /// Everything is out of date.
    fn touch_all(&self) {
        let mut work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *work = Work {
            all: true,
            ..Work::default()
        };
    }

    fn take(&self) -> Work {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

const fn page(place: Place) -> Page {
    (place.segment, place.offset / PAGE)
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
        for (page, ids) in work.pages {
            let mut entries = self.page(page)?;
            let before = entries.clone();
            let table = inner.table();
            for id in ids {
                match table.get(id).map(|entry| entry.place) {
                    Some(place) if self::page(place) == page => {
                        entries.insert(id, (place.offset, place.state));
                    }
                    _ => {
                        entries.remove(&id);
                    }
                }
            }
            drop(table);
            if entries != before {
                self.put(page, &entries, before.len())?;
            }
        }
        for segment in work.gone {
            for key in self.0.scan_prefix(segment.to_be_bytes()).keys() {
                self.0.remove(key?)?;
            }
        }
        Ok(())
    }

    fn fill(&self, inner: &Inner) -> sled::Result<()> {
        let mut after = None;
        loop {
            let mut pages: BTreeMap<Page, Vec<(QueueId, Place)>> = BTreeMap::new();
            let mut last = None;
            for (id, entry) in inner.table().after(after).take(AT_ONCE) {
                last = Some(id);
                let place = entry.place;
                pages.entry(page(place)).or_default().push((id, place));
            }
            if last.is_none() {
                return Ok(());
            }
            after = last;
            for (page, messages) in pages {
                let mut entries = self.page(page)?;
                let before = entries.len();
                let places = messages.into_iter();
                entries.extend(places.map(|(id, place)| (id, (place.offset, place.state))));
                self.put(page, &entries, before)?;
            }
        }
    }

    fn page(&self, page: Page) -> sled::Result<Entries> {
        let mut entries = Entries::new();
        let [prefix @ .., _] = key(page, 0);
        for value in self.0.scan_prefix(prefix).values() {
            read(&value?, &mut entries);
        }
        Ok(entries)
    }

    /// `before` is how many there were.
    fn put(&self, page: Page, entries: &Entries, before: usize) -> sled::Result<()> {
        let all: Vec<_> = entries.iter().collect();
        for (part, some) in all.chunks(PART).enumerate() {
            let mut value = Vec::with_capacity(some.len() * ENTRY);
            for (id, (offset, state)) in some {
                value.extend_from_slice(&id.to_bytes());
                value.extend_from_slice(&offset.to_be_bytes());
                value.extend_from_slice(&state.to_be_bytes());
            }
            self.0.insert(key(page, part), value)?;
        }
        for part in all.len().div_ceil(PART)..before.div_ceil(PART) {
            self.0.remove(key(page, part))?;
        }
        Ok(())
    }

    /// At a stop, from the one thread that writes. Whether all of it is there.
    pub(crate) fn close(&self) -> bool {
        let flushed = catch_unwind(AssertUnwindSafe(|| self.0.flush()));
        if let Ok(Err(error)) = &flushed {
            tracing::warn!(%error, "the index cannot be flushed");
        }
        matches!(flushed, Ok(Ok(_)))
    }

    /// Every message, with its place: segment, offset, newest state record.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> Vec<(QueueId, (u32, u32, u32))> {
        let mut all = Vec::new();
        for pair in self.0.iter() {
            let (key, value) = pair.unwrap();
            assert!(value.len() <= 4096);
            let segment = u32::from_be_bytes(key[..4].try_into().unwrap());
            let mut entries = Entries::new();
            read(&value, &mut entries);
            let places = entries.into_iter();
            all.extend(places.map(|(id, (offset, state))| (id, (segment, offset, state))));
        }
        all.sort_unstable();
        all
    }
}

/// The messages of a page: offset and newest state record of each.
type Entries = BTreeMap<QueueId, (u32, u32)>;

fn read(value: &[u8], entries: &mut Entries) {
    let mut reader = Reader(value);
    while let Some(id) = reader.take() {
        let (Some(offset), Some(state)) = (reader.int(), reader.int()) else {
            return;
        };
        entries.insert(QueueId::from_bytes(id), (offset, state));
    }
}

fn key((segment, page): Page, part: usize) -> [u8; 9] {
    let part = u8::try_from(part).unwrap_or(u8::MAX);
    let [a, b, c, d] = segment.to_be_bytes();
    let [e, f, g, h] = page.to_be_bytes();
    [a, b, c, d, e, f, g, h, part]
}
