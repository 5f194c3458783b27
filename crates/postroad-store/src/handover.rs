//! Messages that have just been accepted wait in memory for their first attempt, so that the
//! usual message is written once and never read.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::QueueId;

use crate::inner::Ready;

/// Octets counted for a recipient of a message in memory.
const RECIPIENT_WEIGHT: usize = 256;
/// How long a message waits in memory for its first attempt before others may have its place.
const AGE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// Each with the number of its jobs that have not come for it.
    messages: HashMap<QueueId, (Ready, usize)>,
    order: VecDeque<(QueueId, Timestamp)>,
    octets: usize,
}

impl Handover {
    /// Keeps a message, where that is within `max` octets.
    pub(crate) fn put(&mut self, ready: Ready, now: Timestamp, max: usize) {
        let weight = weight(&ready);
        self.forget_old(now);
        if self.octets.saturating_add(weight) > max {
            return;
        }
        let jobs = match &*ready.lanes {
            [_] => 1,
            lanes => {
                let mut lanes: Vec<_> = lanes.iter().collect();
                lanes.sort();
                lanes.dedup();
                lanes.len()
            }
        };
        self.octets += weight;
        self.order.push_back((ready.info.id, now));
        self.messages.insert(ready.info.id, (ready, jobs));
    }

    pub(crate) fn get(&self, id: QueueId) -> Option<Ready> {
        self.messages.get(&id).map(|(ready, _)| ready.clone())
    }

    /// One of its jobs has been attempted.
    pub(crate) fn used(&mut self, id: QueueId) {
        let Some((_, jobs)) = self.messages.get_mut(&id) else {
            return;
        };
        *jobs = jobs.saturating_sub(1);
        if *jobs == 0 {
            self.remove(id);
        }
    }

    pub(crate) fn remove(&mut self, id: QueueId) {
        if let Some((ready, _)) = self.messages.remove(&id) {
            self.octets = self.octets.saturating_sub(weight(&ready));
        }
    }

    /// The place of those that nobody came for is for others.
    pub(crate) fn forget_old(&mut self, now: Timestamp) {
        while let Some(&(id, since)) = self.order.front()
            && (now.since(since) > AGE_MAX || !self.messages.contains_key(&id))
        {
            self.order.pop_front();
            self.remove(id);
        }
    }
}

/// Octets that it takes in memory: its content, and about as much again for its envelope as its
/// addresses are long.
fn weight(ready: &Ready) -> usize {
    let size = usize::try_from(ready.info.size).unwrap_or(usize::MAX);
    size.saturating_add(RECIPIENT_WEIGHT * ready.lanes.len().saturating_add(1))
}
