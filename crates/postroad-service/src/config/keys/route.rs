use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::forms::{OneOrMany, RateKey};
use super::secret::SecretKey;
use super::table::Table;

/// Where mail goes: with `via`, or as a `table` says.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// A pattern over the recipient: `"*"` (all), `"example.org"` or `"*@example.org"` (a domain),
    /// `"*.example.org"` or `"*@*.example.org"` (the domains below it, not itself), `"user@example.org"`,
    /// `"user@*"`. A `*` stands for a whole local part, never for some of one.
    pub recipient: Option<String>,
    /// A pattern over the reverse-path, as for `recipient`; `"<>"` is the null one.
    pub sender: Option<String>,
    /// The authenticated user.
    pub user: Option<String>,
    /// The network of the client it came from.
    pub network: Option<String>,
    /// `"mx"`, `"smtp://host:port"`, `"smtps://host:port"`, `"lmtp://host:port"`, `"lmtp+unix:///path"`, `"maildir:/path"`,
    /// `"discard"`, `"reject 5.1.1 text"`, `"defer 4.2.0 text"` (`"reject"` and `"defer"` alone have a text of their own).
    /// Several hosts are a list, as in `["smtp://a:25 preference=10 weight=3", "smtp://b:25 preference=20"]`: lower
    /// preferences first, among equals by weight. In a maildir's path, `{local}` and `{domain}` are the recipient's.
    pub via: OneOrMany<String>,
    /// In place of `via`: a table that gives it; its keys are those of `alias.table`. A file has a pattern, as in
    /// `recipient`, and a `via` in each line, of which the first that matches counts; others are asked for
    /// `user@example.org`, `example.org`, `*.org`, … and `*`. A recipient that it does not know goes on to the next route;
    /// while it cannot be asked, mail waits.
    pub table: Option<Table>,
    /// `"opportunistic"`: what DANE and MTA-STS ask for (`delivery.tls_policy`), else TLS with any certificate where it is
    /// offered, plaintext where not; `"require"`: at least TLS with any certificate, or the mail waits; `"verify"`: TLS with
    /// a certificate that is valid for the host's name, or the mail waits; `"none"`: plaintext.
    pub tls: RouteTls,
    /// The local address to call from, or a list with one of each family; hosts are called over these families only.
    pub source: OneOrMany<IpAddr>,
    /// The name in EHLO. Default: `hostname`.
    pub helo: Option<String>,
    /// The port of MX hosts. Default: `delivery.port`.
    pub port: Option<u16>,
    /// The login at the hosts. It is sent under TLS only, so that mail waits while there is none.
    pub auth: Option<RouteAuth>,
    /// Bounds of this route.
    pub limits: Option<RouteLimit>,
}

/// The login at a route's hosts.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteAuth {
    /// The user's name.
    pub user: String,
    /// A text, `{ file = "…" }` or `{ env = "…" }`; read at the start and at SIGHUP.
    pub password: SecretKey,
}

/// Bounds of a route, over all its destinations together but for `per_destination`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteLimit {
    /// Attempts for one destination at the same time. Default: `delivery.per_destination`.
    pub per_destination: Option<usize>,
    /// Messages in a time, as in `"100/1m"`.
    pub messages: Option<RateKey>,
    /// New connections in a time, as in `"10/1s"`.
    pub connections: Option<RateKey>,
}

/// How much TLS a route asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteTls {
    /// What DANE and MTA-STS ask for; else where offered, any certificate, and plaintext where not.
    #[default]
    Opportunistic,
    /// At least any certificate.
    Require,
    /// A certificate that is valid for the host's name.
    Verify,
    /// Plaintext.
    None,
}
