//! The server's certificates: read from PEM files, replaced while serving.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use postroad_mail::TlsInfo;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CommonState, ProtocolVersion, ServerConfig};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// The one provider of cryptography, named wherever one is needed, never taken from the process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("reading {}: {detail}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
    /// A file holds no certificate.
    #[error("{} holds no certificate; expected PEM blocks `BEGIN CERTIFICATE`, the server's own first", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no private key.
    #[error("{} holds no private key; expected an unencrypted PEM block `BEGIN PRIVATE KEY`", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key does not belong to the certificate, or is of a kind we do not take.
    #[error("the key in {} does not go with the certificate in {}: {detail}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        detail: String,
    },
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct TlsCertificates {
    config: ArcSwap<ServerConfig>,
}

impl TlsCertificates {
    /// Reads both files. TLS 1.2 and 1.3.
    ///
    /// # Errors
    /// Where a file cannot be read, or the two do not go together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            config: ArcSwap::new(read(certificate, key)?),
        })
    }

    /// Connections made from now on get these, which have been read already: so that a reload of
    /// many things can fail as a whole, before anything has changed.
    pub fn replace(&self, new: Self) {
        self.config.store(new.config.into_inner());
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |path: &Path, error: pem::Error| TlsError::Read {
        path: path.to_owned(),
        detail: match error {
            pem::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        },
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|e| unreadable(certificate, e))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate {
            path: certificate.to_owned(),
        });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey {
            path: key.to_owned(),
        },
        other => unreadable(key, other),
    })?;
    let mismatch = |error: rustls::Error| TlsError::Mismatch {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        detail: error.to_string(),
    };
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(mismatch)?;
    Ok(Arc::new(config))
}

/// What a finished handshake agreed on.
pub(crate) fn info(connection: &CommonState) -> TlsInfo {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS1.2",
        _ => "TLS",
    };
    let cipher = connection
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str())
        .unwrap_or("unknown");
    TlsInfo {
        version: version.to_owned(),
        cipher: cipher.replacen("TLS13_", "TLS_", 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn errors_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let load = |certificate: &str, key: &str| {
            TlsCertificates::load(&path(certificate), &path(key))
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        let one = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let two = rcgen::generate_simple_self_signed(vec!["b.test".to_owned()]).unwrap();
        fs::write(path("one.pem"), one.cert.pem()).unwrap();
        fs::write(path("one.key"), one.signing_key.serialize_pem()).unwrap();
        fs::write(path("two.key"), two.signing_key.serialize_pem()).unwrap();
        fs::write(path("empty"), "").unwrap();
        assert!(load("missing", "one.key").contains("missing"));
        assert!(load("empty", "one.key").contains("holds no certificate"));
        assert!(load("one.pem", "one.pem").contains("holds no private key"));
        assert!(load("one.pem", "two.key").contains("does not go with"));
        let certificates = TlsCertificates::load(&path("one.pem"), &path("one.key")).unwrap();
        let before = certificates.config.load_full();
        certificates.replace(TlsCertificates::load(&path("one.pem"), &path("one.key")).unwrap());
        assert!(!Arc::ptr_eq(&before, &certificates.config.load_full()));
    }
}
