use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use postroad_routing::NameServer;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::units::{Span, Text};

/// How names are looked up.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Name servers with ports, as in `"127.0.0.1:53"`; over TLS, with the name that their certificate is for, as in
    /// `"tls://9.9.9.9:853#dns.quad9.net"`. Empty: the system's.
    pub nameservers: Vec<NameServerKey>,
    /// How long a name server may take to answer.
    pub timeout: Span,
    /// How long an answer is kept at least, whatever it says itself.
    pub ttl_min: Span,
    /// How long an answer is kept at most.
    pub ttl_max: Span,
    /// `"auto"`: answers that DANE needs are validated here, from the root's keys on; with name servers that leave
    /// signatures out there is no DANE, until it has worked once. `"off"`: there is no DANE.
    pub dnssec: Dnssec,
    /// A file with the keys of the root, as DNSKEY records in the form of zone files, in place of those built in: for
    /// tests and closed networks.
    pub trust_anchor: Option<PathBuf>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            timeout: Span::seconds(5),
            ttl_min: Span::seconds(0),
            ttl_max: Span::seconds(24 * 3600),
            dnssec: Dnssec::Auto,
            trust_anchor: None,
        }
    }
}

/// Whether answers are validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dnssec {
    /// Those that DANE needs.
    Auto,
    /// None.
    Off,
}

/// A name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServerKey(pub NameServer);

impl fmt::Display for NameServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for NameServerKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NameServerKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text {
            expected: "an address with a port, as in \"127.0.0.1:53\" or \"[::1]:53\", or a server over TLS with the name of its certificate, as in \"tls://9.9.9.9:853#dns.quad9.net\"",
            parse: |text| text.parse().ok().map(Self),
        })
    }
}

impl JsonSchema for NameServerKey {
    fn schema_name() -> Cow<'static, str> {
        "name server".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "name server" })
    }

    fn inline_schema() -> bool {
        true
    }
}
