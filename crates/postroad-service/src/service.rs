//! A process: the parts put together, signals, the end.

use std::sync::Arc;

use postroad_msa::{Authenticator, SharedAuthenticator, Submission, UsersFile};
use postroad_mta::{Inbound, MaildirObserver, Outbound};
use postroad_net::client::Connector;
use postroad_net::server::{BoundListener, ListenerTls as NetTls, Role, Server};
use postroad_net::tls::TlsCertificates;
use postroad_queue::{MemStore, Store};
use postroad_routing::{DnsResolver, MxLookup, Router, SharedRouter};
use postroad_store::{LocalStore, Options};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Admin};
use crate::config::{
    self, Config, Durability, ListenerTls, Loaded, Roles, Service as Kind, StoreKind,
};

/// Octets that a queue in memory holds, at most.
const MEMORY_MAX: u64 = 1 << 30;

/// A process cannot start, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    /// None of the listeners is this service's.
    #[error(
        "{place}: no [[listener]] has service = \"{service}\", so that nothing would be served"
    )]
    NoListener {
        /// The configuration.
        place: String,
        /// The service.
        service: &'static str,
    },
    /// The queue cannot be opened.
    #[error("opening the queue: {0}")]
    Store(#[from] postroad_queue::StoreError),
    /// A listening socket cannot be had.
    #[error(
        "{0}; is another server running there, or are rights missing (ports below 1024 need root or CAP_NET_BIND_SERVICE)?"
    )]
    Bind(#[from] postroad_net::server::BindError),
    /// A certificate cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] postroad_net::tls::TlsError),
    /// The users cannot be read.
    #[error("submission.directory: {0}")]
    Users(#[from] postroad_msa::UsersFileError),
    /// Outbound TLS cannot be prepared.
    #[error("delivery.authorities: {0}")]
    Connector(#[from] postroad_net::client::ConnectorError),
    /// DNS cannot be prepared.
    #[error("dns: {0}")]
    Dns(#[from] postroad_routing::DnsError),
    /// The admin socket cannot be had.
    #[error("admin: {0}")]
    Admin(#[from] admin::AdminError),
    /// A blocking task was ended.
    #[error("the process is ending")]
    Ended,
    /// Signals cannot be had.
    #[error("watching for signals: {0}")]
    Signals(std::io::Error),
}

/// Told where it listens.
type OnReady = Box<dyn FnOnce(&[std::net::SocketAddr]) + Send>;

/// What is served, composed before it runs.
pub struct Service {
    loaded: Loaded,
    kinds: Vec<Kind>,
    custom: Option<Arc<dyn Fn(SharedRouter) -> SharedRouter + Send + Sync>>,
    authenticator: Option<SharedAuthenticator>,
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

    /// Runs until SIGTERM or SIGINT; SIGHUP reads the configuration again.
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
        loop {
            tokio::select! {
                wanted = signals.next() => match wanted {
                    Wanted::Stop => break,
                    Wanted::Reload => running.reload(),
                },
                () = running.admin.reload_asked() => running.reload(),
            }
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        running.stop().await;
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
            _ = self.terminate.recv() => Wanted::Stop,
            _ = self.interrupt.recv() => Wanted::Stop,
            _ = self.hangup.recv() => Wanted::Reload,
        }
    }
}

enum Wanted {
    Stop,
    Reload,
}

/// The parts while they run.
struct Running {
    service: Service,
    addresses: Vec<std::net::SocketAddr>,
    store: Arc<dyn Store>,
    certificates: Option<Arc<TlsCertificates>>,
    users: Option<Arc<UsersFile>>,
    submission: Option<(Arc<Submission>, Server<Submission>)>,
    inbound: Option<(Arc<Inbound>, Server<Inbound>)>,
    outbound: Arc<Outbound>,
    admin: Arc<Admin>,
    listening: CancellationToken,
    delivering: CancellationToken,
    servers: Vec<tokio::task::JoinHandle<()>>,
    delivery: tokio::task::JoinHandle<()>,
}

impl Running {
    #[expect(
        clippy::too_many_lines,
        reason = "the parts of a process, one after the other"
    )]
    async fn start(service: Service) -> Result<Self, ServiceError> {
        let loaded = &service.loaded;
        let roles = Roles::from_config(loaded)?;
        let config = &loaded.config;
        let listeners: Vec<_> = config
            .listener
            .iter()
            .filter(|l| service.kinds.contains(&l.service))
            .collect();
        if listeners.is_empty() {
            let name = if service.kinds.contains(&Kind::Relay) {
                "relay"
            } else {
                "submission"
            };
            return Err(ServiceError::NoListener {
                place: loaded.path().display().to_string(),
                service: name,
            });
        }
        let certificates = match &config.tls {
            Some(tls) => Some(Arc::new(TlsCertificates::load(&tls.certificate, &tls.key)?)),
            None => None,
        };
        let connector = Connector::new(&config.delivery.authorities)?;
        let (users, authenticator) = directory(&service, config)?;
        let mut bound = Vec::new();
        for listener in &listeners {
            let tls = match listener.tls {
                ListenerTls::Starttls => NetTls::StartTls,
                ListenerTls::Implicit => NetTls::Implicit,
                ListenerTls::None => NetTls::None,
            };
            for address in &listener.bind {
                bound.push((listener.service, BoundListener::bind(*address, tls)?));
            }
        }
        let addresses: Vec<_> = bound
            .iter()
            .filter_map(|(_, listener)| listener.local_address().ok())
            .collect();
        let store = open_store(config).await?;
        let mx: Arc<dyn MxLookup> = Arc::new(DnsResolver::new(roles.dns.clone())?);
        let mut outbound_config = roles.outbound.clone();
        outbound_config
            .maildir_observer
            .clone_from(&service.maildir_observer);
        let outbound = Arc::new(Outbound::new(
            outbound_config,
            Arc::clone(&store),
            service.routes(&roles),
            mx,
            connector,
        ));
        let admin = Admin::start(config, Arc::clone(&store)).await?;
        let (listening, delivering) = (CancellationToken::new(), CancellationToken::new());
        let drain = roles.drain;
        let mut servers = Vec::new();
        let of = |bound: &mut Vec<(Kind, BoundListener)>, kind: Kind| -> Vec<BoundListener> {
            bound
                .extract_if(.., |(k, _)| *k == kind)
                .map(|(_, listener)| listener)
                .collect()
        };
        let submission = authenticator.map(|authenticator| {
            Arc::new(Submission::new(
                roles.submission.clone(),
                Arc::clone(&store),
                authenticator,
            ))
        });
        let submission = submission.map(|role| {
            let (server, task) = serve(
                &role,
                &certificates,
                &roles,
                &listening,
                of(&mut bound, Kind::Submission),
            );
            servers.push(task);
            (role, server)
        });
        let relay = of(&mut bound, Kind::Relay);
        let inbound = (!relay.is_empty()).then(|| {
            let role = Arc::new(Inbound::new(roles.inbound.clone(), Arc::clone(&store)));
            let (server, task) = serve(&role, &certificates, &roles, &listening, relay);
            servers.push(task);
            (role, server)
        });
        let delivery = tokio::spawn(Arc::clone(&outbound).run(delivering.clone(), drain));
        Ok(Self {
            service,
            addresses,
            store,
            certificates,
            users,
            submission,
            inbound,
            outbound,
            admin,
            listening,
            delivering,
            servers,
            delivery,
        })
    }

    /// Reads everything again; where something is wrong, all stays as it was.
    fn reload(&self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        match self.try_reload() {
            Ok(()) => info!("configuration reloaded"),
            Err(error) => {
                error!(%error, "the new configuration has a mistake; the old one stays in force");
            }
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    fn try_reload(&self) -> Result<(), ServiceError> {
        let loaded = config::load(self.service.loaded.path())?;
        let roles = Roles::from_config(&loaded)?;
        let mx: Arc<dyn MxLookup> = Arc::new(DnsResolver::new(roles.dns.clone())?);
        if let Some(certificates) = &self.certificates {
            certificates.reload()?;
        }
        if let Some(users) = &self.users {
            users.reload()?;
        }
        if let Some((role, server)) = &self.submission {
            role.reload(roles.submission.clone());
            server.set_limits(roles.connections);
        }
        if let Some((role, server)) = &self.inbound {
            role.reload(roles.inbound.clone());
            server.set_limits(roles.connections);
        }
        let mut outbound = roles.outbound.clone();
        outbound
            .maildir_observer
            .clone_from(&self.service.maildir_observer);
        self.outbound
            .reload(outbound, self.service.routes(&roles), mx);
        let (old, new) = (&self.service.loaded.config, &loaded.config);
        let bound = |config: &Config| {
            config
                .listener
                .iter()
                .flat_map(|l| l.bind.clone())
                .collect::<Vec<_>>()
        };
        if bound(old) != bound(new) || old.queue.path != new.queue.path {
            warn!("listeners and the queue's path change at a restart only");
        }
        Ok(())
    }

    async fn stop(self) {
        info!("stopping");
        self.listening.cancel();
        for server in self.servers {
            let _ = server.await;
        }
        self.delivering.cancel();
        let _ = self.delivery.await;
        self.admin.stop().await;
        match self.store.close().await {
            Ok(()) => info!("stopped"),
            Err(error) => {
                error!(%error, "the queue did not close cleanly; the next start looks through all of it");
            }
        }
    }
}

impl Service {
    fn routes(&self, roles: &Roles) -> SharedRouter {
        match &self.custom {
            Some(before) => before(roles.router()),
            None => roles.router(),
        }
    }
}

fn serve<R: Role>(
    role: &Arc<R>,
    certificates: &Option<Arc<TlsCertificates>>,
    roles: &Roles,
    listening: &CancellationToken,
    listeners: Vec<BoundListener>,
) -> (Server<R>, tokio::task::JoinHandle<()>) {
    let server = Server::new(
        Arc::clone(role),
        certificates.clone(),
        roles.connections,
        listening.clone(),
    );
    let task = tokio::spawn(server.clone().run(listeners, roles.drain));
    (server, task)
}

type Directory = (Option<Arc<UsersFile>>, Option<SharedAuthenticator>);

fn directory(service: &Service, config: &Config) -> Result<Directory, ServiceError> {
    let submission = config
        .listener
        .iter()
        .any(|l| l.service == Kind::Submission)
        && service.kinds.contains(&Kind::Submission);
    if !submission {
        return Ok((None, None));
    }
    if let Some(authenticator) = &service.authenticator {
        return Ok((None, Some(authenticator.clone())));
    }
    let Some(path) = config
        .submission
        .directory
        .as_ref()
        .and_then(|d| d.path.as_ref())
    else {
        return Ok((None, None));
    };
    let users = Arc::new(UsersFile::open(path)?);
    Ok((
        Some(Arc::clone(&users)),
        Some(SharedAuthenticator::new(users)),
    ))
}

/// Opens the queue of a configuration.
///
/// # Errors
/// Where another process has it, it cannot be read, or it is of a version that we do not know.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, ServiceError> {
    match config.queue.store {
        StoreKind::Memory => {
            warn!("the queue is in memory: all mail in it is lost at a stop");
            Ok(Arc::new(MemStore::new(MEMORY_MAX)))
        }
        StoreKind::Local | StoreKind::Postgres => {
            let mut options = Options::new(&config.queue.path);
            options.min_free = config.limits.min_free.0;
            options.durability = match config.queue.durability {
                Durability::Sync => postroad_store::Durability::Sync,
                Durability::Os => postroad_store::Durability::Os,
            };
            let opening = tokio::task::spawn_blocking(move || LocalStore::open(options));
            let (store, report) = opening.await.map_err(|_| ServiceError::Ended)??;
            let durability = match config.queue.durability {
                Durability::Sync => "sync: on disk before every 250",
                Durability::Os => "os: survives a kill, not a power loss",
            };
            info!(path = %config.queue.path.display(), durability, messages = report.messages, segments = report.segments, torn = report.torn, "queue open");
            for damage in &report.damage {
                error!(damage, "the queue was damaged");
            }
            Ok(Arc::new(store))
        }
    }
}
