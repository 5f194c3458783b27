use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What is known of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsInfo {
    /// The protocol version, as in `TLS1.3`.
    pub version: String,
    /// The cipher suite, as in `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
}

/// How a message came here; kept with it, for trace headers, logs and routing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `submission`, `relay`, `bounce`, `import`: the service that took it.
    pub service: String,
    /// The authenticated user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The client's address, IPv4-mapped ones as IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The client's HELO or EHLO argument, as it came (control characters cannot occur).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helo: Option<String>,
    /// The client's connection, where encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsInfo>,
}

/// A peer's string made safe to log: control characters and backslashes escaped, cut at 512
/// characters.
#[must_use]
pub fn escape_peer_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().take(512) {
        if c.is_control()
            || c == '\\'
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_stays_one_line() {
        assert_eq!(
            escape_peer_text("a\r\nb\u{1b}[1m\\"),
            "a\\r\\nb\\u{1b}[1m\\\\"
        );
        assert_eq!(escape_peer_text(&"x".repeat(9000)).len(), 512);
    }
}
