use std::sync::Arc;
use std::time::Duration;

use postroad_msa::{SharedAuthenticator, Submission, UsersFile};
use postroad_mta::Inbound;
use postroad_net::server::{BoundListener, ListenerTls as NetTls, Role, Server};
use postroad_net::tls::TlsCertificates;
use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::delivery::{Delivery, Kept};
use super::prepared::Prepared;
use super::store::{Opened, open};
use super::{Service, ServiceError};
use crate::admin::Admin;
use crate::causes::with_causes;
use crate::config::{ListenerTls, Loaded, Roles, Service as Kind, changed_at_restart};
use crate::history;

/// What a stop may take beyond `limits.drain`: goodbyes, the admin socket, the queue's last sync.
const CLOSING: Duration = Duration::from_secs(15);

/// The parts while they run.
pub(super) struct Running {
    service: Service,
    pub(super) addresses: Vec<std::net::SocketAddr>,
    kept: Kept,
    pub(super) certificates: Option<Arc<TlsCertificates>>,
    pub(super) users: Option<Arc<UsersFile>>,
    submission: Option<(Arc<Submission>, Server<Submission>)>,
    inbound: Option<(Arc<Inbound>, Server<Inbound>)>,
    delivery: Delivery,
    pub(super) admin: Arc<Admin>,
    drain: Duration,
    stopping: CancellationToken,
    /// Servers, and delivery.
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    pub(super) async fn start(service: Service) -> Result<Self, ServiceError> {
        let loaded = &service.loaded;
        let prepared = Prepared::new(&service, loaded)?;
        let mut bound = bind(&service, loaded)?;
        let addresses = bound
            .iter()
            .filter_map(|(_, listener)| listener.local_address().ok())
            .collect();
        let Opened { store, cache } = open(&loaded.config).await?;
        let kept = Kept {
            store,
            cache,
            history: history::open(&loaded.config).await?,
        };
        let prepared = prepared.with_history(&kept.history);
        let delivery = Delivery::new(&service, loaded, &prepared, &kept);
        let admin = Admin::start(loaded, delivery.parts(loaded, &kept)).await?;
        let (roles, users) = (prepared.roles, prepared.users.map(Arc::new));
        let mut serving = Serving {
            certificates: prepared.certificates.map(Arc::new),
            roles: &roles,
            stopping: CancellationToken::new(),
            tasks: Vec::new(),
        };
        let authenticator = service
            .authenticator
            .clone()
            .or_else(|| users.clone().map(SharedAuthenticator::new));
        let listeners = take(&mut bound, Kind::Submission);
        let submission = authenticator.filter(|_| !listeners.is_empty());
        let submission = submission.map(|authenticator| {
            let config = roles.submission.clone();
            let role = Submission::new(config, Arc::clone(&kept.store), authenticator);
            let role = service.with_senders(role).with_routes(delivery.routes());
            serving.serve(role, listeners)
        });
        let listeners = take(&mut bound, Kind::Relay);
        let inbound = (!listeners.is_empty()).then(|| {
            let role = Inbound::new(roles.inbound.clone(), Arc::clone(&kept.store));
            serving.serve(role.with_routes(delivery.routes()), listeners)
        });
        let Serving {
            certificates,
            stopping,
            mut tasks,
            ..
        } = serving;
        tasks.extend(delivery.run(&stopping, roles.drain));
        Ok(Self {
            addresses,
            kept,
            certificates,
            users,
            submission,
            inbound,
            delivery,
            admin,
            drain: roles.drain,
            stopping,
            tasks,
            service,
        })
    }

    /// Reads everything again; where something is wrong, all stays as it was.
    pub(super) fn reload(&self) {
        let _ = sd_notify::notify(&[NotifyState::Reloading]);
        match self.try_reload() {
            Ok(waiting) => {
                info!("configuration reloaded");
                if !waiting.is_empty() {
                    let keys = waiting.join(", ");
                    warn!(
                        keys,
                        "these keys have changed, and take effect at a restart only"
                    );
                }
            }
            Err(error) => {
                let error = with_causes(&error);
                error!(%error, "the new configuration has a mistake; the old one stays in force");
            }
        }
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    /// Gives the keys whose new values wait for a restart.
    pub(super) fn try_reload(&self) -> Result<Vec<String>, ServiceError> {
        let loaded = self.service.loaded.again()?;
        let new = Prepared::new(&self.service, &loaded)?.with_history(&self.kept.history);
        // From here on nothing can fail.
        self.delivery
            .reload(&self.service, &loaded, &new, &self.kept);
        if let (Some(certificates), Some(new)) = (&self.certificates, new.certificates) {
            certificates.replace(new);
        }
        if let (Some(users), Some(new)) = (&self.users, new.users) {
            users.replace(&new);
        }
        let roles = new.roles;
        if let Some((role, server)) = &self.submission {
            role.reload(roles.submission);
            server.set_limits(roles.connections);
        }
        if let Some((role, server)) = &self.inbound {
            role.reload(roles.inbound);
            server.set_limits(roles.connections);
        }
        Ok(changed_at_restart(
            &self.service.loaded.config,
            &loaded.config,
        ))
    }

    /// Sessions and deliveries have one time to finish, together. Nothing more is claimed from the
    /// queue: what arrives in that time waits there for the next start.
    pub(super) async fn stop(self) {
        info!("stopping");
        let within = self.drain.saturating_add(CLOSING).as_micros();
        let _ = sd_notify::notify(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(u32::try_from(within).unwrap_or(u32::MAX)),
        ]);
        self.stopping.cancel();
        futures_util::future::join_all(self.tasks).await;
        self.admin.stop().await;
        match self.kept.store.close().await {
            Ok(()) => info!("stopped"),
            Err(error) => {
                let error = with_causes(&error);
                error!(%error, "the queue did not close cleanly; the next start looks through all of it");
            }
        }
    }
}

impl Service {
    fn with_senders(&self, role: Submission) -> Submission {
        match &self.senders {
            Some(senders) => role.with_senders(Arc::clone(senders)),
            None => role,
        }
    }
}

type Bound = Vec<(Kind, BoundListener)>;

fn bind(service: &Service, loaded: &Loaded) -> Result<Bound, ServiceError> {
    let mut bound = Vec::new();
    for (nth, listener) in loaded.config.listener.iter().enumerate() {
        if !service.kinds.contains(&listener.service) {
            continue;
        }
        let tls = match listener.tls {
            ListenerTls::Starttls => NetTls::StartTls,
            ListenerTls::Implicit => NetTls::Implicit,
            ListenerTls::None => NetTls::None,
        };
        for address in &listener.bind {
            let socket = BoundListener::bind(*address, tls).map_err(|error| {
                let advice = "is another server running there, or are rights missing (ports below 1024 need root or CAP_NET_BIND_SERVICE)?";
                let message = format!("{}; {advice}", with_causes(&error));
                ServiceError::Unavailable(loaded.problem("listener.bind", nth, message))
            })?;
            let socket = match listener.bare_newline {
                Some(own) => socket.bare_newline(own.to_proto()),
                None => socket,
            };
            bound.push((listener.service, socket));
        }
    }
    if bound.is_empty() {
        let name = if service.kinds.contains(&Kind::Relay) {
            "relay"
        } else {
            "submission"
        };
        let message = format!(
            "none has service = \"{name}\", so that nothing would be served; add a table [[listener]]"
        );
        return Err(ServiceError::Config(
            loaded.problem("listener", 0, message).into(),
        ));
    }
    Ok(bound)
}

fn take(bound: &mut Bound, kind: Kind) -> Vec<BoundListener> {
    bound
        .extract_if(.., |(k, _)| *k == kind)
        .map(|(_, listener)| listener)
        .collect()
}

/// What all servers of a process share.
struct Serving<'a> {
    certificates: Option<Arc<TlsCertificates>>,
    roles: &'a Roles,
    stopping: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Serving<'_> {
    fn serve<R: Role>(&mut self, role: R, listeners: Vec<BoundListener>) -> (Arc<R>, Server<R>) {
        let role = Arc::new(role);
        let server = Server::new(
            Arc::clone(&role),
            self.certificates.clone(),
            self.roles.connections,
            self.stopping.clone(),
        );
        let serving = server.clone().run(listeners, self.roles.drain);
        self.tasks.push(tokio::spawn(serving));
        (role, server)
    }
}
