//! What TLS a host must show for a message: what the route asks for, what DANE and MTA-STS ask
//! for, and what the message itself says (RFC 8689).
//!
//! | route | policy in force | starttls | certificate | plaintext retry |
//! |---|---|---|---|---|
//! | none | any | never | – | – |
//! | opportunistic | none | if offered | any | yes |
//! | opportunistic | TLSA records, none usable | required | any | no |
//! | opportunistic | DANE | required | matched by TLSA | no |
//! | opportunistic | MTA-STS | required | valid | no |
//! | opportunistic | observed only | if offered | as the policy says, not enforced | yes |
//! | require | none, or observed only | required | as above, not enforced | no |
//! | require | else | required | as above | no |
//! | verify | DANE in force | required | matched by TLSA | no |
//! | verify | else | required | valid | no |
//! | verify, and it names the host | the host is unusable | required | valid | no |
//! | any other but none | the host is unusable | the host is skipped | | |
//!
//! REQUIRETLS puts every policy in force, and skips hosts that nothing vouches for: for those that
//! MX records name, that must be DANE or MTA-STS, even where the route is `verify`. `TLS-Required:
//! No` in the header takes DANE and MTA-STS out of force, never what the route itself asks for.
//!
//! The engine, per host: [`MessageTls::read`] once a message, `SecurityLookup::security`, then
//! [`plan`]; an error skips the host (and [`skipped`] is counted), a plan goes into the `Target`
//! and its [`TlsPlan::key`] into the pool's key. After each new connection, made or not,
//! [`result`] goes to `TlsBooks::session`, unless the message is itself a TLS report. Where the
//! handshake failed and [`TlsPlan::plaintext_retry`] allows it, a new connection is made by
//! [`TlsPlan::plaintext`].

mod message;
mod results;
#[cfg(test)]
mod tests;

use postroad_mail::{EnhancedCode, Reply};
use postroad_net::client::CertificateCheck;
use postroad_proto::client::StartTls;
use postroad_routing::{HostSecurity, Requirement, TlsMode};

pub(crate) use message::MessageTls;
pub(crate) use results::{FailureKind, SessionResult, result, skipped};

/// REQUIRETLS, and a host for which nothing vouches, or which lacks the extension: the host's name
/// stands in the place of the text (RFC 8689 section 4.2.1).
pub(crate) const REQUIRETLS_UNSUPPORTED: Reply = Reply::row(
    550,
    EnhancedCode::permanent(7, 30),
    "REQUIRETLS support required",
);

/// How TLS is to be done with a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsPlan {
    /// Whether STARTTLS is used. Of no matter where TLS is implicit.
    pub(crate) starttls: StartTls,
    /// What the certificate must be.
    pub(crate) certificate: CertificateCheck,
    /// False: only the verdict is told.
    pub(crate) enforce: bool,
    /// The name for SNI and for the certificate; with DANE that of the TLSA records (RFC 7672
    /// section 8.1).
    pub(crate) server_name: String,
    /// Where the handshake fails, a new connection without TLS may be tried.
    pub(crate) plaintext_retry: bool,
    /// The host must have REQUIRETLS, and the message goes with it.
    pub(crate) needs_requiretls: bool,
    /// The check is the one that the policy asks for, so that its verdict is the policy's.
    pub(crate) judges_policy: bool,
    /// Why, for people, a line each.
    pub(crate) reasons: Vec<String>,
}

/// What must be equal for a connection to serve for another message too, besides address, source
/// and login: never one made under weaker terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TlsKey {
    demand: Demand,
    certificate: CertificateCheck,
    enforce: bool,
    server_name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Demand {
    Never,
    IfOffered,
    Require,
}

impl TlsPlan {
    /// By which connections are told apart.
    pub(crate) fn key(&self) -> TlsKey {
        TlsKey {
            demand: match self.starttls {
                StartTls::Never => Demand::Never,
                StartTls::IfOffered => Demand::IfOffered,
                StartTls::Require => Demand::Require,
            },
            certificate: self.certificate.clone(),
            enforce: self.enforce,
            server_name: self.server_name.clone(),
        }
    }

    /// The same for the connection without TLS after a handshake that failed.
    pub(crate) fn plaintext(&self) -> Self {
        Self {
            starttls: StartTls::Never,
            certificate: CertificateCheck::Any,
            enforce: false,
            plaintext_retry: false,
            judges_policy: false,
            ..self.clone()
        }
    }
}

/// What is asked of a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// By the route.
    pub(crate) mode: TlsMode,
    /// By the route: TLS from the first octet.
    pub(crate) implicit_tls: bool,
    /// The host's name.
    pub(crate) host: &'a str,
    /// The host was named by MX records, or is the recipient's domain itself: not by a route.
    pub(crate) by_mx: bool,
    /// By DANE and MTA-STS.
    pub(crate) security: &'a HostSecurity,
    /// By the message.
    pub(crate) message: MessageTls,
}

/// How TLS is to be done with a host, for a message.
///
/// # Errors
/// Where the host must not be used for it: with the reason. A permanent one
/// ([`REQUIRETLS_UNSUPPORTED`]) holds only where no other host could be asked.
pub(crate) fn plan(asked: &Asked<'_>) -> Result<TlsPlan, Reply> {
    let Asked {
        mode,
        implicit_tls,
        host,
        by_mx,
        security,
        message,
    } = *asked;
    let required = message == MessageTls::Required;
    let mut reasons = security.reasons.clone();
    match message {
        MessageTls::Unsaid => {}
        MessageTls::Required => {
            reasons.push("REQUIRETLS: only a verified connection will do".to_owned());
        }
        MessageTls::Optional => {
            reasons.push("TLS-Required: No: DANE and MTA-STS are not enforced".to_owned());
        }
    }
    let in_force = (security.enforced || required) && message != MessageTls::Optional;
    let demand = policy(&security.requirement, host);
    // A certificate that is valid for the name that the route has needs no word of the DNS.
    let by_name = mode == TlsMode::Verify && !by_mx;
    if let (Requirement::Unusable(reply), true) = (&security.requirement, in_force)
        && mode != TlsMode::None
        && !by_name
    {
        return Err(reply.clone());
    }
    let (certificate, judges_policy, enforce) = match mode {
        TlsMode::None => (CertificateCheck::Any, false, false),
        TlsMode::Verify if !(in_force && matches!(demand, CertificateCheck::Dane { .. })) => {
            let judges = demand == CertificateCheck::Valid;
            (CertificateCheck::Valid, judges, true)
        }
        _ => {
            let judges = !matches!(security.requirement, Requirement::Unusable(_));
            (demand, judges, in_force)
        }
    };
    // A certificate proves no more than the host's name. Where that comes from the MX records, it
    // must be vouched for, too (RFC 8689 section 4.2.1): DANE and MTA-STS do that.
    let named = !by_mx
        || matches!(
            security.requirement,
            Requirement::Dane { .. } | Requirement::Valid
        );
    let verified = enforce && named && certificate != CertificateCheck::Any;
    if required && !verified {
        return Err(REQUIRETLS_UNSUPPORTED.with_text(format!(
            "REQUIRETLS support required: nothing vouches for the certificate of {host}"
        )));
    }
    let encrypted = in_force && security.requirement != Requirement::None;
    let starttls = match mode {
        TlsMode::None => StartTls::Never,
        TlsMode::Require | TlsMode::Verify => StartTls::Require,
        TlsMode::Opportunistic if encrypted || required => StartTls::Require,
        TlsMode::Opportunistic => StartTls::IfOffered,
    };
    reasons.push(said(mode).to_owned());
    Ok(TlsPlan {
        starttls,
        server_name: server_name(&certificate, host),
        certificate,
        enforce,
        plaintext_retry: starttls == StartTls::IfOffered && !implicit_tls,
        needs_requiretls: required,
        judges_policy,
        reasons,
    })
}

fn said(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Opportunistic => "route: opportunistic",
        TlsMode::Require => "route: TLS required",
        TlsMode::Verify => "route: a verified certificate required",
        TlsMode::None => "route: no TLS",
    }
}

/// The check that a policy asks for.
fn policy(requirement: &Requirement, host: &str) -> CertificateCheck {
    match requirement {
        Requirement::None | Requirement::Encrypted | Requirement::Unusable(_) => {
            CertificateCheck::Any
        }
        Requirement::Valid => CertificateCheck::Valid,
        Requirement::Dane { records, names } => CertificateCheck::Dane {
            records: records.clone(),
            names: if names.is_empty() {
                vec![host.to_owned()]
            } else {
                names.clone()
            },
        },
    }
}

/// The first of the names is that of the TLSA records.
fn server_name(certificate: &CertificateCheck, host: &str) -> String {
    match certificate {
        CertificateCheck::Dane { names, .. } => names.first().map_or(host, String::as_str),
        CertificateCheck::Any | CertificateCheck::Valid => host,
    }
    .to_owned()
}
