//! What `postroad explain` tells.

use std::net::IpAddr;

use postroad_mail::{Address, ReversePath};
use serde::{Deserialize, Serialize};

use super::views::{DeadHost, DestinationView};

/// What is to be explained.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// For whom the message is.
    pub recipient: Address,
    /// From whom; the null reverse-path, where nothing is said.
    #[serde(default = "nobody")]
    pub sender: ReversePath,
    /// The authenticated user who submits it.
    #[serde(default)]
    pub user: Option<String>,
    /// The address of the client it comes from.
    #[serde(default)]
    pub network: Option<IpAddr>,
    /// Call the hosts, and ask them as far as RCPT; no mail is sent.
    #[serde(default)]
    pub connect: bool,
}

/// How a message would travel now. Peers' text in it is escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// For whom.
    pub recipient: String,
    /// From whom.
    pub sender: String,
    /// What decided the route, as in `postroad.toml:41, [[route]] 2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_by: Option<String>,
    /// Where it leads, in a line.
    pub route: String,
    /// By which its attempts are limited.
    pub lane: String,
    /// What happens without any host being asked, as in `fails: 550 5.1.2 …` or `waits: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What is odd about the records of the domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Seconds for which the MX records may be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mx_ttl: Option<u64>,
    /// The hosts, in the order in which they would be tried; equals may change places with each
    /// attempt.
    pub hosts: Vec<ExplainedHost>,
    /// The limits in force.
    pub limits: ExplainedLimits,
    /// What is known of the destination, where it was met lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationView>,
}

/// The limits in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedLimits {
    /// Attempts at the same time, in all.
    pub concurrency: usize,
    /// For one destination.
    pub per_destination: usize,
    /// The name of the route's limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Messages in a time, as in `100 in 60 s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// New connections in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<String>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedHost {
    /// Its name.
    pub name: String,
    /// The MX preference, or the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<u16>,
    /// `smtp`, `smtps`, `lmtp`.
    pub protocol: String,
    /// Seconds for which its addresses may be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// What TLS it must show.
    pub security: ExplainedSecurity,
    /// Its addresses, in the order in which they would be called.
    pub addresses: Vec<ExplainedAddress>,
}

/// What TLS a host must show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedSecurity {
    /// The policy that was found: `dane`, `mta-sts`, `none`.
    pub policy: String,
    /// What it asks for: `nothing`, `TLS`, `a certificate that TLSA records match`, …
    pub requirement: String,
    /// Whether it is in force, or only observed.
    pub enforced: bool,
    /// `never`, `if offered`, `required`; of no matter where TLS is implicit.
    pub starttls: String,
    /// The certificate: `any`, `valid`, `dane`.
    pub certificate: String,
    /// Why, a line each.
    pub reasons: Vec<String>,
    /// Why the host must not be used, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
}

/// An address of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedAddress {
    /// With the port, as in `192.0.2.1:25`.
    pub address: String,
    /// What is known of it, where it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<DeadHost>,
    /// What it said, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<ExplainedSession>,
}

/// What a host said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedSession {
    /// Milliseconds until the session was open, or had failed.
    pub connect_ms: u64,
    /// Protocol version and cipher suite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// What came of the check of its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What its EHLO offers, of what is known here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// What it says to the recipient, as in `RCPT: 250 2.1.5 ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// Whether it would take the message, as far as that can be known before it has it.
    pub accepts: bool,
    /// Why there was no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

const fn nobody() -> ReversePath {
    ReversePath::Null
}
