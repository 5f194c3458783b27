//! Whether strangers could send anywhere.

use postroad_net::{Network, Networks};
use postroad_routing::{Pattern, RouteRule, Via};

use super::meaning::Problems;
use super::routes::RouteStep;
use super::{Config, Service};

/// Top-level names that no public mail is for (RFC 2606, 6761, 6762, 8375, 9476, ICANN's `internal`).
const NOT_PUBLIC: [&str; 9] = [
    "alt",
    "example",
    "home",
    "internal",
    "invalid",
    "lan",
    "local",
    "localhost",
    "test",
];

impl Problems<'_> {
    /// Mail for any domain from anyone, and a way out of this machine: by MX, by a table that may say so,
    /// or to a smarthost, which would be an open relay through us. Where the next host is near makes no difference:
    /// it trusts us.
    pub(super) fn open_relay(&mut self, config: &Config, trusted: &Networks, routes: &[RouteStep]) {
        if !config.listener.iter().any(|l| l.service == Service::Relay) {
            return;
        }
        for (nth, pattern) in config.relay.domains.iter().enumerate() {
            let Some(wide) = Wide::of(pattern) else {
                continue;
            };
            if let Some(way) = wide.way_out(trusted, routes) {
                self.add(
                    "relay.domains",
                    nth,
                    format!("`{pattern}` with {way} would make this an open relay: anyone could send anywhere; name your own domains, or keep this mail here (`maildir:`, `discard`) by a route before"),
                );
            }
        }
    }
}

/// A pattern over domains of strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wide {
    All,
    /// `*.com`: all below a public top-level name.
    Below(String),
}

impl Wide {
    fn of(pattern: &str) -> Option<Self> {
        if pattern == "*" {
            return Some(Self::All);
        }
        let parent = pattern.strip_prefix("*.")?.trim_end_matches('.');
        let parent = parent.to_lowercase();
        let public = !parent.contains('.') && !NOT_PUBLIC.contains(&parent.as_str());
        public.then_some(Self::Below(parent))
    }

    /// How a stranger's mail for such a domain would leave, in words.
    fn way_out(&self, trusted: &Networks, routes: &[RouteStep]) -> Option<&'static str> {
        for step in routes {
            let rule = step.rule();
            if !is_for_strangers(rule, trusted) {
                continue;
            }
            if step.is_table() {
                return Some("a table, which may lead anywhere,");
            }
            match rule.via {
                Via::Mx => return Some("a route by MX"),
                Via::Hops(_) => return Some("a route to another host"),
                _ if self.is_caught_by(rule) => return None,
                _ => {}
            }
        }
        Some("mail that no route catches, and which goes by MX,")
    }

    /// Whether no such mail gets past the rule.
    fn is_caught_by(&self, rule: &RouteRule) -> bool {
        let all = match (&rule.recipient, self) {
            (None | Some(Pattern::Any), _) => true,
            (Some(Pattern::Below(parent)), Self::Below(wide)) => parent.ascii() == wide,
            _ => false,
        };
        all && rule.sender.is_none() && rule.network.is_none()
    }
}

/// Who has logged in, or is in a trusted network, is none, and may send anywhere.
fn is_for_strangers(rule: &RouteRule, trusted: &Networks) -> bool {
    let of_trusted = rule
        .network
        .and_then(|net| net.to_string().parse::<Network>().ok())
        .is_some_and(|network| trusted.contains_all_of(&network));
    rule.user.is_none() && !of_trusted
}

#[cfg(test)]
mod tests {
    use super::super::{Loaded, Roles};

    fn mistakes(relay: &str, routes: &[&str]) -> String {
        let mut text = format!(
            "hostname = \"mx.test\"\npostmaster = \"admin@box.test\"\n[[listener]]\nservice = \"relay\"\nbind = [\"127.0.0.1:0\"]\ntls = \"none\"\n[relay]\n{relay}\n"
        );
        for route in routes {
            text.push_str(&format!("[[route]]\n{route}\n"));
        }
        let loaded = Loaded::from_config(toml::from_str(&text).unwrap());
        Roles::from_config(&loaded).map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn no_open_relay_starts() {
        let to_host = "via = \"smtp://smarthost.example.net\"";
        let near = "via = \"smtp://127.0.0.1:10025\"";
        let maildir = "via = \"maildir:/mail/{local}\"";
        let several = "via = [\"smtp://a.example.net\", \"smtp://b.example.net\"]";
        let table = "table = \"routes.txt\"";
        let table_of_ours = "recipient = \"*@example.org\"\ntable = \"routes.txt\"";
        let table_of_user = "user = \"alice\"\ntable = \"routes.txt\"";
        let ours = "recipient = \"*@example.org\"\nvia = \"maildir:/mail\"";
        let of_user = "user = \"alice\"\nvia = \"mx\"";
        let of_trusted = "network = \"10.1.0.0/16\"\nvia = \"mx\"";
        let of_strangers = "network = \"192.0.2.0/24\"\nvia = \"mx\"";
        let from_nobody = "sender = \"<>\"\nvia = \"discard\"";
        for (domains, routes, open) in [
            ("*", &["via = \"mx\""][..], true),
            ("*", &[], true),
            ("*", &[ours], true),
            ("*", &[from_nobody], true),
            ("*", &[to_host], true),
            ("*", &[near], true),
            ("*", &[ours, to_host], true),
            ("*", &[several], true),
            ("*", &[table, maildir], true),
            ("*", &[table_of_ours, maildir], true),
            ("*", &[table_of_user, maildir], false),
            ("*", &[maildir, table], false),
            ("example.org", &[table], false),
            ("*", &[maildir], false),
            ("*", &[maildir, to_host], false),
            ("*", &[of_user, of_trusted, maildir], false),
            ("*", &[of_strangers, maildir], true),
            ("*.com", &["via = \"mx\""], true),
            ("*.COM", &[], true),
            ("*.com", &[to_host], true),
            (
                "*.com",
                &["recipient = \"*@*.com\"\nvia = \"discard\""],
                false,
            ),
            ("com", &[], false),
            ("localhost", &[], false),
            ("*.lan", &[], false),
            ("*.example.org", &[], false),
            ("example.org", &[to_host], false),
        ] {
            let relay = format!("domains = [\"{domains}\"]\ntrusted_networks = [\"10.0.0.0/8\"]");
            let found = mistakes(&relay, routes);
            assert_eq!(
                found.contains("open relay"),
                open,
                "{domains} {routes:?}: {found}"
            );
            assert_eq!(found.is_empty(), !open, "{domains} {routes:?}: {found}");
        }
    }

    #[test]
    fn trusted_networks_are_added_up() {
        let all: Vec<String> = (1..=200).map(|n| format!("\"{n}.0.0.0/8\"")).collect();
        for (networks, open) in [
            ("\"0.0.0.0/0\"".to_owned(), true),
            ("\"::ffff:0.0.0.0/96\"".to_owned(), true),
            (all.join(", "), true),
            (
                "\"8.0.0.0/8\", \"10.0.0.0/8\", \"127.0.0.0/8\"".to_owned(),
                false,
            ),
        ] {
            let found = mistakes(&format!("trusted_networks = [{networks}]"), &[]);
            assert_eq!(found.contains("open relay"), open, "{networks}: {found}");
        }
    }

    #[test]
    fn a_mistake_does_not_lead_to_another() {
        let found = mistakes("domains = [\"*\"]", &["via = \"maildir:relative\""]);
        assert!(
            found.contains("route.via") && !found.contains("open relay"),
            "{found}"
        );
    }
}
