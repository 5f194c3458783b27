//! What an attempt makes of a job, in absolute terms, so that applying it twice is applying it
//! once: a store may find it in two places after a crash.

use postroad_mail::Timestamp;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::id::QueueId;
use crate::jobs::lanes::LaneNumber;
use crate::jobs::{Entry, Flow, Job, Jobs};
use crate::outcome::{Outcome, RecipientState};
use crate::store::{AttemptRecord, Lane, Lease, StoreError};

/// What an attempt makes of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The lane of the job.
    pub lane: Lane,
    /// The recipients that have come to a final state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finals: Vec<(u32, RecipientState)>,
    /// Attempts made, this one included.
    pub attempts: u32,
    /// When those that still wait are due.
    pub due: Timestamp,
    /// Whether the sender has been told of the delay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warned: bool,
}

/// All that the table knows of a message, but its leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Octets of the message.
    pub size: u64,
    /// Whether it is held.
    pub held: bool,
    /// Whose mail it is.
    pub flow: Flow,
    /// Its lanes in which a recipient waits.
    pub jobs: Vec<SavedJob>,
    /// The recipients in a final state, in order.
    pub done: Vec<(u32, RecipientState)>,
}

/// One lane of a message, as [`Jobs::save`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedJob {
    /// Which.
    pub lane: Lane,
    /// Recipients that wait.
    pub waiting: u32,
    /// Attempts made.
    pub attempts: u32,
    /// When the next is due.
    pub due: Timestamp,
    /// Whether the sender has been told of the delay.
    pub warned: bool,
}

impl<P> Jobs<P> {
    /// What a record makes of the job under this lease. The lease no longer ends by itself
    /// until [`Jobs::settle`] or [`Jobs::unpin`]: the store may write it down in between.
    ///
    /// A change for a recipient that the lease does not cover is ignored.
    ///
    /// # Errors
    /// Where the lease is lost.
    pub fn settlement(
        &mut self,
        now: Timestamp,
        lease: &Lease,
        record: &AttemptRecord,
    ) -> Result<Settlement, StoreError> {
        let lost = || StoreError::LeaseLost(lease.id);
        let number = self.holds(now, lease)?;
        let job = *self.job_mut(lease.id, number).ok_or_else(lost)?;
        let grant = self.grants.get(&(lease.id, number)).ok_or_else(lost)?;
        if grant.expires == Timestamp::MAX {
            return Err(lost()); // a record under this lease is already on its way
        }
        let finals = record
            .changes
            .iter()
            .filter_map(|change| Some((u32::try_from(change.recipient).ok()?, &change.outcome)))
            .filter(|(recipient, _)| grant.recipients.contains(recipient))
            .map(|(recipient, outcome)| (recipient, RecipientState::Waiting.after(outcome)))
            .filter(|(_, state)| state.is_final())
            .collect();
        self.set_expiry(lease.id, number, Timestamp::MAX);
        Ok(Settlement {
            lane: lease.lane.clone(),
            finals,
            attempts: job.attempts.saturating_add(u32::from(record.counts)),
            due: record.next_due.filter(|_| !job.again).unwrap_or(now),
            warned: job.warned || record.warned,
        })
    }

    /// A record could not be written: the lease lasts until then, as if nothing had been said.
    pub fn unpin(&mut self, lease: &Lease, until: Timestamp) {
        if let Ok(number) = self.holds(Timestamp::from_millis(0), lease) {
            self.set_expiry(lease.id, number, until);
        }
    }

    /// Ends a lease with what the attempt made of the job. The message's entry, where that was
    /// its last job: the message is finished and gone from the table.
    pub fn settle(
        &mut self,
        lease: &Lease,
        settlement: &Settlement,
        record: &AttemptRecord,
    ) -> Option<Entry<P>> {
        let number = self.holds(Timestamp::from_millis(0), lease).ok()?;
        let delivered =
            |change: &crate::store::Change| matches!(change.outcome, Outcome::Delivered(_));
        if record.changes.iter().any(delivered) {
            self.lanes.went(number, true);
        } else if record.counts && settlement.finals.is_empty() {
            self.lanes.went(number, false);
        }
        self.write_into(lease.id, number, settlement);
        let finished = self
            .job_mut(lease.id, number)
            .is_none_or(|job| job.waiting == 0);
        if finished {
            self.end_grant(lease.id, number);
            self.lanes.give_back(number, lease.id, None);
            self.drop_job(lease.id, number)
        } else {
            if let Some(job) = self.job_mut(lease.id, number) {
                job.again = false;
            }
            self.end_lease(lease.id, number);
            None
        }
    }

    /// Applies what was found written down, as a store does when it opens. The message's entry,
    /// where it is finished by that.
    pub fn restore(&mut self, id: QueueId, settlement: &Settlement) -> Option<Entry<P>> {
        let number = self.lanes.number(&settlement.lane)?;
        let job = *self.job_mut(id, number)?;
        if job.leased {
            return None;
        }
        let (held, flow) = (self.messages.get(&id)).map(|entry| (entry.held, entry.flow))?;
        self.lanes.order(number, id, job.spot(flow), false);
        self.write_into(id, number, settlement);
        let job = *self.job_mut(id, number)?;
        if job.waiting == 0 {
            self.lanes.remove(number, id, job.spot(flow));
            return self.drop_job(id, number);
        }
        self.lanes.order(number, id, job.spot(flow), !held);
        None
    }

    /// All that the table knows of a message, but its leases.
    #[must_use]
    pub fn save(&self, id: QueueId) -> Option<Saved> {
        let entry = self.messages.get(&id)?;
        let jobs = entry.jobs.iter().filter_map(|job| {
            Some(SavedJob {
                lane: self.lanes.name(job.lane)?.clone(),
                waiting: job.waiting,
                attempts: job.attempts,
                due: job.due,
                warned: job.warned,
            })
        });
        Some(Saved {
            size: entry.size,
            held: entry.held,
            flow: entry.flow,
            jobs: jobs.collect(),
            done: entry.done().to_vec(),
        })
    }

    /// Puts back what was saved.
    pub fn load(&mut self, id: QueueId, place: P, saved: Saved) {
        self.remove(id);
        let mut jobs = SmallVec::with_capacity(saved.jobs.len());
        for job in saved.jobs {
            let lane = self.lanes.intern(&job.lane);
            let job = Job {
                due: job.due,
                lane,
                waiting: job.waiting,
                attempts: job.attempts,
                warned: job.warned,
                leased: false,
                again: false,
            };
            let spot = job.spot(saved.flow);
            self.lanes.add(lane, id, (!saved.held).then_some(spot));
            jobs.push(job);
        }
        self.bytes = self.bytes.saturating_add(saved.size);
        self.held += u64::from(saved.held);
        let entry = Entry {
            place,
            size: saved.size,
            jobs,
            done: (!saved.done.is_empty()).then(|| Box::new(saved.done)),
            held: saved.held,
            flow: saved.flow,
        };
        self.messages.insert(id, entry);
    }

    fn write_into(&mut self, id: QueueId, number: LaneNumber, settlement: &Settlement) {
        let Some(entry) = self.messages.get_mut(&id) else {
            return;
        };
        let mut finished = 0_u32;
        for &(recipient, state) in &settlement.finals {
            finished += u32::from(entry.finish(recipient, state));
        }
        if let Some(job) = entry.jobs.iter_mut().find(|job| job.lane == number) {
            job.waiting = job.waiting.saturating_sub(finished);
            if settlement.attempts >= job.attempts {
                job.attempts = settlement.attempts;
                job.due = settlement.due;
            }
            job.warned |= settlement.warned;
        }
    }

    /// A finished job goes; the entry with it, where it was the last.
    fn drop_job(&mut self, id: QueueId, number: LaneNumber) -> Option<Entry<P>> {
        let entry = self.messages.get_mut(&id)?;
        entry.jobs.retain(|job| job.lane != number);
        if entry.jobs.is_empty() {
            self.remove(id)
        } else {
            None
        }
    }
}
