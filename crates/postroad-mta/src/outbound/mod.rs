//! Delivery: claims what is due, tries it, writes down what came of it.
//!
//! | what | where |
//! |---|---|
//! | the loop: what is claimed, and started | `run` |
//! | how many attempts a destination bears | `destinations`, `window` |
//! | who gets the places for attempts | `slots` |
//! | limits of routes | `limits`, `rates` |
//! | which hosts are dead | `hosts` |
//! | one job: routes, limits, record | `job` |
//! | where a route leads | `follow` |
//! | host after host, address after address | `attempt` |
//! | a session with a host | `session`, `pool`, `security` |
//! | transactions | `send` |
//! | what a failure means | `table`, `classify` |
//! | what the history is told | `trail`, `chronicle` |
//! | what is told of destinations, and of how mail would travel | `views`, `explain` |

mod attempt;
mod budget;
mod chronicle;
mod classify;
mod config;
mod content;
mod destinations;
mod downgrade;
mod explain;
mod explanation;
mod files;
mod follow;
mod hosts;
mod job;
mod lanes;
mod limits;
mod maildir;
mod pool;
mod rates;
mod recent;
pub(crate) mod replies;
mod run;
mod security;
#[cfg(test)]
mod security_tests;
mod send;
mod session;
mod slots;
mod table;
mod tls_books;
mod tls_counts;
mod tls_observed;
mod tls_send;
mod trail;
mod views;
mod window;
mod work;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use postroad_mail::Cache;
use postroad_net::client::Connector;
use postroad_queue::Store;
use postroad_queue::history::History;
use postroad_routing::{MxLookup, NoSecurity, SecurityLookup, SharedRouter};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use destinations::Destinations;
use hosts::Hosts;
use pool::Pool;
use rates::Rates;
use slots::Slots;
use tls_books::TlsBooks;

pub use config::{Clock, MaildirObserver, OutboundConfig, SystemClock};
pub use explanation::{
    ExplainRequest, ExplainedAddress, ExplainedHost, ExplainedLimits, ExplainedSecurity,
    ExplainedSession, Explanation,
};
pub use tls_observed::ObservedDomain;
pub use tls_send::TlsReportOptions;
pub use views::{DeadHost, DestinationView, LastError, Throttled};

pub(crate) use config::Settings;
pub(crate) use lanes::lanes;

/// The relay role, outbound. It also tells intake, as a [`postroad_intake::RoutePreview`], what its
/// routes say of a recipient before the message is in the queue.
pub struct Outbound {
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pool: Pool,
    pub(crate) history: Option<Arc<dyn History>>,
    pub(crate) books: Option<Arc<TlsBooks>>,
    tls_reports: ArcSwapOption<TlsReportOptions>,
    destinations: Mutex<Destinations>,
    hosts: Mutex<Hosts>,
    rates: Mutex<Rates>,
    slots: Mutex<Slots>,
    /// The most attempts for one lane at the same time that a route has asked for.
    widest: AtomicUsize,
    /// The time to finish is over.
    cut: CancellationToken,
    /// A job has ended: there may be room for another.
    ended: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Outbound {
    /// The role with a store, a router, a way to find hosts and one to call them. No TLS policy is
    /// looked up, and no history is kept, unless it is built with them.
    #[must_use]
    pub fn new(
        config: OutboundConfig,
        store: Arc<dyn Store>,
        router: SharedRouter,
        mx: Arc<dyn MxLookup>,
        connector: Connector,
    ) -> Self {
        let concurrency = config.concurrency;
        let security = Arc::new(NoSecurity);
        let settings = Settings::new(config, router, mx, connector, security);
        Self {
            settings: ArcSwap::from_pointee(settings),
            store,
            clock: Arc::new(SystemClock),
            pool: Pool::new(concurrency),
            history: None,
            books: None,
            tls_reports: ArcSwapOption::empty(),
            destinations: Mutex::default(),
            hosts: Mutex::default(),
            rates: Mutex::default(),
            slots: Mutex::new(Slots::new(concurrency)),
            widest: AtomicUsize::new(0),
            cut: CancellationToken::new(),
            ended: Notify::new(),
        }
    }

    /// With another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// With TLS policies of hosts (DANE, MTA-STS).
    #[must_use]
    pub fn with_security(self, security: Arc<dyn SecurityLookup>) -> Self {
        self.reload_security(security);
        self
    }

    /// With a history, which is told of every attempt.
    #[must_use]
    pub fn with_history(mut self, history: Arc<dyn History>) -> Self {
        self.history = Some(history);
        self
    }

    /// With a place for the figures of TLS reports (RFC 8460): without one, none are kept. Comes
    /// behind [`Outbound::with_clock`].
    #[must_use]
    pub fn with_cache(mut self, cache: Arc<dyn Cache>) -> Self {
        self.books = Some(Arc::new(TlsBooks::new(cache, self.clock.now())));
        self
    }

    /// New settings, for attempts from now on. TLS policies stay as they are.
    pub fn reload(
        &self,
        config: OutboundConfig,
        router: SharedRouter,
        mx: Arc<dyn MxLookup>,
        connector: Connector,
    ) {
        let security = Arc::clone(&self.settings.load().security);
        let settings = Settings::new(config, router, mx, connector, security);
        self.settings.store(Arc::new(settings));
        self.widest.store(0, Ordering::Relaxed);
    }

    /// Other TLS policies, for attempts from now on.
    pub fn reload_security(&self, security: Arc<dyn SecurityLookup>) {
        let mut settings = Settings::clone(&self.settings.load());
        settings.security = security;
        self.settings.store(Arc::new(settings));
    }

    pub(crate) fn maildir_delivered(&self, file: &std::path::Path, from: &str, to: &str) {
        if let Some(observer) = &self.settings.load().config.maildir_observer {
            observer(file, from, to);
        }
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Destinations> {
        lock(&self.destinations)
    }

    pub(crate) fn hosts(&self) -> MutexGuard<'_, Hosts> {
        lock(&self.hosts)
    }

    pub(crate) fn rates(&self) -> MutexGuard<'_, Rates> {
        lock(&self.rates)
    }

    pub(crate) fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }
}
