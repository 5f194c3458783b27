use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Span, SpanOrNever};

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
    /// PEM files with certificate authorities besides the system's: for hosts whose certificate must be valid, and for
    /// tables, name servers and MTA-STS policies.
    pub authorities: Vec<PathBuf>,
    /// How long a connection, and a TLS handshake, may take.
    pub connect_timeout: Span,
    /// What becomes of DANE (RFC 7672) and MTA-STS (RFC 8461): `"enforce"`: mail waits where TLS is not what they ask
    /// for; `"observe"`: it is looked at and recorded, for `postroad tls report`, and mail goes as with `"off"`.
    pub tls_policy: TlsPolicy,
    /// How long a connection waits for more mail to the same hosts.
    pub idle_timeout: Span,
    /// Messages over one connection.
    pub messages_per_connection: u32,
    /// How long a connection is used for new messages.
    pub connection_lifetime: Span,
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
            tls_policy: TlsPolicy::Enforce,
            idle_timeout: Span::seconds(5),
            messages_per_connection: 100,
            connection_lifetime: minutes(5),
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

/// What becomes of DANE and MTA-STS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsPolicy {
    /// Mail waits where TLS is not what they ask for.
    Enforce,
    /// They are looked at and recorded only.
    Observe,
    /// They are not looked at.
    Off,
}

impl TlsPolicy {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}
