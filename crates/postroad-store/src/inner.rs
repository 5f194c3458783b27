//! What the store's threads share.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::jobs::{Entry, Jobs, Settlement};
use postroad_queue::{
    AttemptRecord, Content, Evidence, Lane, Lease, MessageInfo, Mint, QueueId, StoreError, Wakers,
};

use crate::content::{BigBody, DiskContent};
use crate::index::Stale;
use crate::io::{Disk, Io};
use crate::options::Options;
use crate::record::{
    BIG, HEADER, Header, Meta, NONE, STATE_HEADER, State, encode_state, parse_state, state_payload,
};
use crate::recover::keep_log;

/// State records of one message that a listing follows back, at most.
const CHAIN_MAX: usize = 64;
/// Logs kept open for reading.
const OPEN_LOGS: usize = 128;
/// Octets of head and inline body, at most: what a segment can hold.
const CONTENT_MAX: usize = 128 << 20;
/// Octets counted for a recipient of a message in memory.
const RECIPIENT_WEIGHT: usize = 256;
/// How long a message waits in memory for its first attempt before others may have its place.
const HANDOVER_AGE: Duration = Duration::from_secs(30);

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Its newest state record.
    pub(crate) state: u32,
    pub(crate) big: bool,
}

// There may be millions of them in the table.
const _: () = assert!(size_of::<(QueueId, Entry<Place>)>() <= 96);

/// A message as a claim hands it out.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) info: Arc<MessageInfo>,
    pub(crate) lanes: Arc<[Lane]>,
    pub(crate) content: Arc<dyn Content>,
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) epoch: u64,
    pub(crate) live: u64,
    pub(crate) sealed: bool,
    pub(crate) state_end: u64,
    pub(crate) journal: Option<Arc<Disk>>,
    pub(crate) log: Option<Arc<Disk>>,
    pub(crate) dirty: bool,
}

impl Segment {
    pub(crate) const fn new(epoch: u64, sealed: bool) -> Self {
        Self {
            epoch,
            live: 0,
            sealed,
            state_end: 0,
            journal: None,
            log: None,
            dirty: false,
        }
    }
}

#[derive(Debug, Default)]
struct Handover {
    messages: HashMap<QueueId, (Ready, usize)>,
    order: VecDeque<(QueueId, Timestamp)>,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) io: Io,
    pub(crate) wakers: Wakers,
    pub(crate) closed: AtomicBool,
    /// Nothing is written any more.
    pub(crate) sealed: AtomicBool,
    /// What the table says is not all on disk, or what is on disk is damaged: the next start is
    /// to read the log.
    pub(crate) doubtful: AtomicBool,
    pub(crate) free: AtomicU64,
    table: Mutex<Jobs<Place>>,
    mint: Mutex<Mint>,
    segments: Mutex<BTreeMap<u32, Segment>>,
    handover: Mutex<Handover>,
    doomed: Mutex<Vec<QueueId>>,
    /// What the index does not know yet.
    pub(crate) stale: Stale,
    /// One writes state at a time, so that each record knows the one before it.
    journal: Mutex<()>,
    /// Held, shared, from writing a state to its being in the table; alone, by the checkpoint.
    changing: RwLock<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn new(
        options: Options,
        io: Io,
        seed: u64,
        table: Jobs<Place>,
        segments: BTreeMap<u32, Segment>,
    ) -> Self {
        let free = io.free(&options.path).unwrap_or(u64::MAX);
        Self {
            options,
            io,
            wakers: Wakers::default(),
            closed: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
            free: AtomicU64::new(free),
            table: Mutex::new(table),
            mint: Mutex::new(Mint::new(seed)),
            segments: Mutex::new(segments),
            handover: Mutex::default(),
            doomed: Mutex::default(),
            stale: Stale::default(),
            journal: Mutex::new(()),
            changing: RwLock::new(()),
        }
    }

    /// To be held from writing a state to its being in the table.
    pub(crate) fn change(&self) -> RwLockReadGuard<'_, ()> {
        self.changing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is between writing a state and its being in the table, as long as this is held.
    pub(crate) fn no_change(&self) -> RwLockWriteGuard<'_, ()> {
        self.changing
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Jobs<Place>> {
        lock(&self.table)
    }

    pub(crate) fn segments(&self) -> MutexGuard<'_, BTreeMap<u32, Segment>> {
        lock(&self.segments)
    }

    pub(crate) fn mint(&self, now: Timestamp) -> QueueId {
        lock(&self.mint).next(now)
    }

    pub(crate) fn log_path(&self, segment: u32) -> PathBuf {
        self.options.path.join(format!("seg-{segment:08}.log"))
    }

    pub(crate) fn journal_path(&self, segment: u32) -> PathBuf {
        self.options.path.join(format!("seg-{segment:08}.st"))
    }

    pub(crate) fn big_dir(&self) -> PathBuf {
        self.options.path.join("big")
    }

    pub(crate) fn big_path(&self, id: QueueId) -> PathBuf {
        self.big_dir().join(id.to_string())
    }

    pub(crate) fn refuse_if_closed(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    /// Something was found to be damaged; the log is kept, whatever becomes of the segment.
    fn damaged(&self, segment: u32, detail: &'static str) -> StoreError {
        self.doubtful.store(true, Ordering::Release);
        keep_log(&self.io, &self.log_path(segment));
        StoreError::Damaged {
            place: self.log_path(segment).display().to_string(),
            detail: detail.into(),
        }
    }

    /// The log of a segment, to read.
    fn log(&self, number: u32) -> Result<Arc<Disk>, StoreError> {
        if let Some(log) = self.segments().get(&number).and_then(|s| s.log.clone()) {
            return Ok(log);
        }
        let log = Arc::new(self.io.open(&self.log_path(number))?);
        let mut segments = self.segments();
        if segments.values().filter(|s| s.log.is_some()).count() > OPEN_LOGS {
            for segment in segments.values_mut() {
                segment.log = None;
            }
        }
        if let Some(segment) = segments.get_mut(&number) {
            segment.log = Some(Arc::clone(&log));
        }
        Ok(log)
    }

    /// A message from disk. Blocks.
    pub(crate) fn load(&self, id: QueueId, place: Place) -> Result<Ready, StoreError> {
        let log = self.log(place.segment)?;
        let at = u64::from(place.offset);
        let header = Header::parse(&log.read_at(HEADER, at)?)
            .filter(|header| header.id == id)
            .ok_or_else(|| self.damaged(place.segment, "a record is not where it was"))?;
        let meta_at = at + HEADER as u64;
        let meta = log.read_at(usize::try_from(header.meta).unwrap_or(0), meta_at)?;
        let good = crc32c::crc32c(&meta) == header.meta_crc;
        let meta: Meta = Some(&meta)
            .filter(|_| good)
            .and_then(|meta| serde_json::from_slice(meta).ok())
            .ok_or_else(|| self.damaged(place.segment, "an envelope cannot be read"))?;
        let content_at = meta_at + u64::from(header.meta);
        let (big, good) = if header.kind == BIG {
            self.big_body(&log, content_at, &header, &meta)?
        } else {
            (None, log_is_good(&log, content_at, &header)?)
        };
        if !good {
            let error = self.damaged(place.segment, "a message is not what was written");
            tracing::error!(queue_id = %id, offset = place.offset, %error, "a damaged message is not delivered");
        }
        let content = DiskContent {
            id,
            log,
            at: content_at,
            head: u64::from(header.head),
            body: header.body,
            big,
            damaged: !good,
        };
        Ok(Ready {
            info: Arc::new(MessageInfo {
                id,
                envelope: meta.envelope,
                origin: meta.origin,
                arrived: header.arrived,
                size: header.size(),
            }),
            lanes: meta.lanes.into(),
            content: Arc::new(content),
        })
    }

    /// The body in a file of its own, and whether that and the head are as they should be, as far
    /// as can be told before it is read.
    fn big_body(
        &self,
        log: &Disk,
        at: u64,
        header: &Header,
        meta: &Meta,
    ) -> Result<(Option<BigBody>, bool), StoreError> {
        let path = self.big_path(header.id);
        if self.io.length(&path)? != Some(header.body) {
            return Ok((None, false));
        }
        let disk = Arc::new(self.io.open(&path)?);
        let body = BigBody::new(disk, header.body, meta.big_crc);
        Ok((Some(body), log_is_good(log, at, header)?))
    }

    /// What the last attempt for each recipient came to. Blocks.
    pub(crate) fn evidence(&self, place: Place, recipients: usize) -> Vec<Option<Evidence>> {
        let mut last = vec![None; recipients];
        let (journal, epoch) = match self.segments().get(&place.segment) {
            Some(segment) => (segment.journal.clone(), segment.epoch),
            None => return last,
        };
        let journal = match journal {
            Some(journal) => journal,
            None if place.state == NONE => return last,
            None => match self.io.open(&self.journal_path(place.segment)) {
                Ok(journal) => Arc::new(journal),
                Err(_) => return last,
            },
        };
        let mut offset = place.state;
        for _ in 0..CHAIN_MAX {
            if offset == NONE {
                break;
            }
            let at = u64::from(offset);
            let Ok(header) = journal.read_at(STATE_HEADER, at) else {
                break;
            };
            let Some(length) = state_payload(&header).filter(|l| *l < 64 << 20) else {
                break;
            };
            let Ok(bytes) = journal.read_at(STATE_HEADER + length, at) else {
                break;
            };
            let Some(record) = parse_state(&bytes, epoch, place.segment) else {
                break;
            };
            if let State::Attempt { evidence, .. } = record.state {
                for (recipient, evidence) in evidence {
                    let slot = usize::try_from(recipient)
                        .ok()
                        .and_then(|r| last.get_mut(r));
                    if let Some(slot @ None) = slot {
                        *slot = Some(evidence);
                    }
                }
            }
            offset = record.previous;
        }
        last
    }

    /// Hands a state to the kernel. Blocks.
    pub(crate) fn write_state(&self, id: QueueId, state: &State) -> Result<(), StoreError> {
        self.stale.touch(id);
        let _one = lock(&self.journal);
        if self.sealed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let Some(place) = self.table().get(id).map(|entry| entry.place) else {
            return Ok(());
        };
        let found = self
            .segments()
            .get(&place.segment)
            .map(|s| (s.journal.clone(), s.state_end, s.epoch));
        let Some((journal, at, epoch)) = found else {
            return Ok(());
        };
        let journal = match journal {
            Some(journal) => journal,
            None => {
                let path = self.journal_path(place.segment);
                let journal = Arc::new(self.io.open_or_create(&path)?);
                self.io.sync_dir(&self.options.path)?;
                journal
            }
        };
        let bytes = encode_state(id, epoch, place.segment, place.state, state);
        // A write that fails is written over by the next.
        let written = journal.write_at(&bytes, at);
        if let Some(segment) = self.segments().get_mut(&place.segment) {
            segment.journal = Some(journal);
            if written.is_ok() {
                segment.state_end = at + bytes.len() as u64;
                segment.dirty = true;
            }
        }
        written?;
        if let Some(place) = self.table().place_mut(id) {
            place.state = u32::try_from(at).unwrap_or(NONE);
        }
        Ok(())
    }

    /// Writes down what came of a claim, and ends its lease. Where it cannot be written it holds
    /// all the same, as long as the process lives: the queue must drain where the disk is full.
    ///
    /// # Errors
    /// [`StoreError::Closed`] where nothing is written any more: then nothing has changed.
    pub(crate) fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
        record: &AttemptRecord,
    ) -> Result<(), StoreError> {
        let evidence = record.changes.iter().filter_map(|change| {
            let recipient = u32::try_from(change.recipient).ok()?;
            Some((recipient, change.outcome.evidence().clone()))
        });
        let state = State::Attempt {
            settlement: settlement.clone(),
            evidence: evidence.collect(),
        };
        let _whole = self.change();
        let noted = self.note(lease.id, &state)?;
        let entry = self.table().settle(lease, settlement, record);
        self.used(lease.id);
        self.finished(lease.id, entry, noted);
        Ok(())
    }

    /// [`Inner::write_state`], a failure going to the log. Whether it was written.
    fn note(&self, id: QueueId, state: &State) -> Result<bool, StoreError> {
        match self.write_state(id, state) {
            Ok(()) => Ok(true),
            Err(StoreError::Closed) => Err(StoreError::Closed),
            Err(error) => {
                self.doubtful.store(true, Ordering::Release);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(queue_id = %id, %error, cause, "state not written: it holds until a restart");
                Ok(false)
            }
        }
    }

    /// A message that has left the table. Where that is not written down, it will be back after
    /// the next start, and its body stays.
    pub(crate) fn finished(&self, id: QueueId, entry: Option<Entry<Place>>, noted: bool) {
        let Some(entry) = entry else {
            return;
        };
        self.stale.touch(id);
        if let Some(segment) = self.segments().get_mut(&entry.place.segment) {
            segment.live = segment.live.saturating_sub(1);
        }
        if entry.place.big && noted {
            self.doom(id);
        }
        let mut handover = lock(&self.handover);
        if let Some((ready, _)) = handover.messages.remove(&id) {
            handover.release(&ready);
        }
    }

    /// The body of that message is no longer needed, once all state is on disk.
    pub(crate) fn doom(&self, id: QueueId) {
        lock(&self.doomed).push(id);
    }

    /// Keeps a message for its first attempts, where there is room.
    pub(crate) fn hand_over(&self, ready: Ready, now: Timestamp) {
        let size = ready.weight();
        let mut handover = lock(&self.handover);
        handover.forget_old(now);
        if handover.bytes.saturating_add(size) > self.options.handover_bytes {
            return;
        }
        let mut lanes: Vec<_> = ready.lanes.iter().collect();
        lanes.sort();
        lanes.dedup();
        let jobs = lanes.len();
        handover.bytes += size;
        handover.order.push_back((ready.info.id, now));
        handover.messages.insert(ready.info.id, (ready, jobs));
    }

    /// A message that is still in memory.
    pub(crate) fn at_hand(&self, id: QueueId) -> Option<Ready> {
        let handover = lock(&self.handover);
        handover.messages.get(&id).map(|(ready, _)| ready.clone())
    }

    fn used(&self, id: QueueId) {
        let mut handover = lock(&self.handover);
        let Some((_, jobs)) = handover.messages.get_mut(&id) else {
            return;
        };
        *jobs = jobs.saturating_sub(1);
        if *jobs == 0
            && let Some((ready, _)) = handover.messages.remove(&id)
        {
            handover.release(&ready);
        }
    }

    /// Once a second and at the end: state to the disk, then what is no longer needed goes.
    ///
    /// # Errors
    /// Where some state is not on disk.
    pub(crate) fn tick(&self) -> Result<(), StoreError> {
        if let Some(free) = self.io.free(&self.options.path) {
            self.free.store(free, Ordering::Relaxed);
        }
        let doomed = std::mem::take(&mut *lock(&self.doomed));
        let dead: Vec<u32> = self
            .segments()
            .iter()
            .filter(|(_, s)| s.sealed && s.live == 0)
            .map(|(number, _)| *number)
            .collect();
        if let Err(error) = self.sync_state() {
            tracing::error!(%error, "state not synced: after a power loss, mail may go out again");
            lock(&self.doomed).extend(doomed);
            return Err(error);
        }
        for id in doomed {
            let _ = self.io.remove(&self.big_path(id)); // else swept at the next start
        }
        for number in dead {
            if let Err(error) = self.unlink(number) {
                tracing::warn!(%error, segment = number, "segment not removed");
            }
        }
        Ok(())
    }

    /// Syncs every journal that has grown. One that fails is tried again at the next tick; the
    /// others are synced all the same.
    fn sync_state(&self) -> Result<(), StoreError> {
        let dirty: Vec<_> = self
            .segments()
            .iter_mut()
            .filter_map(|(number, segment)| {
                let dirty = std::mem::take(&mut segment.dirty);
                segment
                    .journal
                    .clone()
                    .filter(|_| dirty)
                    .map(|journal| (*number, journal))
            })
            .collect();
        if self.options.durability != crate::Durability::Sync {
            return Ok(());
        }
        let mut result = Ok(());
        for (number, journal) in dirty {
            if let Err(error) = journal.sync() {
                if let Some(segment) = self.segments().get_mut(&number) {
                    segment.dirty = true;
                }
                result = Err(error);
            }
        }
        result
    }

    fn unlink(&self, number: u32) -> Result<(), StoreError> {
        self.io.remove(&self.log_path(number))?;
        self.segments().remove(&number);
        self.io.sync_dir(&self.options.path)?;
        self.io.remove(&self.journal_path(number))
    }
}

impl Ready {
    /// Octets that it takes in memory: its content, and about as much again for its envelope as
    /// its addresses are long.
    fn weight(&self) -> usize {
        let size = usize::try_from(self.info.size).unwrap_or(usize::MAX);
        size.saturating_add(RECIPIENT_WEIGHT * self.lanes.len().saturating_add(1))
    }
}

impl Handover {
    fn release(&mut self, ready: &Ready) {
        self.bytes = self.bytes.saturating_sub(ready.weight());
    }

    /// The place of those that nobody came for is for others.
    fn forget_old(&mut self, now: Timestamp) {
        while let Some(&(id, since)) = self.order.front()
            && (now.since(since) > HANDOVER_AGE || !self.messages.contains_key(&id))
        {
            self.order.pop_front();
            if let Some((old, _)) = self.messages.remove(&id) {
                self.release(&old);
            }
        }
    }
}

/// Whether head and inline body are what was written.
fn log_is_good(log: &Disk, at: u64, header: &Header) -> Result<bool, StoreError> {
    let inline = if header.kind == BIG { 0 } else { header.body };
    let length = u64::from(header.head).saturating_add(inline);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let content = log.read_at(length.min(CONTENT_MAX), at)?;
    let crc = crc32c::crc32c_append(header.meta_crc, &content);
    Ok(crc == header.payload_crc)
}
