//! One job from claim to record.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postroad_mail::{EnhancedCode, Recipient, Reply, ReversePath, escape_peer_text};
use postroad_message::return_path_header;
use postroad_queue::{AttemptRecord, Change, Claimed, Evidence, Next, Outcome};
use postroad_routing::{Destination, Hop, HopPlan, PlanError, Route, RouteRequest};
use tracing::{error, info, warn};

use super::attempt::{Results, Way};
use super::classify::own_reply;
use super::content::Pieces;
use super::{Outbound, Settings, maildir};
use crate::bounce::{self, Ended};

/// A pause before a record that failed is tried again: while it is not written, the lease is ours.
const RECORD_PAUSE: Duration = Duration::from_secs(1);
/// How often it is tried.
const RECORD_TRIES: u32 = 5;

impl Outbound {
    pub(crate) async fn run_job(&self, job: Claimed) {
        let settings = self.settings.load_full();
        let mut results = Results::new();
        for (route, recipients) in self.routes(&settings, &job, &mut results).await {
            let more = self.follow(&settings, &job, route, &recipients).await;
            results.extend(more);
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
            match settings.router.route(&request).await {
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
                    let reply = own_reply(451, EnhancedCode::transient(4, 3), error.to_string());
                    results.insert(index, (Outcome::Deferred(self.own(reply)), false));
                }
            }
        }
        ways
    }

    async fn follow(
        &self,
        settings: &Settings,
        job: &Claimed,
        route: Route,
        recipients: &[usize],
    ) -> Results {
        let all = |outcome: Outcome| {
            recipients
                .iter()
                .map(|&n| (n, (outcome.clone(), false)))
                .collect()
        };
        let seed = u64::from_be_bytes(std::array::from_fn(|n| {
            job.message.id.to_bytes().get(n + 8).copied().unwrap_or(0)
        }));
        let (plan, port, implicit_tls) = match &route.destination {
            Destination::Mx(domain) => {
                let Some(domain) = domain else {
                    return Results::new();
                };
                (
                    settings
                        .mx
                        .mx(domain, seed.wrapping_add(u64::from(job.attempts)))
                        .await,
                    settings.config.port,
                    false,
                )
            }
            Destination::Hops(hops) => {
                return self
                    .follow_hops(settings, job, &route, hops, recipients)
                    .await;
            }
            Destination::Maildir(directory) => {
                return self.maildir(job, directory, recipients).await;
            }
            Destination::Discard => {
                let reply = own_reply(
                    250,
                    EnhancedCode::success(0, 0),
                    "Discarded by a route".to_owned(),
                );
                return all(Outcome::Delivered(self.own(reply)));
            }
            Destination::Reject(reply) => return all(Outcome::Failed(self.own(reply.clone()))),
            Destination::Defer(reply) => return all(Outcome::Deferred(self.own(reply.clone()))),
            _ => {
                let reply = own_reply(
                    451,
                    EnhancedCode::transient(3, 5),
                    "The route leads where this version cannot go".to_owned(),
                );
                return all(Outcome::Deferred(self.own(reply)));
            }
        };
        match plan {
            Ok(plan) => {
                let way = Way {
                    plan,
                    port,
                    implicit_tls,
                    options: route.options,
                };
                self.attempt(settings, job, recipients, &way).await
            }
            Err(error) => all(self.unplanned(error)),
        }
    }

    /// Hosts named by the route, each with a port of its own.
    async fn follow_hops(
        &self,
        settings: &Settings,
        job: &Claimed,
        route: &Route,
        hops: &[Hop],
        recipients: &[usize],
    ) -> Results {
        let mut results = Results::new();
        let mut waiting = recipients.to_vec();
        for hop in hops {
            let more = match settings.mx.host(&hop.host).await {
                Ok(plan) => {
                    let way = Way {
                        plan: HopPlan { hosts: plan.hosts },
                        port: hop.port,
                        implicit_tls: hop.implicit_tls,
                        options: route.options.clone(),
                    };
                    self.attempt(settings, job, &waiting, &way).await
                }
                Err(error) => {
                    let outcome = self.unplanned(error);
                    waiting
                        .iter()
                        .map(|&n| (n, (outcome.clone(), false)))
                        .collect()
                }
            };
            results.extend(more);
            waiting.retain(|n| matches!(results.get(n), Some((Outcome::Deferred(_), _)) | None));
            if waiting.is_empty() {
                break;
            }
        }
        results
    }

    fn unplanned(&self, error: PlanError) -> Outcome {
        match error {
            PlanError::Permanent(reply) => Outcome::Failed(self.own(reply)),
            PlanError::Temporary(reply) => Outcome::Deferred(self.own(reply)),
        }
    }

    async fn maildir(&self, job: &Claimed, directory: &Path, recipients: &[usize]) -> Results {
        let mut results = Results::new();
        let envelope = &job.message.envelope;
        for &index in recipients {
            let Some(Recipient { address, .. }) = envelope.recipients().get(index) else {
                continue;
            };
            let name = format!(
                "{}.{}_{index}.postroad",
                job.message.arrived.as_millis() / 1000,
                job.message.id
            );
            let header = format!(
                "{}Delivered-To: {address}\r\n",
                return_path_header(&envelope.from)
            );
            let mut pieces = Pieces::new(Arc::clone(&job.content));
            let delivering = maildir::deliver(directory, &name, &header, &mut pieces);
            let outcome = match delivering.await {
                Ok(file) => {
                    self.maildir_delivered(&file, &envelope.from.to_string(), &address.to_string());
                    let reply = own_reply(
                        250,
                        EnhancedCode::success(1, 5),
                        format!("Delivered to {}", directory.display()),
                    );
                    Outcome::Delivered(self.own(reply))
                }
                // A copy under this name is one whose record was lost in a crash.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let reply = own_reply(
                        250,
                        EnhancedCode::success(1, 5),
                        "Delivered before".to_owned(),
                    );
                    Outcome::Delivered(self.own(reply))
                }
                Err(error) => {
                    warn!(queue_id = %job.message.id, directory = %directory.display(), %error, "a Maildir cannot be written");
                    let reply = own_reply(
                        451,
                        EnhancedCode::transient(3, 0),
                        "The mailbox cannot be written now".to_owned(),
                    );
                    Outcome::Deferred(self.own(reply))
                }
            };
            results.insert(index, (outcome, false));
        }
        results
    }

    /// What was found here, not said by a hop.
    fn own(&self, reply: Reply) -> Evidence {
        Evidence {
            at: self.clock.now(),
            hop: None,
            remote_mta: None,
            reply,
            remote: false,
            tls: None,
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
        let notices = bounce::notices(
            &settings.config,
            job,
            &ended,
            late,
            schedule.expires(message.arrived),
            now,
        )
        .await;
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
        self.write_down(job, &record).await;
    }

    async fn write_down(&self, job: &Claimed, record: &AttemptRecord) {
        for attempt in 1..=RECORD_TRIES {
            match self
                .store
                .record(self.clock.now(), &job.lease, record.clone())
                .await
            {
                Ok(()) => return,
                Err(error) => {
                    error!(queue_id = %job.message.id, %error, attempt, "what came of an attempt cannot be written down; the message may be sent again");
                    if matches!(
                        error,
                        postroad_queue::StoreError::LeaseLost(_)
                            | postroad_queue::StoreError::Closed
                    ) {
                        return;
                    }
                    tokio::time::sleep(RECORD_PAUSE).await;
                }
            }
        }
    }
}

fn log(job: &Claimed, index: usize, end: &Ended, now: postroad_mail::Timestamp) {
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
