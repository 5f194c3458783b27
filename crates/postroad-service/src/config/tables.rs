//! What a table's keys mean, and mistakes in that.

use postroad_lookup::{CacheOptions, GuardOptions, TableSpec};
use postroad_mail::{Domain, Secret};

use super::meaning::Problems;
use super::{Config, SecretKey, TableKeys, TableKind};

/// Keys that tables of all kinds have.
const COMMON: [&str; 6] = [
    "kind",
    "timeout",
    "connections",
    "cache",
    "cache_negative",
    "cache_entries",
];

/// One `[[alias]]`, in the order of the configuration.
#[derive(Clone, Debug)]
pub struct AliasStep {
    /// The table.
    pub spec: TableSpec,
    /// Domains that live of it.
    pub domains: Vec<Domain>,
}

impl TableKind {
    /// The keys without which it is none, and those that it may have besides.
    const fn keys(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::File => (&["path"], &[]),
            Self::Socketmap => (&["socket", "map"], &[]),
            Self::Http => (&["url"], &["map", "token"]),
            Self::Ldap => (
                &["url", "base", "filter", "attributes"],
                &["starttls", "bind", "password"],
            ),
            Self::Sql => (&["url", "query"], &["password"]),
        }
    }
}

impl TableKeys {
    /// The keys that are given, besides those of all kinds.
    fn given(&self) -> Vec<&'static str> {
        let keys = [
            ("path", self.path.is_some()),
            ("socket", self.socket.is_some()),
            ("map", self.map.is_some()),
            ("url", self.url.is_some()),
            ("token", self.token.is_some()),
            ("starttls", self.starttls.is_some()),
            ("base", self.base.is_some()),
            ("filter", self.filter.is_some()),
            ("attributes", self.attributes.is_some()),
            ("bind", self.bind.is_some()),
            ("password", self.password.is_some()),
            ("query", self.query.is_some()),
        ];
        let given = keys.into_iter().filter(|(_, given)| *given);
        given.map(|(name, _)| name).collect()
    }

    /// Bounds that are not given are those of the crate.
    fn bounded(&self, kind: postroad_lookup::TableKind) -> TableSpec {
        let mut spec = TableSpec::new(kind);
        let usual = (GuardOptions::default(), CacheOptions::default());
        spec.guard.timeout = self.timeout.map_or(usual.0.timeout, |span| span.0);
        spec.connections = self.connections.unwrap_or(spec.connections);
        spec.cache = CacheOptions {
            ttl: self.cache.map_or(usual.1.ttl, |span| span.0),
            negative: self.cache_negative.map_or(usual.1.negative, |span| span.0),
            entries: self.cache_entries.unwrap_or(usual.1.entries),
        };
        spec
    }
}

impl Problems<'_> {
    /// The tables of aliases.
    pub(super) fn aliases(&mut self, config: &Config) -> Vec<AliasStep> {
        let mut steps = Vec::new();
        for (nth, alias) in config.alias.iter().enumerate() {
            let mut domains = Vec::new();
            for text in &alias.domains {
                match text.parse::<Domain>() {
                    Ok(domain) => domains.push(domain),
                    Err(error) => self.add(
                        "alias.domains",
                        nth,
                        format!("`{text}`: {error}; expected a name such as \"example.org\""),
                    ),
                }
            }
            let spec = self.table("alias.table", nth, &alias.table.0);
            steps.extend(spec.map(|spec| AliasStep { spec, domains }));
        }
        steps
    }

    /// Looks for mistakes in the table of the n-th entry; `key` is `route.table` or `alias.table`.
    pub(super) fn table(&mut self, key: &str, nth: usize, keys: &TableKeys) -> Option<TableSpec> {
        let before = self.found.len();
        self.fitting(key, nth, keys);
        self.more_than_nothing(key, nth, keys);
        let token = self.secret(&format!("{key}.token"), nth, keys.token.as_ref());
        let password = self.secret(&format!("{key}.password"), nth, keys.password.as_ref());
        if self.found.len() > before {
            return None;
        }
        let text = |key: &Option<String>| key.clone().unwrap_or_default();
        let kind = match keys.kind {
            TableKind::File => postroad_lookup::TableKind::File {
                path: keys.path.clone().unwrap_or_default(),
            },
            TableKind::Socketmap => match text(&keys.socket).parse() {
                Ok(socket) => postroad_lookup::TableKind::Socketmap {
                    socket,
                    map: text(&keys.map),
                },
                Err(error) => {
                    let error: postroad_lookup::SocketAddressError = error;
                    self.add(&format!("{key}.socket"), nth, error);
                    return None;
                }
            },
            TableKind::Http => postroad_lookup::TableKind::Http {
                url: text(&keys.url),
                // As in `routes` or `aliases`.
                table: keys
                    .map
                    .clone()
                    .unwrap_or_else(|| usual_map(key).to_owned()),
                token,
            },
            TableKind::Ldap => postroad_lookup::TableKind::Ldap {
                url: text(&keys.url),
                starttls: keys.starttls.unwrap_or(false),
                base: text(&keys.base),
                filter: text(&keys.filter),
                attributes: keys.attributes.clone().unwrap_or_default(),
                bind: keys.bind.clone().zip(password),
            },
            TableKind::Sql => postroad_lookup::TableKind::Sql {
                url: text(&keys.url),
                password,
                query: text(&keys.query),
            },
        };
        Some(keys.bounded(kind))
    }

    /// Each kind has keys of its own.
    fn fitting(&mut self, key: &str, nth: usize, keys: &TableKeys) {
        let kind = keys.kind.name();
        let (needed, more) = keys.kind.keys();
        let given = keys.given();
        for name in &given {
            if !needed.contains(name) && !more.contains(name) {
                let known = [needed, more, &COMMON].concat().join(", ");
                let message = format!("is no key of kind = \"{kind}\"; expected one of {known}");
                self.add(&format!("{key}.{name}"), nth, message);
            }
        }
        for name in needed.iter().filter(|name| !given.contains(name)) {
            self.add(key, nth, format!("kind = \"{kind}\" needs `{name}`"));
        }
        if keys.kind == TableKind::Ldap && keys.bind.is_some() != keys.password.is_some() {
            self.add(key, nth, "`bind` and `password` belong together");
        }
        let bounds = keys.timeout.is_some() || keys.connections.is_some();
        let caching = keys.cache.is_some() || keys.cache_negative.is_some();
        let bounded = bounds || caching || keys.cache_entries.is_some();
        if keys.kind == TableKind::File && bounded {
            let message =
                "a file is held in memory as it is: timeout, connections and cache mean nothing";
            self.add(key, nth, message);
        }
    }

    fn more_than_nothing(&mut self, key: &str, nth: usize, keys: &TableKeys) {
        let none = |list: &Option<Vec<String>>| list.as_ref().is_some_and(Vec::is_empty);
        let nothing = [
            ("timeout", keys.timeout.is_some_and(|span| span.0.is_zero())),
            ("connections", keys.connections == Some(0)),
            ("cache_entries", keys.cache_entries == Some(0)),
            ("attributes", none(&keys.attributes)),
        ];
        for (name, _) in nothing.into_iter().filter(|(_, nothing)| *nothing) {
            self.add(&format!("{key}.{name}"), nth, "must be more than nothing");
        }
    }

    fn secret(&mut self, key: &str, nth: usize, secret: Option<&SecretKey>) -> Option<Secret> {
        secret?
            .read()
            .map_err(|error| self.add(key, nth, error))
            .ok()
    }
}

/// What a service calls the table, where nothing else is said.
fn usual_map(key: &str) -> &'static str {
    if key.starts_with("alias") {
        "aliases"
    } else {
        "routes"
    }
}
