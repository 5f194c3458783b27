//! From the configuration to the settings of each part.

use std::net::IpAddr;
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
use postroad_routing::{
    AddressFamily, DnsOptions, RouteRule, SharedRouter, StaticRouter, TlsMode, Via,
};

use super::load::{ConfigError, Loaded, Problem};
use super::{
    BareNewline, Config, EightBitHeaders, Family, Listener, RouteTls, Service, StoreKind, Verify,
};

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
    pub routes: StaticRouter,
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
        let mut problems = Problems {
            loaded,
            found: Vec::new(),
        };
        let config = &loaded.config;
        let hostname = problems.hostname(config);
        let postmaster = problems.parse::<Address>(
            "postmaster",
            config.postmaster.as_deref(),
            "expected an address such as \"admin@example.org\"",
        );
        let trusted = problems.networks(config);
        let domains = DomainPatterns::parse(config.relay.domains.iter().map(String::as_str))
            .unwrap_or_else(|error| {
                problems.add("relay.domains", 0, error);
                DomainPatterns::default()
            });
        let rules = problems.routes(config);
        problems.open_relay(config, &domains, &rules);
        problems.listeners(config);
        problems.not_built(config);
        let schedule = problems.schedule(config);
        let mechanisms = problems.mechanisms(config);
        if !problems.found.is_empty() {
            return Err(ConfigError(problems.found));
        }
        Ok(Self::build(
            config,
            Parts {
                hostname,
                postmaster,
                trusted,
                domains,
                rules,
                schedule,
                mechanisms,
            },
        ))
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
            routes: StaticRouter::new(rules),
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
        SharedRouter::new(self.routes.clone())
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
        bare_newline: bare_newline(limits.bare_newline),
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

const fn bare_newline(chosen: Option<BareNewline>) -> ProtoBareNewline {
    match chosen {
        None => ProtoBareNewline::NormalizeTrusted,
        Some(BareNewline::Reject) => ProtoBareNewline::Reject,
        Some(BareNewline::Normalize) => ProtoBareNewline::Normalize,
    }
}

fn dns(config: &Config, hostname: &Domain) -> DnsOptions {
    let bound = config
        .listener
        .iter()
        .filter(|l| l.service == Service::Relay)
        .flat_map(|l| &l.bind)
        .map(std::net::SocketAddr::ip);
    let own: Vec<IpAddr> = bound
        .filter(|ip| !ip.is_unspecified())
        .chain(config.delivery.own_addresses.iter().copied())
        .collect();
    DnsOptions {
        nameservers: config.dns.nameservers.clone(),
        own_names: vec![hostname.clone()],
        own_addresses: own,
        family: match config.delivery.family {
            Family::Any => AddressFamily::Any,
            Family::Ipv4 => AddressFamily::Ipv4,
            Family::Ipv6 => AddressFamily::Ipv6,
        },
        timeout: config.dns.timeout.0,
        ..DnsOptions::default()
    }
}

/// Looks for mistakes, and goes on behind each.
struct Problems<'a> {
    loaded: &'a Loaded,
    found: Vec<Problem>,
}

impl Problems<'_> {
    fn add(&mut self, key: &str, nth: usize, message: impl std::fmt::Display) {
        self.found.push(self.loaded.problem(key, nth, message));
    }

    fn parse<T: std::str::FromStr>(
        &mut self,
        key: &str,
        text: Option<&str>,
        expected: &str,
    ) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = text?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(key, 0, format!("`{text}`: {error}; {expected}"));
                None
            }
        }
    }

    fn hostname(&mut self, config: &Config) -> Domain {
        let fallback = Domain::from(IpAddr::from([127, 0, 0, 1]));
        let system = || {
            nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
        };
        let Some(name) = config.hostname.clone().or_else(system) else {
            self.add("hostname", 0, "the system has no name; set one");
            return fallback;
        };
        name.parse().unwrap_or_else(|error| {
            self.add(
                "hostname",
                0,
                format!("`{name}`: {error}; expected a name such as \"mx1.example.org\""),
            );
            fallback
        })
    }

    fn networks(&mut self, config: &Config) -> Networks {
        let mut networks = Vec::new();
        for text in &config.relay.trusted_networks {
            match text.parse::<postroad_net::Network>() {
                Ok(network) if network.prefix() < if network.is_ipv4() { 8 } else { 32 } => {
                    self.add(
                        "relay.trusted_networks",
                        0,
                        format!("`{text}` would make this an open relay: whoever is in it may send anywhere; name your own networks, at most a /8 (IPv4) or a /32 (IPv6)"),
                    );
                }
                Ok(network) => networks.push(network),
                Err(error) => self.add("relay.trusted_networks", 0, error),
            }
        }
        networks.into_iter().collect()
    }

    fn routes(&mut self, config: &Config) -> Vec<RouteRule> {
        let mut rules = Vec::new();
        for (nth, route) in config.route.iter().enumerate() {
            let via = match route.via.parse::<Via>() {
                Ok(via) => via,
                Err(error) => {
                    self.add("route.via", nth, error);
                    continue;
                }
            };
            let mut pattern = |key: &str, text: Option<&String>| {
                text.and_then(|text| {
                    text.parse()
                        .map_err(|error: postroad_routing::PatternError| self.add(key, nth, error))
                        .ok()
                })
            };
            let recipient = pattern("route.recipient", route.recipient.as_ref());
            let sender = pattern("route.sender", route.sender.as_ref());
            let network = route.network.as_ref().and_then(|text| {
                let single = || text.parse::<IpAddr>().map(ipnet::IpNet::from);
                text.parse::<ipnet::IpNet>()
                    .or_else(|_| single())
                    .map_err(|_| {
                        self.add(
                            "route.network",
                            nth,
                            format!("`{text}` is no network such as 192.0.2.0/24"),
                        );
                    })
                    .ok()
            });
            let tls = match route.tls {
                RouteTls::Opportunistic => TlsMode::Opportunistic,
                RouteTls::Require => TlsMode::Require,
                RouteTls::Verify => TlsMode::Verify,
                RouteTls::None => TlsMode::None,
            };
            rules.push(RouteRule {
                recipient,
                sender,
                user: route.user.clone(),
                network,
                via,
                tls,
                source: route.source,
            });
        }
        rules
    }

    /// Mail for any domain from anyone, and a way out by MX.
    fn open_relay(&mut self, config: &Config, domains: &DomainPatterns, rules: &[RouteRule]) {
        let relays = config.listener.iter().any(|l| l.service == Service::Relay);
        if !relays || !domains.is_all() {
            return;
        }
        let catches_all = |rule: &&RouteRule| {
            matches!(rule.recipient, None | Some(postroad_routing::Pattern::Any))
                && rule.sender.is_none()
                && rule.user.is_none()
                && rule.network.is_none()
        };
        let until = rules
            .iter()
            .position(|rule| catches_all(&rule))
            .map_or(rules.len(), |at| at + 1);
        let leaves = rules
            .iter()
            .take(until)
            .any(|rule| matches!(rule.via, Via::Mx));
        if leaves || until == rules.len() && !rules.last().is_some_and(|rule| catches_all(&rule)) {
            self.add(
                "relay.domains",
                0,
                "`*` with a route by MX would make this an open relay: anyone could send anywhere; name your domains, or route all mail to one host",
            );
        }
    }

    fn listeners(&mut self, config: &Config) {
        let mut seen = std::collections::HashSet::new();
        for (nth, listener) in config.listener.iter().enumerate() {
            if listener.bind.is_empty() {
                self.add(
                    "listener.bind",
                    nth,
                    "no address; expected one such as \"[::]:25\"",
                );
            }
            for address in &listener.bind {
                if address.port() != 0 && !seen.insert(address) {
                    self.add("listener.bind", nth, format!("{address} is bound twice"));
                }
            }
            self.listener(config, nth, listener);
        }
        if config
            .admin
            .http
            .is_some_and(|address| !address.ip().is_loopback())
        {
            self.add(
                "admin.http",
                0,
                "must be a loopback address: tokens and TLS for it are not built yet",
            );
        }
    }

    fn listener(&mut self, config: &Config, nth: usize, listener: &Listener) {
        use super::ListenerTls;
        if listener.tls != ListenerTls::None && config.tls.is_none() {
            self.add(
                "listener.tls",
                nth,
                "needs a certificate; add a table [tls] with `certificate` and `key`",
            );
        }
        if listener.service != Service::Submission {
            return;
        }
        if listener.tls == ListenerTls::None {
            self.add("listener.tls", nth, "submission offers AUTH under TLS only, so that with \"none\" nobody could log in; use \"starttls\" or \"implicit\"");
        }
        if config.submission.directory.is_none() {
            self.add(
                "listener.service",
                nth,
                "submission needs to know its users; add to [submission] directory = { kind = \"file\", path = \"users.toml\" }",
            );
        }
    }

    fn not_built(&mut self, config: &Config) {
        if config.queue.store == StoreKind::Postgres {
            self.add(
                "queue.store",
                0,
                "\"postgres\" is not built yet in this version; expected \"local\" or \"memory\"",
            );
        }
        if let Some(directory) = &config.submission.directory {
            if directory.kind != super::DirectoryKind::File {
                self.add(
                    "submission.directory",
                    0,
                    "only kind = \"file\" is built yet in this version",
                );
            } else if directory.path.is_none() {
                self.add("submission.directory", 0, "kind = \"file\" needs a path");
            }
        }
        if config.limits.verify == Verify::Authenticated {
            self.add(
                "limits.verify",
                0,
                "\"authenticated\" is not built yet in this version; expected \"none\"",
            );
        }
        let different = config.listener.iter().position(|l| {
            l.bare_newline
                .is_some_and(|b| Some(b) != config.limits.bare_newline)
        });
        if let Some(nth) = different {
            self.add("listener.bare_newline", nth, "setting it for one listener is not built yet in this version; set limits.bare_newline");
        }
        for (key, zero) in [
            ("limits.recipients", config.limits.recipients == 0),
            ("limits.connections", config.limits.connections == 0),
            (
                "limits.connections_per_address",
                config.limits.connections_per_address == 0,
            ),
            ("limits.errors", config.limits.errors == 0),
            ("delivery.concurrency", config.delivery.concurrency == 0),
            (
                "delivery.per_destination",
                config.delivery.per_destination == 0,
            ),
            ("delivery.port", config.delivery.port == 0),
        ] {
            if zero {
                self.add(key, 0, "must be at least 1");
            }
        }
    }

    fn schedule(&mut self, config: &Config) -> RetrySchedule {
        let delivery = &config.delivery;
        let delays = delivery.retry.iter().map(|span| span.0).collect();
        RetrySchedule::new(delays, delivery.expire.0, delivery.warn_after.0).unwrap_or_else(
            |error| {
                self.add("delivery.retry", 0, error);
                RetrySchedule::default()
            },
        )
    }

    fn mechanisms(&mut self, config: &Config) -> Vec<Mechanism> {
        const NOT_BUILT: [&str; 5] = [
            "SCRAM-SHA-256",
            "SCRAM-SHA-256-PLUS",
            "OAUTHBEARER",
            "XOAUTH2",
            "EXTERNAL",
        ];
        let mut mechanisms = Vec::new();
        for name in &config.submission.mechanisms {
            match Mechanism::from_name(name) {
                Some(mechanism) => mechanisms.push(mechanism),
                None if NOT_BUILT
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(name)) =>
                {
                    self.add(
                        "submission.mechanisms",
                        0,
                        format!("{name} is not built yet in this version; expected PLAIN or LOGIN"),
                    );
                }
                None => self.add(
                    "submission.mechanisms",
                    0,
                    format!("`{name}` is no mechanism; expected PLAIN or LOGIN"),
                ),
            }
        }
        mechanisms
    }
}
