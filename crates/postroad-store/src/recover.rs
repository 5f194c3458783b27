//! What a store finds when it opens: the log is read from end to end, then what happened since.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use postroad_queue::jobs::Jobs;
use postroad_queue::{Lane, Operation, QueueId, StoreError};

use crate::checkpoint::Restored;
use crate::inner::{Place, Segment};
use crate::io::Io;
use crate::options::{Options, RecoveryReport};
use crate::record::{
    BIG, Gist, HEADER, Header, NONE, SEGMENT_HEADER, Settles, State, encode_state, parse_state,
    segment_epoch,
};

pub(crate) struct Recovered {
    pub(crate) table: Jobs<Place>,
    pub(crate) segments: BTreeMap<u32, Segment>,
    pub(crate) next: u32,
    pub(crate) report: RecoveryReport,
}

impl Recovered {
    /// After a clean stop: as the checkpoint says.
    pub(crate) fn clean(
        io: &Io,
        options: &Options,
        restored: Restored,
    ) -> Result<Self, StoreError> {
        let Restored { table, segments } = restored;
        let names = io.names(&options.path)?;
        let (logs, _) = segments_in(&names);
        let mut report = RecoveryReport {
            messages: table.len() as u64,
            clean: true,
            segments: logs.len() as u64,
            ..RecoveryReport::default()
        };
        // A session that was cut off at the stop may have left one.
        sweep_orphans(io, options, &table, &mut report)?;
        Ok(Self {
            table,
            segments,
            next: next_segment(&names),
            report,
        })
    }
}

/// A number that no file has, nor one that was kept of a damaged segment.
fn next_segment(names: &[String]) -> u32 {
    let number = |name: &String| name.strip_prefix("seg-")?.get(..8)?.parse().ok();
    let newest: Option<u32> = names.iter().filter_map(number).max();
    newest.unwrap_or(0).saturating_add(1)
}

/// Bodies without a message go; where the log is damaged they are kept, since theirs may be what
/// cannot be read.
fn sweep_orphans(
    io: &Io,
    options: &Options,
    table: &Jobs<Place>,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let dir = options.path.join("big");
    for name in io.names(&dir)? {
        let id = name.parse::<QueueId>().ok();
        if id.is_some_and(|id| table.get(id).is_some_and(|e| e.place.big)) {
            continue;
        }
        let body = dir.join(&name);
        let gone = if report.damage.is_empty() {
            report.orphans += 1;
            io.remove(&body)
        } else {
            let kept = options.path.join(format!("{name}.body.bad"));
            tracing::warn!(body = %kept.display(), "a body without a message in a damaged queue: kept");
            io.rename(&body, &kept)
        };
        if let Err(error) = gone {
            tracing::warn!(%error, "a body without a message stays");
        }
    }
    Ok(())
}

struct Recovery<'a> {
    io: &'a Io,
    options: &'a Options,
    table: Jobs<Place>,
    segments: BTreeMap<u32, Segment>,
    settles: Vec<Settles>,
    /// The messages that notices are about.
    settled: HashSet<QueueId>,
    /// What the journals say that a notice says too.
    written: HashSet<(QueueId, Lane, u32)>,
    /// Bodies in files of their own, and how long each must be.
    bodies: Vec<(QueueId, u64)>,
    report: RecoveryReport,
}

/// Reads the whole store.
pub(crate) fn recover(io: &Io, options: &Options) -> Result<Recovered, StoreError> {
    let names = io.names(&options.path)?;
    let (logs, journals) = segments_in(&names);
    let newest = logs.last().copied();
    let mut recovery = Recovery {
        io,
        options,
        table: Jobs::default(),
        segments: BTreeMap::new(),
        settles: Vec::new(),
        settled: HashSet::new(),
        written: HashSet::new(),
        bodies: Vec::new(),
        report: RecoveryReport::default(),
    };
    for &number in &logs {
        recovery.read_log(number, Some(number) == newest)?;
    }
    recovery.settled = recovery.settles.iter().map(|settles| settles.id).collect();
    for &number in &journals {
        recovery.read_journal(number)?;
    }
    recovery.apply_settles()?;
    recovery.sweep_bodies()?;
    recovery.drop_empty(&logs, &journals)?;
    recovery.report.messages = recovery.table.len() as u64;
    recovery.report.segments = logs.len() as u64;
    Ok(Recovered {
        table: recovery.table,
        segments: recovery.segments,
        next: next_segment(&names),
        report: recovery.report,
    })
}

fn segments_in(names: &[String]) -> (Vec<u32>, Vec<u32>) {
    let numbers = |extension: &str| {
        let number = |name: &String| {
            let rest = name.strip_prefix("seg-")?;
            rest.strip_suffix(extension)?.parse().ok()
        };
        let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    };
    (numbers(".log"), numbers(".st"))
}

impl Recovery<'_> {
    fn log_path(&self, number: u32) -> std::path::PathBuf {
        self.options.path.join(format!("seg-{number:08}.log"))
    }

    fn damage(&mut self, path: &Path, detail: &str) {
        let line = format!("{}: {detail}", path.display());
        tracing::error!("the queue is damaged: {line}");
        self.report.damage.push(line);
    }

    fn read_log(&mut self, number: u32, newest: bool) -> Result<(), StoreError> {
        let path = self.log_path(number);
        let bytes = self.io.read_all(&path)?;
        let mut epoch = segment_epoch(&bytes, number);
        if epoch.is_none() && bytes.iter().any(|b| *b != 0) && !newest {
            self.damage(&path, "the head of the segment");
        }
        let mut at = SEGMENT_HEADER;
        let mut bad: Option<usize> = None;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let header = Header::parse(rest)
                .filter(|h| h.segment == number && epoch.is_none_or(|e| e == h.epoch));
            let Some(length) = header.and_then(|header| whole(&header, rest)) else {
                if bad.is_none() && rest.iter().all(|b| *b == 0) {
                    break;
                }
                bad.get_or_insert(at);
                at += 8;
                continue;
            };
            if let (Some(from), Some(header)) = (bad.take(), header) {
                let detail = format!("octets {from} to {at}, before message {}", header.id);
                self.damage(&path, &detail);
                self.keep_bad(number);
            }
            if let Some(header) = header {
                epoch = epoch.or(Some(header.epoch));
                if !self.take(&header, rest, number, at) {
                    let detail = format!("the envelope of message {} at {at}", header.id);
                    self.damage(&path, &detail);
                    self.keep_bad(number);
                }
            }
            at += length;
        }
        let mut kept = Ok(());
        if let Some(from) = bad {
            let end = bytes
                .iter()
                .rposition(|b| *b != 0)
                .map_or(from, |last| last + 1);
            if newest {
                kept = self.keep_tail(number, &bytes, from, end);
            } else {
                self.damage(&path, &format!("octets {from} to {end}"));
                self.keep_bad(number);
            }
        }
        let end = bad.unwrap_or(at).min(at);
        if newest && end < bytes.len() {
            // Only to save space: nothing is ever written behind what is there.
            let cut = kept.and_then(|()| self.io.open(&path)?.truncate(end as u64));
            if let Err(error) = cut {
                tracing::error!(%error, "the unreadable end of the log stays where it is");
            }
        }
        let segment = Segment::new(epoch.unwrap_or(0), true);
        self.segments.entry(number).or_insert(segment);
        Ok(())
    }

    /// A damaged log gets a second name, under which it stays when the segment goes.
    fn keep_bad(&self, number: u32) {
        keep_log(self.io, &self.log_path(number));
    }

    /// What follows the last good record of the newest segment: mostly what was being written at
    /// the crash and nobody was told of, but that cannot be known.
    fn keep_tail(
        &mut self,
        number: u32,
        bytes: &[u8],
        from: usize,
        end: usize,
    ) -> Result<(), StoreError> {
        let path = self.log_path(number);
        let tail = bytes.get(from..end).unwrap_or_default();
        self.report.torn = tail.len() as u64;
        let header = Header::parse(tail).filter(|h| h.segment == number);
        if let Some(header) = header.filter(|h| h.length().is_some_and(|l| l <= tail.len() + 8)) {
            let detail = format!("message {} at {from} is not what was written", header.id);
            self.damage(&path, &detail);
        }
        let kept = self.io.open_or_create(&path.with_extension("tail.bad"))?;
        kept.truncate(0)?;
        kept.write_at(tail, 0)?;
        kept.sync()?;
        self.io.sync_dir(&self.options.path)?;
        tracing::warn!(log = %path.display(), from, to = end, "the end of the log cannot be read: most likely what was being written when the process ended; kept beside it as .tail.bad");
        Ok(())
    }

    /// Whether the message can be understood.
    fn take(&mut self, header: &Header, rest: &[u8], segment: u32, at: usize) -> bool {
        let meta = rest
            .get(HEADER..)
            .and_then(|rest| rest.get(..usize::try_from(header.meta).ok()?));
        let Some(gist) = meta.and_then(|meta| serde_json::from_slice::<Gist>(meta).ok()) else {
            return false;
        };
        self.settles.extend(gist.settles);
        let big = header.kind == BIG;
        let place = Place {
            segment,
            offset: u32::try_from(at).unwrap_or(NONE),
            state: NONE,
            big,
        };
        self.table
            .insert(header.id, place, header.size(), header.due, &gist.lanes);
        if big {
            self.bodies.push((header.id, header.body));
        }
        true
    }

    fn read_journal(&mut self, number: u32) -> Result<(), StoreError> {
        let path = self.options.path.join(format!("seg-{number:08}.st"));
        let bytes = self.io.read_all(&path)?;
        let Some(epoch) = self.segments.get(&number).map(|s| s.epoch) else {
            return Ok(()); // its log is gone, and so are its messages
        };
        let (mut at, mut end) = (0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(record) = parse_state(rest, epoch, number) else {
                at += 8;
                continue;
            };
            self.apply(record.id, &record.state);
            if let Some(place) = self.table.place_mut(record.id) {
                place.state = u32::try_from(at).unwrap_or(NONE);
            }
            at += record.length;
            if at > end + record.length {
                tracing::warn!(journal = %path.display(), from = end, to = at, "state lost: mail may go out again");
            }
            end = at;
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.state_end = end as u64;
        }
        Ok(())
    }

    fn apply(&mut self, id: QueueId, state: &State) {
        match state {
            State::Attempt { settlement, .. } => {
                if self.settled.contains(&id) {
                    let (lane, attempts) = (settlement.lane.clone(), settlement.attempts);
                    self.written.insert((id, lane, attempts));
                }
                self.table.restore(id, settlement);
            }
            State::Hold => {
                self.table
                    .operate(postroad_mail::Timestamp::default(), Operation::Hold, id);
            }
            State::Release => {
                self.table
                    .operate(postroad_mail::Timestamp::default(), Operation::Release, id);
            }
            State::Retry(at) => {
                self.table.operate(*at, Operation::Retry, id);
            }
            State::Removed => {
                self.table.remove(id);
            }
        }
    }

    /// What a notice settles is written into the journal of the message it settles, since the
    /// notice's own segment may soon go.
    fn apply_settles(&mut self) -> Result<(), StoreError> {
        for settles in std::mem::take(&mut self.settles) {
            let settlement = &settles.settlement;
            let key = (settles.id, settlement.lane.clone(), settlement.attempts);
            if self.written.contains(&key) {
                continue; // and what was written after it counts
            }
            let Some(place) = self.table.get(settles.id).map(|entry| entry.place) else {
                continue;
            };
            let Some(segment) = self.segments.get_mut(&place.segment) else {
                continue;
            };
            let state = State::Attempt {
                settlement: settles.settlement.clone(),
                evidence: Vec::new(),
            };
            let record = encode_state(
                settles.id,
                segment.epoch,
                place.segment,
                place.state,
                &state,
            );
            let name = format!("seg-{:08}.st", place.segment);
            let journal = self.io.open_or_create(&self.options.path.join(name))?;
            journal.write_at(&record, segment.state_end)?;
            journal.sync()?;
            let at = segment.state_end;
            segment.state_end += record.len() as u64;
            if let Some(place) = self.table.place_mut(settles.id) {
                place.state = u32::try_from(at).unwrap_or(NONE);
            }
            self.table.restore(settles.id, &settles.settlement);
        }
        // Journals may be new, and are needed before a log goes.
        self.io.sync_dir(&self.options.path)
    }

    /// Bodies without a message go. A message without its body stays: its sender is told in the
    /// end that it could not be delivered.
    fn sweep_bodies(&mut self) -> Result<(), StoreError> {
        sweep_orphans(self.io, self.options, &self.table, &mut self.report)?;
        for (id, length) in std::mem::take(&mut self.bodies) {
            let Some(place) = self.table.get(id).map(|entry| entry.place) else {
                continue;
            };
            let body = self.options.path.join("big").join(id.to_string());
            if self.io.length(&body)? != Some(length) {
                let detail = format!("the body of message {id} is missing or cut short");
                self.damage(&body, &detail);
                self.keep_bad(place.segment);
            }
        }
        Ok(())
    }

    fn drop_empty(&mut self, logs: &[u32], journals: &[u32]) -> Result<(), StoreError> {
        for (_, entry) in self.table.after(None) {
            if let Some(segment) = self.segments.get_mut(&entry.place.segment) {
                segment.live += 1;
            }
        }
        let empty: Vec<u32> = self
            .segments
            .iter()
            .filter(|(_, segment)| segment.live == 0)
            .map(|(number, _)| *number)
            .collect();
        for number in logs.iter().filter(|n| empty.contains(n)) {
            self.io.remove(&self.log_path(*number))?;
            self.segments.remove(number);
        }
        self.io.sync_dir(&self.options.path)?;
        for number in journals {
            if !self.segments.contains_key(number) {
                let path = self.options.path.join(format!("seg-{number:08}.st"));
                self.io.remove(&path)?;
            }
        }
        Ok(())
    }
}

/// A damaged log gets a second name, as far as that can be had: a start is not to fail for it.
pub(crate) fn keep_log(io: &Io, log: &Path) {
    if let Err(error) = io.link(log, &log.with_extension("bad")) {
        tracing::error!(%error, "a damaged log cannot be kept beside the queue; copy it before its mail is delivered");
    }
}

/// Octets of the record, where all of it is there and good.
pub(crate) fn whole(header: &Header, bytes: &[u8]) -> Option<usize> {
    let length = header.length().filter(|length| *length <= bytes.len())?;
    let payload = bytes.get(HEADER..HEADER.checked_add(header.payload()?)?)?;
    (crc32c::crc32c(payload) == header.payload_crc).then_some(length)
}
