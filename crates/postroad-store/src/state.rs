//! What happens to messages is written into the journals of their segments.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use postroad_queue::jobs::{Entry, Settlement};
use postroad_queue::{AttemptRecord, Lease, QueueId, StoreError};

use crate::inner::{Inner, lock};
use crate::io::Disk;
use crate::place::{Mark, Place};
use crate::record::{NONE, State, encode_state};
use crate::watch::{Work, because, count};

/// State records that are kept in mind where they cannot be written.
const OWED_MAX: usize = 65_536;
/// Journals kept open.
const OPEN_JOURNALS: usize = 128;

/// What came of a claim, to be written down.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) lease: Lease,
    pub(crate) settlement: Settlement,
    pub(crate) record: AttemptRecord,
}

impl Settling {
    fn state(&self) -> State {
        let evidence = self.record.changes.iter().filter_map(|change| {
            let recipient = u32::try_from(change.recipient).ok()?;
            Some((recipient, change.outcome.evidence().clone()))
        });
        State::Attempt {
            settlement: self.settlement.clone(),
            evidence: evidence.collect(),
        }
    }
}

/// The mark that the new record of a message does not count, which keeps the old one until then.
pub(crate) const fn void(id: QueueId, from: Place, to: Place) -> Mark {
    let state = State::Void { at: to.offset };
    Mark::new(to.segment, id, state, from.segment)
}

/// State records for one journal, to be written in one go.
#[derive(Default)]
struct Piece {
    octets: Vec<u8>,
    /// Which of those to be settled are in it, each with what was its message's newest record.
    items: Vec<(usize, u32)>,
}

impl Inner {
    /// The journal of a segment, where it ends, and the segment's epoch; made where it is not
    /// there. `None` where there is no such segment. To be called under the lock of the journals.
    fn journal(&self, number: u32) -> Result<Option<(Arc<Disk>, u64, u64)>, StoreError> {
        let found = self
            .segments()
            .get(&number)
            .map(|s| (s.journal.clone(), s.state_end, s.epoch));
        let Some((journal, end, epoch)) = found else {
            return Ok(None);
        };
        if let Some(journal) = journal {
            return Ok(Some((journal, end, epoch)));
        }
        let journal = Arc::new(self.io.open_or_create(&self.journal_path(number))?);
        if end == 0 {
            self.io.sync_dir(&self.options.path)?;
        }
        if let Some(segment) = self.segments().get_mut(&number) {
            segment.journal = Some(Arc::clone(&journal));
        }
        Ok(Some((journal, end, epoch)))
    }

    /// Appends to a journal; gives where. What fails is written over by the next. Where the disk
    /// is full the reserve is given up for it: what has been delivered must be said, so that it
    /// can go and make room.
    fn append(&self, number: u32, octets: &[u8]) -> Result<u32, StoreError> {
        match self.append_once(number, octets) {
            Err(StoreError::Full { .. }) if self.give_up_reserve() => {
                self.append_once(number, octets)
            }
            done => done,
        }
    }

    fn append_once(&self, number: u32, octets: &[u8]) -> Result<u32, StoreError> {
        let Some((journal, end, _)) = self.journal(number)? else {
            return Ok(NONE);
        };
        journal.write_at(octets, end)?;
        if let Some(segment) = self.segments().get_mut(&number) {
            segment.state_end = end + octets.len() as u64;
            segment.dirty = true;
        }
        Ok(u32::try_from(end).unwrap_or(NONE))
    }

    /// Hands a state to the kernel. Blocks.
    pub(crate) fn write_state(&self, id: QueueId, state: &State) -> Result<(), StoreError> {
        let _one = lock(&self.journal);
        if self.sealed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let Some(place) = self.table().get(id).map(|entry| entry.place) else {
            return Ok(());
        };
        let epoch = self.segments().get(&place.segment).map(|s| s.epoch);
        let Some(epoch) = epoch else {
            return Ok(());
        };
        let octets = encode_state(id, epoch, place.segment, place.state, state);
        let at = self.append(place.segment, &octets)?;
        if let Some(place) = self.table().place_mut(id) {
            place.state = at;
        }
        self.touch(id, place);
        Ok(())
    }

    /// Writes down what came of claims, and ends their leases. Where it cannot be written it
    /// holds all the same, as long as the process lives: the queue must drain where the disk is
    /// full.
    ///
    /// # Errors
    /// [`StoreError::Closed`] where nothing is written any more: then nothing has changed.
    pub(crate) fn settle(&self, all: &[Settling]) -> Result<(), StoreError> {
        let _whole = self.change();
        let mut noted = vec![false; all.len()];
        let mut owed = Vec::new();
        {
            let _one = lock(&self.journal);
            if self.sealed.load(Ordering::Acquire) {
                return Err(StoreError::Closed);
            }
            for (number, piece) in self.pieces(all) {
                match self.append(number, &piece.octets) {
                    Ok(_) => {
                        for (item, _) in piece.items {
                            if let Some(noted) = noted.get_mut(item) {
                                *noted = true;
                            }
                        }
                        if lock(&self.marks).is_empty() {
                            self.watch.works(Work::State);
                        }
                    }
                    Err(error) => {
                        self.unwritten(&error, piece.items.len());
                        self.take_back(all, &piece.items);
                        owed.push((number, piece.items));
                    }
                }
            }
        }
        let mut ended = HashMap::new();
        for (settling, noted) in all.iter().zip(noted) {
            let Settling {
                lease,
                settlement,
                record,
            } = settling;
            let entry = self.table().settle(lease, settlement, record);
            self.handover().used(lease.id);
            if entry.is_none()
                && let Some(place) = self.table().get(lease.id).map(|entry| entry.place)
            {
                self.touch(lease.id, place);
            }
            let place = entry.as_ref().map(|entry| entry.place);
            self.finished(lease.id, entry, noted);
            if let Some(place) = place.filter(|_| !noted) {
                ended.insert(lease.id, place);
            }
        }
        for (number, items) in owed {
            self.owe(all, number, &items, &ended);
        }
        Ok(())
    }

    /// What could not be written is tried again, once a second, for as many as are kept in mind.
    fn owe(
        &self,
        all: &[Settling],
        segment: u32,
        items: &[(usize, u32)],
        ended: &HashMap<QueueId, Place>,
    ) {
        let mut marks = lock(&self.marks);
        for settling in items.iter().filter_map(|(item, _)| all.get(*item)) {
            if marks.len() >= OWED_MAX {
                self.doubtful.store(true, Ordering::Release);
                continue;
            }
            let id = settling.lease.id;
            let ended = ended.get(&id);
            marks.push(Mark {
                segment: ended.map_or(segment, |place| place.segment),
                id,
                state: settling.state(),
                holds: None,
                ends: ended.is_some_and(|place| place.big()),
            });
        }
    }

    /// What is to be written, by segment; each message's place knows of it already.
    fn pieces(&self, all: &[Settling]) -> BTreeMap<u32, Piece> {
        let mut pieces: BTreeMap<u32, Piece> = BTreeMap::new();
        let mut table = self.table();
        let segments = self.segments();
        for (item, settling) in all.iter().enumerate() {
            let id = settling.lease.id;
            let Some(place) = table.place_mut(id) else {
                continue;
            };
            let Some(segment) = segments.get(&place.segment) else {
                continue;
            };
            let piece = pieces.entry(place.segment).or_default();
            let at = segment.state_end + piece.octets.len() as u64;
            let state = settling.state();
            let octets = encode_state(id, segment.epoch, place.segment, place.state, &state);
            piece.octets.extend_from_slice(&octets);
            piece.items.push((item, place.state));
            place.state = u32::try_from(at).unwrap_or(NONE);
        }
        pieces
    }

    /// Those were not written: the records before them are still the newest.
    fn take_back(&self, all: &[Settling], items: &[(usize, u32)]) {
        let mut table = self.table();
        for &(item, before) in items.iter().rev() {
            let id = all.get(item).map(|settling| settling.lease.id);
            if let Some(place) = id.and_then(|id| table.place_mut(id)) {
                place.state = before;
            }
        }
    }

    fn unwritten(&self, error: &StoreError, states: usize) {
        let error = because(error);
        count(&self.watch.states_unwritten, states as u64);
        self.watch.fails(Work::State, &error);
        self.watch.now_and_then(|unsaid| {
            tracing::error!(
                error,
                states,
                unsaid,
                "what came of deliveries cannot be written down now, and is tried again each second: should the process end before, that mail goes out again; make room on the file system of the queue, or see to its disk"
            );
        });
    }

    /// The index is to know of the message.
    fn touch(&self, id: QueueId, place: Place) {
        self.stale.touch(id, place);
        if let Some(segment) = self.segments().get_mut(&place.segment) {
            segment.indexed = true;
        }
    }

    /// A message that has left the table. Where that is not written down, it will be back after
    /// the next start, and its body stays.
    pub(crate) fn finished(&self, id: QueueId, entry: Option<Entry<Place>>, noted: bool) {
        let Some(entry) = entry else {
            return;
        };
        if let Some(segment) = self.segments().get_mut(&entry.place.segment) {
            segment.loses(entry.place);
            if segment.indexed {
                self.stale.touch(id, entry.place);
            }
        }
        if entry.place.big() && noted {
            self.doom(id);
        }
        self.handover().remove(id);
    }

    /// The body of that message is no longer needed, once all state is on disk.
    pub(crate) fn doom(&self, id: QueueId) {
        lock(&self.doomed).push(id);
    }

    /// A message's record has been written anew: from now on it is there, with what was written
    /// about it since. Where that is too late, or cannot be written, the new record is void.
    pub(crate) fn switch(&self, id: QueueId, from: Place, mut to: Place) {
        let _alone = self.no_change();
        let _one = lock(&self.journal);
        let void = void(id, from, to);
        let now = self.table().get(id).map(|entry| entry.place);
        let Some(now) = now.filter(|now| now.is_record(from)) else {
            lock(&self.marks).push(void);
            return;
        };
        match self.carry(id, now, from.state, to) {
            Ok(state) => to.state = state,
            Err(error) => {
                tracing::warn!(queue_id = %id, error = because(&error), "a message stays where it is");
                lock(&self.marks).push(void);
                return;
            }
        }
        if let Some(place) = self.table().place_mut(id) {
            *place = to;
        }
        self.touch(id, from);
        self.touch(id, to);
        let mut segments = self.segments();
        if let Some(segment) = segments.get_mut(&from.segment) {
            segment.loses(from);
        }
        if let Some(segment) = segments.get_mut(&to.segment) {
            segment.gains(to);
        }
        let moved = State::Moved { to: to.segment };
        let mark = Mark::new(from.segment, id, moved, to.segment);
        lock(&self.marks).push(mark);
    }

    /// Writes what was written about a message since `until` into the journal of another segment.
    fn carry(&self, id: QueueId, now: Place, until: u32, to: Place) -> Result<u32, StoreError> {
        let mut states = self.states(id, now, until, usize::MAX);
        let reached = states
            .last()
            .map_or(now.state, |(_, record)| record.previous);
        if reached != until {
            return Err(StoreError::Damaged {
                place: self.journal_path(now.segment).display().to_string(),
                detail: format!("the state of message {id} cannot be read").into(),
            });
        }
        let epoch = self.segments().get(&to.segment).map_or(0, |s| s.epoch);
        let mut newest = NONE;
        let end = self.segments().get(&to.segment).map_or(0, |s| s.state_end);
        // All or nothing: half of them would be taken for what the next copy does not know.
        let mut octets = Vec::new();
        while let Some((_, record)) = states.pop() {
            let at = u32::try_from(end + octets.len() as u64).unwrap_or(NONE);
            let state = encode_state(id, epoch, to.segment, newest, &record.state);
            octets.extend_from_slice(&state);
            newest = at;
        }
        if !octets.is_empty() {
            self.append(to.segment, &octets)?;
        }
        Ok(newest)
    }

    /// Writes the state records that are owed, as far as they can be. Whether all are written.
    pub(crate) fn write_marks(&self) -> bool {
        let owed = std::mem::take(&mut *lock(&self.marks));
        let mut left = Vec::new();
        let mut full = false;
        for mark in owed {
            if full {
                left.push(mark); // in vain, and there may be many
                continue;
            }
            match self.write_mark(&mark) {
                Ok(()) if mark.ends => self.doom(mark.id),
                Ok(()) => {}
                Err(error) => {
                    full = matches!(error, StoreError::Full { .. });
                    self.watch.fails(Work::State, &because(&error));
                    left.push(mark);
                }
            }
        }
        let all = left.is_empty();
        // Before what has been owed since: in the order in which it was said.
        let mut marks = lock(&self.marks);
        left.append(&mut marks);
        *marks = left;
        all
    }

    fn write_mark(&self, mark: &Mark) -> Result<(), StoreError> {
        let _one = lock(&self.journal);
        // What is said of a record that no longer counts is nobody's newest state; what came of an
        // attempt goes where its message is now.
        let of_message = matches!(mark.state, State::Attempt { .. });
        let place = self.table().get(mark.id).map(|entry| entry.place);
        let place = place.filter(|_| of_message);
        let number = place.map_or(mark.segment, |place| place.segment);
        let epoch = self.segments().get(&number).map(|s| s.epoch);
        let Some(epoch) = epoch else {
            return Ok(()); // the segment has gone, and what this would have said of it
        };
        let previous = place.map_or(NONE, |place| place.state);
        let octets = encode_state(mark.id, epoch, number, previous, &mark.state);
        let at = self.append(number, &octets)?;
        if place.is_some()
            && let Some(place) = self.table().place_mut(mark.id)
        {
            place.state = at;
        }
        Ok(())
    }

    /// Syncs every journal that has grown, where syncs are wanted. One that fails is never trusted
    /// again: its segment is emptied by compaction. The others are synced all the same.
    ///
    /// # Errors
    /// Where some state is not on disk.
    pub(crate) fn sync_state(&self) -> Result<(), StoreError> {
        match self.options.durability {
            crate::Durability::Sync => self.sync_journals(),
            crate::Durability::Os => Ok(()),
        }
    }

    /// The same in any case: before files go whose going the journals explain.
    ///
    /// # Errors
    /// Where some state is not on disk.
    pub(crate) fn sync_journals(&self) -> Result<(), StoreError> {
        let _one = lock(&self.syncing);
        let dirty: Vec<_> = self
            .segments()
            .iter_mut()
            .filter(|(_, s)| s.dirty || s.suspect)
            .map(|(number, segment)| {
                segment.dirty = false;
                (*number, segment.journal.clone())
            })
            .collect();
        let mut result = Ok(());
        for (number, journal) in dirty {
            let synced = match journal {
                Some(journal) => journal.sync(),
                None => self
                    .io
                    .open(&self.journal_path(number))
                    .and_then(|journal| journal.sync()),
            };
            let mut segments = self.segments();
            let Some(segment) = segments.get_mut(&number) else {
                continue;
            };
            if let Err(error) = synced {
                count(&self.watch.sync_failures, 1);
                segment.suspect = true;
                result = Err(error);
            } else if segment.suspect {
                result = Err(StoreError::Damaged {
                    place: self.journal_path(number).display().to_string(),
                    detail: "an earlier sync of it has failed".into(),
                });
            }
        }
        self.close_journals();
        result
    }

    /// Files that are not written to need not be open.
    fn close_journals(&self) {
        let mut segments = self.segments();
        if segments.values().filter(|s| s.journal.is_some()).count() <= OPEN_JOURNALS {
            return;
        }
        for segment in segments.values_mut().filter(|s| s.sealed && !s.dirty) {
            // Whoever else has it is about to write to it.
            if segment
                .journal
                .as_ref()
                .is_some_and(|j| Arc::strong_count(j) == 1)
            {
                segment.journal = None;
            }
        }
    }
}
