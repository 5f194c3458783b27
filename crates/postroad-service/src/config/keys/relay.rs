use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
