//! The lanes: who is due, in which order, and who gets the next turn.
//!
//! Every operation costs the logarithm of the number of jobs in one lane or of the number of
//! lanes; none walks over either.

mod known;
mod order;
mod rings;

use std::collections::{BTreeSet, HashMap};

use postroad_mail::Timestamp;

use crate::id::QueueId;
use crate::jobs::lanes::known::{Known, Memory};
use crate::jobs::lanes::order::Order;
use crate::jobs::lanes::rings::Rings;
use crate::store::{Lane, LaneState, LaneSummary};

pub(super) use order::Spot;
pub(super) use rings::Standing;

/// Jobs that a lane may take in one turn, so that its connections are worth opening, and the
/// other lanes do not wait long.
const QUANTUM: u64 = 4;

/// A lane's number, for as long as it has jobs or is parked.
pub(super) type LaneNumber = u32;

#[derive(Debug, Default)]
pub(super) struct Lanes {
    numbers: HashMap<Lane, LaneNumber>,
    slots: Vec<Option<Slot>>,
    free: Vec<LaneNumber>,
    /// Lanes with a job that may be claimed at that moment.
    later: BTreeSet<(Timestamp, LaneNumber)>,
    /// Parked lanes without jobs, by the end of their parking.
    idle: BTreeSet<(Timestamp, LaneNumber)>,
    /// Lanes whose turn has come; what is no longer true of one is found at its turn.
    rings: Rings,
    known: Known,
    cap: u64,
}

#[derive(Debug)]
struct Slot {
    name: Lane,
    order: Order,
    waiting: u64,
    in_flight: u64,
    parked: Option<Timestamp>,
    limit: Option<u64>,
    standing: Standing,
    place: Place,
}

impl Slot {
    /// Jobs under lease at once, at most.
    fn cap(&self, cap: u64) -> u64 {
        self.limit.unwrap_or(cap).min(cap.max(1))
    }
}

/// In which of the orders a lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    None,
    Later(Timestamp),
    Idle(Timestamp),
    Ring(u64),
}

impl Lanes {
    /// The number of a lane.
    pub(super) fn intern(&mut self, lane: &Lane) -> LaneNumber {
        if let Some(&number) = self.numbers.get(lane) {
            return number;
        }
        let Memory { standing, limit } = self.known.take(lane);
        let slot = Slot {
            name: lane.clone(),
            order: Order::default(),
            waiting: 0,
            in_flight: 0,
            parked: None,
            limit,
            standing,
            place: Place::None,
        };
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.slots.push(None);
                LaneNumber::try_from(self.slots.len() - 1).unwrap_or(LaneNumber::MAX)
            }
        };
        if let Some(place) = self.place_mut(number) {
            *place = Some(slot);
        }
        self.numbers.insert(lane.clone(), number);
        number
    }

    /// Takes no more memory than it needs.
    pub(super) fn shrink(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            slot.order.shrink();
        }
    }

    /// The number of a lane that has one.
    pub(super) fn number(&self, lane: &Lane) -> Option<LaneNumber> {
        self.numbers.get(lane).copied()
    }

    /// The lane of that number.
    pub(super) fn name(&self, number: LaneNumber) -> Option<&Lane> {
        self.slot(number).map(|slot| &slot.name)
    }

    /// A job comes to a lane; in its order, unless it is held.
    pub(super) fn add(&mut self, number: LaneNumber, id: QueueId, spot: Option<Spot>) {
        if let Some(slot) = self.slot_mut(number) {
            slot.waiting += 1;
            if let Some(spot) = spot {
                slot.order.insert(spot, id);
            }
        }
        self.settle(number, None);
    }

    /// A job that is not under lease leaves its lane.
    pub(super) fn remove(&mut self, number: LaneNumber, id: QueueId, spot: Spot) {
        if let Some(slot) = self.slot_mut(number) {
            slot.waiting = slot.waiting.saturating_sub(1);
            slot.order.remove(spot, id);
        }
        self.settle(number, None);
    }

    /// A job that is not under lease is put into the order, or out of it.
    pub(super) fn order(&mut self, number: LaneNumber, id: QueueId, spot: Spot, into: bool) {
        if let Some(slot) = self.slot_mut(number) {
            if into {
                slot.order.insert(spot, id);
            } else {
                slot.order.remove(spot, id);
            }
        }
        self.settle(number, None);
    }

    /// A lease has ended: the job waits again, or is gone.
    pub(super) fn give_back(
        &mut self,
        number: LaneNumber,
        id: QueueId,
        waits: Option<Option<Spot>>,
    ) {
        if let Some(slot) = self.slot_mut(number) {
            let standing = slot.standing;
            let ended = slot.in_flight.min(1);
            slot.in_flight -= ended;
            if let Some(spot) = waits {
                slot.waiting += 1;
                if let Some(spot) = spot {
                    slot.order.insert(spot, id);
                }
            }
            self.rings.ended(standing, ended);
        }
        self.settle(number, None);
    }

    /// How the last attempt in a lane went.
    pub(super) fn went(&mut self, number: LaneNumber, well: bool) {
        let standing = if well {
            Standing::Proven
        } else {
            Standing::Troubled
        };
        let Some(slot) = self.slot_mut(number) else {
            return;
        };
        let before = std::mem::replace(&mut slot.standing, standing);
        let (in_flight, place) = (slot.in_flight, slot.place);
        if before == standing {
            return;
        }
        self.rings.ended(before, in_flight);
        self.rings.began(standing, in_flight);
        if let Place::Ring(place) = place {
            self.rings.remove(before, place, number);
            self.ring(number);
        }
    }

    /// The jobs of a lane that are due after `now`, at most so many, the earliest first.
    pub(super) fn later(&self, number: LaneNumber, now: Timestamp, max: usize) -> Vec<QueueId> {
        let later = self.slot(number).map(|slot| slot.order.later(now, max));
        later.into_iter().flatten().map(|(_, id)| id).collect()
    }

    /// Claims nothing of a lane before that moment.
    pub(super) fn park(&mut self, number: LaneNumber, until: Option<Timestamp>) {
        if let Some(slot) = self.slot_mut(number) {
            slot.parked = until;
        }
        self.settle(number, None);
    }

    /// At most so many of a lane in flight. Whether that is more than before. Of a lane without
    /// jobs it is remembered as far as there is room.
    pub(super) fn limit(&mut self, lane: &Lane, at_once: Option<usize>) -> bool {
        let limit = at_once.map(|n| u64::try_from(n).unwrap_or(u64::MAX));
        let Some(number) = self.number(lane) else {
            let memory = self.known.take(lane);
            self.known.put(lane.clone(), Memory { limit, ..memory });
            return false;
        };
        let mut more = false;
        if let Some(slot) = self.slot_mut(number) {
            let before = std::mem::replace(&mut slot.limit, limit);
            more = limit.unwrap_or(u64::MAX) > before.unwrap_or(u64::MAX);
        }
        self.settle(number, None);
        more
    }

    /// Takes what is due, lane by lane in turn, and counts it as in flight.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        max: usize,
        cap: usize,
    ) -> Vec<(LaneNumber, QueueId)> {
        let cap = u64::try_from(cap).unwrap_or(u64::MAX);
        if self.cap != cap {
            self.cap = cap;
            for number in 0..self.slots.len() {
                self.settle(
                    LaneNumber::try_from(number).unwrap_or(LaneNumber::MAX),
                    None,
                );
            }
        }
        self.ripen(now);
        let mut taken = Vec::new();
        while taken.len() < max {
            let room = u64::try_from(max - taken.len()).unwrap_or(u64::MAX);
            let Some((number, most)) = self.rings.next(room) else {
                break;
            };
            self.turn(number, now, most.min(QUANTUM), &mut taken);
        }
        taken
    }

    /// When [`Lanes::take`] might find something.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        if self.rings.is_empty() {
            self.later.first().map(|&(due, _)| due)
        } else {
            Some(now)
        }
    }

    /// Lanes with jobs, by name.
    pub(super) fn summaries(&self) -> Vec<LaneSummary> {
        let mut all: Vec<_> = self
            .slots
            .iter()
            .flatten()
            .filter(|slot| slot.waiting + slot.in_flight > 0)
            .map(|slot| LaneSummary {
                lane: slot.name.clone(),
                waiting: slot.waiting,
                in_flight: slot.in_flight,
                deferred: slot.order.deferred(),
                next_due: slot.order.next_due(),
                parked_until: slot.parked,
                limit: slot.limit,
                last_attempt: match slot.standing {
                    Standing::Unproven => None,
                    Standing::Proven => Some(LaneState::Well),
                    Standing::Troubled => Some(LaneState::Failed),
                },
            })
            .collect();
        all.sort_by(|a, b| a.lane.cmp(&b.lane));
        all
    }

    fn ripen(&mut self, now: Timestamp) {
        while let Some(&(until, number)) = self.idle.first()
            && until <= now
        {
            self.park(number, None);
        }
        while let Some(&(due, number)) = self.later.first()
            && due <= now
        {
            self.later.pop_first();
            self.ring(number);
        }
    }

    fn ring(&mut self, number: LaneNumber) {
        let Some(standing) = self.slot(number).map(|slot| slot.standing) else {
            return;
        };
        let place = Place::Ring(self.rings.push(standing, number));
        if let Some(slot) = self.slot_mut(number) {
            slot.place = place;
        }
    }

    /// A lane, out of its ring, takes what is due, and no more than so many.
    fn turn(
        &mut self,
        number: LaneNumber,
        now: Timestamp,
        most: u64,
        taken: &mut Vec<(LaneNumber, QueueId)>,
    ) {
        let cap = self.cap;
        let Some(slot) = self.slot_mut(number) else {
            return;
        };
        slot.place = Place::None;
        if slot.parked.is_some_and(|until| until <= now) {
            slot.parked = None;
        }
        let standing = slot.standing;
        let mut began = 0;
        if slot.parked.is_none() {
            while began < most && slot.in_flight < slot.cap(cap) {
                let Some(id) = slot.order.take(now) else {
                    break;
                };
                slot.waiting = slot.waiting.saturating_sub(1);
                slot.in_flight += 1;
                began += 1;
                taken.push((number, id));
            }
        }
        self.rings.began(standing, began);
        self.settle(number, Some(now));
    }

    /// Puts a lane where it belongs after anything has changed about it.
    fn settle(&mut self, number: LaneNumber, now: Option<Timestamp>) {
        let cap = self.cap;
        let Some(slot) = self.slot_mut(number) else {
            return;
        };
        let was = slot.place;
        if matches!(was, Place::Ring(_)) {
            return;
        }
        let place = if slot.waiting + slot.in_flight == 0 {
            slot.parked.map(Place::Idle)
        } else if cap > 0 && slot.in_flight >= slot.cap(cap) {
            Some(Place::None)
        } else {
            let next = slot.order.next_due();
            let next = next.map(|due| slot.parked.map_or(due, |until| until.max(due)));
            Some(next.map_or(Place::None, Place::Later))
        };
        slot.place = place.unwrap_or(Place::None);
        match was {
            Place::Later(at) => {
                self.later.remove(&(at, number));
            }
            Place::Idle(at) => {
                self.idle.remove(&(at, number));
            }
            Place::None | Place::Ring(_) => {}
        }
        match place {
            Some(Place::Later(at)) if now.is_some_and(|now| at <= now) => self.ring(number),
            Some(Place::Later(at)) => {
                self.later.insert((at, number));
            }
            Some(Place::Idle(at)) => {
                self.idle.insert((at, number));
            }
            Some(Place::None | Place::Ring(_)) => {}
            None => self.forget(number),
        }
    }

    fn forget(&mut self, number: LaneNumber) {
        if let Some(slot) = self.place_mut(number).and_then(Option::take) {
            self.numbers.remove(&slot.name);
            self.free.push(number);
            let (standing, limit) = (slot.standing, slot.limit);
            self.known.put(slot.name, Memory { standing, limit });
        }
    }

    fn place_mut(&mut self, number: LaneNumber) -> Option<&mut Option<Slot>> {
        self.slots.get_mut(usize::try_from(number).ok()?)
    }

    fn slot_mut(&mut self, number: LaneNumber) -> Option<&mut Slot> {
        self.place_mut(number)?.as_mut()
    }

    fn slot(&self, number: LaneNumber) -> Option<&Slot> {
        self.slots.get(usize::try_from(number).ok()?)?.as_ref()
    }
}
