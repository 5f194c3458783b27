use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reports to others of how TLS to them went (RFC 8460): a day's counts, to whom a domain names in its
/// `_smtp._tls` record.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsReports {
    /// The sender of the reports, as in `"tlsrpt@example.org"`; absent: none are sent.
    pub from: Option<String>,
    /// The organization that the reports name. Default: `hostname`.
    pub organization: Option<String>,
    /// Whom to ask about a report. Default: `from`.
    pub contact: Option<String>,
}
