//! The table of jobs that stores schedule by: what is due, in which order, and under whose lease.
//!
//! A job is the waiting recipients of one message in one lane. The table knows nothing of
//! content; each message carries a `P`, its place in the store that owns the table. It has no
//! lock and no clock: the store gives it both.

mod flow;
mod lanes;
#[cfg(test)]
mod properties;
mod settlement;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use postroad_mail::Timestamp;
use smallvec::SmallVec;

use crate::id::QueueId;
use crate::jobs::lanes::{LaneNumber, Lanes, Spot};
use crate::outcome::RecipientState;
use crate::store::{ClaimRequest, Lane, LaneSummary, Lease, Operation, StoreError, Totals};

pub use flow::Flow;
pub use settlement::{Saved, SavedJob, Settlement};

/// The table. All operations but listings cost a logarithm of its size.
#[derive(Debug)]
pub struct Jobs<P> {
    messages: BTreeMap<QueueId, Entry<P>>,
    lanes: Lanes,
    grants: HashMap<(QueueId, LaneNumber), Grant>,
    expiry: BTreeSet<(Timestamp, QueueId, LaneNumber)>,
    last_token: u64,
    held: u64,
    bytes: u64,
}

/// A message with a recipient that waits.
#[derive(Debug)]
pub struct Entry<P> {
    /// Where the store has it.
    pub place: P,
    size: u64,
    jobs: SmallVec<[Job; 1]>,
    #[expect(
        clippy::box_collection,
        reason = "a word in the usual message, of which there may be millions; a Vec is three"
    )]
    done: Option<Box<Vec<(u32, RecipientState)>>>,
    held: bool,
    flow: Flow,
}

/// One lane of a message.
#[derive(Clone, Copy, Debug)]
struct Job {
    due: Timestamp,
    lane: LaneNumber,
    waiting: u32,
    attempts: u32,
    warned: bool,
    leased: bool,
    /// A retry was asked for while it was under lease: due at once when that ends.
    again: bool,
}

/// Lanes of one message that are looked through to find one of them; beyond, they are indexed.
const FEW_LANES: usize = 8;

// There may be millions of them.
const _: () = assert!(size_of::<Job>() <= 24);

impl Job {
    /// Where it stands in its lane, being of that flow.
    fn spot(&self, flow: Flow) -> Spot {
        Spot::new(flow, self.attempts, self.due)
    }
}

#[derive(Debug)]
struct Grant {
    token: u64,
    expires: Timestamp,
    recipients: Vec<u32>,
}

/// What a claim has taken.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The right to it.
    pub lease: Lease,
    /// Attempts made before.
    pub attempts: u32,
    /// Whether the sender has been told of the delay.
    pub warned: bool,
}

/// A job as a listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobView {
    /// Attempts made.
    pub attempts: u32,
    /// When it is tried next; none while under lease or held.
    pub due: Option<Timestamp>,
    /// The same, whether held or not.
    pub scheduled: Timestamp,
    /// Whether the sender has been told of the delay.
    pub warned: bool,
}

impl<P> Default for Jobs<P> {
    fn default() -> Self {
        Self {
            messages: BTreeMap::new(),
            lanes: Lanes::default(),
            grants: HashMap::new(),
            expiry: BTreeSet::new(),
            last_token: 0,
            held: 0,
            bytes: 0,
        }
    }
}

impl<P> Entry<P> {
    /// Octets of the message.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is held.
    #[must_use]
    pub const fn held(&self) -> bool {
        self.held
    }

    /// Where a recipient stands.
    #[must_use]
    pub fn state(&self, recipient: usize) -> RecipientState {
        let Some(done) = &self.done else {
            return RecipientState::Waiting;
        };
        u32::try_from(recipient)
            .ok()
            .and_then(|r| done.binary_search_by_key(&r, |&(place, _)| place).ok())
            .and_then(|at| done.get(at))
            .map_or(RecipientState::Waiting, |&(_, state)| state)
    }

    /// Which recipients still wait in a lane, given the lane of each.
    #[must_use]
    pub fn waiting(&self, lanes: &[Lane], lane: &Lane) -> Vec<usize> {
        lanes
            .iter()
            .enumerate()
            .filter(|(place, of)| *of == lane && !self.state(*place).is_final())
            .map(|(place, _)| place)
            .collect()
    }

    /// The recipients in a final state.
    #[must_use]
    pub fn done(&self) -> &[(u32, RecipientState)] {
        self.done.as_ref().map_or(&[], |done| done.as_slice())
    }

    /// Sets a waiting recipient's final state; whether that changed anything.
    fn finish(&mut self, recipient: u32, state: RecipientState) -> bool {
        if !state.is_final() {
            return false;
        }
        let done = self.done.get_or_insert_default();
        match done.binary_search_by_key(&recipient, |&(place, _)| place) {
            Ok(_) => false,
            Err(at) => {
                done.insert(at, (recipient, state));
                true
            }
        }
    }
}

impl<P> Jobs<P> {
    /// A message comes in, due at that moment; `lanes` has the lane of each recipient, in order.
    /// An id that is there already is replaced.
    pub fn insert(
        &mut self,
        id: QueueId,
        place: P,
        size: u64,
        due: Timestamp,
        flow: Flow,
        lanes: &[Lane],
    ) {
        self.remove(id);
        let mut jobs: SmallVec<[Job; 1]> = SmallVec::new();
        // Of lanes behind the first few; most messages have one, and lists have thousands.
        let mut places = HashMap::new();
        for lane in lanes {
            let lane = self.lanes.intern(lane);
            let mut few = jobs.iter().take(FEW_LANES);
            let place = few.position(|job| job.lane == lane);
            let place = place.or_else(|| places.get(&lane).copied());
            if let Some(job) = place.and_then(|place| jobs.get_mut(place)) {
                job.waiting += 1;
                continue;
            }
            if jobs.len() >= FEW_LANES {
                places.insert(lane, jobs.len());
            }
            jobs.push(Job {
                due,
                lane,
                waiting: 1,
                attempts: 0,
                warned: false,
                leased: false,
                again: false,
            });
            self.lanes.add(lane, id, Some(Spot::new(flow, 0, due)));
        }
        self.bytes = self.bytes.saturating_add(size);
        let entry = Entry {
            place,
            size,
            jobs,
            done: None,
            held: false,
            flow,
        };
        self.messages.insert(id, entry);
    }

    /// A message goes, whatever waits; its leases are lost. Its entry, where it was there.
    pub fn remove(&mut self, id: QueueId) -> Option<Entry<P>> {
        let entry = self.messages.remove(&id)?;
        for job in &entry.jobs {
            if job.leased {
                self.end_grant(id, job.lane);
                self.lanes.give_back(job.lane, id, None);
            } else {
                self.lanes.remove(job.lane, id, job.spot(entry.flow));
            }
        }
        self.bytes = self.bytes.saturating_sub(entry.size);
        self.held = self.held.saturating_sub(u64::from(entry.held));
        Some(entry)
    }

    /// A message.
    #[must_use]
    pub fn get(&self, id: QueueId) -> Option<&Entry<P>> {
        self.messages.get(&id)
    }

    /// A message's place, to change it.
    pub fn place_mut(&mut self, id: QueueId) -> Option<&mut P> {
        self.messages.get_mut(&id).map(|entry| &mut entry.place)
    }

    /// The messages behind `after`, by id.
    pub fn after(&self, after: Option<QueueId>) -> impl Iterator<Item = (QueueId, &Entry<P>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.messages
            .range((from, Bound::Unbounded))
            .map(|(id, entry)| (*id, entry))
    }

    /// Takes no more memory than it needs: for stores, once they have filled it. Maps that are
    /// filled in order are left half empty.
    pub fn shrink(&mut self) {
        if let Some((id, entry)) = self.messages.pop_last() {
            // Appending builds the tree anew, its nodes full, without a copy in between.
            self.messages.append(&mut BTreeMap::from([(id, entry)]));
        }
        self.lanes.shrink();
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes what is due at `now`.
    pub fn claim(&mut self, now: Timestamp, request: &ClaimRequest) -> Vec<Ticket> {
        self.expire(now);
        if request.max == 0 || request.per_lane == 0 {
            return Vec::new();
        }
        let taken = self.lanes.take(now, request.max, request.per_lane);
        let expires = now + request.lease;
        let mut tickets = Vec::with_capacity(taken.len());
        for (number, id) in taken {
            let Some(name) = self.lanes.name(number).cloned() else {
                continue;
            };
            let Some(job) = self.job_mut(id, number) else {
                self.lanes.give_back(number, id, None);
                continue;
            };
            job.leased = true;
            job.again = false; // what was asked for has come
            let (attempts, warned) = (job.attempts, job.warned);
            self.last_token += 1;
            let token = self.last_token;
            let grant = Grant {
                token,
                expires,
                recipients: Vec::new(),
            };
            self.grants.insert((id, number), grant);
            self.expiry.insert((expires, id, number));
            tickets.push(Ticket {
                lease: Lease {
                    id,
                    lane: name,
                    token,
                },
                attempts,
                warned,
            });
        }
        tickets
    }

    /// Says which recipients a lease covers: those that still wait in its lane, given the lane of
    /// each. None where it is lost.
    pub fn cover(&mut self, lease: &Lease, lanes: &[Lane]) -> Option<Vec<usize>> {
        let number = self.lanes.number(&lease.lane)?;
        let waiting = self.messages.get(&lease.id)?.waiting(lanes, &lease.lane);
        let grant = self.grants.get_mut(&(lease.id, number))?;
        if grant.token != lease.token {
            return None;
        }
        grant.recipients = waiting
            .iter()
            .filter_map(|&r| u32::try_from(r).ok())
            .collect();
        Some(waiting)
    }

    /// Ends a lease without a word: the job is due as before, or at `due`.
    pub fn give_back(&mut self, lease: &Lease, due: Option<Timestamp>) {
        let Some(number) = self.lanes.number(&lease.lane) else {
            return;
        };
        if self
            .grants
            .get(&(lease.id, number))
            .is_some_and(|grant| grant.token == lease.token)
        {
            if let (Some(due), Some(job)) = (due, self.job_mut(lease.id, number)) {
                job.due = due;
            }
            self.end_lease(lease.id, number);
        }
    }

    /// Makes a lease last until `now + lasts`.
    ///
    /// # Errors
    /// Where it is lost.
    pub fn renew(
        &mut self,
        now: Timestamp,
        lease: &Lease,
        lasts: Duration,
    ) -> Result<(), StoreError> {
        let number = self.holds(now, lease)?;
        let grant = self.grants.get(&(lease.id, number));
        // While a record is on its way, the lease lasts as long as that takes.
        if grant.is_some_and(|grant| grant.expires < now + lasts) {
            self.set_expiry(lease.id, number, now + lasts);
        }
        Ok(())
    }

    /// Claims nothing of a lane until then.
    pub fn park(&mut self, lane: &Lane, until: Timestamp) {
        let number = self.lanes.intern(lane);
        self.lanes.park(number, Some(until));
    }

    /// At most so many jobs of a lane under lease at once.
    /// Whether that is more than before, so that there may be something to claim.
    pub fn limit(&mut self, lane: &Lane, at_once: Option<usize>) -> bool {
        self.lanes.limit(lane, at_once)
    }

    /// Makes jobs of a lane due now that are due later, at most so many, in order of due time;
    /// says how many. Those that are held or under lease stay as they are.
    pub fn hasten(&mut self, lane: &Lane, now: Timestamp, max: usize) -> usize {
        let Some(number) = self.lanes.number(lane) else {
            return 0;
        };
        let later = self.lanes.later(number, now, max);
        for &id in &later {
            let Some(entry) = self.messages.get_mut(&id) else {
                continue;
            };
            let flow = entry.flow;
            let mut jobs = entry.jobs.iter_mut();
            if let Some(job) = jobs.find(|job| job.lane == number) {
                self.lanes.order(number, id, job.spot(flow), false);
                job.due = now;
                self.lanes.order(number, id, job.spot(flow), true);
            }
        }
        later.len()
    }

    /// When [`Jobs::claim`] might find more than now.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let lease_ends = self.expiry.first().map(|&(at, ..)| at);
        let due = self.lanes.next_due(now);
        match (due, lease_ends) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
        .filter(|&at| at < Timestamp::MAX)
    }

    /// Does something to one message; whether it is there. [`Operation::Remove`] is
    /// [`Jobs::remove`]. A retry ends the parking of the message's lanes: whoever asks for an
    /// attempt now has a reason.
    pub fn operate(&mut self, now: Timestamp, operation: Operation, id: QueueId) -> bool {
        let Some(entry) = self.messages.get_mut(&id) else {
            return false;
        };
        let hold = match operation {
            Operation::Remove => return self.remove(id).is_some(),
            Operation::Retry => {
                for job in &mut entry.jobs {
                    let before = job.spot(entry.flow);
                    job.due = now;
                    if !job.leased && !entry.held {
                        self.lanes.order(job.lane, id, before, false);
                        self.lanes.order(job.lane, id, job.spot(entry.flow), true);
                    }
                    job.again = job.leased;
                    self.lanes.park(job.lane, None);
                }
                return true;
            }
            Operation::Hold => true,
            Operation::Release => false,
        };
        if entry.held == hold {
            return true;
        }
        entry.held = hold;
        for job in &entry.jobs {
            if !job.leased {
                let spot = job.spot(entry.flow);
                self.lanes.order(job.lane, id, spot, !hold);
            }
        }
        if hold {
            self.held += 1;
        } else {
            self.held = self.held.saturating_sub(1);
        }
        true
    }

    /// One lane of a message, where it still waits.
    #[must_use]
    pub fn job(&self, id: QueueId, lane: &Lane) -> Option<JobView> {
        let number = self.lanes.number(lane)?;
        let entry = self.messages.get(&id)?;
        let job = entry.jobs.iter().find(|job| job.lane == number)?;
        Some(JobView {
            attempts: job.attempts,
            due: (!job.leased && !entry.held).then_some(job.due),
            scheduled: job.due,
            warned: job.warned,
        })
    }

    /// The lanes in which a message still waits.
    #[must_use]
    pub fn lanes_of(&self, id: QueueId) -> Vec<Lane> {
        let jobs = self.messages.get(&id).map(|entry| entry.jobs.as_slice());
        jobs.unwrap_or_default()
            .iter()
            .filter_map(|job| self.lanes.name(job.lane).cloned())
            .collect()
    }

    /// All lanes with jobs, by name.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneSummary> {
        self.lanes.summaries()
    }

    /// The table at a glance.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            messages: u64::try_from(self.messages.len()).unwrap_or(u64::MAX),
            held: self.held,
            bytes: self.bytes,
            in_flight: u64::try_from(self.grants.len()).unwrap_or(u64::MAX),
        }
    }

    /// The lane's number, where the lease is good.
    fn holds(&self, now: Timestamp, lease: &Lease) -> Result<LaneNumber, StoreError> {
        self.lanes
            .number(&lease.lane)
            .filter(|&number| {
                self.grants
                    .get(&(lease.id, number))
                    .is_some_and(|grant| grant.token == lease.token && grant.expires > now)
            })
            .ok_or(StoreError::LeaseLost(lease.id))
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some(&(at, id, number)) = self.expiry.first()
            && at <= now
        {
            self.expiry.pop_first();
            self.end_lease(id, number);
        }
    }

    /// The job waits again.
    fn end_lease(&mut self, id: QueueId, number: LaneNumber) {
        self.end_grant(id, number);
        let waits = self.messages.get_mut(&id).and_then(|entry| {
            let (held, flow) = (entry.held, entry.flow);
            let job = entry.jobs.iter_mut().find(|job| job.lane == number)?;
            job.leased = false;
            Some((!held).then_some(job.spot(flow)))
        });
        self.lanes.give_back(number, id, waits);
    }

    fn end_grant(&mut self, id: QueueId, number: LaneNumber) {
        if let Some(grant) = self.grants.remove(&(id, number)) {
            self.expiry.remove(&(grant.expires, id, number));
        }
    }

    fn set_expiry(&mut self, id: QueueId, number: LaneNumber, at: Timestamp) {
        if let Some(grant) = self.grants.get_mut(&(id, number)) {
            self.expiry.remove(&(grant.expires, id, number));
            grant.expires = at;
            self.expiry.insert((at, id, number));
        }
    }

    fn job_mut(&mut self, id: QueueId, number: LaneNumber) -> Option<&mut Job> {
        let entry = self.messages.get_mut(&id)?;
        entry.jobs.iter_mut().find(|job| job.lane == number)
    }
}
