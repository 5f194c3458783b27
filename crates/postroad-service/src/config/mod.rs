//! The configuration: one TOML file, and the files it includes.
//!
//! These types are the reference: their comments are its text, their defaults its defaults.

mod certificate;
mod check;
mod doubts;
mod files;
mod load;
mod meaning;
mod open_relay;
mod own;
mod place;
mod problem;
mod reach;
mod reference;
mod restart;
mod roles;
pub mod units;
mod words;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use certificate::report as report_certificate;
pub use check::{Findings, check};
pub(crate) use files::{authorities, certificates, users};
pub use load::{Loaded, load};
pub use problem::{ConfigError, Problem};
pub use reference::{reference, schema};
pub(crate) use restart::changed_at_restart;
pub use roles::{Roles, RolesError};

use units::{Size, Span, SpanOrNever};

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
    /// How mail is delivered.
    pub delivery: Delivery,
    /// How names are looked up.
    pub dns: Dns,
    /// Bounds.
    pub limits: Limits,
    /// How operators reach the running service.
    pub admin: Admin,
    /// What is logged.
    pub log: Log,
}

/// Where mail waits.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// `"local"`: on this machine's disk; `"memory"`: gone at the end, for tests.
    pub store: StoreKind,
    /// The directory of a local queue; one process owns it.
    pub path: PathBuf,
    /// `"sync"`: on disk before every 250. `"os"`: handed to the system; survives a kill, not a power loss.
    pub durability: Durability,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            store: StoreKind::Local,
            path: "/var/lib/postroad/queue".into(),
            durability: Durability::Sync,
        }
    }
}

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// On this machine's disk.
    Local,
    /// In memory.
    Memory,
    /// Not built yet.
    Postgres,
}

/// When a message counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once it is on disk.
    Sync,
    /// Once the system has it.
    Os,
}

/// Where clients connect.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `"submission"` or `"relay"`.
    pub service: Service,
    /// Addresses with ports; `"[::]:25"` is both families.
    pub bind: Vec<SocketAddr>,
    /// `"starttls"`, `"implicit"` (TLS from the first octet) or `"none"`.
    #[serde(default)]
    pub tls: ListenerTls,
    /// What becomes of a bare CR or LF in a message here: `"reject"` or `"normalize"`. Default: as
    /// `limits.bare_newline` says.
    #[serde(default)]
    pub bare_newline: Option<BareNewline>,
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Mail from users.
    Submission,
    /// Mail from other servers.
    Relay,
}

/// How a listener secures its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerTls {
    /// Plaintext until STARTTLS.
    #[default]
    Starttls,
    /// TLS from the first octet.
    Implicit,
    /// Plaintext.
    None,
}

/// The certificate of all listeners.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A PEM file with the certificate, for `hostname`, then those that lead to its authority. SIGHUP reads it again.
    pub certificate: PathBuf,
    /// A PEM file with the private key, not encrypted.
    pub key: PathBuf,
}

/// The submission service.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Submission {
    /// What AUTH offers: `"PLAIN"`, `"LOGIN"`; under TLS only.
    pub mechanisms: Vec<String>,
    /// Who the users are: `{ kind = "file", path = "users.toml" }`. `postroad user` writes the file; what
    /// is in it says docs/users.md. A change of it counts from the next login on, a second later at most.
    pub directory: Option<Directory>,
    /// Users may use their own addresses only: their name, where it is one, and `addresses` of the directory.
    pub sender_must_match: bool,
}

impl Default for Submission {
    fn default() -> Self {
        Self {
            mechanisms: vec!["PLAIN".to_owned(), "LOGIN".to_owned()],
            directory: None,
            sender_must_match: false,
        }
    }
}

/// Who the users are.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// `"file"`.
    pub kind: DirectoryKind,
    /// The users file, which `postroad user` writes, and which keeps its owner, group and mode. It is read
    /// again whenever it has changed; while it has a mistake, the users stay those that were read last.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// The kind of directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DirectoryKind {
    /// A TOML file.
    File,
    /// Not built yet.
    Ldap,
    /// Not built yet.
    Sql,
}

/// The relay service.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// Mail for these is accepted from anyone: `"example.org"`, `"*.example.org"`.
    pub domains: Vec<String>,
    /// Clients in these networks may relay anywhere. None wider than /8 (IPv4) or /32 (IPv6), nor
    /// all public ones together.
    pub trusted_networks: Vec<String>,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            trusted_networks: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
        }
    }
}

/// Where mail goes.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A pattern over the recipient: `"*"` (all), `"example.org"` or `"*@example.org"` (a domain),
    /// `"*.example.org"` or `"*@*.example.org"` (the domains below it, not itself), `"user@example.org"`,
    /// `"user@*"`. A `*` stands for a whole local part, never for some of one.
    #[serde(default)]
    pub recipient: Option<String>,
    /// A pattern over the reverse-path, as for `recipient`; `"<>"` is the null one.
    #[serde(default)]
    pub sender: Option<String>,
    /// The authenticated user.
    #[serde(default)]
    pub user: Option<String>,
    /// The network of the client it came from.
    #[serde(default)]
    pub network: Option<String>,
    /// `"mx"`, `"smtp://host:port"`, `"smtps://host:port"`, `"maildir:/path"`, `"discard"`, `"reject 5.1.1 text"`, `"defer 4.2.0 text"`
    /// (`"reject"` and `"defer"` alone have a text of their own). In a maildir's path, `{local}` and `{domain}` are the recipient's.
    pub via: String,
    /// `"opportunistic"`: TLS with any certificate where it is offered, plaintext where not; `"require"`: TLS with
    /// any certificate, or the mail waits; `"verify"`: TLS with a certificate that is valid for the host's name, or
    /// the mail waits; `"none"`: plaintext.
    #[serde(default)]
    pub tls: RouteTls,
    /// The local address to call from.
    #[serde(default)]
    pub source: Option<IpAddr>,
}

/// How much TLS a route asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteTls {
    /// Where offered, any certificate; plaintext where not.
    #[default]
    Opportunistic,
    /// Any certificate.
    Require,
    /// A certificate that is valid for the host's name.
    Verify,
    /// Plaintext.
    None,
}

/// How mail is delivered.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Delivery {
    /// Delays before the second, third, … attempt; the last repeats.
    pub retry: Vec<Span>,
    /// How long after its arrival mail is given up.
    pub expire: Span,
    /// When the sender is told of the delay; `"never"` for not at all.
    pub warn_after: SpanOrNever,
    /// Attempts at the same time.
    pub concurrency: usize,
    /// Attempts for one destination at the same time.
    pub per_destination: usize,
    /// The port on which MX hosts are called.
    pub port: u16,
    /// `"any"`, `"ipv4"` or `"ipv6"`.
    pub family: Family,
    /// Addresses that are also this host, as behind NAT: an MX there is a loop.
    pub own_addresses: Vec<IpAddr>,
    /// PEM files with certificate authorities besides the system's, for routes with `tls = "verify"`.
    pub authorities: Vec<PathBuf>,
    /// How long a connection, and a TLS handshake, may take.
    pub connect_timeout: Span,
}

impl Default for Delivery {
    fn default() -> Self {
        let minutes = |n: u64| Span::seconds(60 * n);
        Self {
            retry: [2, 5, 15, 30, 60, 120, 240].map(minutes).to_vec(),
            expire: minutes(5 * 24 * 60),
            warn_after: SpanOrNever(Some(minutes(240).0)),
            concurrency: 1000,
            per_destination: 20,
            port: 25,
            family: Family::Any,
            own_addresses: Vec::new(),
            authorities: Vec::new(),
            connect_timeout: Span::seconds(30),
        }
    }
}

/// Which addresses of a host are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// All.
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// How names are looked up.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Name servers with ports; empty: the system's.
    pub nameservers: Vec<SocketAddr>,
    /// How long a name server may take to answer.
    pub timeout: Span,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            timeout: Span::seconds(5),
        }
    }
}

/// Bounds. RFC minimums in brackets.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Octets of a message (RFC 5321: 64 KiB).
    pub message_size: Size,
    /// Recipients of a transaction (RFC 5321: 100).
    pub recipients: usize,
    /// Connections at the same time, of each service.
    pub connections: usize,
    /// Connections at the same time from one address, unless it is trusted.
    pub connections_per_address: usize,
    /// Errors in one connection, then 421.
    pub errors: u32,
    /// Pause before the reply to an error, once half of them are used; `"0s"`: none.
    pub error_delay: Span,
    /// Errors from one address across its connections; one is forgiven every 6 s. Then it is refused for a while.
    pub errors_per_address: u32,
    /// Wait for a command (RFC 5321: 5 min).
    pub command_timeout: Span,
    /// Wait for more of a message (RFC 5321: 3 min).
    pub data_timeout: Span,
    /// The whole session.
    pub session_timeout: Span,
    /// Free space under the queue below which new mail gets 452.
    pub min_free: Size,
    /// Octets of a message's header.
    pub header_size: Size,
    /// Who gets real answers to VRFY and EXPN: `"none"`, or `"authenticated"`: who has logged in, about the
    /// users of `submission.directory`. There are no lists to expand yet.
    pub verify: Verify,
    /// What becomes of a bare CR or LF in a message: `"reject"` or `"normalize"`. Default: normalised for
    /// authenticated users and trusted networks, refused for others. It never ends a message.
    pub bare_newline: Option<BareNewline>,
    /// 8-bit octets in headers without SMTPUTF8: `"accept"` or `"reject"`.
    pub eight_bit_headers: EightBitHeaders,
    /// How long sessions and deliveries, together, may take to finish at a stop.
    pub drain: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: Size(50 << 20),
            recipients: 1000,
            connections: 10_000,
            connections_per_address: 100,
            errors: 20,
            error_delay: Span::seconds(1),
            errors_per_address: 200,
            command_timeout: Span::seconds(300),
            data_timeout: Span::seconds(180),
            session_timeout: Span::seconds(7200),
            min_free: Size(512 << 20),
            header_size: Size(256 << 10),
            verify: Verify::None,
            bare_newline: None,
            eight_bit_headers: EightBitHeaders::Accept,
            drain: Span::seconds(30),
        }
    }
}

/// Who gets real answers to VRFY and EXPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Nobody.
    None,
    /// Not built yet.
    Authenticated,
}

/// What becomes of a bare CR or LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BareNewline {
    /// The message is refused.
    Reject,
    /// It is stored as CRLF.
    Normalize,
}

/// 8-bit octets in headers without SMTPUTF8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EightBitHeaders {
    /// Taken and relayed as they are.
    Accept,
    /// Refused.
    Reject,
}

/// How operators reach the running service.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// A Unix socket for the command line, its path at most 107 octets long. Default: `admin.sock` in the queue's directory.
    pub socket: Option<PathBuf>,
    /// Health and metrics over HTTP, on a loopback address; absent: off. `/health` answers with status 200, or with 503
    /// and the reason while the queue takes no mail (its disk is full, or fails): for whoever spreads connections, not
    /// for whoever restarts services, since a restart mends no disk. `/metrics` has numbers about the queue in the text
    /// format of Prometheus. The admin socket has both too.
    pub http: Option<SocketAddr>,
}

/// What is logged.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `"json"`, `"pretty"` or `"compact"`.
    pub format: LogFormat,
    /// `"error"`, `"warn"`, `"info"`, `"debug"` or `"trace"`; or a filter as `POSTROAD_LOG` takes it, as in
    /// `"info,postroad_mta=debug"`. The libraries sled and rustls log warnings only, unless a filter names them.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            level: "info".to_owned(),
        }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// For people, several lines an event.
    Pretty,
    /// For people, a line an event.
    Compact,
}
