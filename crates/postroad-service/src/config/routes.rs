//! What `[[route]]` means, and mistakes in that.

use std::net::IpAddr;
use std::sync::Arc;

use postroad_lookup::TableSpec;
use postroad_mail::Domain;
use postroad_net::Network;
use postroad_routing::{
    ChosenBy, HopAddress, PatternError, Rate, RouteCredentials, RouteLimits, RouteOptions,
    RouteRule, TlsMode, Via, ViaError,
};

use super::meaning::Problems;
use super::{Config, RateKey, Route, RouteTls};

/// One `[[route]]`, in the order of the configuration.
#[derive(Clone, Debug)]
pub enum RouteStep {
    /// One with `via`.
    Rule(RouteRule),
    /// One with `table`.
    Table {
        /// For which mail it is asked, and how that goes; its `via` says nothing.
        only: RouteRule,
        /// The table.
        spec: Box<TableSpec>,
    },
}

impl RouteStep {
    /// For which mail it is, and how that goes.
    pub(super) const fn rule(&self) -> &RouteRule {
        match self {
            Self::Rule(rule) | Self::Table { only: rule, .. } => rule,
        }
    }

    /// Whether a table says where it goes: that may be anywhere.
    pub(super) const fn is_table(&self) -> bool {
        matches!(self, Self::Table { .. })
    }
}

impl Problems<'_> {
    pub(super) fn routes(&mut self, config: &Config) -> Vec<RouteStep> {
        let routes = config.route.iter().enumerate();
        routes
            .filter_map(|(nth, route)| self.route(nth, route))
            .collect()
    }

    fn route(&mut self, nth: usize, route: &Route) -> Option<RouteStep> {
        let rule = self.rule(nth, route);
        match (route.via.0.as_slice(), &route.table) {
            ([], None) => {
                let message = "needs `via` or `table`: where does its mail go?";
                self.add("route", nth, message);
                None
            }
            ([_, ..], Some(_)) => {
                let message =
                    "`via` says where the mail goes, and so does `table`: one of them only";
                self.add("route.table", nth, message);
                None
            }
            ([], Some(table)) => {
                let spec = self.table("route.table", nth, &table.0)?;
                Some(RouteStep::Table {
                    only: rule,
                    spec: Box::new(spec),
                })
            }
            (all, None) => {
                let via = self.via(nth, all)?;
                self.fits(nth, route, &via);
                Some(RouteStep::Rule(RouteRule { via, ..rule }))
            }
        }
    }

    /// All but where it leads.
    fn rule(&mut self, nth: usize, route: &Route) -> RouteRule {
        let mut pattern = |key: &str, text: Option<&String>| {
            let parsed = text?.parse();
            parsed
                .map_err(|error: PatternError| self.add(key, nth, error))
                .ok()
        };
        let recipient = pattern("route.recipient", route.recipient.as_ref());
        let sender = pattern("route.sender", route.sender.as_ref());
        let network = route.network.as_ref().and_then(|text| {
            text.parse::<Network>()
                .map_err(|error| self.add("route.network", nth, error))
                .ok()
        });
        let place = self.place("route", nth);
        let number = nth + 1;
        RouteRule {
            recipient,
            sender,
            user: route.user.clone(),
            network: network.map(|network| network.net()),
            options: self.options(nth, route),
            chosen_by: ChosenBy::new(&format!("{place}, [[route]] {number}")),
            ..RouteRule::new(Via::Mx)
        }
    }

    /// One way, or several hosts.
    fn via(&mut self, nth: usize, all: &[String]) -> Option<Via> {
        let mut hops = Vec::new();
        let mut good = true;
        for text in all {
            match text.parse::<Via>() {
                Ok(Via::Hops(more)) => hops.extend(more),
                Ok(via) if all.len() == 1 => return Some(via),
                Ok(_) => {
                    good = false;
                    let message = format!(
                        "`{text}` in a list: only hosts can be several, as in [\"smtp://a:25\", \"smtp://b:25 preference=10\"]"
                    );
                    self.add("route.via", nth, message);
                }
                Err(error) => {
                    good = false;
                    let error: ViaError = error;
                    self.add("route.via", nth, error);
                }
            }
        }
        good.then_some(Via::Hops(hops))
    }

    fn options(&mut self, nth: usize, route: &Route) -> RouteOptions {
        let auth = self.auth(nth, route);
        let tls = match route.tls {
            // The password must not be heard by others.
            RouteTls::Opportunistic if auth.is_some() => TlsMode::Require,
            RouteTls::Opportunistic => TlsMode::Opportunistic,
            RouteTls::Require => TlsMode::Require,
            RouteTls::Verify => TlsMode::Verify,
            RouteTls::None => TlsMode::None,
        };
        let helo = route.helo.as_ref().and_then(|name| {
            let parsed = name.parse::<Domain>();
            parsed
                .map_err(|error| {
                    let expected = "expected a name such as \"mx1.example.org\"";
                    self.add("route.helo", nth, format!("`{name}`: {error}; {expected}"));
                })
                .ok()
        });
        if route.port == Some(0) {
            self.add("route.port", nth, "must be more than nothing");
        }
        RouteOptions {
            tls,
            source: self.source(nth, &route.source.0),
            helo,
            port: route.port,
            auth,
            limits: self.limits(nth, route),
        }
    }

    fn source(&mut self, nth: usize, source: &[IpAddr]) -> Vec<IpAddr> {
        for (n, address) in source.iter().enumerate() {
            let again = source.iter().take(n);
            if address.is_unspecified() || address.is_multicast() {
                let message = format!("{address} is no address to call from");
                self.add("route.source", nth, message);
            } else if again
                .clone()
                .any(|other| other.is_ipv4() == address.is_ipv4())
            {
                let message =
                    format!("{address} is the second of its family: only one can be used");
                self.add("route.source", nth, message);
            }
        }
        source.to_vec()
    }

    fn auth(&mut self, nth: usize, route: &Route) -> Option<Arc<RouteCredentials>> {
        let auth = route.auth.as_ref()?;
        if route.tls == RouteTls::None {
            let message = "\"none\" with `auth` would send the password for everybody to hear; use \"verify\" or \"require\"";
            self.add("route.tls", nth, message);
        }
        if auth.user.is_empty() {
            self.add("route.auth.user", nth, "is empty");
        }
        let secret = match auth.password.read() {
            Ok(secret) => secret,
            Err(error) => {
                self.add("route.auth.password", nth, error);
                return None;
            }
        };
        let user = auth.user.clone();
        Some(Arc::new(RouteCredentials { user, secret }))
    }

    fn limits(&mut self, nth: usize, route: &Route) -> Option<Arc<RouteLimits>> {
        let limits = route.limits.as_ref()?;
        if limits.per_destination == Some(0) {
            let message = "must be more than nothing; to keep mail, use via = \"defer 4.2.0 text\"";
            self.add("route.limits.per_destination", nth, message);
        }
        let rate = |key: RateKey| Rate {
            count: key.count,
            per: key.per,
        };
        Some(Arc::new(RouteLimits {
            name: format!("[[route]] {}", nth + 1),
            per_destination: limits.per_destination,
            messages: limits.messages.map(rate),
            connections: limits.connections.map(rate),
        }))
    }

    /// Options that mean nothing for the way would be believed to do something.
    fn fits(&mut self, nth: usize, route: &Route, via: &Via) {
        let (by_mx, by_hosts) = (*via == Via::Mx, matches!(via, Via::Hops(_)));
        if route.auth.is_some() && !by_hosts {
            let message = "a login is for hosts that `via` names: whoever an MX record names must not be told the password";
            self.add("route.auth", nth, message);
        }
        if route.auth.is_some() && is_local(via) {
            let message = "there is no TLS on a Unix socket, and no login without it";
            self.add("route.auth", nth, message);
        }
        if route.port.is_some() && !by_mx {
            let message = "is the port of MX hosts; other hosts have theirs in `via`";
            self.add("route.port", nth, message);
        }
        if by_mx || by_hosts {
            return;
        }
        for (key, given) in [
            ("route.source", !route.source.0.is_empty()),
            ("route.helo", route.helo.is_some()),
            ("route.limits", route.limits.is_some()),
        ] {
            if given {
                self.add(
                    key,
                    nth,
                    "nobody is called on this way: it would mean nothing",
                );
            }
        }
    }
}

fn is_local(via: &Via) -> bool {
    let Via::Hops(hops) = via else { return false };
    hops.iter().any(|hop| matches!(hop.at, HopAddress::Unix(_)))
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
