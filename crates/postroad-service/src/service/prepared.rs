use std::sync::Arc;

use postroad_msa::UsersFile;
use postroad_net::client::Connector;
use postroad_net::clock;
use postroad_net::tls::TlsCertificates;
use postroad_routing::{DnsResolver, MxLookup};

use super::{Service, ServiceError};
use crate::causes::with_causes;
use crate::config::{self, Loaded, Roles, Service as Kind};

/// All that a configuration names, read and found good: a start and a reload both begin with it,
/// and a reload that fails in the middle of it has changed nothing.
pub(super) struct Prepared {
    pub(super) roles: Roles,
    pub(super) certificates: Option<TlsCertificates>,
    pub(super) users: Option<UsersFile>,
    pub(super) connector: Connector,
    pub(super) mx: Arc<dyn MxLookup>,
}

impl Prepared {
    pub(super) fn new(service: &Service, loaded: &Loaded) -> Result<Self, ServiceError> {
        let roles = Roles::from_config(loaded)?;
        let certificates = config::certificates(loaded).map_err(ServiceError::Unavailable)?;
        let users = if needs_users(service, loaded) {
            config::users(loaded).map_err(ServiceError::Unavailable)?
        } else {
            None
        };
        let connector = config::authorities(loaded).map_err(ServiceError::Unavailable)?;
        let mx = DnsResolver::new(roles.dns.clone()).map_err(|error| {
            ServiceError::Unavailable(loaded.problem("dns", 0, with_causes(&error)))
        })?;
        config::report_certificate(loaded, &roles.hostname, clock::now());
        Ok(Self {
            roles,
            certificates,
            users,
            connector,
            mx: Arc::new(mx),
        })
    }
}

fn needs_users(service: &Service, loaded: &Loaded) -> bool {
    let submission = |kind| kind == Kind::Submission && service.kinds.contains(&kind);
    let mut listeners = loaded.config.listener.iter();
    service.authenticator.is_none() && listeners.any(|l| submission(l.service))
}
