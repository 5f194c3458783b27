//! The certificates of hops, made on the spot.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::script::Handshake;

/// A certificate authority of a test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        let name = "Authority of a test";
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        Ok(Self(CertifiedIssuer::self_signed(params, key)?))
    }

    /// Writes its certificate, as PEM.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        Ok(std::fs::write(file, self.0.pem())?)
    }

    /// A server for one name, with a certificate that is good, and that certificate (DER).
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn acceptor(&self, name: &str) -> anyhow::Result<(TlsAcceptor, Vec<u8>)> {
        self.issue(name, false)
    }

    fn issue(&self, name: &str, expired: bool) -> anyhow::Result<(TlsAcceptor, Vec<u8>)> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        if expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        let der = certificate.der().to_vec();
        Ok((TlsAcceptor::from(Arc::new(config)), der))
    }
}

/// The certificates that a hop can show.
#[derive(Clone)]
pub struct Identity {
    good: TlsAcceptor,
    expired: TlsAcceptor,
    wrong_name: TlsAcceptor,
    unknown: TlsAcceptor,
    certificate: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Those of a host of that name.
    ///
    /// # Errors
    /// Where they cannot be made.
    pub fn new(name: &str, authority: &Authority) -> anyhow::Result<Self> {
        let (good, certificate) = authority.issue(name, false)?;
        Ok(Self {
            good,
            certificate,
            expired: authority.issue(name, true)?.0,
            wrong_name: authority.issue("other.test", false)?.0,
            unknown: Authority::new()?.issue(name, false)?.0,
        })
    }

    /// The good one (DER).
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(super) fn acceptor(&self, shown: Option<Handshake>) -> &TlsAcceptor {
        match shown {
            Some(Handshake::Expired) => &self.expired,
            Some(Handshake::WrongName) => &self.wrong_name,
            Some(Handshake::Unknown) => &self.unknown,
            Some(Handshake::Garbage | Handshake::Alert) | None => &self.good,
        }
    }
}
