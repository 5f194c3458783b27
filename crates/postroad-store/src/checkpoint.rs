//! What a clean stop leaves: the table, so that the next start need not read the log.
//!
//! `CLEAN` is written last, under the lock, when nothing is written any more, and removed before
//! anything is written again. It counts only where its checksum is right and every file of the
//! queue is as long, and of the epoch, as it says; else the log is read, as after a crash. All numbers are big
//! endian.
//!
//! | what | octets |
//! |---|---|
//! | magic `PRCK`, version, zeros | 4, 1, 3 |
//! | segments, messages | 4, 8 |
//! | each segment: number, epoch; length of the log, of the journal, of what counts of it | 4, 8; 8, 8, 8 |
//! | each message: id; segment, offset, newest state record | 16; 4, 4, 4 |
//! | … octets of its record in eighths, the highest bit where its body has a file of its own | 4 |
//! | … whether it is held, its flow; size; jobs, finished recipients | 1, 1; 8; 4, 4 |
//! | … each job: number of its lane (the next new one: its name follows, behind its length) | 4 (4, …) |
//! | … … recipients that wait, attempts, due (ms), whether the sender was told of the delay | 4, 4, 8, 1 |
//! | … each finished recipient, and how: 1 delivered, 2 failed, 3 removed | 4, 1 |
//! | CRC32C of all that | 4 |

use std::collections::{BTreeMap, HashMap};

use postroad_mail::Timestamp;
use postroad_queue::jobs::{Flow, Jobs, Saved, SavedJob};
use postroad_queue::{Lane, QueueId, RecipientState, StoreError};

use crate::inner::Inner;
use crate::io::{Disk, Io};
use crate::options::Options;
use crate::place::{Extent, Place, Segment};
use crate::record::{Reader, SEGMENT_HEADER, segment_epoch};
use crate::watch::now;

const NAME: &str = "CLEAN";
const UNFINISHED: &str = "CLEAN.new";
/// Version 2 did not know whose mail a message is.
const HEAD: [u8; 8] = *b"PRCK\x03\0\0\0";
/// Octets gathered before they are written.
const PIECE: usize = 1 << 20;
/// Octets of a message and of a job, at least: what a count is held against before it is believed.
const MESSAGE_MIN: usize = 16 + 12 + 4 + 2 + 8 + 8;
const JOB_MIN: usize = 4 + 4 + 4 + 8 + 1;

/// The table and the segments of a store that was stopped cleanly.
pub(crate) struct Restored {
    pub(crate) table: Jobs<Place>,
    pub(crate) segments: BTreeMap<u32, Segment>,
}

/// Writes the checkpoint. To be called when nothing changes any more, the state is synced, and
/// the lock is held.
pub(crate) fn write(inner: &Inner) -> Result<(), StoreError> {
    let io = &inner.io;
    let unfinished = inner.options.path.join(UNFINISHED);
    io.remove(&unfinished)?;
    let mut out = Out::new(io.create(&unfinished, 0)?);
    let table = inner.table();
    let segments = inner.segments();
    out.put(&HEAD)?;
    out.int(count(segments.len()))?;
    out.long(table.len() as u64)?;
    for (number, segment) in segments.iter() {
        let log = io.length(&inner.log_path(*number))?;
        let journal = io.length(&inner.journal_path(*number))?;
        out.int(*number)?;
        out.long(segment.epoch)?;
        out.long(log.unwrap_or(0))?;
        out.long(journal.unwrap_or(0))?;
        out.long(segment.state_end)?;
    }
    let mut lanes = HashMap::new();
    for (id, entry) in table.after(None) {
        let Some(saved) = table.save(id) else {
            continue;
        };
        message(&mut out, &mut lanes, id, entry.place, &saved)?;
    }
    out.finish()?;
    io.rename(&unfinished, &inner.options.path.join(NAME))?;
    io.sync_dir(&inner.options.path)
}

fn message(
    out: &mut Out,
    lanes: &mut HashMap<Lane, u32>,
    id: QueueId,
    place: Place,
    saved: &Saved,
) -> Result<(), StoreError> {
    out.put(&id.to_bytes())?;
    let extent = place.extent.to_bits();
    for n in [place.segment, place.offset, place.state, extent] {
        out.int(n)?;
    }
    out.put(&[u8::from(saved.held), saved.flow.to_bits()])?;
    out.long(saved.size)?;
    out.int(count(saved.jobs.len()))?;
    out.int(count(saved.done.len()))?;
    for job in &saved.jobs {
        let next = count(lanes.len());
        let number = *lanes.entry(job.lane.clone()).or_insert(next);
        out.int(number)?;
        if number == next {
            let name = job.lane.as_str().as_bytes();
            out.int(count(name.len()))?;
            out.put(name)?;
        }
        out.int(job.waiting)?;
        out.int(job.attempts)?;
        out.long(job.due.as_millis())?;
        out.put(&[u8::from(job.warned)])?;
    }
    for (recipient, state) in &saved.done {
        out.int(*recipient)?;
        out.put(&[match state {
            RecipientState::Waiting => 0,
            RecipientState::Delivered => 1,
            RecipientState::Failed => 2,
            RecipientState::Removed => 3,
        }])?;
    }
    Ok(())
}

/// One that did not come to its end only takes room.
pub(crate) fn forget_unfinished(io: &Io, options: &Options) {
    let _ = io.remove(&options.path.join(UNFINISHED)); // harmless where it stays
}

/// Takes the checkpoint away, and gives what it says. `None` where there is none that counts.
pub(crate) fn take(io: &Io, options: &Options) -> Result<Option<Restored>, StoreError> {
    let path = options.path.join(NAME);
    if io.length(&path)?.is_none() {
        return Ok(None);
    }
    let bytes = io.read_all(&path);
    // Before anything changes: what it says is true only until then.
    io.remove(&path)?;
    io.sync_dir(&options.path)?;
    let restored = match &bytes {
        Ok(bytes) => read(io, options, bytes)?,
        Err(error) => {
            tracing::warn!(%error, "a checkpoint that cannot be read");
            None
        }
    };
    if restored.is_none() {
        tracing::warn!(path = %path.display(), "the checkpoint of the last stop does not fit the queue: reading the log");
    }
    Ok(restored)
}

fn read(io: &Io, options: &Options, bytes: &[u8]) -> Result<Option<Restored>, StoreError> {
    let Some((restored, lengths)) = parse(bytes) else {
        return Ok(None);
    };
    let right =
        lengths.are_right(io, options)? && epochs_are_right(io, options, &restored.segments);
    Ok(right.then_some(restored))
}

/// What a checkpoint says, where it is whole.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Restored, Lengths)> {
    let (covered, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(covered) != u32::from_be_bytes(*crc) {
        return None;
    }
    let mut reader = Reader(covered);
    let (segments, lengths, messages) = head(&mut reader)?;
    let mut restored = Restored {
        table: Jobs::default(),
        segments,
    };
    let mut lanes = Vec::new();
    for _ in 0..messages {
        let (id, place, saved) = one(&mut reader, &mut lanes)?;
        restored.segments.get_mut(&place.segment)?.gains(place);
        restored.table.load(id, place, saved);
    }
    reader.0.is_empty().then_some((restored, lengths))
}

/// How long each file was: number of the segment, log, journal.
pub(crate) struct Lengths(Vec<(u32, u64, u64)>);

impl Lengths {
    fn are_right(&self, io: &Io, options: &Options) -> Result<bool, StoreError> {
        for &(number, log, journal) in &self.0 {
            let is = |extension| {
                let path = options.path.join(format!("seg-{number:08}.{extension}"));
                io.length(&path)
            };
            if is("log")? != Some(log) || is("st")?.unwrap_or(0) != journal {
                return Ok(false);
            }
        }
        let names = io.names(&options.path)?;
        let logs = names
            .iter()
            .filter(|n| n.starts_with("seg-") && n.ends_with(".log"));
        Ok(logs.count() == self.0.len())
    }
}

/// A checkpoint of another queue, copied or restored beside this one, has other epochs.
fn epochs_are_right(io: &Io, options: &Options, segments: &BTreeMap<u32, Segment>) -> bool {
    segments.iter().all(|(number, segment)| {
        let path = options.path.join(format!("seg-{number:08}.log"));
        let start = io
            .open(&path)
            .and_then(|log| log.read_at(SEGMENT_HEADER, 0));
        start.is_ok_and(|start| segment_epoch(&start, *number) == Some(segment.epoch))
    })
}

fn head(reader: &mut Reader<'_>) -> Option<(BTreeMap<u32, Segment>, Lengths, u64)> {
    if reader.take()? != HEAD {
        return None;
    }
    let (count, messages) = (reader.int()?, reader.long()?);
    let mut segments = BTreeMap::new();
    let mut lengths = Vec::new();
    for _ in 0..count {
        let (number, epoch) = (reader.int()?, reader.long()?);
        let (log, journal) = (reader.long()?, reader.long()?);
        let mut segment = Segment::new(epoch, true, now());
        segment.state_end = reader.long()?;
        (segment.end, segment.size) = (log, log);
        segments.insert(number, segment);
        lengths.push((number, log, journal));
    }
    let octets = usize::try_from(messages).ok()?.checked_mul(MESSAGE_MIN)?;
    (octets <= reader.0.len()).then_some((segments, Lengths(lengths), messages))
}

fn one(reader: &mut Reader<'_>, lanes: &mut Vec<Lane>) -> Option<(QueueId, Place, Saved)> {
    let id = QueueId::from_bytes(reader.take()?);
    let (segment, offset, state) = (reader.int()?, reader.int()?, reader.int()?);
    let extent = Extent::from_bits(reader.int()?);
    let [held, flow] = reader.take()?;
    let size = reader.long()?;
    let (jobs, done) = (believable(reader, JOB_MIN)?, believable(reader, 5)?);
    let mut saved = Saved {
        size,
        held: held != 0,
        flow: Flow::from_bits(flow),
        jobs: Vec::with_capacity(jobs),
        done: Vec::with_capacity(done),
    };
    for _ in 0..jobs {
        let number = usize::try_from(reader.int()?).ok()?;
        if number == lanes.len() {
            let length = believable(reader, 1)?;
            let name = reader.0.split_off(..length)?;
            lanes.push(Lane::new(std::str::from_utf8(name).ok()?));
        }
        let lane = lanes.get(number)?.clone();
        saved.jobs.push(SavedJob {
            lane,
            waiting: reader.int()?,
            attempts: reader.int()?,
            due: Timestamp::from_millis(reader.long()?),
            warned: reader.take()? != [0],
        });
    }
    for _ in 0..done {
        let recipient = reader.int()?;
        let state = match reader.take()? {
            [1] => RecipientState::Delivered,
            [2] => RecipientState::Failed,
            [3] => RecipientState::Removed,
            [_] => return None,
        };
        saved.done.push((recipient, state));
    }
    let place = Place {
        segment,
        offset,
        state,
        extent,
    };
    Some((id, place, saved))
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

struct Out {
    disk: Disk,
    buffer: Vec<u8>,
    at: u64,
    crc: u32,
}

impl Out {
    const fn new(disk: Disk) -> Self {
        Self {
            disk,
            buffer: Vec::new(),
            at: 0,
            crc: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < PIECE {
            return Ok(());
        }
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.write()
    }

    fn int(&mut self, n: u32) -> Result<(), StoreError> {
        self.put(&n.to_be_bytes())
    }

    fn long(&mut self, n: u64) -> Result<(), StoreError> {
        self.put(&n.to_be_bytes())
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.disk.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), StoreError> {
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.buffer.extend_from_slice(&self.crc.to_be_bytes());
        self.write()?;
        self.disk.sync()
    }
}

/// A count of things that take so many octets each: no more than there can be.
fn believable(reader: &mut Reader<'_>, each: usize) -> Option<usize> {
    let count = usize::try_from(reader.int()?).ok()?;
    (count.checked_mul(each)? <= reader.0.len()).then_some(count)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use postroad_queue::contract::{START, accept, at, claim, defer, deliver, evidence, said};
    use postroad_queue::{Filter, Listed, Operation, Outcome, Store as _};

    use crate::{LocalStore, Options, RecoveryReport};

    fn open(path: &Path) -> (LocalStore, RecoveryReport) {
        let options = Options {
            segment_size: 1 << 16,
            min_free: 0,
            ..Options::new(path)
        };
        LocalStore::open(options).unwrap()
    }

    async fn listing(store: &LocalStore) -> Vec<Listed> {
        store.page(&Filter::default(), None, 1000).await.unwrap()
    }

    /// A queue with all kinds of histories, over several segments.
    async fn history(path: &Path) -> Vec<Listed> {
        let (store, _) = open(path);
        for n in 0..40 {
            let to = [&*format!("u@d{}.example", n % 7), "v@e.example"];
            accept(&store, START, &to[..1 + n % 2], &vec![b'x'; 100 * n]).await;
        }
        accept(&store, START, &["big@d1.example"], &vec![b'y'; 300_000]).await;
        for (n, claimed) in claim(&store, START).await.into_iter().enumerate() {
            match n % 4 {
                0 => deliver(&store, START, &claimed).await,
                1 => defer(&store, START, &claimed, at(n as u64)).await,
                2 => {
                    let mut record = said(&claimed, None, || Outcome::Failed(evidence(START)));
                    record.warned = true;
                    store.record(START, &claimed.lease, record).await.unwrap();
                }
                _ => {}
            }
        }
        let held = Filter {
            to: Some("d3".to_owned()),
            ..Filter::default()
        };
        store.operate(at(1), Operation::Hold, &held).await.unwrap();
        store.close().await.unwrap();
        listing(&store).await
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to.join("big")).unwrap();
        for part in [".", "big"] {
            for entry in std::fs::read_dir(from.join(part)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() && entry.file_name() != "LOCK" {
                    std::fs::copy(entry.path(), to.join(part).join(entry.file_name())).unwrap();
                }
            }
        }
    }

    /// What is due when, and what a lease hides: told by the listing once all leases are over.
    fn unleased(mut listed: Vec<Listed>) -> Vec<Listed> {
        for recipient in listed.iter_mut().flat_map(|m| &mut m.recipients) {
            recipient.due = None;
        }
        listed
    }

    #[tokio::test]
    async fn a_clean_stop_needs_no_reading() {
        let dir = tempfile::tempdir().unwrap();
        let before = history(dir.path()).await;
        assert!(dir.path().join("CLEAN").exists());
        std::fs::write(dir.path().join("big/left-over"), "x").unwrap();
        let scanned = tempfile::tempdir().unwrap();
        copy(dir.path(), scanned.path());
        std::fs::remove_file(scanned.path().join("CLEAN")).unwrap();

        let (store, report) = open(dir.path());
        assert!(report.clean && report.orphans == 1, "{report:?}");
        assert!(!dir.path().join("CLEAN").exists(), "while it runs");
        let after = listing(&store).await;
        assert_eq!(unleased(after.clone()), unleased(before));
        // The same as reading the log says.
        let (other, report) = open(scanned.path());
        assert!(!report.clean);
        assert_eq!(listing(&other).await, after);
        assert_eq!(other.totals(), store.totals());
        assert_eq!(other.lanes(), store.lanes());
        // And it goes on from there: new mail, a kill, and all of it is there.
        let new = accept(&store, at(50), &["new@d1.example"], b"new").await;
        let killed = tempfile::tempdir().unwrap();
        copy(dir.path(), killed.path());
        let (again, report) = open(killed.path());
        assert!(!report.clean);
        assert_eq!(listing(&again).await.len(), after.len() + 1);
        assert!(listing(&again).await.iter().any(|m| m.id == new));
    }

    #[tokio::test]
    async fn damaged_or_out_of_date_it_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let before = unleased(history(dir.path()).await);
        let good = std::fs::read(dir.path().join("CLEAN")).unwrap();
        let step = good.len() / 40 + 1;
        let mut cases: Vec<Vec<u8>> = (0..good.len())
            .step_by(step)
            .map(|n| {
                let mut bad = good.clone();
                bad[n] ^= 1 << (n % 8);
                bad
            })
            .collect();
        cases.extend((0..good.len()).step_by(step).map(|n| good[..n].to_vec()));
        for bad in cases {
            let path = tempfile::tempdir().unwrap();
            copy(dir.path(), path.path());
            std::fs::write(path.path().join("CLEAN"), &bad).unwrap();
            let (store, report) = open(path.path());
            assert!(!report.clean);
            assert_eq!(unleased(listing(&store).await), before);
        }
        // That of another queue, whose files are as long.
        let other = tempfile::tempdir().unwrap();
        let path = tempfile::tempdir().unwrap();
        for dir in [&other, &path] {
            let (store, _) = open(dir.path());
            accept(&store, START, &["u@d.example"], b"text").await;
            store.close().await.unwrap();
        }
        std::fs::copy(other.path().join("CLEAN"), path.path().join("CLEAN")).unwrap();
        let (store, report) = open(path.path());
        assert!(!report.clean);
        assert_eq!(claim(&store, START).await.len(), 1);
        // A log or journal that has changed since.
        for name in ["seg-00000001.log", "seg-00000001.st"] {
            let path = tempfile::tempdir().unwrap();
            copy(dir.path(), path.path());
            let file = path.path().join(name);
            let mut bytes = std::fs::read(&file).unwrap();
            bytes.extend_from_slice(&[0; 8]);
            std::fs::write(&file, bytes).unwrap();
            let (store, report) = open(path.path());
            assert!(!report.clean, "{name}");
            assert_eq!(unleased(listing(&store).await), before);
        }
    }

    #[tokio::test]
    async fn the_index_is_kept_after_a_clean_stop_and_made_anew_after_another() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        history(dir.path()).await;
        let marked = || {
            let index = sled::open(&index).unwrap();
            index.contains_key("mark").unwrap()
        };
        sled::open(&index).unwrap().insert("mark", "x").unwrap();
        open(dir.path()).0.close().await.unwrap();
        assert!(marked());
        std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
        open(dir.path()).0.close().await.unwrap();
        assert!(!marked());
    }
}
