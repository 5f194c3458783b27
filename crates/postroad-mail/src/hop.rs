/// What a next hop speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033): a reply for each recipient behind the data.
    Lmtp,
}

/// One TLSA record (RFC 6698 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tlsa {
    /// 2: DANE-TA, 3: DANE-EE; others are not usable for SMTP (RFC 7672 section 3.1.3).
    pub usage: u8,
    /// 0: the certificate, 1: its public key.
    pub selector: u8,
    /// 0: the data itself, 1: SHA-256, 2: SHA-512.
    pub matching: u8,
    /// What is to match.
    pub data: Vec<u8>,
}
