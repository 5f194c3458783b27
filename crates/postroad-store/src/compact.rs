//! Compaction: what is still needed of a segment that mostly is not is written anew, so that the
//! segment can go. One deferred message so never keeps 64 MiB for long.
//!
//! A record is written with [where its message stands](crate::record::Meta::resumes), by the one
//! writer, synced with whatever else it writes; only then does the message's place become the new
//! one ([`Inner::switch`]). What a crash leaves in between is sorted out by `copies.rs`.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use postroad_mail::Timestamp;
use postroad_queue::jobs::Saved;
use postroad_queue::{Evidence, QueueId, Resume, Resumed, StoreError};
use tokio::sync::{mpsc, oneshot};

use crate::inner::Inner;
use crate::place::Place;
use crate::read::{CONTENT_MAX, Described};
use crate::record::{BIG, HEADER, Header, Moved, SEGMENT_HEADER};
use crate::watch::{because, count, now};
use crate::writer::{Commit, Prepared};

/// Octets, and messages, written anew in one go.
const BATCH_OCTETS: usize = 1 << 20;
const BATCH_MESSAGES: usize = 256;
/// Octets written anew at one tick, at most: a stop waits for no more, and state is synced.
const ROUND_OCTETS: u64 = 32 << 20;

/// For how long a segment with a damaged message is left alone.
const STUCK: Duration = Duration::from_secs(3600);

/// Why a segment is not empty.
#[derive(Debug)]
enum Left {
    /// Something in it cannot be moved.
    Stuck,
    /// It cannot be written now, or the store is closing.
    NotNow(StoreError),
}

/// Compacts what is worth it, for about as long as a tick may take.
pub(crate) fn round(inner: &Inner, commits: &mpsc::Sender<Commit>) {
    let before = inner.watch.compacted.load(Ordering::Relaxed);
    release(inner, commits);
    while let Some(number) = inner.sparsest(now()) {
        let moved = segment(inner, commits, number);
        inner.write_marks();
        match moved {
            Ok(()) => {
                count(&inner.watch.compactions, 1);
                tracing::debug!(segment = number, "segment compacted");
            }
            Err(Left::Stuck) => {
                tracing::warn!(log = %inner.log_path(number).display(), "not all of a segment can be compacted: it stays until its mail has gone");
                if let Some(segment) = inner.segments().get_mut(&number) {
                    segment.stuck = Some(now() + STUCK);
                }
            }
            Err(Left::NotNow(error)) => {
                if !matches!(error, StoreError::Closed) {
                    tracing::warn!(
                        error = because(&error),
                        segment = number,
                        "compaction stops; it goes on at the next tick"
                    );
                }
                return;
            }
        }
        // It goes, and makes room for the next.
        if inner.tick().is_err() {
            return; // it has said so
        }
        let compacted = inner.watch.compacted.load(Ordering::Relaxed);
        if compacted.saturating_sub(before) > ROUND_OCTETS {
            return;
        }
    }
}

/// Compacts every segment that can be, however little that gains.
///
/// # Errors
/// As compaction has them.
#[cfg(test)]
pub(crate) fn everything(inner: &Inner, commits: &mpsc::Sender<Commit>) -> Result<(), StoreError> {
    let numbers: Vec<u32> = {
        let segments = inner.segments();
        let all = segments.iter().filter(|(_, s)| s.sealed && s.live > 0);
        all.map(|(number, _)| *number).collect()
    };
    for number in numbers {
        let moved = segment(inner, commits, number);
        inner.write_marks();
        if let Err(Left::NotNow(error)) = moved {
            return Err(error);
        }
    }
    inner.tick()
}

/// Where nothing more is to be written into a segment, the writer has to let go of it before it
/// can be emptied: any commit makes it look.
fn release(inner: &Inner, commits: &mpsc::Sender<Commit>) {
    let numbers: Vec<u32> = inner.segments().keys().copied().collect();
    let held = numbers
        .into_iter()
        .any(|number| inner.is_to_be_left(number));
    if !held || inner.refuse_if_closed().is_err() {
        return;
    }
    let (reply, replied) = oneshot::channel();
    let nothing = Commit {
        messages: Vec::new(),
        settle: None,
        from: Some(Vec::new()),
        now: now(),
        reply,
    };
    if commits.blocking_send(nothing).is_ok() {
        let _ = replied.blocking_recv(); // there is nothing that could fail
    }
}

/// Moves all messages out of a segment.
fn segment(inner: &Inner, commits: &mpsc::Sender<Commit>, number: u32) -> Result<(), Left> {
    let mut batch = Batch::default();
    let end = inner.segments().get(&number).map_or(0, |s| s.end);
    let disk = inner
        .io
        .open(&inner.log_path(number))
        .map_err(Left::NotNow)?;
    let mut at = SEGMENT_HEADER as u64;
    while at < end {
        let header = disk.read_at(HEADER, at).ok();
        let header = header.and_then(|bytes| Header::parse(&bytes));
        let Some((header, length)) = header.and_then(|h| Some((h, h.length()?))) else {
            break; // what is behind the damage is looked for in the table
        };
        let offset = u32::try_from(at).unwrap_or(u32::MAX);
        if let Some(place) = here(inner, header.id, number).filter(|p| p.offset == offset) {
            batch.add(inner, commits, header.id, place)?;
        }
        at += length as u64;
    }
    batch.send(inner, commits)?;
    if inner.segments().get(&number).is_none_or(|s| s.live == 0) {
        return Ok(());
    }
    for (id, place) in left_in(inner, number) {
        batch.add(inner, commits, id, place)?;
    }
    batch.send(inner, commits)?;
    let left = inner.segments().get(&number).map_or(0, |s| s.live);
    if left == 0 {
        return Ok(());
    }
    if left <= batch.damaged.len() as u64 {
        return Err(Left::Stuck);
    }
    Err(Left::NotNow(StoreError::Io {
        action: "writing anew what is in",
        place: inner.log_path(number).display().to_string(),
        source: std::io::ErrorKind::Interrupted.into(),
    }))
}

/// The message's place, where it is in that segment.
fn here(inner: &Inner, id: QueueId, number: u32) -> Option<Place> {
    let place = inner.table().get(id)?.place;
    (place.segment == number).then_some(place)
}

/// What the log did not lead to; looked for in the whole table, since that is seldom.
fn left_in(inner: &Inner, number: u32) -> Vec<(QueueId, Place)> {
    const AT_ONCE: usize = 4096;
    let (mut left, mut after) = (Vec::new(), None);
    loop {
        let table = inner.table();
        let mut last = None;
        for (id, entry) in table.after(after).take(AT_ONCE) {
            last = Some(id);
            if entry.place.segment == number {
                left.push((id, entry.place));
            }
        }
        if last.is_none() {
            return left;
        }
        after = last;
    }
}

#[derive(Default)]
struct Batch {
    messages: Vec<(QueueId, Place)>,
    octets: usize,
    /// Those that cannot be moved.
    damaged: HashSet<QueueId>,
}

impl Batch {
    fn add(
        &mut self,
        inner: &Inner,
        commits: &mpsc::Sender<Commit>,
        id: QueueId,
        place: Place,
    ) -> Result<(), Left> {
        self.messages.push((id, place));
        self.octets += usize::try_from(place.extent.octets()).unwrap_or(usize::MAX);
        if self.octets < BATCH_OCTETS && self.messages.len() < BATCH_MESSAGES {
            return Ok(());
        }
        self.send(inner, commits)
    }

    /// Writes them anew, and waits until that is on disk.
    fn send(&mut self, inner: &Inner, commits: &mpsc::Sender<Commit>) -> Result<(), Left> {
        self.octets = 0;
        let standing = standing(inner, std::mem::take(&mut self.messages));
        inner.refuse_if_closed().map_err(Left::NotNow)?;
        let (mut messages, mut from) = (Vec::new(), Vec::new());
        for (id, place, saved) in standing {
            match prepare(inner, id, place, &saved) {
                Ok(message) => {
                    messages.push(message);
                    from.push(place);
                }
                Err(_) if here(inner, id, place.segment).is_none() => {} // finished meanwhile
                Err(error @ StoreError::Damaged { .. }) => {
                    if self.damaged.insert(id) {
                        tracing::error!(queue_id = %id, error = because(&error), "a message cannot be moved");
                    }
                }
                Err(error) => return Err(Left::NotNow(error)),
            }
        }
        if messages.is_empty() {
            return Ok(());
        }
        let octets = messages.iter().map(Prepared::length).sum::<usize>();
        let (reply, replied) = oneshot::channel();
        let commit = Commit {
            messages,
            settle: None,
            from: Some(from),
            now: now(),
            reply,
        };
        let closed = || Left::NotNow(StoreError::Closed);
        commits.blocking_send(commit).map_err(|_| closed())?;
        let done = replied.blocking_recv().map_err(|_| closed())?;
        done.map_err(Left::NotNow)?;
        count(&inner.watch.compacted, octets as u64);
        Ok(())
    }
}

/// Where they stand, at one moment between two changes.
fn standing(inner: &Inner, messages: Vec<(QueueId, Place)>) -> Vec<(QueueId, Place, Saved)> {
    let _still = inner.no_change();
    let table = inner.table();
    let each = messages.into_iter().filter_map(|(id, place)| {
        let now = table.get(id)?.place;
        now.is_record(place).then_some(())?;
        Some((id, now, table.save(id)?))
    });
    each.collect()
}

/// The record as it is to be written anew.
fn prepare(
    inner: &Inner,
    id: QueueId,
    place: Place,
    saved: &Saved,
) -> Result<Prepared, StoreError> {
    let Described {
        log,
        header,
        mut meta,
        content_at,
    } = inner.describe(id, place)?;
    let inline = if header.kind == BIG { 0 } else { header.body };
    let length = u64::from(header.head).saturating_add(inline);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let content = Bytes::from(log.read_at(length.min(CONTENT_MAX), content_at)?);
    if crc32c::crc32c_append(header.meta_crc, &content) != header.payload_crc {
        return Err(inner.damaged(place, "a message is not what was written"));
    }
    let evidence = inner.evidence(id, place, &meta);
    meta.resumes = Some(resume(header.arrived, saved, &meta.lanes, evidence));
    meta.moved = Some(Moved {
        segment: place.segment,
        state: place.state,
    });
    let head = usize::try_from(header.head).unwrap_or(usize::MAX);
    let head = content.slice(..head.min(content.len()));
    let body = content.slice(head.len()..);
    let json = serde_json::to_vec(&meta).map_err(|error| StoreError::Damaged {
        place: format!("the envelope of {id}"),
        detail: error.to_string().into(),
    })?;
    let prepared = Prepared {
        header,
        meta: json,
        head,
        body,
        ready: None,
        lanes: [].into(),
        flow: saved.flow,
        resumed: None,
    };
    Ok(prepared.finish())
}

fn resume(
    arrived: Timestamp,
    saved: &Saved,
    lanes: &[postroad_queue::Lane],
    evidence: Vec<Option<Evidence>>,
) -> Resume {
    let jobs: HashMap<_, _> = saved.jobs.iter().map(|job| (&job.lane, job)).collect();
    let done: HashMap<_, _> = saved.done.iter().copied().collect();
    let recipients = lanes.iter().zip(evidence).enumerate();
    let recipients = recipients.map(|(place, (lane, last))| {
        let done = u32::try_from(place).ok().and_then(|place| done.get(&place));
        let job = jobs.get(lane);
        Resumed {
            state: done.copied().unwrap_or_default(),
            attempts: job.map_or(0, |job| job.attempts),
            due: job.map(|job| job.due),
            warned: job.is_some_and(|job| job.warned),
            last,
        }
    });
    Resume {
        arrived,
        held: saved.held,
        recipients: recipients.collect(),
    }
}
