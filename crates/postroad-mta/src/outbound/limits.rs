//! What the limits of routes let begin now; and claims that are given back, since they do not.

use postroad_mail::Timestamp;
use postroad_queue::{AttemptRecord, Lease};
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
        let (fits, tell) = self.known().admit(lane, most.unwrap_or(usual));
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
        let until = match self.rates().take(name, counted, rate, now) {
            Ok(()) => return true,
            Err(until) => until,
        };
        // Others of the lane have a turn already: they all come back for that.
        let until = self.known().throttled(lane, now).unwrap_or(until);
        let what = counted.name();
        let (count, seconds) = (rate.count, rate.per.as_secs_f64());
        let why = format!("the rate of {name}: {count} {what} in {seconds} s");
        self.store.park(lane, until);
        self.known().throttle(lane, until, why.clone());
        debug!(%lane, why, "a lane waits for its rate");
        work.away = Some((until, why));
        false
    }

    /// A claim that has come to nothing, through no fault of the message: it is not counted.
    pub(crate) async fn give_back(&self, work: &Work<'_>) {
        for (name, rate) in &work.tokens {
            self.rates().give_back(name, Counted::Messages, *rate);
        }
        let due = work.away.as_ref().map(|(until, _)| *until);
        self.return_claim(&work.job.lease, due).await;
    }

    /// Ends a lease as if there had been none.
    pub(crate) async fn return_claim(&self, lease: &Lease, due: Option<Timestamp>) {
        let record = AttemptRecord {
            next_due: due,
            ..AttemptRecord::default()
        };
        if let Err(error) = self.store.record(self.clock.now(), lease, record).await {
            // It ends by itself.
            debug!(queue_id = %lease.id, %error, "a claim cannot be given back");
        }
    }
}
