use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::BareNewline;

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
