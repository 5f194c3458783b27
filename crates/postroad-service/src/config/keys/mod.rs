//! The keys: a file for each table of the configuration. Their comments are the reference's text,
//! their defaults its defaults.

mod admin;
mod alias;
mod delivery;
mod dns;
mod forms;
mod limits;
mod listener;
mod log;
mod queue;
mod relay;
mod route;
mod secret;
mod submission;
mod table;
mod tls_reports;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use admin::Admin;
pub use alias::Alias;
pub use delivery::{Delivery, Family, TlsPolicy};
pub use dns::{Dns, Dnssec, NameServerKey};
pub use forms::{OneOrMany, RateKey};
pub use limits::{BareNewline, EightBitHeaders, Limits, Verify};
pub use listener::{Listener, ListenerTls, Service, Tls};
pub use log::{Log, LogFormat};
pub use queue::{Durability, Queue, StoreKind};
pub use relay::Relay;
pub use route::{Route, RouteAuth, RouteLimit, RouteTls};
pub use secret::{SecretKey, SecretUnread};
pub use submission::{Directory, DirectoryKind, Submission};
pub use table::{Table, TableKeys, TableKind};
pub use tls_reports::TlsReports;

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name in greetings, EHLO and Received headers. Default: the system's name.
    pub hostname: Option<String>,
    /// Where mail for `<postmaster>` goes, and notices that nobody else can be sent.
    pub postmaster: Option<String>,
    /// More files, as patterns relative to this one; what they hold is added to it.
    pub include: Vec<String>,
    /// Where mail waits.
    pub queue: Queue,
    /// Where clients connect; a table each.
    pub listener: Vec<Listener>,
    /// The certificate of all listeners.
    pub tls: Option<Tls>,
    /// The submission service.
    pub submission: Submission,
    /// The relay service.
    pub relay: Relay,
    /// Where mail goes, a table each; the first that matches counts, and where none does, it goes by MX.
    pub route: Vec<Route>,
    /// Addresses that stand for others, a table each; the first that knows an address counts.
    pub alias: Vec<Alias>,
    /// How mail is delivered.
    pub delivery: Delivery,
    /// How names are looked up.
    pub dns: Dns,
    /// Reports to others of how TLS to them went (RFC 8460).
    pub tls_reports: TlsReports,
    /// Bounds.
    pub limits: Limits,
    /// How operators reach the running service.
    pub admin: Admin,
    /// What is logged.
    pub log: Log,
}
