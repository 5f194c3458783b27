use crate::sasl::Mechanism;

/// What an EHLO reply offers, or is to offer (RFC 5321 section 4.1.1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// PIPELINING (RFC 2920)
    pub pipelining: bool,
    /// SIZE (RFC 1870): `Some(0)` where no limit is named.
    pub size: Option<u64>,
    /// 8BITMIME (RFC 6152)
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531)
    pub smtputf8: bool,
    /// CHUNKING (RFC 3030)
    pub chunking: bool,
    /// BINARYMIME (RFC 3030)
    pub binary_mime: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034)
    pub enhanced_status_codes: bool,
    /// DSN (RFC 3461)
    pub dsn: bool,
    /// STARTTLS (RFC 3207)
    pub starttls: bool,
    /// AUTH (RFC 4954): the mechanisms this crate knows, in the order offered.
    pub auth: Vec<Mechanism>,
    /// LIMITS RCPTMAX (RFC 9422)
    pub recipients_max: Option<u64>,
    /// VRFY and EXPN, listed where they give real answers.
    pub verify: bool,
    /// HELP
    pub help: bool,
}
