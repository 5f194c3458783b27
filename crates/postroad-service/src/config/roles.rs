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
use postroad_routing::{AddressFamily, DnsOptions};

use super::load::Loaded;
use super::meaning::Problems;
use super::own;
use super::problem::ConfigError;
use super::routes::RouteStep;
use super::tables::AliasStep;
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
    pub routes: Vec<RouteStep>,
    /// The aliases of the configuration.
    pub aliases: Vec<AliasStep>,
    /// How TLS reports are sent, if they are.
    pub tls_reports: Option<TlsReporting>,
    /// How names are looked up.
    pub dns: DnsOptions,
    /// Bounds on connections.
    pub connections: ConnectionLimits,
    /// How long a stop may take.
    pub drain: Duration,
}

/// How TLS reports are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsReporting {
    /// The sender.
    pub from: Address,
    /// Who reports, where it is not the host's name.
    pub organization: Option<String>,
    /// Whom to ask, where it is not the sender.
    pub contact: Option<String>,
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
            routes: problems.routes(config),
            aliases: problems.aliases(config),
            tls_reports: problems.tls_reports(config),
            schedule: problems.schedule(config),
            mechanisms: problems.mechanisms(config),
        };
        problems.listeners(config);
        problems.not_built(config);
        problems.bounds(config);
        // What follows from settings that are wrong themselves is no second mistake.
        if problems.found.is_empty() {
            problems.open_relay(config, &parts.trusted, &parts.routes);
            problems.postmaster_is_there(config, &parts.hostname, &parts.routes);
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
            routes,
            aliases,
            tls_reports,
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
            idle_timeout: delivery.idle_timeout.0,
            messages_per_connection: delivery.messages_per_connection,
            connection_lifetime: delivery.connection_lifetime.0,
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
            routes,
            aliases,
            tls_reports,
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
}

struct Parts {
    hostname: Domain,
    postmaster: Option<Address>,
    trusted: Networks,
    domains: DomainPatterns,
    routes: Vec<RouteStep>,
    aliases: Vec<AliasStep>,
    tls_reports: Option<TlsReporting>,
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
            // Under TLS.
            require_tls: true,
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
        nameservers: config
            .dns
            .nameservers
            .iter()
            .map(|key| key.0.clone())
            .collect(),
        own_names: vec![hostname.clone()],
        own_addresses: own::addresses(config),
        own_loopback: own::is_all_loopback(config),
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
        ttl_min: config.dns.ttl_min.0,
        ttl_max: config.dns.ttl_max.0,
        ..DnsOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_queue::Next;

    /// Each key has a value of its own, that no default and no other key has.
    const ALL: &str = r#"
        hostname = "mx.here.test"
        postmaster = "admin@here.test"
        [queue]
        path = "/tmp/queue"
        [[listener]]
        service = "relay"
        bind = ["192.0.2.1:2525"]
        tls = "none"
        [submission]
        mechanisms = ["LOGIN"]
        sender_must_match = true
        [relay]
        domains = ["here.test"]
        trusted_networks = ["192.0.2.128/25"]
        [delivery]
        retry = ["11m", "22m"]
        expire = "3d"
        warn_after = "33m"
        concurrency = 101
        per_destination = 7
        port = 2526
        connect_timeout = "13s"
        idle_timeout = "9s"
        messages_per_connection = 57
        connection_lifetime = "97s"
        family = "ipv4"
        own_addresses = ["192.0.2.77"]
        [dns]
        nameservers = ["192.0.2.53:5353", "tls://192.0.2.54#ns.test"]
        timeout = "7s"
        ttl_min = "61s"
        ttl_max = "4321s"
        [limits]
        message_size = 1000001
        recipients = 203
        connections = 301
        connections_per_address = 17
        errors_per_address = 401
        errors = 19
        error_delay = "3s"
        command_timeout = "41s"
        data_timeout = "43s"
        session_timeout = "47m"
        header_size = 50001
        verify = "authenticated"
        bare_newline = "reject"
        eight_bit_headers = "reject"
        drain = "29s"
    "#;

    #[test]
    fn every_key_reaches_its_part() {
        let config = toml::from_str(ALL).unwrap();
        let roles = Roles::from_config(&Loaded::from_config(config)).unwrap();
        let seconds = Duration::from_secs;
        for (session, submission) in [
            (&roles.submission.session, true),
            (&roles.inbound.session, false),
        ] {
            assert_eq!(session.hostname.ascii(), "mx.here.test");
            assert_eq!(session.require_auth, submission);
            let mechanisms: &[_] = if submission { &[Mechanism::Login] } else { &[] };
            assert_eq!(session.extensions.auth, mechanisms);
            assert_eq!(session.extensions.size, Some(1_000_001));
            assert_eq!(session.extensions.recipients_max, Some(203));
            assert_eq!(session.verify, ProtoVerify::Authenticated);
            assert_eq!(session.bare_newline, ProtoBareNewline::Reject);
            assert!(session.reject_eight_bit_headers);
            let limits = &session.limits;
            assert_eq!(limits.message_size, 1_000_001);
            assert_eq!(limits.recipients, 203);
            assert_eq!(limits.header_size, 50_001);
            assert_eq!(limits.errors, 19);
            assert_eq!(limits.error_delay, seconds(3));
            assert_eq!(limits.command_timeout, seconds(41));
            assert_eq!(limits.data_timeout, seconds(43));
            assert_eq!(limits.session_timeout, seconds(47 * 60));
        }
        for (intake, service) in [
            (&roles.submission.intake, "submission"),
            (&roles.inbound.intake, "relay"),
        ] {
            assert_eq!(intake.hostname.ascii(), "mx.here.test");
            assert_eq!(intake.service, service);
            assert_eq!(intake.header_size, 50_001);
            let postmaster = intake.postmaster.as_ref().map(ToString::to_string);
            assert_eq!(postmaster.as_deref(), Some("admin@here.test"));
        }
        assert!(roles.submission.sender_must_match);
        for trusted in [&roles.submission.trusted, &roles.inbound.trusted] {
            assert!(trusted.contains([192, 0, 2, 200].into()));
            assert!(!trusted.contains([192, 0, 2, 100].into()));
            assert!(
                !trusted.contains([127, 0, 0, 1].into()),
                "no longer the default"
            );
        }
        let ours = |domain: &str| roles.inbound.domains.contains(&domain.parse().unwrap());
        assert!(ours("here.test") && !ours("there.test"));
    }

    #[test]
    fn every_key_of_delivery_reaches_it() {
        let config = toml::from_str(ALL).unwrap();
        let roles = Roles::from_config(&Loaded::from_config(config)).unwrap();
        let outbound = &roles.outbound;
        assert_eq!(outbound.hostname.ascii(), "mx.here.test");
        assert_eq!((outbound.concurrency, outbound.per_destination), (101, 7));
        assert_eq!(outbound.port, 2526);
        assert_eq!(outbound.connect_timeout, Duration::from_secs(13));
        assert_eq!(outbound.idle_timeout, Duration::from_secs(9));
        assert_eq!(outbound.messages_per_connection, 57);
        assert_eq!(outbound.connection_lifetime, Duration::from_secs(97));
        assert!(outbound.postmaster.is_some());
        let minutes = |n: u64| Duration::from_secs(n * 60);
        let arrived = postroad_mail::Timestamp::from_millis(1_800_000_000_000);
        let schedule = &outbound.schedule;
        for (attempts, least) in [(1, 11), (2, 22), (3, 22)] {
            let Next::Retry(at) = schedule.next(arrived, attempts, arrived, 0) else {
                panic!("{attempts}: given up");
            };
            let wait = at.since(arrived);
            assert!(
                wait >= minutes(least) * 9 / 10 && wait < minutes(least) * 3 / 2,
                "{wait:?}"
            );
        }
        assert_eq!(schedule.expires(arrived), arrived + minutes(3 * 24 * 60));
        assert!(schedule.is_late(arrived, arrived + minutes(34)));
        assert!(!schedule.is_late(arrived, arrived + minutes(32)));
        let dns = &roles.dns;
        assert_eq!(
            dns.nameservers,
            [
                "192.0.2.53:5353".parse().unwrap(),
                "tls://192.0.2.54:853#ns.test".parse().unwrap()
            ]
        );
        assert_eq!(dns.timeout, Duration::from_secs(7));
        assert_eq!(dns.ttl_min, Duration::from_secs(61));
        assert_eq!(dns.ttl_max, Duration::from_secs(4321));
        assert_eq!(dns.family, AddressFamily::Ipv4);
        assert!(dns.own_addresses.contains(&[192, 0, 2, 77].into()));
        assert!(dns.own_addresses.contains(&[192, 0, 2, 1].into()));
        let connections = &roles.connections;
        assert_eq!(connections.connections, 301);
        assert_eq!(connections.connections_per_address, 17);
        assert_eq!(connections.errors_per_address, 401);
        assert_eq!(roles.drain, Duration::from_secs(29));
    }
}
