//! The settings of delivery.

use std::sync::Arc;
use std::time::Duration;

use postroad_intake::{AliasPreview, NoAliases};
use postroad_mail::{Address, Domain, Protocol, Timestamp};
use postroad_net::client::Connector;
use postroad_net::clock;
use postroad_proto::client::{Config, StartTls, Timeouts};
use postroad_queue::RetrySchedule;
use postroad_routing::{MxLookup, SecurityLookup, SharedRouter};

use super::pool::Keeping;

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
    /// Attempts at the same time, and open connections; fixed at the start.
    pub concurrency: usize,
    /// Attempts for one lane at the same time, at most. A destination begins with a few, and gets
    /// more as it takes mail well.
    pub per_destination: usize,
    /// The port on which MX hosts are called.
    pub port: u16,
    /// How long TCP connects and TLS handshakes may take.
    pub connect_timeout: Duration,
    /// How long each step of a session may take.
    pub timeouts: Timeouts,
    /// How long a connection is kept open for the next message to the same hop; zero: not at all.
    pub idle_timeout: Duration,
    /// Messages over one connection, at most.
    pub messages_per_connection: u32,
    /// How old a connection may become before no message is begun over it.
    pub connection_lifetime: Duration,
    /// Told of failures that nobody else can be told of.
    pub postmaster: Option<Address>,
    /// Whom the addresses stand for that notices go to.
    pub aliases: Arc<dyn AliasPreview>,
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
            idle_timeout: Duration::from_secs(5),
            messages_per_connection: 100,
            connection_lifetime: Duration::from_secs(300),
            postmaster: None,
            aliases: Arc::new(NoAliases),
            maildir_observer: None,
        }
    }

    pub(crate) const fn keeping(&self) -> Keeping {
        Keeping {
            idle: self.idle_timeout,
            messages: self.messages_per_connection,
            lifetime: self.connection_lifetime,
        }
    }
}

/// What may change at a reload.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) config: OutboundConfig,
    pub(crate) router: SharedRouter,
    pub(crate) mx: Arc<dyn MxLookup>,
    pub(crate) connector: Connector,
    pub(crate) security: Arc<dyn SecurityLookup>,
    /// The usual way to talk to a server.
    pub(crate) session: Arc<Config>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Settings {
    pub(crate) fn new(
        config: OutboundConfig,
        router: SharedRouter,
        mx: Arc<dyn MxLookup>,
        connector: Connector,
        security: Arc<dyn SecurityLookup>,
    ) -> Self {
        let session = Config {
            protocol: Protocol::Smtp,
            helo: config.hostname.ascii().to_owned(),
            starttls: StartTls::IfOffered,
            credentials: None,
            timeouts: config.timeouts.clone(),
        };
        Self {
            config,
            router,
            mx,
            connector,
            security,
            session: session.into(),
        }
    }
}
