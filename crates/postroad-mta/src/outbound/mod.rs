//! Delivery: claims what is due, tries it, writes down what came of it.

mod attempt;
mod budget;
mod classify;
mod content;
mod files;
mod follow;
mod job;
mod lanes;
mod maildir;
mod pool;
pub(crate) mod replies;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postroad_mail::{Address, Domain, Timestamp};
use postroad_net::client::Connector;
use postroad_net::clock;
use postroad_proto::client::Timeouts;
use postroad_queue::{ClaimRequest, RetrySchedule, Store, StoreError};
use postroad_routing::{MxLookup, SharedRouter};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use pool::Pool;

pub(crate) use lanes::lanes;

/// Jobs claimed at a time, at most.
const CLAIM_MAX: usize = 64;
/// How long a claim is ours without renewal: after a crash it is due again then, where a restart does not free it sooner.
const LEASE: Duration = Duration::from_secs(600);
/// When a claim is renewed.
const RENEW: Duration = Duration::from_secs(200);
/// How long to wait after the store has failed to answer.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Wall-clock time, for the queue.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        clock::now()
    }
}

/// Told of each message put into a Maildir: its file, reverse-path and recipient.
pub type MaildirObserver = Arc<dyn Fn(&std::path::Path, &str, &str) + Send + Sync>;

/// The settings of delivery.
#[derive(Clone)]
pub struct OutboundConfig {
    /// The name for EHLO, and in notices.
    pub hostname: Domain,
    /// When deferred mail is tried again, and given up.
    pub schedule: RetrySchedule,
    /// Attempts at the same time; fixed at the start.
    pub concurrency: usize,
    /// Attempts for one lane at the same time.
    pub per_destination: usize,
    /// The port on which MX hosts are called.
    pub port: u16,
    /// How long TCP connects and TLS handshakes may take.
    pub connect_timeout: Duration,
    /// How long each step of a session may take.
    pub timeouts: Timeouts,
    /// Told of failures that nobody else can be told of.
    pub postmaster: Option<Address>,
    /// Told of each message put into a Maildir.
    pub maildir_observer: Option<MaildirObserver>,
}

impl std::fmt::Debug for OutboundConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboundConfig")
            .field("hostname", &self.hostname)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}

impl OutboundConfig {
    /// With the usual settings.
    #[must_use]
    pub fn new(hostname: Domain) -> Self {
        Self {
            hostname,
            schedule: RetrySchedule::default(),
            concurrency: 1000,
            per_destination: 20,
            port: 25,
            connect_timeout: Duration::from_secs(30),
            timeouts: Timeouts::default(),
            postmaster: None,
            maildir_observer: None,
        }
    }
}

/// What may change at a reload.
pub(crate) struct Settings {
    pub(crate) config: OutboundConfig,
    pub(crate) router: SharedRouter,
    pub(crate) mx: Arc<dyn MxLookup>,
    pub(crate) connector: Connector,
    pub(crate) session: Arc<postroad_proto::client::Config>,
}

impl Settings {
    fn new(
        config: OutboundConfig,
        router: SharedRouter,
        mx: Arc<dyn MxLookup>,
        connector: Connector,
    ) -> Self {
        let session = postroad_proto::client::Config {
            helo: config.hostname.ascii().to_owned(),
            starttls: postroad_proto::client::StartTls::IfOffered,
            credentials: None,
            timeouts: config.timeouts.clone(),
        };
        Self {
            config,
            router,
            mx,
            connector,
            session: session.into(),
        }
    }
}

/// The relay role, outbound. It also tells intake, as a [`postroad_intake::RoutePreview`], what its
/// routes say of a recipient before the message is in the queue.
pub struct Outbound {
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pool: Pool,
    /// A job has ended: there may be room for another.
    ended: Notify,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Outbound {
    /// The role with a store, a router, a way to find hosts and one to call them.
    #[must_use]
    pub fn new(
        config: OutboundConfig,
        store: Arc<dyn Store>,
        router: SharedRouter,
        mx: Arc<dyn MxLookup>,
        connector: Connector,
    ) -> Self {
        Self {
            settings: ArcSwap::from_pointee(Settings::new(config, router, mx, connector)),
            store,
            clock: Arc::new(SystemClock),
            pool: Pool::default(),
            ended: Notify::new(),
        }
    }

    /// With another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// New settings, for attempts from now on.
    pub fn reload(
        &self,
        config: OutboundConfig,
        router: SharedRouter,
        mx: Arc<dyn MxLookup>,
        connector: Connector,
    ) {
        self.settings
            .store(Arc::new(Settings::new(config, router, mx, connector)));
    }

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
        }
        self.pool.close().await;
    }

    async fn start_jobs(self: &Arc<Self>, room: &Arc<Semaphore>, jobs: &TaskTracker) -> usize {
        let max = room.available_permits().min(CLAIM_MAX);
        if max == 0 {
            return 0;
        }
        let per_lane = self.settings.load().config.per_destination;
        let request = ClaimRequest {
            max,
            per_lane,
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
        let count = claimed.len();
        for job in claimed {
            let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
                break;
            };
            let outbound = Arc::clone(self);
            jobs.spawn(async move {
                outbound.work(job).await;
                drop(permit);
                outbound.ended.notify_one();
            });
        }
        count
    }

    /// One job, its lease renewed while it runs.
    async fn work(&self, job: postroad_queue::Claimed) {
        let lease = job.lease.clone();
        let mut running = std::pin::pin!(self.run_job(job));
        loop {
            tokio::select! {
                () = &mut running => return,
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

    pub(crate) fn maildir_delivered(&self, file: &std::path::Path, from: &str, to: &str) {
        if let Some(observer) = &self.settings.load().config.maildir_observer {
            observer(file, from, to);
        }
    }
}
