//! The one thread that writes the log: group commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use postroad_mail::Timestamp;
use postroad_queue::StoreError;
use postroad_queue::jobs::{Flow, Saved};
use tokio::sync::{mpsc, oneshot};

use crate::Durability;
use crate::inner::{Inner, Ready, lock};
use crate::io::{Disk, again};
use crate::place::{Extent, Place, Segment};
use crate::record::{BIG, HEADER, Header, INLINE, NONE, SEGMENT_HEADER, padded, segment_header};
use crate::state::{Settling, void};
use crate::watch::{Work, because, count};

/// Octets written with one sync, at most (one commit may be longer).
const BATCH_MAX: usize = 4 << 20;
/// Octets of a segment where the disk has no room for one of the usual size.
const SMALL_SEGMENT: u64 = 1 << 20;
/// For how long it is not looked whether it has again.
const NARROW: Duration = Duration::from_secs(10);
/// How long a lease lasts after its record could not be written, so that it can be tried again.
pub(crate) const RECORD_AGAIN: Duration = Duration::from_secs(300);

/// One message, ready to be written but for what only the writer knows.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) header: Header,
    pub(crate) meta: Vec<u8>,
    pub(crate) head: Bytes,
    /// Empty where it has a file of its own.
    pub(crate) body: Bytes,
    pub(crate) ready: Option<Ready>,
    pub(crate) lanes: Arc<[postroad_queue::Lane]>,
    pub(crate) flow: Flow,
    /// Where it stands, where that is not at its beginning.
    pub(crate) resumed: Option<Box<Saved>>,
}

/// Messages to be written together, and the state that owes them.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) messages: Vec<Prepared>,
    pub(crate) settle: Option<Box<Settling>>,
    /// Where each of them is so far, where it is compaction that writes them anew.
    pub(crate) from: Option<Vec<Place>>,
    pub(crate) now: Timestamp,
    pub(crate) reply: oneshot::Sender<Result<(), StoreError>>,
}

pub(crate) struct Writer {
    inner: Arc<Inner>,
    current: Option<Current>,
    next: u32,
    epoch: u64,
    buffer: Vec<u8>,
    /// When there was no room for a segment of the usual size.
    narrow: Option<Timestamp>,
}

struct Current {
    number: u32,
    disk: Arc<Disk>,
    end: u64,
    size: u64,
}

impl Writer {
    /// A writer that begins with segment number `next`.
    pub(crate) const fn new(inner: Arc<Inner>, next: u32, epoch: u64) -> Self {
        Self {
            inner,
            current: None,
            next,
            epoch,
            buffer: Vec::new(),
            narrow: None,
        }
    }

    /// Writes until nobody is left who could ask.
    pub(crate) fn run(mut self, mut commits: mpsc::Receiver<Commit>) {
        while let Some(first) = commits.blocking_recv() {
            let mut octets = first.length();
            let mut batch = vec![first];
            while octets < BATCH_MAX
                && let Ok(more) = commits.try_recv()
            {
                octets += more.length();
                batch.push(more);
            }
            self.write(batch);
        }
        self.seal();
    }

    fn write(&mut self, batch: Vec<Commit>) {
        let number = self.current.as_ref().map(|current| current.number);
        if number.is_some_and(|number| self.inner.is_to_be_left(number)) {
            self.seal();
        }
        let mut group = Vec::with_capacity(batch.len());
        let mut octets = 0;
        for commit in batch {
            let length = commit.length();
            if !self.fits(octets + length) {
                self.flush(std::mem::take(&mut group));
                octets = 0;
                if !self.fits(length)
                    && let Err(error) = self.room_for(&commit, length)
                {
                    self.refuse(vec![commit], &error, true);
                    continue;
                }
            }
            octets += length;
            group.push(commit);
        }
        self.flush(group);
    }

    fn fits(&self, octets: usize) -> bool {
        let room = self.current.as_ref().map_or(0, |c| c.size - c.end);
        octets as u64 <= room
    }

    /// A segment with room for a commit; a small one, while the disk has no room for another of
    /// the usual size.
    fn room_for(&mut self, commit: &Commit, length: usize) -> Result<(), StoreError> {
        self.seal();
        let least = length as u64 + SEGMENT_HEADER as u64;
        let usual = self.inner.options.segment_size.max(least);
        let small = self
            .inner
            .options
            .segment_size
            .min(SMALL_SEGMENT)
            .max(least);
        let since = commit.now;
        // Nor is so much taken in advance that no more mail would be.
        let free = self.inner.free.load(Ordering::Relaxed);
        let narrow = self
            .narrow
            .is_some_and(|at| since >= at && since.since(at) < NARROW)
            || free < self.inner.options.min_free.saturating_add(usual);
        if !narrow {
            match self.start_segment(usual, since) {
                Err(StoreError::Full { .. }) if small < usual => self.narrow = Some(since),
                done => return done,
            }
        }
        self.start_segment(small, since)
    }

    /// A new segment is durable, with its name, before it is used.
    fn start_segment(&mut self, size: u64, since: Timestamp) -> Result<(), StoreError> {
        let inner = &self.inner;
        let number = self.next;
        self.next = self.next.saturating_add(1);
        let path = inner.log_path(number);
        let disk = inner.io.create(&path, size)?;
        let make = || {
            disk.write_at(&segment_header(number, self.epoch), 0)?;
            if inner.options.durability == Durability::Sync {
                disk.sync()?;
                inner.io.sync_dir(&inner.options.path)?;
            }
            Ok(())
        };
        if let Err(error) = make() {
            let _ = inner.io.remove(&path); // an empty segment; recovery drops it else
            return Err(error);
        }
        let disk = Arc::new(disk);
        self.inner.take_space(size);
        let mut segment = Segment::new(self.epoch, false, since);
        segment.log = Some(Arc::clone(&disk));
        (segment.end, segment.size) = (SEGMENT_HEADER as u64, size);
        inner.segments().insert(number, segment);
        self.current = Some(Current {
            number,
            disk,
            end: SEGMENT_HEADER as u64,
            size,
        });
        Ok(())
    }

    /// Nothing more is written to the current segment.
    fn seal(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        let cut = current.disk.truncate(current.end); // only to save space
        if let Some(segment) = self.inner.segments().get_mut(&current.number) {
            segment.sealed = true;
            if cut.is_ok() {
                segment.size = current.end;
            }
        }
    }

    /// What was just written is cut off again, and its segment left. Whether that is on disk: else
    /// it may turn up, and must find its body.
    fn forget_written(&mut self) -> bool {
        let Some(current) = &self.current else {
            return true;
        };
        let cut = current.disk.truncate(current.end);
        let cut = cut.and_then(|()| current.disk.sync());
        self.seal();
        cut.is_ok()
    }

    /// Where what compaction has written may turn up, that does not count.
    fn void(&self, group: &[Commit], places: &[Place]) {
        let mut places = places.iter();
        let mut marks = lock(&self.inner.marks);
        for commit in group {
            let mut from = commit.from.iter().flatten();
            for (message, to) in commit.messages.iter().zip(&mut places) {
                let from = from.next();
                marks.extend(from.map(|from| void(message.header.id, *from, *to)));
            }
        }
    }

    fn flush(&mut self, group: Vec<Commit>) {
        let Some(current) = &self.current else {
            return;
        };
        if group.is_empty() {
            return;
        }
        self.buffer.clear();
        let mut places = Vec::with_capacity(group.len());
        for message in group.iter().flat_map(|commit| &commit.messages) {
            let offset = current.end + self.buffer.len() as u64;
            places.push(Place {
                segment: current.number,
                offset: u32::try_from(offset).unwrap_or(NONE),
                state: NONE,
                extent: Extent::new(message.length(), message.header.kind == BIG),
            });
            let header = Header {
                segment: current.number,
                epoch: self.epoch,
                ..message.header
            };
            self.buffer.extend_from_slice(&header.encode());
            for part in [&message.meta[..], &message.head, &message.body] {
                self.buffer.extend_from_slice(part);
            }
            self.buffer.resize(padded(self.buffer.len()), 0);
        }
        let mut written = current.disk.write_at(&self.buffer, current.end);
        // What compaction writes anew has been on disk for long, and is to stay so.
        let moves = group.iter().any(|commit| commit.from.is_some());
        let sync = self.inner.options.durability == Durability::Sync;
        if written.is_ok() && (sync || moves) {
            written = current.disk.sync();
        }
        if written.is_ok() && moves && !sync {
            written = self.inner.io.sync_dir(&self.inner.options.path);
        }
        match written {
            Ok(()) => {
                self.inner.watch.works(Work::Commit);
                self.written(group, places);
            }
            // What failed is never tried again on this file: the kernel may have forgotten it.
            Err(error) => {
                let gone = self.forget_written();
                if !gone {
                    self.void(&group, &places);
                }
                self.refuse(group, &error, gone);
            }
        }
        if self.buffer.capacity() > 2 * BATCH_MAX {
            self.buffer = Vec::new();
        }
    }

    fn written(&mut self, group: Vec<Commit>, places: Vec<Place>) {
        if let Some(current) = &mut self.current {
            current.end += self.buffer.len() as u64;
            if let Some(segment) = self.inner.segments().get_mut(&current.number) {
                segment.end = current.end;
            }
        }
        let mut places = places.into_iter();
        let mut replies = Vec::with_capacity(group.len());
        let mut wake = false;
        for commit in group {
            if let Some(from) = commit.from {
                let moves = commit.messages.iter().zip(from).zip(&mut places);
                for ((message, from), to) in moves {
                    self.inner.switch(message.header.id, from, to);
                }
            } else {
                wake = true;
                for (message, place) in commit.messages.into_iter().zip(&mut places) {
                    self.insert(message, place, commit.now);
                }
            }
            if let Some(settling) = commit.settle {
                // Nothing is sealed while there is a writer.
                let _ = self.inner.settle(std::slice::from_ref(&*settling));
            }
            replies.push(commit.reply);
        }
        // Before the replies: whoever has one may count on the wake-up.
        if wake {
            self.inner.wakers.wake();
        }
        for reply in replies {
            let _ = reply.send(Ok(())); // whoever asked may have gone
        }
    }

    fn insert(&self, message: Prepared, place: Place, now: Timestamp) {
        if let Some(ready) = message.ready {
            let max = self.inner.options.handover_bytes;
            self.inner.handover().put(ready, now, max);
        }
        // Before the table: from there on it may go.
        if let Some(segment) = self.inner.segments().get_mut(&place.segment) {
            segment.gains(place);
        }
        let header = &message.header;
        let mut table = self.inner.table();
        match message.resumed {
            Some(saved) => table.load(header.id, place, *saved),
            None => {
                let (size, flow) = (header.size(), message.flow);
                table.insert(header.id, place, size, header.due, flow, &message.lanes);
            }
        }
    }

    /// `gone`: none of it can turn up.
    fn refuse(&self, group: Vec<Commit>, error: &StoreError, gone: bool) {
        let why = because(error);
        let commits = group.len();
        let what_to_do = match error {
            StoreError::Full { .. } => "make room on the file system of the queue",
            _ => "see to the disk of the queue",
        };
        self.inner.watch.now_and_then(|unsaid| {
            tracing::error!(
                error = why,
                commits,
                unsaid,
                "not committed: {what_to_do}; clients are told to try again later"
            );
        });
        let watch = &self.inner.watch;
        watch.fails(Work::Commit, &why);
        let mail = group.iter().filter(|commit| commit.from.is_none()).count() as u64;
        if matches!(error, StoreError::Full { .. }) {
            count(&watch.refused_full, mail);
        } else {
            count(&watch.refused_error, mail);
        }
        for commit in group {
            // What compaction wants to write anew is safe where it is.
            for message in commit.messages.iter().filter(|_| commit.from.is_none()) {
                if message.header.kind == BIG && gone {
                    self.inner.doom(message.header.id);
                }
            }
            if let Some(settling) = &commit.settle {
                let until = commit.now + RECORD_AGAIN;
                self.inner.table().unpin(&settling.lease, until);
            }
            let _ = commit.reply.send(Err(again(error)));
        }
    }
}

impl Commit {
    fn length(&self) -> usize {
        self.messages.iter().map(Prepared::length).sum()
    }
}

impl Prepared {
    pub(crate) fn length(&self) -> usize {
        padded(HEADER + self.meta.len() + self.head.len() + self.body.len())
    }

    /// What the header says of the parts.
    pub(crate) fn finish(mut self) -> Self {
        self.header.meta_crc = crc32c::crc32c(&self.meta);
        let crc = crc32c::crc32c_append(self.header.meta_crc, &self.head);
        self.header.payload_crc = crc32c::crc32c_append(crc, &self.body);
        self.header.meta = u32::try_from(self.meta.len()).unwrap_or(u32::MAX);
        self.header.head = u32::try_from(self.head.len()).unwrap_or(u32::MAX);
        if self.header.kind == INLINE {
            self.header.body = self.body.len() as u64;
        }
        self
    }
}
