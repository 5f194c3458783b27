//! The loop of delivery: claims what is due and starts it, as far as there is room.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postroad_queue::{ClaimRequest, Claimed, Lane, StoreError};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::Outbound;
use super::destinations::{Asked, Begun};
use super::job::JobEnd;

/// Jobs claimed at a time, at most.
const CLAIM_MAX: usize = 64;
/// How long a claim is ours without renewal: after a crash it is due again then, where a restart does not free it sooner.
const LEASE: Duration = Duration::from_secs(600);
/// When a claim is renewed.
const RENEW: Duration = Duration::from_secs(200);
/// How long to wait after the store has failed to answer.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// Attempts that are cut off end within this time.
const CUT_OFF: Duration = Duration::from_secs(2);
/// A lane of which more is claimed than may be under way is left alone for so long.
const OVERFULL_PAUSE: Duration = Duration::from_secs(1);

/// An attempt that counts as under way until it has ended, or this is dropped.
pub(crate) struct Running {
    outbound: Arc<Outbound>,
    lane: Lane,
    /// None once it has ended.
    begun: Option<Begun>,
}

impl Running {
    /// The attempt is over. This comes before the lease ends: whoever gets the next job of the
    /// lane finds room for it.
    pub(crate) fn end(&mut self, end: &JobEnd) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        let (outbound, lane) = (&self.outbound, &self.lane);
        outbound.slots().give(begun.standing);
        if end.is_withdrawn {
            return;
        }
        let now = outbound.clock.now();
        let error = end.error.as_deref();
        let mut known = outbound.known();
        let tell = known.end(lane, &begun, end.destination, error, now);
        drop(known);
        outbound.tell(lane, tell);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(&JobEnd::default());
    }
}

impl Outbound {
    /// Delivers until the shutdown, then lets attempts finish for `drain` at most. What does not
    /// finish is tried again by the next process.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken, drain: Duration) {
        let due = Arc::new(Notify::new());
        let wake = Arc::clone(&due);
        self.store.on_due(Arc::new(move || wake.notify_one()));
        let room = Arc::new(Semaphore::new(self.settings.load().config.concurrency));
        let jobs = TaskTracker::new();
        while !shutdown.is_cancelled() {
            let started = self.start_jobs(&room, &jobs).await;
            if started > 0 {
                continue;
            }
            let now = self.clock.now();
            let wait = self
                .store
                .next_due(now)
                .map_or(Duration::MAX, |at| at.since(now));
            // What is due and was not claimed waits for others of its lane to end, which is told.
            let wait = if wait.is_zero() || room.available_permits() == 0 {
                STORE_PAUSE
            } else {
                wait
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = due.notified() => {}
                () = self.ended.notified() => {}
                () = tokio::time::sleep(wait.min(Duration::from_secs(3600))) => {}
                () = self.pool.expire() => {}
            }
        }
        jobs.close();
        if tokio::time::timeout(drain, jobs.wait()).await.is_err() {
            warn!(
                jobs = jobs.len(),
                "deliveries cut off at the end of the time to finish; they will be tried again"
            );
            // What has come of them so far is written down.
            self.cut.cancel();
            let _ = tokio::time::timeout(CUT_OFF, jobs.wait()).await;
        }
        // With what came of the last ones.
        if let Some(books) = &self.books {
            books.save();
        }
        self.pool.close().await;
    }

    async fn start_jobs(self: &Arc<Self>, room: &Arc<Semaphore>, jobs: &TaskTracker) -> usize {
        let max = room.available_permits().min(CLAIM_MAX);
        if max == 0 {
            return 0;
        }
        let per_lane = self.settings.load().config.per_destination;
        let widest = self.widest.load(Ordering::Relaxed);
        let request = ClaimRequest {
            max,
            per_lane: per_lane.max(widest),
            lease: LEASE,
        };
        let claimed = match self.store.claim(self.clock.now(), &request).await {
            Ok(claimed) => claimed,
            Err(error) => {
                error!(%error, "nothing can be claimed from the queue");
                tokio::time::sleep(STORE_PAUSE).await;
                return 0;
            }
        };
        let mut started = 0;
        for job in claimed {
            let Some(running) = self.admit(&job, per_lane) else {
                self.return_claim(&job).await;
                continue;
            };
            let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
                break;
            };
            started += 1;
            jobs.spawn(async move {
                let outbound = Arc::clone(&running.outbound);
                outbound.work(job, running).await;
                drop(permit);
                outbound.ended.notify_one();
            });
        }
        if started == 0 {
            // Whatever keeps them from being started may have to run first.
            tokio::task::yield_now().await;
        }
        started
    }

    /// Whether an attempt may begin now. Where it may not, the store knows when to offer more of
    /// its lane.
    fn admit(self: &Arc<Self>, job: &Claimed, per_lane: usize) -> Option<Running> {
        let now = self.clock.now();
        let lane = &job.lease.lane;
        let (asked, tell) = self.known().begin(lane, per_lane, now);
        self.tell(lane, tell);
        let begun = match asked {
            Asked::Begun(begun) => begun,
            Asked::Full => return None,
            Asked::Overfull => {
                self.store.park(lane, now + OVERFULL_PAUSE);
                return None;
            }
        };
        let Err(turn) = self.slots().take(begun.standing, now) else {
            return Some(Running {
                outbound: Arc::clone(self),
                lane: lane.clone(),
                begun: Some(begun),
            });
        };
        let mut destinations = self.known();
        destinations.withdraw(lane);
        let until = destinations.throttled(lane, now).unwrap_or(turn);
        let why = "places are kept for destinations that do well".to_owned();
        destinations.throttle(lane, until, why);
        drop(destinations);
        self.store.park(lane, until);
        None
    }

    /// One job, its lease renewed while it runs.
    async fn work(&self, job: Claimed, mut running: Running) {
        let lease = job.lease.clone();
        let mut job = std::pin::pin!(self.run_job(job, Some(&mut running)));
        loop {
            tokio::select! {
                () = &mut job => return,
                () = tokio::time::sleep(RENEW) => {
                    match self.store.renew(self.clock.now(), &lease, LEASE).await {
                        Ok(()) => {}
                        // Somebody else has it, or will: two must not send the same.
                        Err(error @ StoreError::LeaseLost(_)) => {
                            warn!(queue_id = %lease.id, lane = %lease.lane, %error, "an attempt is given up");
                            return;
                        }
                        Err(error) => {
                            warn!(queue_id = %lease.id, lane = %lease.lane, %error, "a job's lease cannot be renewed");
                        }
                    }
                }
            }
        }
    }

    /// Tells the store how many jobs of a lane it may hand out.
    pub(crate) fn tell(&self, lane: &Lane, limit: Option<usize>) {
        if limit.is_some() {
            self.store.limit(lane, limit);
        }
    }

    /// A lane's host lives, or has taken a message: some more of what waits only for that is due
    /// now, in step with what may be under way.
    pub(crate) fn revive(&self, lane: &Lane) {
        let (most, tell) = self.known().revive(lane);
        self.tell(lane, tell);
        let Some(most) = most else {
            return;
        };
        let hastened = self.store.hasten(lane, self.clock.now(), most);
        debug!(%lane, hastened, "a dead host lives again: more of its mail is due");
        if hastened < most {
            self.known().is_hastened(lane);
        }
    }
}
