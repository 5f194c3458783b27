//! What a store finds when it opens: the log is read from end to end, then what happened since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use postroad_mail::Timestamp;
use postroad_queue::jobs::Jobs;
use postroad_queue::{Finding, Lane, Operation, QueueId, StoreError};

use crate::checkpoint::Restored;
use crate::copies::Copies;
use crate::inner::Opened;
use crate::io::{Disk, Io};
use crate::options::{Durability, Options, RecoveryReport};
use crate::place::{Extent, Mark, Place, Segment};
use crate::record::{BIG, NONE, Settles, State};
use crate::scan::{self, Bad, Record, Scan, States, Window};
use crate::watch::now;

/// Logs read at the same time, at most: each takes some megabytes of memory.
const READERS_MAX: usize = 4;

pub(crate) struct Recovered {
    pub(crate) opened: Opened,
    /// Bodies that nobody needs, once all state is on disk.
    pub(crate) doomed: Vec<QueueId>,
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
        let doomed = orphans(io, options, &table, false, &mut report)?;
        Ok(Self {
            opened: Opened {
                table,
                segments,
                marks: Vec::new(),
                found: Vec::new(),
            },
            doomed,
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

/// Bodies without a message are to go; where the log is damaged they are kept, since theirs may
/// be what cannot be read.
fn orphans(
    io: &Io,
    options: &Options,
    table: &Jobs<Place>,
    damaged: bool,
    report: &mut RecoveryReport,
) -> Result<Vec<QueueId>, StoreError> {
    let dir = options.path.join("big");
    let mut doomed = Vec::new();
    for name in io.names(&dir)? {
        let id = name.parse::<QueueId>().ok();
        if id.is_some_and(|id| table.get(id).is_some_and(|e| e.place.big())) {
            continue;
        }
        let body = dir.join(&name);
        let gone = if damaged {
            let kept = options.path.join(format!("{name}.body.bad"));
            tracing::warn!(body = %kept.display(), "a body without a message in a damaged queue: kept");
            io.rename(&body, &kept)
        } else {
            report.orphans += 1;
            match id {
                // What says that it is not needed may not be on disk yet.
                Some(id) => {
                    doomed.push(id);
                    Ok(())
                }
                None => io.remove(&body),
            }
        };
        if let Err(error) = gone {
            tracing::warn!(%error, "a body without a message stays");
        }
    }
    Ok(doomed)
}

pub(crate) struct Recovery<'a> {
    io: &'a Io,
    options: &'a Options,
    now: Timestamp,
    pub(crate) table: Jobs<Place>,
    pub(crate) segments: BTreeMap<u32, Segment>,
    pub(crate) copies: Copies,
    pub(crate) marks: Vec<Mark>,
    /// What notices settle, each with the segment of the notice.
    settles: Vec<(u32, Settles)>,
    /// The messages that notices are about: for each the lanes, and after how many attempts.
    settled: HashMap<QueueId, Vec<(Lane, u32)>>,
    /// What is said elsewhere too of what a notice says.
    written: HashSet<(QueueId, Lane, u32)>,
    /// Bodies in files of their own: how long each must be, and the segment of its record.
    bodies: HashMap<QueueId, (u64, u32)>,
    /// A log is damaged, so that messages may be missing.
    damaged: bool,
    report: RecoveryReport,
}

/// Reads the whole store.
pub(crate) fn recover(io: &Io, options: &Options) -> Result<Recovered, StoreError> {
    let names = io.names(&options.path)?;
    let (logs, journals) = segments_in(&names);
    let mut recovery = Recovery {
        io,
        options,
        now: now(),
        table: Jobs::default(),
        segments: BTreeMap::new(),
        copies: Copies::default(),
        marks: Vec::new(),
        settles: Vec::new(),
        settled: HashMap::new(),
        written: HashSet::new(),
        bodies: HashMap::new(),
        damaged: false,
        report: RecoveryReport::default(),
    };
    recovery.read_logs(&logs)?;
    for (_, Settles { id, settlement }) in &recovery.settles {
        let told = recovery.settled.entry(*id).or_default();
        told.push((settlement.lane.clone(), settlement.attempts));
    }
    for &number in &journals {
        recovery.read_journal(number)?;
    }
    recovery.choose();
    recovery.apply_settles();
    for (_, entry) in recovery.table.after(None) {
        if let Some(segment) = recovery.segments.get_mut(&entry.place.segment) {
            segment.gains(entry.place);
        }
    }
    let doomed = recovery.sweep_bodies()?;
    recovery.report.messages = recovery.table.len() as u64;
    recovery.report.segments = logs.len() as u64;
    Ok(Recovered {
        opened: Opened {
            table: recovery.table,
            segments: recovery.segments,
            marks: recovery.marks,
            found: recovery.report.damage.clone(),
        },
        doomed,
        next: next_segment(&names),
        report: recovery.report,
    })
}

pub(crate) fn segments_in(names: &[String]) -> (Vec<u32>, Vec<u32>) {
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
    fn path(&self, number: u32, extension: &str) -> PathBuf {
        self.options
            .path
            .join(format!("seg-{number:08}.{extension}"))
    }

    fn damage(&mut self, finding: Finding) {
        tracing::error!("the queue is damaged: {finding}");
        self.report.damage.push(finding);
    }

    /// Reads and checks logs side by side, and takes them in order.
    fn read_logs(&mut self, logs: &[u32]) -> Result<(), StoreError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let readers = cores.clamp(1, READERS_MAX);
        let (io, path) = (self.io, &self.options.path);
        std::thread::scope(|scope| {
            let scans: Vec<_> = (0..readers)
                .map(|reader| {
                    let (sender, scans) = mpsc::sync_channel(1);
                    scope.spawn(move || {
                        let mut buffer = Vec::new();
                        for &number in logs.iter().skip(reader).step_by(readers) {
                            let log = path.join(format!("seg-{number:08}.log"));
                            let read = read_log(io, &log, number, &mut buffer);
                            if sender.send(read).is_err() {
                                break; // an earlier one has failed
                            }
                        }
                    });
                    scans
                })
                .collect();
            for (&number, scans) in logs.iter().zip(scans.iter().cycle()) {
                let (scan, size) = scans.recv().map_err(|_| StoreError::Closed)??;
                self.take_log(number, scan, size, Some(&number) == logs.last())?;
            }
            Ok(())
        })
    }

    fn take_log(
        &mut self,
        number: u32,
        scan: Scan,
        size: usize,
        newest: bool,
    ) -> Result<(), StoreError> {
        let path = self.path(number, "log");
        if scan.headless && !newest {
            self.damage(Finding {
                id: None,
                place: path.display().to_string(),
                segment: Some(number),
                offset: Some(0),
                detail: "the head of the segment is not what was written".to_owned(),
            });
        }
        let mut segment = Segment::new(scan.epoch.unwrap_or(0), true, self.now);
        (segment.end, segment.size) = (scan.end as u64, size as u64);
        self.segments.insert(number, segment);
        for record in scan.records {
            self.take(record, number, &path);
        }
        let mut kept = Ok(());
        for bad in scan.bad {
            if newest && bad.last {
                kept = self.keep_tail(number, &bad);
            } else {
                self.damaged = true;
                for finding in findings(&bad, number, &path) {
                    self.damage(finding);
                }
                keep_log(self.io, &path);
            }
        }
        // What is good of a log may not all be on disk, and becomes a promise now.
        let log = self.io.open(&path)?;
        if self.options.durability == Durability::Sync {
            log.sync()?;
        }
        if newest {
            self.end_newest(number, &log, kept);
        }
        Ok(())
    }

    fn end_newest(&mut self, number: u32, log: &Disk, kept: Result<(), StoreError>) {
        let Some(segment) = self.segments.get_mut(&number) else {
            return;
        };
        if segment.end == segment.size {
            return;
        }
        // Only to save space: nothing is ever written behind what is there.
        match kept.and_then(|()| log.truncate(segment.end)) {
            Ok(()) => segment.size = segment.end,
            Err(error) => {
                tracing::error!(%error, "the unreadable end of the log stays where it is");
            }
        }
    }

    /// What follows the last good record of the newest segment: mostly what was being written at
    /// the crash and nobody was told of, but that cannot be known.
    fn keep_tail(&mut self, number: u32, bad: &Bad) -> Result<(), StoreError> {
        let path = self.path(number, "log");
        let log = self.io.open(&path)?;
        let tail = log.read_at(bad.to - bad.from, bad.from as u64)?;
        self.report.torn = tail.len() as u64;
        let end = bad.from + tail.len() + 8;
        let header = crate::record::Header::parse(&tail).filter(|h| h.segment == number);
        let all_there = header.filter(|h| {
            let length = h.length().and_then(|length| length.checked_add(bad.from));
            length.is_some_and(|length| length <= end)
        });
        if let Some(header) = all_there {
            self.damaged = true;
            self.damage(Finding {
                id: Some(header.id),
                place: path.display().to_string(),
                segment: Some(number),
                offset: Some(bad.from as u64),
                detail: "the record is not what was written; the message is lost, if it was ever acknowledged".to_owned(),
            });
        }
        let kept = self.io.open_or_create(&path.with_extension("tail.bad"))?;
        kept.truncate(0)?;
        kept.write_at(&tail, 0)?;
        kept.sync()?;
        self.io.sync_dir(&self.options.path)?;
        tracing::warn!(log = %path.display(), from = bad.from, to = bad.to, "the end of the log cannot be read: most likely what was being written when the process ended; kept beside it as .tail.bad");
        Ok(())
    }

    fn take(&mut self, record: Record, segment: u32, path: &Path) {
        let Record {
            header,
            at,
            length,
            gist,
        } = record;
        let Some(gist) = gist else {
            self.damaged = true;
            self.damage(Finding {
                id: Some(header.id),
                place: path.display().to_string(),
                segment: Some(segment),
                offset: Some(at as u64),
                detail: "the envelope cannot be understood; the message is lost".to_owned(),
            });
            keep_log(self.io, path);
            return;
        };
        let id = header.id;
        let flow = gist.flow();
        self.settles.extend(gist.settles.map(|s| (segment, s)));
        let big = header.kind == BIG;
        let place = Place {
            segment,
            offset: u32::try_from(at).unwrap_or(NONE),
            state: NONE,
            extent: Extent::new(length, big),
        };
        self.copies.note(&self.table, id, gist.moved);
        match gist.resumes {
            None => self
                .table
                .insert(id, place, header.size(), header.due, flow, &gist.lanes),
            Some(resume) => match resume.saved(header.due, header.size(), flow, &gist.lanes) {
                Some(saved) => self.table.load(id, place, saved),
                None => return, // nothing is to be done for it
            },
        }
        if big {
            self.bodies.insert(id, (header.body, segment));
        }
    }

    fn read_journal(&mut self, number: u32) -> Result<(), StoreError> {
        let path = self.path(number, "st");
        let Some(epoch) = self.segments.get(&number).map(|s| s.epoch) else {
            // Its log is gone, and so are its messages.
            if let Err(error) = self.io.remove(&path) {
                tracing::warn!(%error, "a journal without a log stays");
            }
            return Ok(());
        };
        let bytes = self.io.read_all(&path)?;
        let mut states = States::new(&bytes, epoch, number);
        for (at, record) in &mut states {
            let id = record.id;
            if self.copies.concern(id, &record.state) {
                self.copies.later(id, number, at, record.state);
                continue;
            }
            self.apply(id, &record.state);
            if let Some(place) = self.table.place_mut(id)
                && place.segment == number
            {
                place.state = at;
            }
        }
        for (from, to) in std::mem::take(&mut states.gaps) {
            self.damage(Finding {
                id: None,
                place: path.display().to_string(),
                segment: Some(number),
                offset: Some(from as u64),
                detail: format!(
                    "state is lost in {} octets: mail may go out again",
                    to - from
                ),
            });
        }
        let end = states.end as u64;
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.state_end = end;
            // It may not be on disk, and what follows from it is about to be done.
            segment.dirty = true;
        }
        Ok(())
    }

    pub(crate) fn apply(&mut self, id: QueueId, state: &State) {
        match state {
            State::Attempt { settlement, .. } => {
                if self.settled.contains_key(&id) {
                    let (lane, attempts) = (settlement.lane.clone(), settlement.attempts);
                    self.written.insert((id, lane, attempts));
                }
                self.table.restore(id, settlement);
            }
            State::Hold => {
                self.table
                    .operate(Timestamp::default(), Operation::Hold, id);
            }
            State::Release => {
                self.table
                    .operate(Timestamp::default(), Operation::Release, id);
            }
            State::Retry(at) => {
                self.table.operate(*at, Operation::Retry, id);
            }
            State::Removed => {
                self.table.remove(id);
            }
            State::Moved { .. } | State::Void { .. } => {}
        }
    }

    /// What was settled before a message was written anew is in what was written.
    pub(crate) fn stands(&mut self, id: QueueId) {
        for (lane, attempts) in self.settled.get(&id).into_iter().flatten() {
            let job = self.table.job(id, lane);
            if job.is_none_or(|job| job.attempts >= *attempts) {
                self.written.insert((id, lane.clone(), *attempts));
            }
        }
    }

    /// What a notice settles is written into the journal of the message it settles, before the
    /// notice's own segment goes.
    fn apply_settles(&mut self) {
        for (notice, settles) in std::mem::take(&mut self.settles) {
            let settlement = settles.settlement;
            let key = (settles.id, settlement.lane.clone(), settlement.attempts);
            if self.written.contains(&key) {
                continue; // and what was written after it counts
            }
            let Some(place) = self.table.get(settles.id).map(|entry| entry.place) else {
                continue;
            };
            self.table.restore(settles.id, &settlement);
            let state = State::Attempt {
                settlement,
                evidence: Vec::new(),
            };
            let mark = Mark::new(place.segment, settles.id, state, notice);
            self.marks.push(mark);
        }
    }

    /// Bodies without a message go. A message without its body stays: its sender is told in the
    /// end that it could not be delivered.
    fn sweep_bodies(&mut self) -> Result<Vec<QueueId>, StoreError> {
        let damaged = self.damaged;
        let mut doomed = orphans(
            self.io,
            self.options,
            &self.table,
            damaged,
            &mut self.report,
        )?;
        // That it is not needed may be said where it never comes to the disk, should a sync have
        // failed before: it is said again.
        doomed.retain(|id| {
            let Some((_, segment)) = self.bodies.get(id) else {
                return true;
            };
            self.marks.push(Mark {
                segment: *segment,
                id: *id,
                state: State::Removed,
                holds: None,
                ends: true,
            });
            false
        });
        for (id, (length, _)) in std::mem::take(&mut self.bodies) {
            let Some(place) = self.table.get(id).map(|entry| entry.place) else {
                continue;
            };
            let body = self.options.path.join("big").join(id.to_string());
            if self.io.length(&body)? != Some(length) {
                self.damage(Finding {
                    id: Some(id),
                    place: body.display().to_string(),
                    segment: Some(place.segment),
                    offset: None,
                    detail: "the body is missing or cut short; the message cannot be delivered"
                        .to_owned(),
                });
                keep_log(self.io, &self.path(place.segment, "log"));
            }
        }
        Ok(doomed)
    }
}

/// What a log holds, and how long its file is.
fn read_log(
    io: &Io,
    path: &Path,
    number: u32,
    buffer: &mut Vec<u8>,
) -> Result<(Scan, usize), StoreError> {
    let size = io.length(path)?.unwrap_or(0);
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let disk = io.open(path)?;
    let scan = scan::log(&mut Window::new(&disk, size, buffer), number)?;
    Ok((scan, size))
}

/// What is to be told of a damaged stretch of a log.
pub(crate) fn findings(bad: &Bad, number: u32, path: &Path) -> Vec<Finding> {
    let finding = |id, offset: usize, detail| Finding {
        id,
        place: path.display().to_string(),
        segment: Some(number),
        offset: Some(offset as u64),
        detail,
    };
    if bad.ids.is_empty() {
        let detail = format!(
            "{} octets, to {}, cannot be read: what was there is lost",
            bad.to - bad.from,
            bad.to
        );
        return vec![finding(None, bad.from, detail)];
    }
    let each = bad.ids.iter().map(|&(at, id)| {
        let detail = "the record is not what was written; the message is lost".to_owned();
        finding(Some(id), at, detail)
    });
    each.collect()
}

/// A damaged log gets a second name, as far as that can be had: a start is not to fail for it.
pub(crate) fn keep_log(io: &Io, log: &Path) {
    if let Err(error) = io.link(log, &log.with_extension("bad")) {
        tracing::error!(%error, "a damaged log cannot be kept beside the queue; copy it before its mail is delivered");
    }
}
