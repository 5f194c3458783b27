use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use rustls_platform_verifier::Verifier;

use super::ConnectorError;
use crate::tls::provider;

/// Both kinds of outbound TLS: any certificate, or a valid one.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfigs {
    pub(crate) opportunistic: Arc<ClientConfig>,
    pub(crate) verifying: Arc<ClientConfig>,
}

impl TlsConfigs {
    pub(crate) fn new(extra_roots: &[PathBuf]) -> Result<Self, ConnectorError> {
        let mut roots = Vec::new();
        for path in extra_roots {
            let unreadable = |detail: String| ConnectorError::Roots {
                path: path.clone(),
                detail,
            };
            let before = roots.len();
            let file =
                CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))?;
            for certificate in file {
                roots.push(certificate.map_err(|e| unreadable(e.to_string()))?);
            }
            if roots.len() == before {
                return Err(unreadable("it holds no certificate".to_owned()));
            }
        }
        let provider = provider();
        let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider))
            .map_err(ConnectorError::Tls)?;
        Ok(Self {
            opportunistic: config(&provider, Arc::new(Anyone(Arc::clone(&provider))))?,
            verifying: config(&provider, Arc::new(verifier))?,
        })
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, ConnectorError> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(ConnectorError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Opportunistic TLS (RFC 7435): any certificate is better than none. The handshake's signatures
/// are still checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

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
            &self.0.signature_verification_algorithms,
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
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
