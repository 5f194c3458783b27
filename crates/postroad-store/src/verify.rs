//! Reads all that is kept, and says what is not what was written.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use postroad_queue::{Finding, QueueId, StoreError, Verified};

use crate::inner::Inner;
use crate::place::Place;
use crate::record::{BIG, HEADER, Meta};
use crate::recover::findings;
use crate::scan::{self, Record, States};

/// Octets of a body read at once.
const PIECE: usize = 1 << 20;

/// Of an open store, while mail goes on. Blocks.
///
/// # Errors
/// Where the directory cannot be read.
pub(crate) fn all(inner: &Inner) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    for finding in &inner.found {
        verified.find(finding.clone());
    }
    // What the opening has told of is not told again.
    let told: HashSet<_> = inner.found.iter().map(|f| (f.segment, f.offset)).collect();
    let mut check = Check {
        inner,
        verified,
        told,
        read: HashMap::new(),
    };
    let numbers: Vec<u32> = inner.segments().keys().copied().collect();
    for number in numbers {
        check.segment(number);
    }
    check.missing();
    check.kept()?;
    Ok(check.verified)
}

struct Check<'a> {
    inner: &'a Inner,
    verified: Verified,
    told: HashSet<(Option<u32>, Option<u64>)>,
    /// Of each segment that was read: how far, and where good records begin.
    read: HashMap<u32, (u64, Vec<u32>)>,
}

impl Check<'_> {
    fn find(&mut self, finding: Finding) {
        if self.told.insert((finding.segment, finding.offset)) {
            self.verified.find(finding);
        }
    }

    fn segment(&mut self, number: u32) {
        let known = self
            .inner
            .segments()
            .get(&number)
            .map(|s| (s.end, s.state_end, s.epoch));
        let Some((end, state_end, epoch)) = known else {
            return; // it has gone meanwhile
        };
        let path = self.inner.log_path(number);
        let log = match self.inner.io.read_all(&path) {
            Ok(log) => log,
            Err(error) => return self.unreadable(number, &path, &error),
        };
        let log = log.get(..usize::try_from(end).unwrap_or(usize::MAX));
        // Shorter than it should be: what is missing shows as messages that are not there.
        let log = log.unwrap_or_default();
        let scan = match scan::log(&mut &*log, number) {
            Ok(scan) => scan,
            Err(error) => return self.unreadable(number, &path, &error),
        };
        let mut good = Vec::with_capacity(scan.records.len());
        for record in &scan.records {
            self.verified.octets += record.length as u64;
            if record.gist.is_some() {
                good.push(u32::try_from(record.at).unwrap_or(u32::MAX));
                self.message(number, &path, record, log);
            }
        }
        for bad in &scan.bad {
            for mut finding in findings(bad, number, &path) {
                if finding
                    .id
                    .is_some_and(|id| self.lives(id, number).is_none())
                {
                    "the record is not what was written; its message is no longer needed"
                        .clone_into(&mut finding.detail);
                }
                self.find(finding);
            }
        }
        self.read.insert(number, (end, good));
        self.journal(number, state_end, epoch);
    }

    /// A segment that has gone meanwhile cannot be read, and need not.
    fn unreadable(&mut self, number: u32, path: &Path, error: &StoreError) {
        if self.inner.segments().contains_key(&number) {
            self.find(Finding {
                id: None,
                place: path.display().to_string(),
                segment: Some(number),
                offset: None,
                detail: crate::watch::because(error),
            });
        }
    }

    /// Where the message is, if that is in this segment.
    fn lives(&self, id: QueueId, number: u32) -> Option<Place> {
        let table = self.inner.table();
        let place = table.get(id)?.place;
        (place.segment == number).then_some(place)
    }

    fn message(&mut self, number: u32, path: &Path, record: &Record, log: &[u8]) {
        let header = &record.header;
        let here = self.lives(header.id, number);
        if here.is_none_or(|place| usize::try_from(place.offset) != Ok(record.at)) {
            return; // no longer needed, or elsewhere
        }
        let detail = match self.body(record, log) {
            Ok(true) => {
                self.verified.messages += 1;
                return;
            }
            Ok(false) => "its body is not what was written; it cannot be delivered".to_owned(),
            Err(error) => crate::watch::because(&error),
        };
        if self.lives(header.id, number).is_none() {
            return; // delivered while we looked
        }
        self.find(Finding {
            id: Some(header.id),
            place: path.display().to_string(),
            segment: Some(number),
            offset: Some(record.at as u64),
            detail,
        });
    }

    /// Whether a body in a file of its own is good.
    fn body(&mut self, record: &Record, log: &[u8]) -> Result<bool, StoreError> {
        if record.header.kind != BIG {
            return Ok(true);
        }
        let length = usize::try_from(record.header.meta).unwrap_or(usize::MAX);
        let meta = log
            .get(record.at + HEADER..)
            .and_then(|rest| rest.get(..length));
        let meta = meta.and_then(|meta| serde_json::from_slice::<Meta>(meta).ok());
        let path = self.inner.big_path(record.header.id);
        if self.inner.io.length(&path)? != Some(record.header.body) {
            return Ok(false);
        }
        let disk = self.inner.io.open(&path)?;
        let (mut at, mut crc) = (0, 0);
        while at < record.header.body {
            let left = usize::try_from(record.header.body - at).unwrap_or(usize::MAX);
            let piece = disk.read_at(left.min(PIECE), at)?;
            crc = crc32c::crc32c_append(crc, &piece);
            at += piece.len() as u64;
        }
        self.verified.octets += at;
        let wanted = meta.and_then(|meta| meta.big_crc);
        Ok(wanted.is_none_or(|wanted| wanted == crc))
    }

    /// Messages of the queue whose records were not found where they should be.
    fn missing(&mut self) {
        const AT_ONCE: usize = 4096;
        let mut after = None;
        loop {
            let (mut last, mut missing) = (None, Vec::new());
            for (id, entry) in self.inner.table().after(after).take(AT_ONCE) {
                last = Some(id);
                let place = entry.place;
                let there = self.read.get(&place.segment).is_none_or(|(end, good)| {
                    u64::from(place.offset) >= *end || good.binary_search(&place.offset).is_ok()
                });
                if !there {
                    missing.push((id, place));
                }
            }
            for (id, place) in missing {
                self.find(Finding {
                    id: Some(id),
                    place: self.inner.log_path(place.segment).display().to_string(),
                    segment: Some(place.segment),
                    offset: Some(place.offset.into()),
                    detail: "its record cannot be read; it cannot be delivered".to_owned(),
                });
            }
            if last.is_none() {
                return;
            }
            after = last;
        }
    }

    fn journal(&mut self, number: u32, end: u64, epoch: u64) {
        let path = self.inner.journal_path(number);
        let bytes = match self.inner.io.read_all(&path) {
            Ok(bytes) => bytes,
            Err(_) if end == 0 => return,
            Err(error) => return self.unreadable(number, &path, &error),
        };
        let counts = bytes.get(..usize::try_from(end).unwrap_or(usize::MAX));
        let counts = counts.unwrap_or(&bytes);
        self.verified.octets += counts.len() as u64;
        let mut states = States::new(counts, epoch, number);
        (&mut states).for_each(drop);
        let mut gaps = std::mem::take(&mut states.gaps);
        if (states.end as u64) < end {
            gaps.push((states.end, usize::try_from(end).unwrap_or(usize::MAX)));
        }
        for (from, to) in gaps {
            self.find(Finding {
                id: None,
                place: path.display().to_string(),
                segment: Some(number),
                offset: Some(from as u64),
                detail: format!(
                    "state cannot be read in {} octets: after a restart, mail may go out again",
                    to - from
                ),
            });
        }
    }

    /// Damaged logs that an earlier start has kept, while their segments are gone.
    fn kept(&mut self) -> Result<(), StoreError> {
        let inner = self.inner;
        for name in inner.io.names(&inner.options.path)? {
            let number = name
                .strip_prefix("seg-")
                .and_then(|rest| rest.strip_suffix(".bad"))
                .and_then(|number| number.parse::<u32>().ok());
            let Some(number) = number else {
                continue;
            };
            if inner.segments().contains_key(&number) {
                continue; // another name of what was read already
            }
            let path = inner.options.path.join(&name);
            let log = inner.io.read_all(&path)?;
            self.verified.octets += log.len() as u64;
            for bad in &scan::log(&mut &*log, number)?.bad {
                for mut finding in findings(bad, number, &path) {
                    finding.detail +=
                        " (kept by an earlier start; remove the file when it is of no more use)";
                    self.find(finding);
                }
            }
        }
        Ok(())
    }
}
