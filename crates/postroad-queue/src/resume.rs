//! Where a message stands that comes from another queue.

use std::collections::HashMap;

use postroad_mail::Timestamp;
use serde::{Deserialize, Serialize};

use crate::jobs::{Flow, Saved, SavedJob};
use crate::outcome::{Evidence, RecipientState};
use crate::store::{Lane, Listed};

/// Where a message stands that comes from another queue: when it came, what was tried, and which
/// recipients have it already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// When it came: what its lifetime in the queue counts from.
    pub arrived: Timestamp,
    /// Whether it is held.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Each recipient, in order. Those beyond the end are as new.
    pub recipients: Vec<Resumed>,
}

/// Where one recipient stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Waiting, or done with.
    #[serde(default)]
    pub state: RecipientState,
    /// Attempts made.
    #[serde(default)]
    pub attempts: u32,
    /// When the next is due; at once, where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// Whether the sender has been told of the delay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warned: bool,
    /// What came of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Evidence>,
}

impl Resume {
    /// As a listing of the other queue says.
    #[must_use]
    pub fn of(listed: &Listed) -> Self {
        let recipients = listed.recipients.iter().map(|recipient| Resumed {
            state: recipient.state,
            attempts: recipient.attempts,
            due: recipient.due,
            warned: recipient.warned,
            last: recipient.last.clone(),
        });
        Self {
            arrived: listed.arrived,
            held: listed.held,
            recipients: recipients.collect(),
        }
    }

    /// As a table of jobs takes it, given the size of the message, whose it is, and the lane of
    /// each recipient: for stores. A lane is due when the first of its recipients is, at `now` where that is not
    /// known. `None` where no recipient waits.
    #[must_use]
    pub fn saved(&self, now: Timestamp, size: u64, flow: Flow, lanes: &[Lane]) -> Option<Saved> {
        let new = Resumed::default();
        let mut saved = Saved {
            size,
            held: self.held,
            flow,
            jobs: Vec::new(),
            done: Vec::new(),
        };
        let mut jobs: HashMap<&Lane, usize> = HashMap::new();
        for (place, lane) in lanes.iter().enumerate() {
            let recipient = self.recipients.get(place).unwrap_or(&new);
            if recipient.state.is_final() {
                let place = u32::try_from(place).unwrap_or(u32::MAX);
                saved.done.push((place, recipient.state));
                continue;
            }
            let due = recipient.due.unwrap_or(now);
            let job = *jobs.entry(lane).or_insert(saved.jobs.len());
            match saved.jobs.get_mut(job) {
                Some(job) => {
                    job.waiting += 1;
                    job.attempts = job.attempts.max(recipient.attempts);
                    job.due = job.due.min(due);
                    job.warned |= recipient.warned;
                }
                None => saved.jobs.push(SavedJob {
                    lane: lane.clone(),
                    waiting: 1,
                    attempts: recipient.attempts,
                    due,
                    warned: recipient.warned,
                }),
            }
        }
        (!saved.jobs.is_empty()).then_some(saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{START, at};

    fn resumed(state: RecipientState, attempts: u32, due: Option<u64>) -> Resumed {
        Resumed {
            state,
            attempts,
            due: due.map(at),
            warned: attempts > 2,
            last: None,
        }
    }

    fn saved(recipients: Vec<Resumed>, lanes: &[&str]) -> Option<Saved> {
        let resume = Resume {
            arrived: START,
            held: true,
            recipients,
        };
        let lanes: Vec<_> = lanes.iter().map(|lane| Lane::new(lane)).collect();
        resume.saved(at(7), 99, Flow::default(), &lanes)
    }

    #[test]
    fn recipients_of_a_lane_are_one_job() {
        use RecipientState::{Delivered, Removed, Waiting};
        let recipients = vec![
            resumed(Waiting, 1, Some(50)),
            resumed(Delivered, 1, None),
            resumed(Waiting, 3, Some(40)),
            resumed(Waiting, 2, None),
            resumed(Removed, 0, None),
        ];
        // The last is not in it: as new.
        let saved = saved(recipients, &["a", "b", "a", "b", "c", "d"]).unwrap();
        assert_eq!((saved.size, saved.held), (99, true));
        assert_eq!(saved.done, [(1, Delivered), (4, Removed)]);
        let jobs: Vec<_> = saved
            .jobs
            .iter()
            .map(|job| {
                (
                    job.lane.as_str(),
                    job.waiting,
                    job.attempts,
                    job.due,
                    job.warned,
                )
            })
            .collect();
        assert_eq!(
            jobs,
            [
                ("a", 2, 3, at(40), true),
                ("b", 1, 2, at(7), false),
                ("d", 1, 0, at(7), false)
            ]
        );
    }

    #[test]
    fn where_nobody_waits_there_is_nothing() {
        let done = || resumed(RecipientState::Failed, 1, None);
        assert_eq!(saved(vec![done(), done()], &["a", "b"]), None);
        assert!(saved(vec![done()], &["a", "b"]).is_some());
    }

    #[test]
    fn many_lanes_take_no_longer_each() {
        let names: Vec<_> = (0..50_000).map(|n| format!("lane{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(saved(Vec::new(), &names).unwrap().jobs.len(), names.len());
    }
}
