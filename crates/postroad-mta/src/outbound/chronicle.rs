//! What the history is told of an attempt.

use std::collections::BTreeMap;

use postroad_mail::Timestamp;
use postroad_queue::history::{Attempt, Event, Happening, RecipientOutcome, Step};
use postroad_queue::{Claimed, Outcome, StoreError};

use super::Outbound;
use crate::bounce::{Ended, Shown};

/// Recipients of an attempt whose outcome is kept, at most.
const OUTCOMES_MAX: usize = 300;

/// An attempt, for the history.
pub(crate) fn attempt(
    job: &Claimed,
    began: Timestamp,
    steps: Vec<Step>,
    ended: &BTreeMap<usize, Ended>,
    next_due: Option<Timestamp>,
) -> Attempt {
    let all = job.message.envelope.recipients();
    let outcome = |(&index, end): (&usize, &Ended)| {
        Some(RecipientOutcome {
            recipient: all.get(index)?.address.to_string(),
            outcome: end.outcome.clone(),
            expired: end.expired,
        })
    };
    let waits = ended
        .values()
        .any(|end| matches!(end.outcome, Outcome::Deferred(_)));
    Attempt {
        number: job.attempts + 1,
        lane: job.lease.lane.as_str().to_owned(),
        began,
        steps,
        outcomes: ended
            .iter()
            .filter_map(outcome)
            .take(OUTCOMES_MAX)
            .collect(),
        next_due: next_due.filter(|_| waits),
    }
}

impl Outbound {
    /// Tells the history of an attempt that has been recorded, of its notices, and, where nobody
    /// waits any more, that the message has left.
    pub(crate) async fn chronicle(
        &self,
        job: &Claimed,
        at: Timestamp,
        attempt: Attempt,
        notices: &[Shown],
        all_final: bool,
    ) {
        let Some(history) = &self.history else {
            return;
        };
        let id = job.message.id;
        let tell = |what| history.record(Event { id, at, what });
        tell(Happening::Attempt(attempt));
        for notice in notices {
            tell(Happening::Notice {
                kind: notice.kind.to_owned(),
                about: notice.about.clone(),
                to: notice.to.clone(),
            });
        }
        if all_final && self.has_left(job).await {
            tell(Happening::Left);
        }
    }

    /// Whether no recipient of a message waits any more, in any lane.
    async fn has_left(&self, job: &Claimed) -> bool {
        if job.recipients.len() == job.message.envelope.recipients().len() {
            return true;
        }
        let content = self.store.content(job.message.id).await;
        matches!(content, Err(StoreError::NotFound(_)))
    }
}
