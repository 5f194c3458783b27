use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

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
