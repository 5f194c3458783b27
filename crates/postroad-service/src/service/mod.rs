//! A process: the parts put together, signals, the end.

mod aliases;
mod delivery;
mod prepared;
mod routing;
mod running;
mod security;
pub(crate) mod standalone;
mod store;
#[cfg(test)]
mod tests;
mod validation;

use std::sync::Arc;
use std::time::Duration;

use postroad_msa::{Authenticator, SenderPolicy, SharedAuthenticator};
use postroad_mta::MaildirObserver;
use postroad_net::clock;
use postroad_queue::StoreError;
use postroad_routing::{Router, SharedRouter};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::causes::with_causes;
use crate::config::{ConfigError, Loaded, Problem, Service as Kind};
use running::Running;

pub(crate) use prepared::Prepared;
pub(crate) use security::validating;
pub use store::open_store;
pub(crate) use store::{foreign_owner, open as open_queue};

/// A signal again within this is a repetition, no second order.
const SAME_ORDER: Duration = Duration::from_secs(1);

/// A process cannot start, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The configuration is wrong: it must be mended first.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What a key of the configuration names cannot be had now: a certificate, the users, a port.
    #[error("{0}")]
    Unavailable(Problem),
    /// The queue cannot be opened.
    #[error("opening the queue: {}", with_causes(.0))]
    Store(StoreError),
    /// Root would make files in a queue that its owner could not use any more.
    #[error(
        "the queue at {place} belongs to {owner}: files that root makes in it would keep {owner} from opening it; run this as {owner}, as in `sudo -u {owner} postroad queue list`"
    )]
    ForeignQueue {
        /// The queue's directory.
        place: String,
        /// Whose it is.
        owner: String,
    },
    /// A blocking task was ended.
    #[error("the process is ending")]
    Ended,
    /// Signals cannot be had.
    #[error("watching for signals: {0}")]
    Signals(std::io::Error),
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Told where it listens.
type OnReady = Box<dyn FnOnce(&[std::net::SocketAddr]) + Send>;

/// What is served, composed before it runs.
pub struct Service {
    loaded: Loaded,
    kinds: Vec<Kind>,
    custom: Option<Arc<dyn Fn(SharedRouter) -> SharedRouter + Send + Sync>>,
    authenticator: Option<SharedAuthenticator>,
    senders: Option<Arc<dyn SenderPolicy>>,
    maildir_observer: Option<MaildirObserver>,
    on_ready: Option<OnReady>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("kinds", &self.kinds)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Both services, as the configuration has them.
    #[must_use]
    pub fn new(loaded: Loaded) -> Self {
        Self {
            loaded,
            kinds: vec![Kind::Submission, Kind::Relay],
            custom: None,
            authenticator: None,
            senders: None,
            maildir_observer: None,
            on_ready: None,
        }
    }

    /// Listeners of this service only.
    #[must_use]
    pub fn only(mut self, kind: Kind) -> Self {
        self.kinds = vec![kind];
        self
    }

    /// Asks this router before the routes of the configuration.
    #[must_use]
    pub fn router(mut self, router: impl Router) -> Self {
        let router = Arc::new(router);
        self.custom = Some(Arc::new(move |routes| {
            SharedRouter::new(Arc::clone(&router)).chain(routes)
        }));
        self
    }

    /// Asks this directory instead of the one in the configuration.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(SharedAuthenticator::new(authenticator));
        self
    }

    /// Asks this policy which reverse-paths a user may use, in place of `sender_must_match`.
    #[must_use]
    pub fn senders(mut self, senders: impl SenderPolicy) -> Self {
        self.senders = Some(Arc::new(senders));
        self
    }

    /// Told of each message put into a Maildir.
    #[must_use]
    pub fn maildir_observer(mut self, observer: MaildirObserver) -> Self {
        self.maildir_observer = Some(observer);
        self
    }

    /// Called once, with the addresses listened on, in the order of the configuration.
    #[must_use]
    pub fn on_ready(
        mut self,
        ready: impl FnOnce(&[std::net::SocketAddr]) + Send + 'static,
    ) -> Self {
        self.on_ready = Some(Box::new(ready));
        self
    }

    /// Runs until SIGTERM or SIGINT; SIGHUP reads the configuration again. What is under way then
    /// has `limits.drain` to finish, sessions and deliveries together; a second signal, after a
    /// second or more, ends it at once.
    ///
    /// # Errors
    /// Where it cannot start.
    pub async fn run_until_signal(mut self) -> Result<(), ServiceError> {
        let mut signals = Signals::new().map_err(ServiceError::Signals)?;
        let ready = self.on_ready.take();
        let running = Running::start(self).await?;
        if let Some(ready) = ready {
            ready(&running.addresses);
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        info!(addresses = ?running.addresses, "ready");
        let first = loop {
            tokio::select! {
                wanted = signals.next() => match wanted {
                    Wanted::Stop(kind) => break kind,
                    Wanted::Reload => running.reload(),
                },
                () = running.admin.reload_asked() => running.reload(),
            }
        };
        tokio::select! {
            () = running.stop() => {}
            () = signals.stop_after(first) => warn!("told to stop twice: stopped at once; what was under way is as after a crash: nothing acknowledged is lost"),
        }
        Ok(())
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::Stop(SignalKind::terminate()),
            _ = self.interrupt.recv() => Wanted::Stop(SignalKind::interrupt()),
            _ = self.hangup.recv() => Wanted::Reload,
        }
    }

    /// Ends when told to stop again. The same signal within a second is the same order: a terminal
    /// and whoever watches over the process both pass on one Ctrl-C.
    async fn stop_after(&mut self, first: SignalKind) {
        let since = clock::instant();
        loop {
            match self.next().await {
                Wanted::Reload => {}
                Wanted::Stop(kind) if kind == first && clock::instant() < since + SAME_ORDER => {}
                Wanted::Stop(_) => return,
            }
        }
    }
}

enum Wanted {
    Stop(SignalKind),
    Reload,
}
