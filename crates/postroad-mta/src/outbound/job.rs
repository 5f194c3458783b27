//! One job from claim to record.

use std::collections::BTreeMap;
use std::time::Duration;

use postroad_mail::{Reply, ReversePath, Timestamp, escape_peer_text};
use postroad_queue::{AttemptRecord, Change, Claimed, Evidence, Next, Outcome, StoreError};
use postroad_routing::{Destination, Route, RouteError, RouteRequest};
use tracing::{error, info, warn};

use super::attempt::Results;
use super::lanes::PATIENCE;
use super::{Outbound, Settings, replies};
use crate::bounce::{self, Ended};

/// A pause before a record that failed is tried again: while it is not written, the lease is ours.
const RECORD_PAUSE: Duration = Duration::from_secs(1);
/// How often it is tried.
const RECORD_TRIES: u32 = 5;
/// When a message whose time is up is tried again, where its notice could not be queued.
const NOTICE_AGAIN: Duration = Duration::from_secs(15 * 60);

impl Outbound {
    pub(crate) async fn run_job(&self, job: Claimed) {
        let settings = self.settings.load_full();
        let mut results = Results::new();
        for (route, recipients) in self.routes(&settings, &job, &mut results).await {
            let more = self.follow(&settings, &job, route, &recipients).await;
            results.extend(more);
        }
        // Whoever has no result would be due again at once, and for ever.
        for &index in &job.recipients {
            results
                .entry(index)
                .or_insert_with(|| (Outcome::Deferred(self.own(replies::NO_HOST)), false));
        }
        self.settle(&settings, &job, results).await;
    }

    /// Which recipients go which way; those that go none have their result already.
    async fn routes(
        &self,
        settings: &Settings,
        job: &Claimed,
        results: &mut Results,
    ) -> Vec<(Route, Vec<usize>)> {
        let message = &job.message;
        let mut ways: Vec<(Route, Vec<usize>)> = Vec::new();
        for &index in &job.recipients {
            let Some(recipient) = message.envelope.recipients().get(index) else {
                continue;
            };
            let request = RouteRequest {
                recipient: &recipient.address,
                sender: &message.envelope.from,
                user: message.origin.user.as_deref(),
                network: message.origin.address,
                size: message.size,
            };
            let routing = tokio::time::timeout(PATIENCE, settings.router.route(&request));
            let late = |_| RouteError {
                recipient: recipient.address.to_string(),
                detail: format!("no answer within {} s", PATIENCE.as_secs()),
            };
            match routing.await.map_err(late).flatten() {
                Ok(mut route) => {
                    if route.destination == Destination::Mx(None) {
                        route.destination =
                            Destination::Mx(Some(recipient.address.domain().clone()));
                    }
                    match ways.iter_mut().find(|(other, _)| *other == route) {
                        Some((_, together)) => together.push(index),
                        None => ways.push((route, vec![index])),
                    }
                }
                Err(error) => {
                    // What went wrong inside is for the operator only.
                    let detail = escape_peer_text(&error.to_string());
                    warn!(queue_id = %message.id, detail, "a route cannot be found now");
                    let outcome = Outcome::Deferred(self.own(replies::NO_ROUTE));
                    results.insert(index, (outcome, false));
                }
            }
        }
        ways
    }

    /// What was found here, not said by a hop.
    pub(crate) fn own(&self, reply: Reply) -> Evidence {
        Evidence {
            at: self.clock.now(),
            hop: None,
            remote_mta: None,
            reply,
            remote: false,
            tls: None,
        }
    }

    /// Likewise, with a place of ours, which the log shows and a notice does not.
    pub(crate) fn own_at(&self, place: String, reply: Reply) -> Evidence {
        Evidence {
            hop: Some(place),
            ..self.own(reply)
        }
    }

    /// Expiry, notices, the log and the record.
    async fn settle(&self, settings: &Settings, job: &Claimed, results: Results) {
        let now = self.clock.now();
        let (message, schedule) = (&job.message, &settings.config.schedule);
        let spread = message.id.to_bytes().last().copied().unwrap_or(0);
        let next = schedule.next(message.arrived, job.attempts + 1, now, spread);
        let mut ended = BTreeMap::new();
        for (index, (outcome, hop_notifies)) in results {
            let expired = matches!((&outcome, next), (Outcome::Deferred(_), Next::Expired));
            let outcome = match outcome {
                Outcome::Deferred(evidence) if expired => Outcome::Failed(evidence),
                other => other,
            };
            ended.insert(
                index,
                Ended {
                    outcome,
                    expired,
                    hop_notifies,
                },
            );
        }
        for (&index, end) in &ended {
            log(job, index, end, now);
        }
        let late = !job.warned && schedule.is_late(message.arrived, now);
        let owed = bounce::notices(
            settings,
            job,
            &ended,
            late,
            schedule.expires(message.arrived),
            now,
        )
        .await;
        let (notices, shown): (Vec<_>, Vec<_>) = owed.into_iter().unzip();
        let record = AttemptRecord {
            changes: ended
                .into_iter()
                .map(|(recipient, end)| Change {
                    recipient,
                    outcome: end.outcome,
                })
                .collect(),
            next_due: match next {
                Next::Retry(at) => Some(at),
                Next::Expired => None,
            },
            counts: true,
            warned: late,
            notices,
        };
        match self.write_down(job, &record).await {
            Ok(()) => {
                for notice in shown {
                    info!(queue_id = %message.id, kind = notice.kind, about = notice.about, to = notice.to, "notice queued");
                }
            }
            Err(StoreError::LeaseLost(_) | StoreError::Closed) => {}
            Err(_) if record.notices.is_empty() => {}
            Err(_) => {
                for lost in shown {
                    error!(queue_id = %message.id, kind = lost.kind, about = lost.about, to = lost.to, "a notice cannot be queued: whoever failed is tried again later, and a success is not told");
                }
                let _ = self.write_down(job, &without_notices(record, now)).await; // it has said so
            }
        }
    }

    async fn write_down(&self, job: &Claimed, record: &AttemptRecord) -> Result<(), StoreError> {
        let mut attempt = 1;
        loop {
            match self
                .store
                .record(self.clock.now(), &job.lease, record.clone())
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) => {
                    error!(queue_id = %job.message.id, %error, attempt, "what came of an attempt cannot be written down; the message may be sent again");
                    let for_good = matches!(error, StoreError::LeaseLost(_) | StoreError::Closed);
                    if for_good || attempt == RECORD_TRIES {
                        return Err(error);
                    }
                    attempt += 1;
                    tokio::time::sleep(RECORD_PAUSE).await;
                }
            }
        }
    }
}

/// What holds though nobody can be told of it: who has the message is not sent it again; who
/// failed is tried once more, so that the notice is owed again.
fn without_notices(record: AttemptRecord, now: Timestamp) -> AttemptRecord {
    let waits = |change: Change| Change {
        outcome: match change.outcome {
            Outcome::Failed(evidence) => Outcome::Deferred(evidence),
            other => other,
        },
        ..change
    };
    AttemptRecord {
        changes: record.changes.into_iter().map(waits).collect(),
        next_due: Some(record.next_due.unwrap_or(now + NOTICE_AGAIN)),
        counts: record.counts,
        warned: false,
        notices: Vec::new(),
    }
}

fn log(job: &Claimed, index: usize, end: &Ended, now: Timestamp) {
    let message = &job.message;
    let evidence = end.outcome.evidence();
    let queue_id = &message.id;
    let from = match &message.envelope.from {
        ReversePath::Null => "<>".to_owned(),
        ReversePath::Address(address) => escape_peer_text(&address.to_string()),
    };
    let to = message
        .envelope
        .recipients()
        .get(index)
        .map(|r| escape_peer_text(&r.address.to_string()));
    let hop = evidence.hop.as_deref();
    let tls = evidence.tls.as_deref();
    let reply = escape_peer_text(&evidence.reply.to_string());
    let delay_ms = u64::try_from(now.since(message.arrived).as_millis()).unwrap_or(u64::MAX);
    let attempts = job.attempts + 1;
    match &end.outcome {
        Outcome::Delivered(_) => {
            info!(%queue_id, from, to, hop, tls, reply, delay_ms, attempts, "delivered");
        }
        Outcome::Deferred(_) => {
            info!(%queue_id, from, to, hop, tls, reply, delay_ms, attempts, "deferred");
        }
        Outcome::Failed(_) => {
            info!(%queue_id, from, to, hop, tls, reply, delay_ms, attempts, expired = end.expired, "failed");
        }
    }
}
