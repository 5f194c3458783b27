use std::sync::Arc;

use postroad_intake::AliasPreview;
use postroad_mail::Cache;
use postroad_msa::UsersFile;
use postroad_mta::TlsReportOptions;
use postroad_net::client::Connector;
use postroad_net::clock;
use postroad_net::tls::TlsCertificates;
use postroad_queue::history::History;
use postroad_routing::{DnsResolver, SecureDns};

use super::aliases::ConfiguredAliases;
use super::routing::Routing;
use super::security::{self, Policies};
use super::{Service, ServiceError};
use crate::causes::with_causes;
use crate::config::{self, Config, Loaded, Roles, Service as Kind};

/// All that a configuration names, read and found good: a start and a reload both begin with it,
/// and a reload that fails in the middle of it has changed nothing.
pub(crate) struct Prepared {
    pub(crate) roles: Roles,
    pub(super) certificates: Option<TlsCertificates>,
    pub(super) users: Option<UsersFile>,
    pub(super) connector: Connector,
    pub(super) mx: Arc<DnsResolver>,
    pub(crate) routing: Routing,
    /// For DANE, where it is wanted.
    pub(super) validating: Option<Arc<SecureDns>>,
}

impl Prepared {
    /// All of it.
    pub(super) fn new(service: &Service, loaded: &Loaded) -> Result<Self, ServiceError> {
        let mut prepared = Self::for_delivery(loaded)?;
        prepared.certificates = config::certificates(loaded).map_err(ServiceError::Unavailable)?;
        if needs_users(service, loaded) {
            prepared.users = config::users(loaded).map_err(ServiceError::Unavailable)?;
        }
        config::report_certificate(loaded, &prepared.roles.hostname, clock::now());
        Ok(prepared)
    }

    /// What delivery needs, and no more.
    pub(super) fn for_delivery(loaded: &Loaded) -> Result<Self, ServiceError> {
        let mut roles = Roles::from_config(loaded)?;
        let connector = config::authorities(loaded).map_err(ServiceError::Unavailable)?;
        roles.dns.tls = Some(connector.verifying_config());
        let routing =
            Routing::open(loaded, &roles, &connector).map_err(ServiceError::Unavailable)?;
        let mx = DnsResolver::new(roles.dns.clone()).map_err(|error| {
            ServiceError::Unavailable(loaded.problem("dns", 0, with_causes(&error)))
        })?;
        let validating = security::validating(loaded, &roles.dns);
        Ok(Self {
            roles,
            certificates: None,
            users: None,
            validating: validating.map_err(ServiceError::Unavailable)?,
            connector,
            mx: Arc::new(mx),
            routing,
        })
    }
}

impl Prepared {
    /// What others ask of TLS to them, kept in the cache.
    pub(super) fn policies(&self, config: &Config, cache: &Arc<dyn Cache>) -> Arc<Policies> {
        Arc::new(Policies::new(config, self, cache))
    }

    /// How TLS reports are sent, if they are.
    pub(super) fn tls_reports(&self) -> Option<TlsReportOptions> {
        let configured = self.roles.tls_reports.clone()?;
        Some(TlsReportOptions {
            from: configured.from,
            organization: configured.organization,
            contact: configured.contact,
            txt: Arc::<DnsResolver>::clone(&self.mx),
        })
    }

    /// Tells the roles what addresses stand for, and where history is kept.
    pub(super) fn with_history(mut self, history: &Arc<dyn History>) -> Self {
        let aliases: Arc<dyn AliasPreview> = Arc::new(ConfiguredAliases {
            aliases: self.routing.aliases.clone(),
            postmaster: self.roles.outbound.postmaster.clone(),
        });
        self.roles.outbound.aliases = Arc::clone(&aliases);
        let Roles {
            submission,
            inbound,
            ..
        } = &mut self.roles;
        for intake in [&mut submission.intake, &mut inbound.intake] {
            let intake = Arc::make_mut(intake);
            intake.aliases = Arc::clone(&aliases);
            intake.history = Arc::clone(history);
        }
        self
    }
}

fn needs_users(service: &Service, loaded: &Loaded) -> bool {
    let submission = |kind| kind == Kind::Submission && service.kinds.contains(&kind);
    let mut listeners = loaded.config.listener.iter();
    service.authenticator.is_none() && listeners.any(|l| submission(l.service))
}
