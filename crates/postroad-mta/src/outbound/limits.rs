//! What the limits of routes let begin now; and claims that are given back, since they do not.

use std::sync::atomic::Ordering;

use postroad_queue::{AttemptRecord, Claimed};
use postroad_routing::Rate;
use tracing::debug;

use super::Outbound;
use super::job::Together;
use super::rates::Counted;
use super::work::Work;

impl Outbound {
    /// Whether the limits of the routes let the job go on now.
    pub(crate) fn may_begin(&self, work: &mut Work<'_>, ways: &[Together]) -> bool {
        let lane = &work.job.lease.lane;
        let usual = work.settings.config.per_destination;
        let limits = || {
            ways.iter()
                .filter_map(|way| way.route.options.limits.as_deref())
        };
        let most = limits().filter_map(|limits| limits.per_destination).min();
        let most = most.unwrap_or(usual);
        if most > usual {
            // The store holds back what no route asks for.
            self.widest.fetch_max(most, Ordering::Relaxed);
        }
        let (fits, tell) = self.known().admit(lane, most);
        self.tell(lane, tell);
        if !fits {
            work.is_full = true;
            return false;
        }
        for limits in limits() {
            let Some(rate) = limits.messages else {
                continue;
            };
            if !self.take_token(work, &limits.name, Counted::Messages, rate) {
                return false;
            }
            work.tokens.push((limits.name.clone(), rate));
        }
        true
    }

    /// What was taken of the rates of messages and not used is there for others: those behind a
    /// rate whose hosts are dead take nothing from those whose hosts live.
    pub(crate) fn return_tokens(&self, work: &mut Work<'_>) {
        for (name, rate) in work.tokens.drain(..) {
            self.rates().give_back(&name, Counted::Messages, rate);
        }
    }

    /// Takes one of what a rate allows; where there is none, the job's lane is left alone until
    /// there is.
    pub(crate) fn take_token(
        &self,
        work: &mut Work<'_>,
        name: &str,
        counted: Counted,
        rate: Rate,
    ) -> bool {
        let now = self.clock.now();
        let lane = &work.job.lease.lane;
        let mut known = self.known();
        let until = match known.throttled(lane, now) {
            // Others of the lane have a turn already: they all come back for that, and take no
            // other's.
            Some(until) => {
                if self.rates().take_if_any(name, counted, rate, now) {
                    return true;
                }
                until
            }
            None => match self.rates().take(name, counted, rate, now) {
                Ok(()) => return true,
                Err(until) => until,
            },
        };
        let what = counted.name();
        let (count, seconds) = (rate.count, rate.per.as_secs_f64());
        let why = format!("the rate of {name}: {count} {what} in {seconds} s");
        known.throttle(lane, until, why.clone());
        drop(known);
        self.store.park(lane, until);
        debug!(%lane, why, "a lane waits for its rate");
        work.away = Some((until, why));
        false
    }

    /// Ends a lease as if there had been none: the claim has come to nothing, through no fault of
    /// the message, and is not counted. When its lane may be claimed from again, the store knows.
    pub(crate) async fn return_claim(&self, job: &Claimed) {
        let lease = &job.lease;
        let record = AttemptRecord {
            // Where nothing was tried yet, it keeps its place in the line.
            next_due: (job.attempts == 0).then_some(job.message.arrived),
            ..AttemptRecord::default()
        };
        if let Err(error) = self.store.record(self.clock.now(), lease, record).await {
            // It ends by itself.
            debug!(queue_id = %lease.id, %error, "a claim cannot be given back");
        }
    }
}
