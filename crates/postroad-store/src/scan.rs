//! A log and a journal as they are read from end to end: what is good, and where the damage is.

use postroad_queue::{QueueId, StoreError};

use crate::io::Disk;
use crate::record::{
    Gist, HEADER, Header, NONE, SEGMENT_HEADER, StateRecord, parse_state, segment_epoch,
};

/// What a log holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The epoch of its records; none where there is nothing to tell it by.
    pub(crate) epoch: Option<u64>,
    /// Its head is not what it should be, and it is not empty.
    pub(crate) headless: bool,
    pub(crate) records: Vec<Record>,
    /// Where it is damaged; the last may reach to its end.
    pub(crate) bad: Vec<Bad>,
    /// Behind the last good record.
    pub(crate) end: usize,
}

/// A good record.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) header: Header,
    pub(crate) at: usize,
    /// Octets of the whole.
    pub(crate) length: usize,
    /// None where it cannot be understood.
    pub(crate) gist: Option<Gist>,
}

/// A stretch of octets that are not what was written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Records that begin there and can still be told by their headers.
    pub(crate) ids: Vec<(usize, QueueId)>,
    /// Nothing good follows.
    pub(crate) last: bool,
}

/// Where a log is read from.
pub(crate) trait Source {
    /// Octets of it.
    fn size(&self) -> usize;

    /// So many octets from there on; fewer, where it ends before.
    fn get(&mut self, at: usize, length: usize) -> Result<&[u8], StoreError>;
}

impl Source for &[u8] {
    fn size(&self) -> usize {
        self.len()
    }

    fn get(&mut self, at: usize, length: usize) -> Result<&[u8], StoreError> {
        let rest = <[u8]>::get(self, at..).unwrap_or_default();
        Ok(rest.get(..length).unwrap_or(rest))
    }
}

/// A file, read in order, a window of it in memory.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    disk: &'a Disk,
    size: usize,
    buffer: &'a mut Vec<u8>,
    from: usize,
    /// Octets of the buffer that are of the file.
    held: usize,
}

/// Octets of the window, unless a record is longer.
const WINDOW: usize = 4 << 20;

impl<'a> Window<'a> {
    /// The buffer may be used for one file after the other.
    pub(crate) const fn new(disk: &'a Disk, size: usize, buffer: &'a mut Vec<u8>) -> Self {
        Self {
            disk,
            size,
            buffer,
            from: 0,
            held: 0,
        }
    }
}

impl Source for Window<'_> {
    fn size(&self) -> usize {
        self.size
    }

    fn get(&mut self, at: usize, length: usize) -> Result<&[u8], StoreError> {
        let length = length.min(self.size.saturating_sub(at));
        if at < self.from || at + length > self.from + self.held {
            let held = length.max(WINDOW).min(self.size.saturating_sub(at));
            if self.buffer.len() < held {
                self.buffer.resize(held, 0);
            }
            self.held = 0;
            if let Some(buffer) = self.buffer.get_mut(..held) {
                self.disk.read_into(buffer, at as u64)?;
            }
            (self.from, self.held) = (at, held);
        }
        let start = at - self.from;
        Ok(self.buffer.get(start..start + length).unwrap_or_default())
    }
}

/// Reads a log.
///
/// # Errors
/// Where it cannot be read; that it is damaged is none.
pub(crate) fn log(source: &mut impl Source, number: u32) -> Result<Scan, StoreError> {
    let size = source.size();
    let mut scan = Scan {
        epoch: segment_epoch(source.get(0, SEGMENT_HEADER)?, number),
        ..Scan::default()
    };
    scan.headless = scan.epoch.is_none() && is_used(source, 0)?;
    let mut at = SEGMENT_HEADER.min(size);
    scan.end = at;
    let mut bad: Option<Bad> = None;
    while at < size {
        let header = Header::parse(source.get(at, HEADER)?)
            .filter(|h| h.segment == number && scan.epoch.is_none_or(|epoch| epoch == h.epoch));
        let record = match header.and_then(|header| Some((header, header.length()?))) {
            Some((header, length)) => {
                let bytes = source.get(at, length)?;
                let length = whole(&header, bytes);
                length.map(|length| (header, length, gist(&header, bytes)))
            }
            None => None,
        };
        let Some((header, length, gist)) = record else {
            if bad.is_none() && !is_used(source, at)? {
                break;
            }
            let bad = bad.get_or_insert_with(|| Bad {
                from: at,
                ..Bad::default()
            });
            bad.ids.extend(header.map(|header| (at, header.id)));
            at += 8;
            continue;
        };
        if let Some(mut bad) = bad.take() {
            bad.to = at;
            scan.bad.push(bad);
        }
        scan.epoch = scan.epoch.or(Some(header.epoch));
        scan.records.push(Record {
            header,
            at,
            length,
            gist,
        });
        at += length;
        scan.end = at;
    }
    if let Some(mut bad) = bad {
        bad.to = last_used(source, bad.from)?.map_or(bad.from, |last| last + 1);
        bad.last = true;
        scan.bad.push(bad);
    }
    Ok(scan)
}

/// Whether an octet from there on is not zero.
fn is_used(source: &mut impl Source, from: usize) -> Result<bool, StoreError> {
    const PIECE: usize = 64 << 10;
    let mut at = from;
    while at < source.size() {
        let piece = source.get(at, PIECE)?;
        if piece.iter().any(|octet| *octet != 0) {
            return Ok(true);
        }
        at += piece.len().max(1);
    }
    Ok(false)
}

/// Where the last octet is from there on that is not zero.
fn last_used(source: &mut impl Source, from: usize) -> Result<Option<usize>, StoreError> {
    const PIECE: usize = 1 << 20;
    let (mut at, mut last) = (from, None);
    while at < source.size() {
        let piece = source.get(at, PIECE)?;
        if let Some(used) = piece.iter().rposition(|octet| *octet != 0) {
            last = Some(at + used);
        }
        at += piece.len().max(1);
    }
    Ok(last)
}

fn gist(header: &Header, rest: &[u8]) -> Option<Gist> {
    let meta = rest
        .get(HEADER..)?
        .get(..usize::try_from(header.meta).ok()?)?;
    serde_json::from_slice(meta).ok()
}

/// Octets of the record, where all of it is there and good.
pub(crate) fn whole(header: &Header, bytes: &[u8]) -> Option<usize> {
    let length = header.length().filter(|length| *length <= bytes.len())?;
    let payload = bytes.get(HEADER..HEADER.checked_add(header.payload()?)?)?;
    (crc32c::crc32c(payload) == header.payload_crc).then_some(length)
}

/// The good records of a journal, each with where it begins.
pub(crate) struct States<'a> {
    bytes: &'a [u8],
    epoch: u64,
    segment: u32,
    at: usize,
    /// Behind the last good record.
    pub(crate) end: usize,
    /// Stretches between good records that are not.
    pub(crate) gaps: Vec<(usize, usize)>,
}

impl<'a> States<'a> {
    pub(crate) const fn new(bytes: &'a [u8], epoch: u64, segment: u32) -> Self {
        Self {
            bytes,
            epoch,
            segment,
            at: 0,
            end: 0,
            gaps: Vec::new(),
        }
    }
}

impl Iterator for States<'_> {
    type Item = (u32, StateRecord);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(rest) = self.bytes.get(self.at..).filter(|rest| !rest.is_empty()) {
            let at = self.at;
            let Some(record) = parse_state(rest, self.epoch, self.segment) else {
                self.at += 8;
                continue;
            };
            if at > self.end {
                self.gaps.push((self.end, at));
            }
            self.at += record.length;
            self.end = self.at;
            return Some((u32::try_from(at).unwrap_or(NONE), record));
        }
        None
    }
}
