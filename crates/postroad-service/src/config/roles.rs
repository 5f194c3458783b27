//! From the configuration to the settings of each part.

use std::sync::Arc;
use std::time::Duration;

use postroad_mail::{Address, Domain};
use postroad_mta::{DomainPatterns, InboundConfig, OutboundConfig};
use postroad_net::Networks;
use postroad_net::server::ConnectionLimits;
use postroad_proto::Extensions;
use postroad_proto::sasl::Mechanism;
use postroad_proto::server::{
    BareNewline as ProtoBareNewline, Limits as ProtoLimits, Verify as ProtoVerify,
};
use postroad_queue::RetrySchedule;
use postroad_routing::{AddressFamily, DnsOptions, RouteRule, SharedRouter, StaticRouter};

use super::load::Loaded;
use super::meaning::Problems;
use super::own;
use super::problem::ConfigError;
use super::{BareNewline, Config, EightBitHeaders, Family, Service, Verify};

/// Settings of all parts, checked.
#[derive(Clone, Debug)]
pub struct Roles {
    /// The name of this host.
    pub hostname: Domain,
    /// The submission service's.
    pub submission: postroad_msa::Config,
    /// The relay service's, inbound.
    pub inbound: InboundConfig,
    /// The relay service's, outbound.
    pub outbound: OutboundConfig,
    /// The routes of the configuration.
    pub routes: Vec<RouteRule>,
    /// How names are looked up.
    pub dns: DnsOptions,
    /// Bounds on connections.
    pub connections: ConnectionLimits,
    /// How long a stop may take.
    pub drain: Duration,
}

/// Mistakes in what the keys mean, rather than in how they are written.
pub type RolesError = ConfigError;

impl Roles {
    /// Checks what the configuration means, and turns it into settings.
    ///
    /// # Errors
    /// All mistakes, each with file, line and key.
    pub fn from_config(loaded: &Loaded) -> Result<Self, RolesError> {
        let config = &loaded.config;
        let mut problems = Problems::new(loaded);
        let parts = Parts {
            hostname: problems.hostname(config),
            postmaster: problems.postmaster(config),
            trusted: problems.networks(config),
            domains: problems.domains(config),
            rules: problems.routes(config),
            schedule: problems.schedule(config),
            mechanisms: problems.mechanisms(config),
        };
        problems.listeners(config);
        problems.not_built(config);
        problems.bounds(config);
        // What follows from settings that are wrong themselves is no second mistake.
        if problems.found.is_empty() {
            problems.open_relay(config, &parts.trusted, &parts.rules);
            problems.postmaster_is_there(config, &parts.hostname, &parts.rules);
        }
        if !problems.found.is_empty() {
            return Err(ConfigError(problems.found));
        }
        Ok(Self::build(config, parts))
    }

    fn build(config: &Config, parts: Parts) -> Self {
        let Parts {
            hostname,
            postmaster,
            trusted,
            domains,
            rules,
            schedule,
            mechanisms,
        } = parts;
        let session = |service: Service| Arc::new(session(config, &hostname, service, &mechanisms));
        let intake = |service: &'static str| {
            let mut intake = postroad_intake::Config::new(hostname.clone(), service);
            intake.postmaster.clone_from(&postmaster);
            intake.header_size = usize::try_from(config.limits.header_size.0).unwrap_or(usize::MAX);
            Arc::new(intake)
        };
        let delivery = &config.delivery;
        let outbound = OutboundConfig {
            schedule,
            concurrency: delivery.concurrency,
            per_destination: delivery.per_destination,
            port: delivery.port,
            connect_timeout: delivery.connect_timeout.0,
            postmaster: postmaster.clone(),
            ..OutboundConfig::new(hostname.clone())
        };
        Self {
            submission: postroad_msa::Config {
                session: session(Service::Submission),
                intake: intake("submission"),
                trusted: trusted.clone(),
                sender_must_match: config.submission.sender_must_match,
            },
            inbound: InboundConfig {
                session: session(Service::Relay),
                intake: intake("relay"),
                domains,
                trusted,
            },
            outbound,
            routes: rules,
            dns: dns(config, &hostname),
            connections: ConnectionLimits {
                connections: config.limits.connections,
                connections_per_address: config.limits.connections_per_address,
                errors_per_address: config.limits.errors_per_address,
            },
            drain: config.limits.drain.0,
            hostname,
        }
    }

    /// The routes as a router.
    #[must_use]
    pub fn router(&self) -> SharedRouter {
        SharedRouter::new(StaticRouter::new(self.routes.clone()))
    }
}

struct Parts {
    hostname: Domain,
    postmaster: Option<Address>,
    trusted: Networks,
    domains: DomainPatterns,
    rules: Vec<RouteRule>,
    schedule: RetrySchedule,
    mechanisms: Vec<Mechanism>,
}

fn session(
    config: &Config,
    hostname: &Domain,
    service: Service,
    mechanisms: &[Mechanism],
) -> postroad_proto::server::Config {
    let limits = &config.limits;
    let submission = service == Service::Submission;
    postroad_proto::server::Config {
        hostname: hostname.clone(),
        extensions: Extensions {
            pipelining: true,
            size: Some(limits.message_size.0),
            eight_bit_mime: true,
            smtputf8: true,
            chunking: true,
            binary_mime: true,
            enhanced_status_codes: true,
            dsn: true,
            // Set for each listener.
            starttls: false,
            auth: if submission {
                mechanisms.to_vec()
            } else {
                Vec::new()
            },
            recipients_max: u64::try_from(limits.recipients).ok(),
            verify: false,
            help: true,
        },
        require_auth: submission,
        require_tls: false,
        verify: match limits.verify {
            Verify::None => ProtoVerify::None,
            Verify::Authenticated => ProtoVerify::Authenticated,
        },
        bare_newline: limits
            .bare_newline
            .map_or(ProtoBareNewline::NormalizeTrusted, BareNewline::to_proto),
        reject_eight_bit_headers: limits.eight_bit_headers == EightBitHeaders::Reject,
        limits: ProtoLimits {
            message_size: limits.message_size.0,
            header_size: usize::try_from(limits.header_size.0).unwrap_or(usize::MAX),
            recipients: limits.recipients,
            errors: limits.errors,
            error_delay: limits.error_delay.0,
            command_timeout: limits.command_timeout.0,
            data_timeout: limits.data_timeout.0,
            session_timeout: limits.session_timeout.0,
        },
    }
}

impl BareNewline {
    /// As the session has it.
    pub(crate) const fn to_proto(self) -> ProtoBareNewline {
        match self {
            Self::Reject => ProtoBareNewline::Reject,
            Self::Normalize => ProtoBareNewline::Normalize,
        }
    }
}

fn dns(config: &Config, hostname: &Domain) -> DnsOptions {
    DnsOptions {
        nameservers: config.dns.nameservers.clone(),
        own_names: vec![hostname.clone()],
        own_addresses: own::addresses(config),
        own_ports: config
            .listener
            .iter()
            .filter(|l| l.service == Service::Relay)
            .flat_map(|l| l.bind.iter().map(std::net::SocketAddr::port))
            .collect(),
        family: match config.delivery.family {
            Family::Any => AddressFamily::Any,
            Family::Ipv4 => AddressFamily::Ipv4,
            Family::Ipv6 => AddressFamily::Ipv6,
        },
        timeout: config.dns.timeout.0,
        ..DnsOptions::default()
    }
}
