//! The table against a model that looks at every job: nothing is lost, handed out twice, or left
//! lying while there is room, and the shares hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use postroad_mail::Timestamp;
use proptest::prelude::*;

use super::tests::{START, request, said};
use crate::id::{Mint, QueueId};
use crate::jobs::lanes::Standing;
use crate::jobs::{Flow, Jobs, Ticket};
use crate::outcome::Outcome;
use crate::store::{AttemptRecord, ClaimRequest, Lane, Operation};

const LANES: u8 = 5;
const LEASE: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
enum Step {
    Insert { flow: u8, lanes: Vec<u8> },
    Claim(usize),
    Settle { which: usize, came: u8, wait: u64 },
    GiveBack { which: usize, wait: Option<u64> },
    Wait(u64),
    Park { lane: u8, wait: u64 },
    Limit { lane: u8, limit: Option<usize> },
    Operate { which: usize, how: Operation },
    Hasten { lane: u8, max: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lanes = prop::collection::vec(0..LANES, 1..3);
    let operations = prop::sample::select(vec![
        Operation::Hold,
        Operation::Release,
        Operation::Retry,
        Operation::Remove,
    ]);
    let step = prop_oneof![
        6 => (0..4_u8, lanes).prop_map(|(flow, lanes)| Step::Insert { flow, lanes }),
        5 => (0..12_usize).prop_map(Step::Claim),
        8 => (any::<usize>(), 0..4_u8, 0..900_u64)
            .prop_map(|(which, came, wait)| Step::Settle { which, came, wait }),
        1 => (any::<usize>(), prop::option::of(0..900_u64))
            .prop_map(|(which, wait)| Step::GiveBack { which, wait }),
        3 => (0..700_u64).prop_map(Step::Wait),
        1 => (0..LANES, 0..900_u64).prop_map(|(lane, wait)| Step::Park { lane, wait }),
        1 => (0..LANES, prop::option::of(0..5_usize))
            .prop_map(|(lane, limit)| Step::Limit { lane, limit }),
        1 => (any::<usize>(), operations).prop_map(|(which, how)| Step::Operate { which, how }),
        1 => (0..LANES, 0..3_usize).prop_map(|(lane, max)| Step::Hasten { lane, max }),
    ];
    prop::collection::vec(step, 1..120)
}

#[derive(Clone, Debug)]
struct Job {
    due: Timestamp,
    /// Under lease, until then.
    expires: Option<Timestamp>,
    again: bool,
    /// Recipients of the message, by place.
    recipients: Vec<usize>,
}

#[derive(Default)]
struct Model {
    jobs: BTreeMap<(QueueId, u8), Job>,
    held: BTreeSet<QueueId>,
    parked: BTreeMap<u8, Timestamp>,
    limits: BTreeMap<u8, usize>,
    standing: BTreeMap<u8, Standing>,
}

impl Model {
    fn under_lease(&self, is: impl Fn(u8) -> bool) -> usize {
        let leased = self.jobs.iter().filter(|(_, job)| job.expires.is_some());
        leased.filter(|((_, lane), _)| is(*lane)).count()
    }

    fn is_proven(&self, lane: u8) -> bool {
        self.standing.get(&lane) == Some(&Standing::Proven)
    }

    /// Whether a job could be claimed, were there room in its lane.
    fn may(&self, now: Timestamp, key: (QueueId, u8)) -> bool {
        let job = &self.jobs[&key];
        let parked = self.parked.get(&key.1).is_some_and(|until| *until > now);
        job.expires.is_none() && job.due <= now && !parked && !self.held.contains(&key.0)
    }

    /// How many of a lane could be claimed at once.
    fn claimable(&self, now: Timestamp, lane: u8) -> usize {
        let all = self.jobs.keys().filter(|key| key.1 == lane);
        let all = all.filter(|key| self.may(now, **key)).count();
        let cap = self.limits.get(&lane).copied().unwrap_or(20).min(20);
        all.min(cap.saturating_sub(self.under_lease(|of| of == lane)))
    }

    fn expire(&mut self, now: Timestamp) {
        for job in self.jobs.values_mut() {
            if job.expires.is_some_and(|at| at <= now) {
                job.expires = None;
            }
        }
    }
}

struct World {
    now: Timestamp,
    mint: Mint,
    jobs: Jobs<()>,
    model: Model,
    tickets: Vec<Ticket>,
    lanes_of: BTreeMap<QueueId, Vec<Lane>>,
}

fn name(lane: u8) -> Lane {
    Lane::new(&format!("{lane}.example"))
}

fn number(lane: &Lane) -> u8 {
    lane.as_str().split('.').next().unwrap().parse().unwrap()
}

impl World {
    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Insert { flow, lanes } => self.insert(flow, &lanes),
            Step::Claim(max) => self.claim(max),
            Step::Settle { which, came, wait } => self.settle(which, came, wait),
            Step::GiveBack { which, wait } => {
                if let Some(ticket) = self.ticket(which) {
                    let due = wait.map(|wait| now + Duration::from_secs(wait));
                    self.jobs.give_back(&ticket.lease, due);
                    let job = self.leased(&ticket);
                    job.expires = None;
                    job.due = due.unwrap_or(job.due);
                }
            }
            Step::Wait(seconds) => self.now = now + Duration::from_secs(seconds),
            Step::Park { lane, wait } => {
                let until = now + Duration::from_secs(wait);
                self.jobs.park(&name(lane), until);
                self.model.parked.insert(lane, until);
            }
            Step::Limit { lane, limit } => {
                self.jobs.limit(&name(lane), limit);
                self.model.limits.remove(&lane);
                if let Some(limit) = limit {
                    self.model.limits.insert(lane, limit);
                }
            }
            Step::Operate { which, how } => self.operate(which, how),
            Step::Hasten { lane, max } => {
                let mut later: Vec<_> = self.model.jobs.iter_mut().collect();
                later.retain(|((id, of), job)| {
                    let held = self.model.held.contains(id);
                    *of == lane && !held && job.expires.is_none() && job.due > now
                });
                later.sort_by_key(|((id, _), job)| (job.due, *id));
                let hastened = later.into_iter().take(max);
                let count = hastened.map(|(_, job)| job.due = now).count();
                assert_eq!(self.jobs.hasten(&name(lane), now, max), count);
            }
        }
    }

    fn insert(&mut self, flow: u8, lanes: &[u8]) {
        let id = self.mint.next(self.now);
        let names: Vec<_> = lanes.iter().map(|lane| name(*lane)).collect();
        self.jobs
            .insert(id, (), 1, self.now, Flow::from_bits(flow), &names);
        for (recipient, lane) in lanes.iter().enumerate() {
            let job = self.model.jobs.entry((id, *lane)).or_insert(Job {
                due: self.now,
                expires: None,
                again: false,
                recipients: Vec::new(),
            });
            job.recipients.push(recipient);
        }
        self.lanes_of.insert(id, names);
    }

    /// A lease that is still good.
    fn ticket(&mut self, which: usize) -> Option<Ticket> {
        let now = self.now;
        let model = &self.model;
        self.tickets.retain(|ticket| {
            let key = (ticket.lease.id, number(&ticket.lease.lane));
            let job = model.jobs.get(&key);
            job.is_some_and(|job| job.expires.is_some_and(|at| at > now))
        });
        let length = self.tickets.len();
        (length > 0).then(|| self.tickets.remove(which % length))
    }

    fn leased(&mut self, ticket: &Ticket) -> &mut Job {
        let key = (ticket.lease.id, number(&ticket.lease.lane));
        self.model.jobs.get_mut(&key).unwrap()
    }

    fn claim(&mut self, max: usize) {
        let now = self.now;
        if max > 0 {
            self.model.expire(now);
            self.model.parked.retain(|_, until| *until > now);
        }
        let room: usize = (0..LANES).map(|lane| self.model.claimable(now, lane)).sum();
        if room > 0 {
            assert!(self.jobs.next_due(now).is_some_and(|due| due <= now));
        }
        let total = self.model.under_lease(|_| true);
        let before = self.model.under_lease(|lane| !self.model.is_proven(lane));
        let wanted = ClaimRequest {
            lease: LEASE,
            ..request(max)
        };
        let tickets = self.jobs.claim(now, &wanted);
        assert_eq!(tickets.len(), room.min(max), "what may be claimed is");
        for ticket in tickets {
            let key = (ticket.lease.id, number(&ticket.lease.lane));
            assert!(self.model.may(now, key), "{key:?}");
            self.jobs
                .cover(&ticket.lease, &self.lanes_of[&key.0])
                .unwrap();
            let job = self.leased(&ticket);
            job.expires = Some(now + LEASE);
            job.again = false;
            let same = |other: &Ticket| {
                (other.lease.id, &other.lease.lane) == (ticket.lease.id, &ticket.lease.lane)
            };
            self.tickets.retain(|other| !same(other));
            self.tickets.push(ticket);
        }
        if room.min(max) == 0 && max > 0 {
            let next = self.jobs.next_due(now);
            assert!(next.is_none_or(|due| due > now), "nobody asks in vain");
        }
        let proven = (0..LANES).filter(|lane| self.model.is_proven(*lane));
        let waits: usize = proven.map(|lane| self.model.claimable(now, lane)).sum();
        let after = self.model.under_lease(|lane| !self.model.is_proven(lane));
        let share = ((total + max) / 4).max(1);
        assert!(
            waits == 0 || after <= before.max(share),
            "{after} of {total} + {max}"
        );
        for summary in self.jobs.lanes() {
            let lane = number(&summary.lane);
            let leased = self.model.under_lease(|of| of == lane);
            let all = self.model.jobs.keys().filter(|key| key.1 == lane).count();
            if max > 0 {
                assert_eq!(summary.in_flight, leased as u64);
                assert_eq!(summary.waiting, (all - leased) as u64);
            }
        }
    }

    /// 0: some are delivered to, 1: all have failed, 2: all wait, 3: it does not count.
    fn settle(&mut self, which: usize, came: u8, wait: u64) {
        let Some(ticket) = self.ticket(which) else {
            return;
        };
        let now = self.now;
        let due = now + Duration::from_secs(wait);
        let recipients = self.leased(&ticket).recipients.clone();
        let outcome = |came| match came {
            0 => Outcome::Delivered,
            1 => Outcome::Failed,
            _ => Outcome::Deferred,
        };
        let mut record = AttemptRecord {
            counts: came != 3,
            next_due: Some(due),
            ..AttemptRecord::default()
        };
        for recipient in recipients.iter().take(usize::from(came != 3) * 2) {
            let mut changes = said(outcome(came), None).changes;
            changes[0].recipient = *recipient;
            record.changes.append(&mut changes);
        }
        let settlement = self.jobs.settlement(now, &ticket.lease, &record).unwrap();
        self.jobs.settle(&ticket.lease, &settlement, &record);
        let lane = number(&ticket.lease.lane);
        match came {
            0 => drop(self.model.standing.insert(lane, Standing::Proven)),
            2 => drop(self.model.standing.insert(lane, Standing::Troubled)),
            _ => {}
        }
        if came < 2 {
            self.model.jobs.remove(&(ticket.lease.id, lane));
        } else {
            let job = self.leased(&ticket);
            job.expires = None;
            job.due = if job.again { now } else { due };
            job.again = false;
        }
    }

    fn operate(&mut self, which: usize, how: Operation) {
        let mut ids: Vec<_> = self.model.jobs.keys().map(|key| key.0).collect();
        ids.dedup();
        if ids.is_empty() {
            return;
        }
        let id = ids[which % ids.len()];
        assert!(self.jobs.operate(self.now, how, id));
        match how {
            Operation::Hold => drop(self.model.held.insert(id)),
            Operation::Release => drop(self.model.held.remove(&id)),
            Operation::Remove => self.model.jobs.retain(|key, _| key.0 != id),
            Operation::Retry => {
                for ((of, lane), job) in &mut self.model.jobs {
                    if *of == id {
                        job.due = self.now;
                        job.again = job.expires.is_some();
                        self.model.parked.remove(lane);
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn all_that_may_be_claimed_is(steps in steps()) {
        let mut world = World {
            now: START,
            mint: Mint::new(1),
            jobs: Jobs::default(),
            model: Model::default(),
            tickets: Vec::new(),
            lanes_of: BTreeMap::new(),
        };
        for step in steps {
            world.step(step);
        }
        // And in the end everything comes out.
        for lane in 0..LANES {
            world.step(Step::Limit { lane, limit: None });
        }
        world.now = world.now + Duration::from_secs(3600);
        world.model.held.clear();
        for id in world.lanes_of.keys() {
            world.jobs.operate(world.now, Operation::Release, *id);
        }
        while !world.jobs.is_empty() {
            let before = world.model.jobs.len();
            world.step(Step::Claim(7));
            for _ in 0..7 {
                world.step(Step::Settle { which: 0, came: 0, wait: 0 });
            }
            prop_assert!(world.model.jobs.len() < before);
        }
        prop_assert!(world.model.jobs.is_empty());
        prop_assert_eq!(world.jobs.totals().in_flight, 0);
    }
}
