//! One job from claim to record.

use std::collections::BTreeMap;
use std::time::Duration;

use postroad_mail::{Reply, ReversePath, Timestamp, escape_peer_text};
use postroad_queue::{AttemptRecord, Change, Claimed, Evidence, Next, Outcome, StoreError};
use postroad_routing::{Destination, Route, RouteError, RouteRequest};
use tracing::{error, info, warn};

use super::destinations::Verdict;
use super::lanes::PATIENCE;
use super::run::Running;
use super::table::Retry;
use super::trail::Trail;
use super::work::{Found, Work};
use super::{Outbound, chronicle, replies};
use crate::bounce::{self, Ended};

/// A pause before a record that failed is tried again: while it is not written, the lease is ours.
const RECORD_PAUSE: Duration = Duration::from_secs(1);
/// How often it is tried.
const RECORD_TRIES: u32 = 5;
/// When a message whose time is up is tried again, where its notice could not be queued.
const NOTICE_AGAIN: Duration = Duration::from_secs(15 * 60);
/// Who is greylisted is tried again within this time …
const SOON: Duration = Duration::from_secs(5 * 60);
/// … at the first so many attempts.
const SOON_ATTEMPTS: u32 = 3;
/// Whose mailbox is full is not tried again within this time.
const LATER: Duration = Duration::from_secs(3600);

/// What a job has come to, for who started it.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobEnd {
    /// What it says of the destination.
    pub(crate) destination: Verdict,
    /// What went wrong.
    pub(crate) error: Option<String>,
    /// It is no longer counted as under way.
    pub(crate) is_withdrawn: bool,
}

/// Recipients that travel together: one route, one reverse-path.
#[derive(Debug)]
pub(crate) struct Together {
    pub(crate) route: Route,
    pub(crate) from: ReversePath,
    pub(crate) recipients: Vec<usize>,
}

impl Outbound {
    /// `running`: as what it counts as under way.
    pub(crate) async fn run_job(&self, job: Claimed, running: Option<&mut Running>) {
        let settings = self.settings.load_full();
        let began = self.clock.now();
        let mut work = Work::new(&settings, &job, Trail::new(self.history.is_some()));
        let ways = self.routes(&mut work).await;
        if self.may_begin(&mut work, &ways) {
            let cut = tokio::select! {
                biased;
                () = self.follow_all(&mut work, &ways) => false,
                () = self.cut.cancelled() => true,
            };
            work.is_cut = cut;
        }
        self.return_tokens(&mut work);
        let end = JobEnd {
            destination: work.destination,
            error: work.error.take(),
            is_withdrawn: work.is_full,
        };
        if let Some(running) = running {
            running.end(&end);
        }
        if work.is_stopped() {
            work.drop_weak();
        }
        if work.is_stopped() && work.found.is_empty() {
            self.return_claim(&job).await;
            return;
        }
        if work.waits_for_a_host() {
            self.known().waits(&job.lease.lane);
        }
        if !work.is_stopped() {
            // Whoever has no result would be due again at once, and for ever.
            for &index in &job.recipients {
                let none = || Found::new(Outcome::Deferred(self.own(replies::NO_HOST)));
                work.found.entry(index).or_insert_with(none);
            }
        }
        let lanes = std::mem::take(&mut work.revived);
        self.settle(work, began).await;
        if end.destination == Verdict::Well {
            self.revive(&job.lease.lane);
        }
        for lane in &lanes {
            self.revive(lane);
        }
    }

    async fn follow_all(&self, work: &mut Work<'_>, ways: &[Together]) {
        for way in ways {
            if work.is_stopped() {
                break;
            }
            work.has_asked = false;
            self.follow(work, &way.route, &way.recipients).await;
            if work.has_asked {
                work.use_token(way);
            }
        }
    }

    /// Which recipients go which way; those that go none have their result already.
    async fn routes(&self, work: &mut Work<'_>) -> Vec<Together> {
        let message = &work.job.message;
        let envelope = &message.envelope;
        let mut ways: Vec<Together> = Vec::new();
        for &index in &work.job.recipients {
            let Some(recipient) = envelope.recipients().get(index) else {
                continue;
            };
            let from = envelope.reverse_path(index);
            let request = RouteRequest {
                recipient: &recipient.address,
                sender: from,
                user: message.origin.user.as_deref(),
                network: message.origin.address,
                size: message.size,
            };
            let routing = tokio::time::timeout(PATIENCE, work.settings.router.route(&request));
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
                    let mut all = ways.iter_mut();
                    match all.find(|way| way.route == route && way.from == *from) {
                        Some(way) => way.recipients.push(index),
                        None => ways.push(Together {
                            route,
                            from: from.clone(),
                            recipients: vec![index],
                        }),
                    }
                }
                Err(error) => {
                    // What went wrong inside is for the operator only.
                    let detail = escape_peer_text(&error.to_string());
                    warn!(queue_id = %message.id, detail, "a route cannot be found now");
                    work.set(index, Outcome::Deferred(self.own(replies::NO_ROUTE)));
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

    /// When those who wait are due again.
    fn next(&self, work: &Work<'_>, now: Timestamp) -> Next {
        let (message, schedule) = (&work.job.message, &work.settings.config.schedule);
        let attempts = work.job.attempts + 1;
        let spread = message.id.to_bytes().last().copied().unwrap_or(0);
        let next = schedule.next(message.arrived, attempts, now, spread);
        let Next::Retry(at) = next else {
            return next;
        };
        if work.is_full {
            return Next::Retry(now);
        }
        if let Some((until, _)) = &work.away {
            return Next::Retry(at.min(*until));
        }
        Next::Retry(match work.retry() {
            Retry::Usual => at,
            Retry::Soon if attempts <= SOON_ATTEMPTS => at.min(now + SOON),
            Retry::Soon => at,
            Retry::Later => at.max(now + LATER).min(schedule.expires(message.arrived)),
        })
    }

    /// Expiry, notices, the log and the record.
    async fn settle(&self, mut work: Work<'_>, began: Timestamp) {
        let now = self.clock.now();
        let (settings, job) = (work.settings, work.job);
        let (message, schedule) = (&job.message, &settings.config.schedule);
        let next = self.next(&work, now);
        let mut ended = ended(std::mem::take(&mut work.found), next);
        let mut late = !job.warned && schedule.is_late(message.arrived, now);
        let owed = bounce::notices(
            settings,
            job,
            &ended,
            late,
            schedule.expires(message.arrived),
            now,
        )
        .await;
        let (notices, shown): (Vec<_>, Vec<_>) = owed.all.into_iter().unzip();
        let mut next_due = match next {
            Next::Retry(at) => Some(at),
            Next::Expired => None,
        };
        if owed.is_put_off {
            ended.values_mut().for_each(Ended::put_off);
            next_due = Some(next_due.unwrap_or(now + NOTICE_AGAIN));
            late = false;
        }
        for (&index, end) in &ended {
            log(job, index, end, now);
        }
        let steps = work.trail.take();
        let attempt = self
            .history
            .as_ref()
            .map(|_| chronicle::attempt(job, began, steps, &ended, next_due));
        let all_final = ended
            .values()
            .all(|end| !matches!(end.outcome, Outcome::Deferred(_)))
            && ended.len() == job.recipients.len();
        let record = AttemptRecord {
            changes: ended
                .into_iter()
                .map(|(recipient, end)| Change {
                    recipient,
                    outcome: end.outcome,
                })
                .collect(),
            next_due,
            counts: true,
            warned: late,
            notices,
        };
        match self.write_down(job, &record).await {
            Ok(()) => {
                for notice in &shown {
                    info!(queue_id = %message.id, kind = notice.kind, about = notice.about, to = notice.to, "notice queued");
                }
                if let Some(attempt) = attempt {
                    self.chronicle(job, now, attempt, &shown, all_final).await;
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

/// What has come of it for each recipient, once it is known whether there is a next time.
fn ended(found: BTreeMap<usize, Found>, next: Next) -> BTreeMap<usize, Ended> {
    let end = |(index, found): (usize, Found)| {
        let expired = matches!(
            (&found.outcome, next),
            (Outcome::Deferred(_), Next::Expired)
        );
        let outcome = match found.outcome {
            Outcome::Deferred(evidence) if expired => Outcome::Failed(evidence),
            other => other,
        };
        let end = Ended {
            outcome,
            expired,
            hop_notifies: found.hop_notifies,
        };
        (index, end)
    };
    found.into_iter().map(end).collect()
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
