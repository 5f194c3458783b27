//! A bare SMTP client that sends just what a test says, and its own TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::process::PATIENCE;

/// Octets of a reply, at most.
const REPLY_MAX: usize = 64 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to a server.
pub struct Dialogue {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
    certificate: Option<Vec<u8>>,
}

impl std::fmt::Debug for Dialogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialogue({:?})", String::from_utf8_lossy(&self.input))
    }
}

impl Dialogue {
    /// Connects, and reads nothing yet.
    ///
    /// # Errors
    /// Where nobody listens.
    pub async fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server)
            .await
            .with_context(|| format!("connecting to {server}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: Box::new(stream),
            input: Vec::new(),
            certificate: None,
        })
    }

    /// Connects, reads the greeting, says EHLO.
    ///
    /// # Errors
    /// Where either fails.
    pub async fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let mut dialogue = Self::connect(server).await?;
        dialogue.expect("220").await?;
        dialogue.say("EHLO client.test", "250").await?;
        Ok(dialogue)
    }

    /// The same with TLS from the first octet.
    ///
    /// # Errors
    /// Where the handshake fails.
    pub async fn open_tls(server: SocketAddr) -> anyhow::Result<Self> {
        let mut dialogue = Self::connect(server).await?.tls().await?;
        dialogue.expect("220").await?;
        dialogue.say("EHLO client.test", "250").await?;
        Ok(dialogue)
    }

    /// Makes a TLS handshake on the connection as it is.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn tls(self) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        let name = ServerName::try_from("server.test")?;
        let stream = tokio::time::timeout(
            PATIENCE,
            TlsConnector::from(Arc::new(config)).connect(name, self.stream),
        )
        .await??;
        let shown = stream.get_ref().1.peer_certificates();
        Ok(Self {
            certificate: shown.and_then(|chain| Some(chain.first()?.to_vec())),
            stream: Box::new(stream),
            input: Vec::new(),
        })
    }

    /// The certificate that the server has shown, under TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Sends octets.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn send(&mut self, octets: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.stream.write_all(octets.as_ref()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Closes the sending side only.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// One reply, all its lines, without the last CRLF.
    ///
    /// # Errors
    /// Where the connection ends first.
    pub async fn reply(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = reply_end(&self.input) {
                let reply: Vec<u8> = self.input.drain(..end).collect();
                return Ok(String::from_utf8_lossy(&reply).trim_end().to_owned());
            }
            if self.input.len() > REPLY_MAX {
                bail!("an endless reply");
            }
            let mut buffer = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer))
                .await
                .context("no reply in time")??;
            if read == 0 {
                bail!(
                    "the connection ended after {:?}",
                    String::from_utf8_lossy(&self.input)
                );
            }
            self.input.extend(buffer.iter().take(read));
        }
    }

    /// A reply that starts with `start`.
    ///
    /// # Errors
    /// Where it is another.
    pub async fn expect(&mut self, start: &str) -> anyhow::Result<String> {
        let reply = self.reply().await?;
        let last = reply.lines().last().unwrap_or_default();
        // The code may be followed by `-` in all lines but the last, by the enhanced code in all.
        if !last.starts_with(start) {
            bail!("expected {start}, got {reply}");
        }
        Ok(reply)
    }

    /// Sends a line, and expects a reply.
    ///
    /// # Errors
    /// Where it is another.
    pub async fn say(&mut self, line: &str, start: &str) -> anyhow::Result<String> {
        self.send(format!("{line}\r\n")).await?;
        self.expect(start)
            .await
            .with_context(|| format!("after {line:?}"))
    }

    /// Everything until the server closes.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn rest(&mut self) -> anyhow::Result<String> {
        let mut rest = std::mem::take(&mut self.input);
        let read = self.stream.read_to_end(&mut rest);
        match tokio::time::timeout(PATIENCE, read)
            .await
            .context("the server does not close")?
        {
            Ok(_) => {}
            // A reset, or TLS without close_notify, is a close too.
            Err(error) if rest.is_empty() => bail!("{error}"),
            Err(_) => {}
        }
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }
}

/// Where the first complete reply in `input` ends.
fn reply_end(input: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let line = input.get(start..)?;
        let end = line.windows(2).position(|w| w == b"\r\n")? + 2;
        start += end;
        if line.get(3) != Some(&b'-') {
            return Some(start);
        }
    }
}

/// Any certificate will do.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
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
