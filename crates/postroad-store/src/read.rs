//! Messages read back from disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use postroad_queue::{Evidence, MessageInfo, QueueId, StoreError};

use crate::content::{BigBody, DiskContent};
use crate::inner::{Inner, Ready};
use crate::io::Disk;
use crate::place::Place;
use crate::record::{
    BIG, HEADER, Header, Meta, NONE, STATE_HEADER, State, StateRecord, parse_state, state_payload,
};
use crate::recover::keep_log;
use crate::watch::count;

/// State records of one message that a listing follows back, at most.
const CHAIN_MAX: usize = 64;
/// Octets of a state record, at most.
const STATE_MAX: usize = 64 << 20;
/// Logs kept open for reading.
const OPEN_LOGS: usize = 128;
/// Octets of head and inline body, at most: what a segment can hold.
pub(crate) const CONTENT_MAX: usize = 128 << 20;

/// What the log says of a message, its content apart.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) log: Arc<Disk>,
    pub(crate) header: Header,
    pub(crate) meta: Meta,
    /// Octets from the start of the log to its head.
    pub(crate) content_at: u64,
}

impl Inner {
    /// Something was found to be damaged; the log is kept, whatever becomes of the segment.
    pub(crate) fn damaged(&self, place: Place, detail: &'static str) -> StoreError {
        self.doubtful.store(true, Ordering::Release);
        count(&self.watch.damaged, 1);
        keep_log(&self.io, &self.log_path(place.segment));
        let log = self.log_path(place.segment);
        StoreError::Damaged {
            place: format!("{} at octet {}", log.display(), place.offset),
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

    /// Does something with a message where it is; again, where compaction has moved it meanwhile.
    pub(crate) fn at_place<T>(
        &self,
        id: QueueId,
        mut place: Place,
        work: impl Fn(Place) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let error = match work(place) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            match self.table().get(id).map(|entry| entry.place) {
                Some(now) if !now.is_record(place) => place = now,
                _ => return Err(error),
            }
        }
    }

    /// What the log says of a message. Blocks.
    pub(crate) fn describe(&self, id: QueueId, place: Place) -> Result<Described, StoreError> {
        let log = self.log(place.segment)?;
        let at = u64::from(place.offset);
        let header = Header::parse(&log.read_at(HEADER, at)?)
            .filter(|header| header.id == id)
            .ok_or_else(|| self.damaged(place, "a record is not where it was"))?;
        let meta_at = at + HEADER as u64;
        let meta = log.read_at(usize::try_from(header.meta).unwrap_or(0), meta_at)?;
        let good = crc32c::crc32c(&meta) == header.meta_crc;
        let meta = Some(&meta)
            .filter(|_| good)
            .and_then(|meta| serde_json::from_slice(meta).ok())
            .ok_or_else(|| self.damaged(place, "an envelope cannot be read"))?;
        let content_at = meta_at + u64::from(header.meta);
        Ok(Described {
            log,
            header,
            meta,
            content_at,
        })
    }

    /// A message from disk. Blocks.
    pub(crate) fn load(&self, id: QueueId, place: Place) -> Result<Ready, StoreError> {
        self.at_place(id, place, |place| self.load_at(id, place))
    }

    fn load_at(&self, id: QueueId, place: Place) -> Result<Ready, StoreError> {
        let described = self.describe(id, place)?;
        let info = Arc::new(described.info());
        let Described {
            log,
            header,
            meta,
            content_at,
        } = described;
        let (big, good) = if header.kind == BIG {
            self.big_body(&log, content_at, &header, &meta)?
        } else {
            (None, log_is_good(&log, content_at, &header)?)
        };
        if !good && self.table().get(id).is_none() {
            return Err(StoreError::NotFound(id)); // gone while we looked, and its body with it
        }
        if !good {
            let error = self.damaged(place, "a message is not what was written");
            tracing::error!(queue_id = %id, %error, "a damaged message is not delivered");
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
            info,
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
    pub(crate) fn evidence(&self, id: QueueId, place: Place, meta: &Meta) -> Vec<Option<Evidence>> {
        let mut last = vec![None; meta.envelope.recipients().len()];
        let mut put = |recipient: usize, evidence: Evidence| {
            if let Some(slot @ None) = last.get_mut(recipient) {
                *slot = Some(evidence);
            }
        };
        for (_, record) in self.states(id, place, NONE, CHAIN_MAX) {
            if let State::Attempt { evidence, .. } = record.state {
                for (recipient, evidence) in evidence {
                    put(usize::try_from(recipient).unwrap_or(usize::MAX), evidence);
                }
            }
        }
        let resumed = meta.resumes.iter().flat_map(|resume| &resume.recipients);
        for (recipient, resumed) in resumed.enumerate() {
            if let Some(evidence) = resumed.last.clone() {
                put(recipient, evidence);
            }
        }
        last
    }

    /// The state records of a message after the one at `until`, the newest first; as far as they
    /// can be read. Blocks.
    pub(crate) fn states(
        &self,
        id: QueueId,
        place: Place,
        until: u32,
        max: usize,
    ) -> Vec<(u32, StateRecord)> {
        let mut states = Vec::new();
        let (journal, epoch) = match self.segments().get(&place.segment) {
            Some(segment) => (segment.journal.clone(), segment.epoch),
            None => return states,
        };
        let journal = match journal {
            Some(journal) => journal,
            None if place.state == NONE => return states,
            None => match self.io.open(&self.journal_path(place.segment)) {
                Ok(journal) => Arc::new(journal),
                Err(_) => return states,
            },
        };
        let mut offset = place.state;
        while offset != NONE && offset != until && states.len() < max {
            let record = read_state(&journal, offset, epoch, place.segment);
            let Some(record) = record.filter(|record| record.id == id) else {
                break;
            };
            let previous = record.previous;
            states.push((offset, record));
            offset = previous;
        }
        states
    }
}

impl Described {
    pub(crate) fn info(&self) -> MessageInfo {
        MessageInfo {
            id: self.header.id,
            envelope: self.meta.envelope.clone(),
            origin: self.meta.origin.clone(),
            arrived: self.header.arrived,
            size: self.header.size(),
        }
    }
}

fn read_state(journal: &Disk, offset: u32, epoch: u64, segment: u32) -> Option<StateRecord> {
    let at = u64::from(offset);
    let header = journal.read_at(STATE_HEADER, at).ok()?;
    let length = state_payload(&header).filter(|length| *length < STATE_MAX)?;
    let bytes = journal.read_at(STATE_HEADER + length, at).ok()?;
    parse_state(&bytes, epoch, segment)
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
