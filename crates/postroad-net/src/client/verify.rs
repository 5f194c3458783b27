//! What a server's certificate must be, and whether it is.

use std::fmt;
use std::sync::{Arc, OnceLock};

use postroad_mail::Tlsa;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::verify_dane::{self as dane, Chain};

/// What a server's certificate must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum CertificateCheck {
    /// Any will do (RFC 7435).
    #[default]
    Any,
    /// Valid for the name of the target, from an authority that is trusted here.
    Valid,
    /// Matched by one of these records (RFC 7672 section 3.1).
    Dane {
        /// The usable records.
        records: Arc<[Tlsa]>,
        /// The names for DANE-TA (RFC 7672 section 3.2.2).
        names: Vec<String>,
    },
}

/// What came of the check of a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsVerdict {
    /// Nothing was asked of it.
    Unchecked,
    /// It is as it must be.
    Passed,
    /// It is not. Where the check is enforced, there is no connection.
    Failed {
        /// In which way.
        fault: TlsFault,
        /// For people.
        detail: String,
    },
}

/// In which way TLS failed, as far as reports tell (RFC 8460 section 4.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFault {
    /// The certificate is for another name.
    HostMismatch,
    /// The certificate has expired, or is not valid yet.
    Expired,
    /// No authority that is trusted here vouches for the certificate.
    NotTrusted,
    /// No TLSA record matches.
    Tlsa,
    /// The handshake failed before there was a certificate to check, or took too long.
    Handshake,
}

/// Where the verdict of a handshake is left.
pub(crate) type Verdict = Arc<OnceLock<TlsVerdict>>;

/// The check of one handshake. Not shared between connections: a session that is resumed shows no
/// certificate, and what passed one check says nothing of another.
pub(crate) struct Checking {
    pub(crate) check: CertificateCheck,
    /// False: the verdict is told, and the handshake goes on.
    pub(crate) enforce: bool,
    /// A name that no certificate can be valid for.
    pub(crate) unnamed: Option<String>,
    pub(crate) platform: Arc<dyn ServerCertVerifier>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) verdict: Verdict,
}

/// What there is to check.
#[derive(Clone, Copy, Debug)]
struct Shown<'a> {
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    name: &'a ServerName<'a>,
    ocsp: &'a [u8],
    now: UnixTime,
}

impl Checking {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), (TlsFault, rustls::Error)> {
        match &self.check {
            CertificateCheck::Any => Ok(()),
            CertificateCheck::Valid => self.is_valid(shown),
            CertificateCheck::Dane { records, names } => dane::check(
                records,
                names,
                &Chain {
                    end_entity: shown.end_entity,
                    intermediates: shown.intermediates,
                    now: shown.now,
                },
                &self.provider,
            ),
        }
    }

    fn is_valid(&self, shown: &Shown<'_>) -> Result<(), (TlsFault, rustls::Error)> {
        if let Some(name) = &self.unnamed {
            let text = format!("{name} is no name that a certificate can be valid for");
            return Err((TlsFault::HostMismatch, rustls::Error::General(text)));
        }
        self.platform
            .verify_server_cert(
                shown.end_entity,
                shown.intermediates,
                shown.name,
                shown.ocsp,
                shown.now,
            )
            .map(|_| ())
            .map_err(|error| (fault(&error), error))
    }
}

/// What a verifier's error is in reports.
pub(crate) fn fault(error: &rustls::Error) -> TlsFault {
    let rustls::Error::InvalidCertificate(error) = error else {
        return TlsFault::NotTrusted;
    };
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsFault::Expired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFault::HostMismatch
        }
        _ => TlsFault::NotTrusted,
    }
}

impl fmt::Debug for Checking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checking")
            .field("check", &self.check)
            .field("enforce", &self.enforce)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Checking {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Shown {
            end_entity,
            intermediates,
            name,
            ocsp,
            now,
        };
        let judged = self.judge(&shown);
        let verdict = match &judged {
            Ok(()) if self.check == CertificateCheck::Any => TlsVerdict::Unchecked,
            Ok(()) => TlsVerdict::Passed,
            Err((fault, error)) => TlsVerdict::Failed {
                fault: *fault,
                detail: error.to_string(),
            },
        };
        // Asked once in a handshake; were it asked again, the first verdict would stand.
        let _ = self.verdict.set(verdict);
        match judged {
            Err((_, error)) if self.enforce => Err(error),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    // The handshake's signatures are checked in any case.

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
