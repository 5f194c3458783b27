//! What TLS a host must show: DANE (RFC 7672), MTA-STS (RFC 8461), or nothing.

use std::sync::Arc;

use postroad_mail::{Domain, Reply, Tlsa};

use crate::plan::Host;
use crate::route::BoxFuture;

/// What a host's certificate must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    /// TLS where offered, any certificate.
    None,
    /// TLS, any certificate: TLSA records that are all unusable (RFC 7672 section 2.2).
    Encrypted,
    /// TLS, with a certificate that matches one of these (RFC 7672 section 3.1).
    Dane {
        /// The usable records.
        records: Arc<[Tlsa]>,
        /// The names for DANE-TA (RFC 7672 section 3.2.2).
        names: Vec<String>,
    },
    /// TLS, with a certificate that is valid for the host's name (MTA-STS).
    Valid,
    /// This host must not be used: it is not among those of the MTA-STS policy, or its TLSA
    /// records cannot be had, or are bogus.
    Unusable(Reply),
}

/// What DANE and MTA-STS say of a host, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSecurity {
    /// What is asked for.
    pub requirement: Requirement,
    /// What asks for it.
    pub policy: PolicyKind,
    /// The policy as TLS reports quote it (RFC 8460 section 4.3.1): TLSA records, or the lines of
    /// the MTA-STS policy.
    pub policy_strings: Vec<String>,
    /// The MX patterns of an MTA-STS policy.
    pub mx_patterns: Vec<String>,
    /// Why, for people, a line each: `DANE: 2 TLSA records at _25._tcp.mx.example.org`,
    /// `MTA-STS: testing, not enforced`.
    pub reasons: Vec<String>,
    /// False: only to be reported (`testing` of MTA-STS, or `tls_policy = "observe"`).
    pub enforced: bool,
    /// What went wrong with the policy itself (RFC 8460 section 4.3.2.2), as in
    /// `sts-policy-fetch-error`, `dnssec-invalid`.
    pub policy_failure: Option<String>,
}

/// The kind of policy that a requirement comes from (RFC 8460 section 4.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// TLSA records.
    Tlsa,
    /// MTA-STS.
    Sts,
    /// None is published.
    #[default]
    NoPolicyFound,
}

impl HostSecurity {
    /// No policy.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            requirement: Requirement::None,
            policy: PolicyKind::NoPolicyFound,
            policy_strings: Vec::new(),
            mx_patterns: Vec::new(),
            reasons: Vec::new(),
            enforced: true,
            policy_failure: None,
        }
    }
}

/// Finds what is asked of a host by the domain whose mail it takes.
pub trait SecurityLookup: Send + Sync + 'static {
    /// `domain`: whose MX records named the host; none where a route named it itself (no MTA-STS
    /// then; DANE by the host's own name). Answers within seconds, come what may.
    fn security<'a>(
        &'a self,
        domain: Option<&'a Domain>,
        host: &'a Host,
        port: u16,
    ) -> BoxFuture<'a, HostSecurity>;

    /// One round of what is to be done from time to time in the background, such as refreshing
    /// policies; once in some minutes will do.
    fn maintain(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Nothing is asked of anybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecurity;

impl SecurityLookup for NoSecurity {
    fn security<'a>(
        &'a self,
        _domain: Option<&'a Domain>,
        _host: &'a Host,
        _port: u16,
    ) -> BoxFuture<'a, HostSecurity> {
        Box::pin(std::future::ready(HostSecurity::none()))
    }
}
