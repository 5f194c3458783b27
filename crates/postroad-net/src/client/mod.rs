//! The client's side: connections to next hops, and the driver of [`postroad_proto::client::Session`].

mod connection;
mod dial;
mod tls;
mod verify;
mod verify_dane;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::client::{Config, Phase, SessionError};

pub use connection::Connection;
pub use dial::{Dial, Dialling, PeerAddress, Sockets, Stream};
pub use verify::{CertificateCheck, TlsFault, TlsVerdict};

use tls::TlsConfigs;

/// A next hop, and how to reach it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address to call.
    pub address: PeerAddress,
    /// The name for SNI and for the certificate.
    pub name: String,
    /// TLS from the first octet.
    pub implicit_tls: bool,
    /// What its certificate must be.
    pub certificate: CertificateCheck,
    /// False: the check is made, [`Connection::verdict`] tells what came of it, and the connection
    /// is used all the same.
    pub enforce: bool,
    /// The local address to call from, over TCP.
    pub source: Option<IpAddr>,
    /// How long the connect (and each TLS handshake) may take.
    pub connect_timeout: Duration,
    /// EHLO name, STARTTLS, login, timeouts. STARTTLS is not required over a Unix socket, whatever
    /// it says here.
    pub session: Arc<Config>,
}

/// Why there is no (more a) session.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No connection.
    #[error("connecting to {address}: {detail}")]
    Connect {
        /// Where.
        address: PeerAddress,
        /// Why not.
        detail: String,
        /// The system knows no way there, as where a host has no IPv6: nothing was waited for.
        unreachable: bool,
    },
    /// The handshake failed: a new connection without TLS may work.
    #[error("TLS with {address}: {detail}")]
    Tls {
        /// Where.
        address: PeerAddress,
        /// In which way.
        fault: TlsFault,
        /// Why not.
        detail: String,
    },
    /// The SMTP session did not get as far as being ready.
    #[error("{phase:?} with {address}: {error}")]
    Session {
        /// Where.
        address: PeerAddress,
        /// How far it got.
        phase: Phase,
        /// Why no further.
        error: SessionError,
    },
}

/// The content of a message, piece by piece.
pub trait Source: Send {
    /// The next piece; empty at the end.
    fn next(&mut self) -> impl Future<Output = std::io::Result<Bytes>> + Send;
}

/// Why there is no connector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectorError {
    /// A file of certificate authorities cannot be used.
    #[error("reading certificate authorities from {}: {detail}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
    /// The system's certificate authorities cannot be used.
    #[error("preparing TLS: {0}")]
    Tls(rustls::Error),
}

/// Makes connections.
#[derive(Clone, Debug)]
pub struct Connector {
    tls: TlsConfigs,
    dialer: Arc<dyn Dial>,
}

impl Connector {
    /// With the system's certificate authorities and `extra_roots` (PEM files of more).
    ///
    /// # Errors
    /// Where a file cannot be read or holds no certificate.
    pub fn new(extra_roots: &[PathBuf]) -> Result<Self, ConnectorError> {
        Ok(Self {
            tls: TlsConfigs::new(extra_roots)?,
            dialer: Arc::new(Sockets),
        })
    }

    /// Makes connections in another way than by [`Sockets`].
    #[must_use]
    pub fn with_dialer(mut self, dialer: Arc<dyn Dial>) -> Self {
        self.dialer = dialer;
        self
    }

    /// The TLS configuration that takes a certificate only where it is valid for the name and
    /// from an authority that is trusted here: for HTTPS.
    #[must_use]
    pub fn verifying_config(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.tls.verifying)
    }
}
