//! Each thing that can be done to a store, done to the model too.

use std::collections::BTreeSet;
use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::contract::{START, draft, evidence, read, request};
use postroad_queue::{
    AttemptRecord, Change, Claimed, Filter, Lane, Notice, Operation, Outcome, QueueId,
    RecipientState, Resume, Resumed, Store as _, StoreError,
};

use super::model::{Event, Message, Owed, State, What};
use super::survival::{INLINE_MAX, listing};
use super::world::{Held, How, World};

const HEAD: &[u8] = b"Subject: test\r\n\r\n";

const TO: [&[&str]; 4] = [
    &["u@a.example"],
    &["u@b.example"],
    &["u@a.example", "v@b.example"],
    &["u@a.example", "v@a.example", "w@c.example", "x@b.example"],
];

impl World {
    pub(super) fn accept(&mut self, to: usize, big: bool, resumes: bool) {
        let to = TO[to % TO.len()];
        let (body, whole) = self.body(big);
        let mut draft = draft(to);
        let lanes: Vec<String> = draft.lanes.iter().map(ToString::to_string).collect();
        let mut message = Message {
            whole,
            arrived: self.now,
            acked: false,
            live: false,
            base: State::new(&lanes, self.now),
            since: Vec::new(),
        };
        if resumes {
            message.arrived = START;
            draft.resumes = Some(resume(&mut message.base, self.count, self.now));
        }
        let id = match self.store().begin(self.now) {
            Err(error) => {
                assert!(self.faulty, "{error}");
                return;
            }
            Ok(mut incoming) => {
                let id = incoming.id();
                self.model.messages.insert(id, message);
                self.mark();
                let (now, runtime) = (self.now, &self.runtime);
                let committed = runtime.block_on(async {
                    for chunk in body.chunks(700) {
                        incoming.write(chunk.to_vec().into()).await?;
                    }
                    incoming.commit(now, draft).await
                });
                match committed {
                    Ok(committed) => assert_eq!(committed, id),
                    Err(error) => {
                        assert!(self.faulty, "{error}");
                        return;
                    }
                }
                id
            }
        };
        let message = self.model.messages.get_mut(&id).unwrap();
        (message.acked, message.live) = (true, true);
        self.mark();
    }

    /// One as no other, and the message that is made of it.
    fn body(&mut self, big: bool) -> (Vec<u8>, Vec<u8>) {
        self.count += 1;
        let length = if big { INLINE_MAX + 1000 } else { 10 } + self.count;
        let n = self.count;
        let body: Vec<u8> = (0..length)
            .map(|at| b'!' + u8::try_from((at * n) % 90).unwrap())
            .collect();
        let whole = [HEAD, &body].concat();
        (body, whole)
    }

    pub(super) fn claim(&mut self, max: usize, per_lane: usize) {
        let claims = self
            .runtime
            .block_on(self.store().claim(self.now, &request(max, per_lane)));
        self.claims.retain(|held| held.expires > self.now);
        let claims = match claims {
            Ok(claims) => claims,
            Err(error) => {
                assert!(self.faulty, "{error}");
                return;
            }
        };
        for claimed in &claims {
            let lane = claimed.lease.lane.as_str();
            let message = &self.model.messages[&claimed.lease.id];
            let state = message.now();
            let job = state.lane(lane).unwrap();
            assert_eq!(
                (claimed.attempts, claimed.warned, &claimed.recipients),
                (job.attempts, job.warned, &state.waiting(lane))
            );
            if !self.faulty {
                let whole = self.runtime.block_on(read(&*claimed.content));
                assert!(whole == message.whole, "{}", claimed.lease.id);
            }
        }
        if self.faulty {
            self.put_off();
        } else {
            self.compare(&claims, claims.len() == max, per_lane);
        }
        let expires = self.now + Duration::from_secs(60);
        self.claims.extend(claims.into_iter().map(|claimed| Held {
            claimed,
            expires,
            again: false,
        }));
    }

    /// What could not be read when it was claimed is due later; that is not written down.
    fn put_off(&mut self) {
        for (due, id, lane, _) in self.due() {
            let job = self.store().inner().table().job(id, &Lane::new(&lane));
            let Some(job) = job.filter(|job| job.scheduled > due) else {
                continue;
            };
            let what = What::Attempt {
                lane,
                finals: Vec::new(),
                attempts: job.attempts,
                due: job.scheduled,
                warned: job.warned,
                notice: false,
            };
            self.happens(id, what);
            self.newest(id).shaky = true;
        }
    }

    /// Those were claimed that are due, as many as may be: of each lane the first of those that
    /// were tried before, and of the others.
    fn compare(&self, claims: &[Claimed], full: bool, per_lane: usize) {
        let due = self.due();
        let mut lanes: BTreeSet<&str> = due.iter().map(|(.., lane, _)| lane.as_str()).collect();
        lanes.extend(claims.iter().map(|claimed| claimed.lease.lane.as_str()));
        for lane in lanes {
            let flying = self.claims.iter();
            let flying = flying.filter(|held| held.claimed.lease.lane.as_str() == lane);
            let room = per_lane.saturating_sub(flying.count());
            let of_lane = || claims.iter().filter(|c| c.lease.lane.as_str() == lane);
            let there = due.iter().filter(|(.., of, _)| of == lane).count();
            assert!(full || of_lane().count() == there.min(room), "{lane}");
            for tried in [false, true] {
                let found = of_lane().filter(|c| (c.attempts > 0) == tried);
                let found: Vec<QueueId> = found.map(|claimed| claimed.lease.id).collect();
                let first = due
                    .iter()
                    .filter(|(.., of, was)| of == lane && *was == tried);
                let first = first.map(|(_, id, ..)| *id).take(found.len());
                assert_eq!(found, first.collect::<Vec<_>>(), "{lane}, tried: {tried}");
            }
        }
    }

    /// What may be claimed now, in order, and whether it was tried before.
    fn due(&self) -> Vec<(Timestamp, QueueId, String, bool)> {
        let mut due = Vec::new();
        for (id, message) in self.model.messages.iter().filter(|(_, m)| m.live) {
            let state = message.now();
            let jobs = state.lanes.iter().filter(|_| !state.held);
            for job in jobs.filter(|job| job.due <= self.now) {
                if !self.is_leased(*id, &job.name) {
                    due.push((job.due, *id, job.name.clone(), job.attempts > 0));
                }
            }
        }
        due.sort();
        due
    }

    fn is_leased(&self, id: QueueId, lane: &str) -> bool {
        self.claims
            .iter()
            .any(|held| held.claimed.lease.id == id && held.claimed.lease.lane.as_str() == lane)
    }

    pub(super) fn record(&mut self, pick: usize, how: How, fired: u64) {
        if self.claims.is_empty() {
            return;
        }
        let held = self.claims.remove(pick % self.claims.len());
        let (id, lane) = (held.claimed.lease.id, held.claimed.lease.lane.to_string());
        let job = self.model.messages.get(&id).map(Message::now);
        let job = job.and_then(|state| state.lane(&lane).cloned());
        let lost = held.expires <= self.now || job.is_none();
        let due = job.as_ref().map_or(self.now, |job| job.due);
        let (record, told) = self.attempt(&held.claimed, how, due);
        let mut about = None;
        if let Some(job) = job.filter(|_| !lost) {
            let state = |outcome: &Outcome| RecipientState::Waiting.after(outcome);
            let finals = record.changes.iter();
            let finals = finals.map(|change| (change.recipient, state(&change.outcome)));
            let what = What::Attempt {
                lane,
                finals: finals.filter(|(_, state)| state.is_final()).collect(),
                attempts: job.attempts + u32::from(record.counts),
                due: if held.again {
                    self.now
                } else {
                    record.next_due.unwrap_or(self.now)
                },
                warned: job.warned || record.warned,
                notice: told.is_some(),
            };
            self.happens(id, what);
            if let Some(message) = told {
                self.model.owed = Some(Owed { about: id, message });
            }
            self.mark();
            about = Some(id);
        }
        let recorded =
            self.runtime
                .block_on(self.store().record(self.now, &held.claimed.lease, record));
        match recorded {
            Ok(()) => {
                assert!(about.is_some(), "a lost lease counts for nothing");
                self.told(id);
            }
            Err(StoreError::LeaseLost(_)) => assert!(lost),
            Err(error) => {
                assert!(self.faulty && self.io.0.fired() != fired, "{error}");
                let event = self.newest(id);
                (event.holds, event.shaky) = (false, true);
                if let Some(owed) = self.model.owed.take() {
                    self.model.refused.push(owed.message);
                }
            }
        }
        self.mark();
    }

    /// The notice of the record that has just been written has a name by now.
    fn told(&mut self, about: QueueId) {
        let Some(mut owed) = self.model.owed.take() else {
            return;
        };
        let listed = self.runtime.block_on(listing(self.store()));
        let new = listed.iter().find(|listed| {
            !self.model.messages.contains_key(&listed.id)
                && listed.size == owed.message.whole.len() as u64
        });
        (owed.message.acked, owed.message.live) = (true, true);
        self.model.messages.insert(new.unwrap().id, owed.message);
        self.newest(about).sure = true;
    }

    fn newest(&mut self, id: QueueId) -> &mut Event {
        let message = self.model.messages.get_mut(&id).unwrap();
        message.since.last_mut().unwrap()
    }

    fn happens(&mut self, id: QueueId, what: What) {
        let message = self.model.messages.get_mut(&id).unwrap();
        message.since.push(Event {
            what,
            synced: false,
            sure: false,
            shaky: false,
            holds: true,
        });
    }

    fn attempt(
        &mut self,
        claimed: &Claimed,
        how: How,
        due: Timestamp,
    ) -> (AttemptRecord, Option<Message>) {
        let now = self.now;
        let each = claimed.recipients.iter().enumerate();
        let changes = each.map(|(nth, &recipient)| {
            let evidence = evidence(now);
            let outcome = match how {
                How::Deliver => Outcome::Delivered(evidence),
                How::Partly(_) if nth == 0 => Outcome::Delivered(evidence),
                How::Fail | How::FailAndTell => Outcome::Failed(evidence),
                _ => Outcome::Deferred(evidence),
            };
            Change { recipient, outcome }
        });
        let later = |seconds| Some(now + Duration::from_secs(seconds));
        let mut record = AttemptRecord {
            changes: changes.collect(),
            next_due: match how {
                How::Defer(seconds) | How::Partly(seconds) | How::DeferAndTell(seconds) => {
                    later(seconds)
                }
                How::GiveBack => Some(due),
                How::Deliver | How::Fail | How::FailAndTell => None,
            },
            counts: how != How::GiveBack,
            ..AttemptRecord::default()
        };
        if how == How::GiveBack {
            record.changes.clear();
        }
        if !matches!(how, How::FailAndTell | How::DeferAndTell(_)) {
            return (record, None);
        }
        record.warned = matches!(how, How::DeferAndTell(_));
        let (body, whole) = self.body(false);
        let to = "alice@sender.example";
        let message = Message {
            whole,
            arrived: now,
            acked: false,
            live: false,
            base: State::new(&["sender.example".to_owned()], now),
            since: Vec::new(),
        };
        record.notices.push(Notice {
            draft: draft(&[to]),
            body: body.into(),
        });
        (record, Some(message))
    }

    pub(super) fn operate(&mut self, pick: usize, operation: Operation) {
        let ids: Vec<QueueId> = self.model.messages.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[pick % ids.len()];
        let message = &self.model.messages[&id];
        let there = message.live && !message.now().is_gone();
        if there {
            self.happens(
                id,
                match operation {
                    Operation::Hold => What::Hold,
                    Operation::Release => What::Release,
                    Operation::Retry => What::Retry(self.now),
                    Operation::Remove => What::Removed,
                },
            );
        }
        self.mark();
        let only = Filter {
            ids: vec![id],
            ..Filter::default()
        };
        let done = self
            .runtime
            .block_on(self.store().operate(self.now, operation, &only));
        match done {
            Ok(done) => assert_eq!(done, u64::from(there)),
            Err(error) => {
                assert!(self.faulty, "{error}");
                let event = self.newest(id);
                (event.holds, event.shaky) = (false, true);
                return;
            }
        }
        let leases = self.claims.iter_mut();
        for held in leases.filter(|held| held.claimed.lease.id == id) {
            held.again |= operation == Operation::Retry;
        }
        if operation == Operation::Remove {
            self.claims.retain(|held| held.claimed.lease.id != id);
        }
    }
}

/// Where a message from another queue stands.
fn resume(state: &mut State, n: usize, now: Timestamp) -> Resume {
    let attempts = u32::try_from(n % 3 + 1).unwrap();
    let due = now + Duration::from_secs(n as u64 % 90);
    state.held = n.is_multiple_of(5);
    for lane in &mut state.lanes {
        (lane.attempts, lane.due, lane.warned) = (attempts, due, n.is_multiple_of(2));
    }
    // The first has it already, where there are others.
    let first = state.recipients.len() > 1;
    if first {
        let lane = state.recipients[0].0.clone();
        state.recipients[0].1 = RecipientState::Delivered;
        if state.waiting(&lane).is_empty() {
            state.lanes.retain(|of| of.name != lane);
        }
    }
    let each = state.recipients.iter().map(|(_, state)| Resumed {
        state: *state,
        attempts,
        due: Some(due),
        warned: n.is_multiple_of(2),
        last: None,
    });
    Resume {
        arrived: START,
        held: state.held,
        recipients: each.collect(),
    }
}
