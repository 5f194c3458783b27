use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use postroad_mail::TlsInfo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::Stream;
use super::verify::{CertificateCheck, Checking, TlsFault, TlsVerdict, Verdict};
use super::{ConnectError, ConnectorError, PeerAddress, Target};
use crate::tls::{info, provider};

/// What all outbound TLS shares.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfigs {
    provider: Arc<CryptoProvider>,
    platform: Arc<Verifier>,
    /// For any certificate. It is shared, so that sessions can be resumed.
    opportunistic: Arc<ClientConfig>,
    /// For a valid certificate, where there is no [`Target`].
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
        let platform = Verifier::new_with_extra_roots(roots, Arc::clone(&provider))
            .map(Arc::new)
            .map_err(ConnectorError::Tls)?;
        let anyone = Checking {
            check: CertificateCheck::Any,
            enforce: true,
            unnamed: None,
            platform: Arc::<Verifier>::clone(&platform),
            provider: Arc::clone(&provider),
            verdict: Verdict::default(),
        };
        let opportunistic = config(&provider, Arc::new(anyone)).map_err(ConnectorError::Tls)?;
        let verifying =
            config(&provider, Arc::<Verifier>::clone(&platform)).map_err(ConnectorError::Tls)?;
        Ok(Self {
            provider,
            platform,
            opportunistic: Arc::new(opportunistic),
            verifying: Arc::new(verifying),
        })
    }

    /// Makes the handshake, and the check of the target.
    pub(crate) async fn handshake<S: Stream>(
        &self,
        target: &Target,
        stream: S,
    ) -> Result<(TlsStream<S>, TlsInfo, TlsVerdict), ConnectError> {
        let failed = |fault, detail: String| ConnectError::Tls {
            address: target.address.clone(),
            fault,
            detail,
        };
        let verdict: Verdict = Arc::new(OnceLock::new());
        let (name, unnamed) = match ServerName::try_from(target.name.clone()) {
            Ok(name) => (name, None),
            Err(_) => (nameless(&target.address), Some(target.name.clone())),
        };
        let config = self
            .config(target, unnamed, &verdict)
            .map_err(|error| failed(TlsFault::Handshake, error.to_string()))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        let result = tokio::time::timeout(target.connect_timeout, connecting).await;
        let verdict = verdict.get().cloned().unwrap_or(TlsVerdict::Unchecked);
        match result {
            Ok(Ok(stream)) => {
                let info = info(stream.get_ref().1);
                Ok((stream, info, verdict))
            }
            Ok(Err(error)) => {
                let fault = match verdict {
                    TlsVerdict::Failed { fault, .. } if target.enforce => fault,
                    _ => TlsFault::Handshake,
                };
                Err(failed(fault, error.to_string()))
            }
            Err(_) => Err(failed(
                TlsFault::Handshake,
                "the handshake takes too long".to_owned(),
            )),
        }
    }

    fn config(
        &self,
        target: &Target,
        unnamed: Option<String>,
        verdict: &Verdict,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        if target.certificate == CertificateCheck::Any {
            return Ok(Arc::clone(&self.opportunistic));
        }
        let checking = Checking {
            check: target.certificate.clone(),
            enforce: target.enforce,
            unnamed,
            platform: Arc::<Verifier>::clone(&self.platform),
            provider: Arc::clone(&self.provider),
            verdict: Arc::clone(verdict),
        };
        let mut config = config(&self.provider, Arc::new(checking))?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// What stands in for a name that no certificate can have.
fn nameless(address: &PeerAddress) -> ServerName<'static> {
    const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    ServerName::from(address.ip().unwrap_or(LOOPBACK))
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}
