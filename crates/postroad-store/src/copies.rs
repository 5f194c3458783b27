//! Messages of which compaction has left more than one record: at recovery one of them counts.
//!
//! Compaction writes a message anew into the newest segment, syncs that, and only then says in the
//! journal of the old segment that it has [moved](State::Moved). Where a crash comes in between
//! there are two records; the newer one counts, with what was written about the older one since.
//! Where the move came too late the new record is [void](State::Void). Before a segment with a
//! record that counts may go, all others of the same message are marked as what they are.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use postroad_queue::QueueId;
use postroad_queue::jobs::{Jobs, Saved};

use crate::place::{Mark, Place};
use crate::record::{Moved, NONE, State};
use crate::recover::Recovery;

/// What is known of such messages while the queue is read.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Older records, as they stood when they were written.
    older: HashMap<QueueId, Vec<Copy>>,
    /// Where the newest was moved from.
    moved: HashMap<QueueId, Moved>,
    /// What journals say of them: segment, offset, state; in order.
    states: HashMap<QueueId, Vec<(u32, u32, State)>>,
}

#[derive(Debug)]
struct Copy {
    place: Place,
    saved: Option<Saved>,
    moved: Option<Moved>,
}

impl Copies {
    /// A record of that message is about to be taken, where there may be one already.
    pub(crate) fn note(&mut self, table: &Jobs<Place>, id: QueueId, moved: Option<Moved>) {
        let before = match moved {
            Some(moved) => self.moved.insert(id, moved),
            None => self.moved.remove(&id),
        };
        if let Some(entry) = table.get(id) {
            self.older.entry(id).or_default().push(Copy {
                place: entry.place,
                saved: table.save(id),
                moved: before,
            });
        }
    }

    /// Whether a state cannot be applied before all are known.
    pub(crate) fn concern(&self, id: QueueId, state: &State) -> bool {
        matches!(state, State::Moved { .. } | State::Void { .. })
            || self.moved.contains_key(&id)
            || self.older.contains_key(&id)
    }

    /// Keeps a state until then.
    pub(crate) fn later(&mut self, id: QueueId, segment: u32, at: u32, state: State) {
        let state = match state {
            // Kept for what it decides; evidence is for listings.
            State::Attempt { settlement, .. } => State::Attempt {
                settlement,
                evidence: Vec::new(),
            },
            other => other,
        };
        let states = self.states.entry(id).or_default();
        states.push((segment, at, state));
    }

    fn ids(&self) -> HashSet<QueueId> {
        let older = self.older.keys().chain(self.moved.keys());
        older.chain(self.states.keys()).copied().collect()
    }

    /// All records of a message, the newest first.
    fn take(&mut self, table: &Jobs<Place>, id: QueueId) -> (Vec<Copy>, Vec<(u32, u32, State)>) {
        let moved = self.moved.remove(&id);
        let mut all: Vec<Copy> = self.older.remove(&id).unwrap_or_default();
        if let Some(entry) = table.get(id) {
            all.push(Copy {
                place: entry.place,
                saved: None,
                moved,
            });
        }
        all.reverse();
        (all, self.states.remove(&id).unwrap_or_default())
    }
}

impl Recovery<'_> {
    /// Decides for each such message.
    pub(crate) fn choose(&mut self) {
        for id in self.copies.ids() {
            let (copies, states) = self.copies.take(&self.table, id);
            if !copies.is_empty() {
                self.choose_one(id, copies, &states);
            }
        }
    }

    fn choose_one(&mut self, id: QueueId, mut copies: Vec<Copy>, states: &[(u32, u32, State)]) {
        let is_void = |place: Place| {
            let void = State::Void { at: place.offset };
            let mut all = states.iter();
            all.any(|(segment, _, state)| *segment == place.segment && *state == void)
        };
        copies.retain(|copy| !is_void(copy.place));
        let gone_to: BTreeMap<u32, u32> = states
            .iter()
            .filter_map(|(segment, _, state)| match state {
                State::Moved { to } => Some((*segment, *to)),
                _ => None,
            })
            .collect();
        // The segment it went to is gone, and so it was done with there.
        let is_gone = |copy: &Copy| {
            let to = gone_to.get(&copy.place.segment);
            to.is_some_and(|to| !self.segments.contains_key(to))
        };
        let segments: Vec<u32> = copies.iter().map(|copy| copy.place.segment).collect();
        let Some(chosen) = copies.into_iter().next().filter(|copy| !is_gone(copy)) else {
            self.table.remove(id);
            self.bury(id, &segments, None);
            return;
        };
        let Copy {
            place,
            saved,
            moved,
        } = chosen;
        if let Some(saved) = saved {
            self.table.load(id, place, saved);
        }
        if moved.is_some() {
            self.stands(id);
        }
        let (missing, later) = self.catch_up(id, place, moved, states);
        if self.table.get(id).is_none() {
            self.bury(id, &segments, moved);
            return;
        }
        if let Some(moved) = moved {
            let mark = |state| Mark::new(place.segment, id, state, moved.segment);
            self.marks.extend(missing.into_iter().map(mark));
        }
        if let Some(&to) = gone_to
            .get(&place.segment)
            .filter(|to| **to != place.segment)
        {
            // What it had moved to is damaged: it counts again, with what was said there.
            let back = State::Moved { to: place.segment };
            let marks = later.into_iter().chain([back]);
            self.marks
                .extend(marks.map(|state| Mark::new(place.segment, id, state, to)));
        }
        for older in segments.into_iter().skip(1) {
            if gone_to.get(&older) != Some(&place.segment) {
                let moved = State::Moved { to: place.segment };
                self.marks.push(Mark::new(older, id, moved, place.segment));
            }
        }
    }

    /// Applies what is said of the record that counts, and what was said of the one that it was
    /// made of after that. Gives what of the latter its own journal does not say, and what later
    /// journals say, where the record there is damaged.
    fn catch_up(
        &mut self,
        id: QueueId,
        place: Place,
        moved: Option<Moved>,
        states: &[(u32, u32, State)],
    ) -> (Vec<State>, Vec<State>) {
        let says = |state: &State| !matches!(state, State::Moved { .. } | State::Void { .. });
        let since = |segment: u32, at: u32| {
            moved.is_some_and(|m| m.segment == segment && (m.state == NONE || at > m.state))
        };
        let (mut before, mut own, mut later) = (Vec::new(), Vec::new(), Vec::new());
        for (segment, at, state) in states.iter().filter(|(_, _, state)| says(state)) {
            if *segment < place.segment && !since(*segment, *at) {
                continue;
            }
            self.apply(id, state);
            match segment.cmp(&place.segment) {
                Ordering::Less => before.push(state.clone()),
                Ordering::Equal => {
                    own.push(state);
                    if let Some(place) = self.table.place_mut(id) {
                        place.state = *at;
                    }
                }
                Ordering::Greater => later.push(state.clone()),
            }
        }
        before.retain(|state| match own.iter().position(|own| *own == state) {
            Some(at) => {
                own.remove(at);
                false
            }
            None => true,
        });
        (before, later)
    }

    /// A message that is done with must not come back when the segment goes that says so: each
    /// record gets its own word.
    fn bury(&mut self, id: QueueId, segments: &[u32], moved: Option<Moved>) {
        let from = moved.map(|moved| moved.segment);
        for &segment in segments {
            for holds in segments.iter().copied().chain(from) {
                if holds != segment && self.segments.contains_key(&holds) {
                    let mark = Mark::new(segment, id, State::Removed, holds);
                    self.marks.push(mark);
                }
            }
        }
    }
}
