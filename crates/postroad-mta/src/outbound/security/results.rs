use postroad_net::client::{ConnectError, Connection, TlsFault, TlsVerdict};
use postroad_proto::client::{Phase, SessionError, StartTls};
use postroad_routing::{HostSecurity, PolicyKind, Requirement};

use super::TlsPlan;

/// What a session's TLS came to, as reports tell (RFC 8460 section 4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionResult {
    /// TLS, and in accordance with the policy.
    Success,
    /// Not so.
    Failure {
        /// The result type.
        kind: FailureKind,
        /// For people: bounded where it is kept.
        detail: String,
    },
}

/// Result types of reports (RFC 8460 section 4.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FailureKind {
    StartTlsNotSupported,
    HostMismatch,
    Expired,
    NotTrusted,
    Validation,
    TlsaInvalid,
    DnssecInvalid,
    StsFetch,
    StsInvalid,
    StsWebPki,
}

impl FailureKind {
    /// All of them.
    pub(crate) const ALL: [Self; 10] = [
        Self::StartTlsNotSupported,
        Self::HostMismatch,
        Self::Expired,
        Self::NotTrusted,
        Self::Validation,
        Self::TlsaInvalid,
        Self::DnssecInvalid,
        Self::StsFetch,
        Self::StsInvalid,
        Self::StsWebPki,
    ];

    /// As reports have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::StartTlsNotSupported => "starttls-not-supported",
            Self::HostMismatch => "certificate-host-mismatch",
            Self::Expired => "certificate-expired",
            Self::NotTrusted => "certificate-not-trusted",
            Self::Validation => "validation-failure",
            Self::TlsaInvalid => "tlsa-invalid",
            Self::DnssecInvalid => "dnssec-invalid",
            Self::StsFetch => "sts-policy-fetch-error",
            Self::StsInvalid => "sts-policy-invalid",
            Self::StsWebPki => "sts-webpki-invalid",
        }
    }

    /// By its name; what is not known is a validation failure.
    pub(crate) fn named(name: &str) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == name)
            .unwrap_or(Self::Validation)
    }

    /// The kind of policy that is itself at fault, where one is.
    pub(crate) const fn of_policy(self) -> Option<PolicyKind> {
        match self {
            Self::StsFetch | Self::StsInvalid | Self::StsWebPki => Some(PolicyKind::Sts),
            Self::DnssecInvalid => Some(PolicyKind::Tlsa),
            _ => None,
        }
    }
}

impl From<TlsFault> for FailureKind {
    fn from(fault: TlsFault) -> Self {
        match fault {
            TlsFault::HostMismatch => Self::HostMismatch,
            TlsFault::Expired => Self::Expired,
            TlsFault::NotTrusted => Self::NotTrusted,
            TlsFault::Tlsa => Self::TlsaInvalid,
            _ => Self::Validation,
        }
    }
}

/// A host that DANE or MTA-STS forbids, or would forbid: that is a failure of its own, also where
/// it is only observed and the host is used all the same. `None`: it is not forbidden.
pub(crate) fn skipped(security: &HostSecurity) -> Option<SessionResult> {
    let Requirement::Unusable(reply) = &security.requirement else {
        return None;
    };
    // What is wrong with the policy itself is counted as that.
    let counted = security.policy_failure.as_deref().map(FailureKind::named);
    (counted.and_then(FailureKind::of_policy).is_none()).then(|| SessionResult::Failure {
        kind: FailureKind::Validation,
        detail: reply.text.to_string(),
    })
}

/// What came of TLS in a new connection made by this plan; `None`: nothing that says anything of
/// TLS, such as a host that does not answer.
pub(crate) fn result(
    plan: &TlsPlan,
    connected: Result<&Connection, &ConnectError>,
) -> Option<SessionResult> {
    let failure = |kind, detail: &str| {
        Some(SessionResult::Failure {
            kind,
            detail: detail.to_owned(),
        })
    };
    const NOT_OFFERED: &str = "STARTTLS is not offered";
    match connected {
        Ok(connection) => match (connection.tls(), connection.verdict()) {
            (None, _) if plan.starttls == StartTls::Never => None,
            (None, _) => failure(FailureKind::StartTlsNotSupported, NOT_OFFERED),
            (Some(_), Some(TlsVerdict::Failed { fault, detail })) => {
                failure((*fault).into(), detail)
            }
            (Some(_), _) => Some(SessionResult::Success),
        },
        Err(ConnectError::Tls { fault, detail, .. }) => failure((*fault).into(), detail),
        Err(ConnectError::Session {
            error: SessionError::NoStartTls,
            ..
        }) => failure(FailureKind::StartTlsNotSupported, NOT_OFFERED),
        Err(ConnectError::Session {
            phase: Phase::StartTls,
            error,
            ..
        }) => failure(FailureKind::StartTlsNotSupported, &error.to_string()),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_types() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::named(kind.name()), kind);
        }
        assert_eq!(FailureKind::named("new"), FailureKind::Validation);
    }
}
