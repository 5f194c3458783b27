//! The client's side: connections to next hops, and the driver of [`postroad_proto::client::Session`].

mod connection;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::client::{Config, Phase, SessionError};

pub use connection::Connection;

use tls::TlsConfigs;

/// A next hop, and how to reach it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address to call.
    pub address: SocketAddr,
    /// The name for SNI and for the certificate.
    pub name: String,
    /// TLS from the first octet.
    pub implicit_tls: bool,
    /// The certificate must be valid for `name`; else any will do.
    pub verify: bool,
    /// The local address to call from.
    pub source: Option<IpAddr>,
    /// How long the TCP connect (and each TLS handshake) may take.
    pub connect_timeout: Duration,
    /// EHLO name, STARTTLS, login, timeouts.
    pub session: Arc<Config>,
}

/// Why there is no (more a) session.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No TCP connection.
    #[error("connecting to {address}: {detail}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        detail: String,
        /// The system knows no way there, as where a host has no IPv6: nothing was waited for.
        unreachable: bool,
    },
    /// The handshake failed: a new connection without TLS may work.
    #[error("TLS with {address}: {detail}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why not.
        detail: String,
    },
    /// The SMTP session did not get as far as being ready.
    #[error("{phase:?} with {address}: {error}")]
    Session {
        /// Where.
        address: SocketAddr,
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
}

impl Connector {
    /// With the system's certificate authorities and `extra_roots` (PEM files of more).
    ///
    /// # Errors
    /// Where a file cannot be read or holds no certificate.
    pub fn new(extra_roots: &[PathBuf]) -> Result<Self, ConnectorError> {
        Ok(Self {
            tls: TlsConfigs::new(extra_roots)?,
        })
    }
}
