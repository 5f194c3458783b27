//! What the keys mean, and mistakes in that.

use std::net::IpAddr;

use postroad_mail::{Address, Domain};
use postroad_mta::DomainPatterns;
use postroad_net::{Network, Networks};
use postroad_proto::sasl::Mechanism;
use postroad_queue::{InvalidSchedule, RetrySchedule};
use postroad_routing::Via;

use super::load::Loaded;
use super::problem::Problem;
use super::roles::TlsReporting;
use super::routes::RouteStep;
use super::{Config, Listener, Service, StoreKind};

/// The shortest prefixes of trusted networks.
const V4_MAX: u8 = 8;
const V6_MAX: u8 = 32;

/// Looks for mistakes, and goes on behind each.
pub(super) struct Problems<'a> {
    loaded: &'a Loaded,
    pub(super) found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) const fn new(loaded: &'a Loaded) -> Self {
        Self {
            loaded,
            found: Vec::new(),
        }
    }
}

impl Problems<'_> {
    pub(super) fn add(&mut self, key: &str, nth: usize, message: impl std::fmt::Display) {
        self.found.push(self.loaded.problem(key, nth, message));
    }

    /// Where a key is: `file:line`.
    pub(super) fn place(&self, key: &str, nth: usize) -> String {
        self.loaded.problem(key, nth, "").place
    }

    pub(super) fn postmaster(&mut self, config: &Config) -> Option<Address> {
        let text = config.postmaster.as_deref()?;
        text.parse()
            .map_err(|error| {
                let expected = "expected an address such as \"admin@example.org\"";
                self.add("postmaster", 0, format!("`{text}`: {error}; {expected}"));
            })
            .ok()
    }

    pub(super) fn tls_reports(&mut self, config: &Config) -> Option<TlsReporting> {
        let keys = &config.tls_reports;
        let Some(text) = keys.from.as_deref() else {
            if keys.organization.is_some() || keys.contact.is_some() {
                let message = "without `from` no reports are sent; expected an address such as \"tlsrpt@example.org\"";
                self.add("tls_reports", 0, message);
            }
            return None;
        };
        for (key, text) in [
            ("tls_reports.organization", &keys.organization),
            ("tls_reports.contact", &keys.contact),
        ] {
            let text = text.as_deref().unwrap_or("x");
            if text.is_empty() || text.chars().any(char::is_control) {
                self.add(key, 0, "must be some text, without control characters");
            }
        }
        match text.parse::<Address>() {
            Ok(from) => Some(TlsReporting {
                from,
                organization: keys.organization.clone(),
                contact: keys.contact.clone(),
            }),
            Err(error) => {
                let expected = "expected an address such as \"tlsrpt@example.org\"";
                self.add(
                    "tls_reports.from",
                    0,
                    format!("`{text}`: {error}; {expected}"),
                );
                None
            }
        }
    }

    /// A relay takes mail for its postmaster from anyone (RFC 5321 section 4.5.1): it must have
    /// somewhere to go, or it would wait in the queue until it expires.
    pub(super) fn postmaster_is_there(
        &mut self,
        config: &Config,
        hostname: &Domain,
        routes: &[RouteStep],
    ) {
        let relays = config.listener.iter().any(|l| l.service == Service::Relay);
        let own = Address::postmaster_at(hostname.clone());
        // A table may know the postmaster, or not: that is its business.
        let leads = |step: &RouteStep| {
            let rule = step.rule();
            (step.is_table() || rule.via != Via::Mx)
                && rule.recipient.as_ref().is_none_or(|r| r.matches(&own))
                && rule.sender.is_none()
                && rule.user.is_none()
                && rule.network.is_none()
        };
        if relays && config.postmaster.is_none() && !routes.iter().any(leads) {
            self.add(
                "postmaster",
                0,
                format!("is not set, and no [[route]] matches {own}: a relay takes mail for <postmaster> from anyone, and it would have nowhere to go; set it to somebody's address"),
            );
        }
    }

    pub(super) fn hostname(&mut self, config: &Config) -> Domain {
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

    pub(super) fn networks(&mut self, config: &Config) -> Networks {
        const KEY: &str = "relay.trusted_networks";
        const ADVICE: &str = "whoever is in there may send anywhere; name your own networks, at most a /8 (IPv4) or a /32 (IPv6)";
        let mut networks = Vec::new();
        for (nth, text) in config.relay.trusted_networks.iter().enumerate() {
            match text.parse::<Network>() {
                Ok(network)
                    if network.prefix() < if network.is_ipv4() { V4_MAX } else { V6_MAX } =>
                {
                    self.add(
                        KEY,
                        nth,
                        format!("`{text}` would make this an open relay: {ADVICE}"),
                    );
                    return Networks::default();
                }
                Ok(network) => networks.push(network),
                Err(error) => self.add(KEY, nth, error),
            }
        }
        let networks: Networks = networks.into_iter().collect();
        if networks.is_wider_than(V4_MAX, V6_MAX) {
            self.add(
                KEY,
                0,
                format!("all of them together would make this an open relay: {ADVICE}, all public ones together"),
            );
        }
        networks
    }

    /// Each pattern by itself, so that each mistake has its place.
    pub(super) fn domains(&mut self, config: &Config) -> DomainPatterns {
        let patterns = &config.relay.domains;
        for (nth, pattern) in patterns.iter().enumerate() {
            if let Err(error) = DomainPatterns::parse([pattern.as_str()]) {
                self.add("relay.domains", nth, error);
            }
        }
        DomainPatterns::parse(patterns.iter().map(String::as_str)).unwrap_or_default()
    }

    pub(super) fn listeners(&mut self, config: &Config) {
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

    pub(super) fn not_built(&mut self, config: &Config) {
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
    }

    /// Bounds of nothing: no mail could come, or go.
    pub(super) fn bounds(&mut self, config: &Config) {
        let (limits, delivery) = (&config.limits, &config.delivery);
        let counts = [
            ("limits.recipients", limits.recipients == 0),
            ("limits.connections", limits.connections == 0),
            (
                "limits.connections_per_address",
                limits.connections_per_address == 0,
            ),
            ("limits.errors", limits.errors == 0),
            ("limits.errors_per_address", limits.errors_per_address == 0),
            ("delivery.concurrency", delivery.concurrency == 0),
            ("delivery.per_destination", delivery.per_destination == 0),
            ("delivery.port", delivery.port == 0),
            (
                "delivery.messages_per_connection",
                delivery.messages_per_connection == 0,
            ),
        ];
        let sizes = [
            ("limits.message_size", limits.message_size.0 == 0),
            ("limits.header_size", limits.header_size.0 == 0),
        ];
        let times = [
            ("limits.command_timeout", limits.command_timeout),
            ("limits.data_timeout", limits.data_timeout),
            ("limits.session_timeout", limits.session_timeout),
            ("delivery.connect_timeout", delivery.connect_timeout),
            ("delivery.connection_lifetime", delivery.connection_lifetime),
            ("dns.timeout", config.dns.timeout),
            ("dns.ttl_max", config.dns.ttl_max),
        ]
        .map(|(key, span)| (key, span.0.is_zero()));
        for (key, zero) in counts.into_iter().chain(sizes).chain(times) {
            if zero {
                self.add(key, 0, "must be more than nothing");
            }
        }
        if config.dns.ttl_min.0 > config.dns.ttl_max.0 {
            self.add("dns.ttl_min", 0, "must not be more than dns.ttl_max");
        }
        if delivery.warn_after.0.is_some_and(|after| after.is_zero()) {
            self.add(
                "delivery.warn_after",
                0,
                "must be more than nothing, or \"never\"",
            );
        }
    }

    pub(super) fn schedule(&mut self, config: &Config) -> RetrySchedule {
        let delivery = &config.delivery;
        let delays = delivery.retry.iter().map(|span| span.0).collect();
        RetrySchedule::new(delays, delivery.expire.0, delivery.warn_after.0).unwrap_or_else(
            |error| {
                let key = if error == InvalidSchedule::Expiry {
                    "delivery.expire"
                } else {
                    "delivery.retry"
                };
                self.add(key, 0, error);
                RetrySchedule::default()
            },
        )
    }

    pub(super) fn mechanisms(&mut self, config: &Config) -> Vec<Mechanism> {
        const NOT_BUILT: [&str; 5] = [
            "SCRAM-SHA-256",
            "SCRAM-SHA-256-PLUS",
            "OAUTHBEARER",
            "XOAUTH2",
            "EXTERNAL",
        ];
        let mut mechanisms = Vec::new();
        for (nth, name) in config.submission.mechanisms.iter().enumerate() {
            match Mechanism::from_name(name) {
                Some(mechanism) => mechanisms.push(mechanism),
                None if NOT_BUILT
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(name)) =>
                {
                    self.add(
                        "submission.mechanisms",
                        nth,
                        format!("{name} is not built yet in this version; expected PLAIN or LOGIN"),
                    );
                }
                None => self.add(
                    "submission.mechanisms",
                    nth,
                    format!("`{name}` is no mechanism; expected PLAIN or LOGIN"),
                ),
            }
        }
        mechanisms
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Loaded, Roles};

    #[test]
    fn a_relay_has_a_postmaster() {
        let mistake = |listener: &str, top: &str, route: &str| {
            let text = format!("hostname = \"mx.test\"\n{top}\n{listener}\n{route}");
            let loaded = Loaded::from_config(toml::from_str(&text).unwrap());
            Roles::from_config(&loaded).map_or_else(|e| e.to_string(), |_| String::new())
        };
        let relay = "[[listener]]\nservice = \"relay\"\nbind = [\"127.0.0.1:0\"]\ntls = \"none\"";
        for (listener, top, route, ok) in [
            (relay, "", "", false),
            (relay, "postmaster = \"admin@box.test\"", "", true),
            (relay, "", "via = \"discard\"", true),
            (
                relay,
                "",
                "recipient = \"postmaster@*\"\nvia = \"smtp://box.test\"",
                true,
            ),
            (
                relay,
                "",
                "recipient = \"*@mx.test\"\nvia = \"maildir:/m/{local}\"",
                true,
            ),
            // To our own MX, to others' mail only, or not always.
            (relay, "", "via = \"mx\"", false),
            (
                relay,
                "",
                "recipient = \"*@other.test\"\nvia = \"discard\"",
                false,
            ),
            (relay, "", "sender = \"a@b.test\"\nvia = \"discard\"", false),
            ("", "", "", true),
        ] {
            let route = if route.is_empty() {
                String::new()
            } else {
                format!("[[route]]\n{route}\n")
            };
            let said = mistake(listener, top, &route);
            assert_eq!(said.is_empty(), ok, "{route} {said}");
            assert!(ok || said.contains("postmaster: is not set"), "{said}");
        }
    }
}
