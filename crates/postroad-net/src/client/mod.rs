//! The client's side: connections to next hops, and the driver of [`postroad_proto::client::Session`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad_mail::TlsInfo;
use postroad_proto::client::{Config, Phase, Report, SessionError, Transaction};

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

/// Makes connections.
#[derive(Clone, Debug)]
pub struct Connector {}

/// An open session, between transactions.
#[derive(Debug)]
pub struct Connection {}

impl Connector {
    /// With the system's certificate authorities and `extra_roots` (PEM files of more).
    ///
    /// # Errors
    /// Where a file cannot be read or holds no certificate.
    pub fn new(_extra_roots: &[std::path::PathBuf]) -> std::io::Result<Self> {
        unimplemented!()
    }

    /// Calls a next hop and opens a session with it.
    ///
    /// # Errors
    /// Where it came to none.
    pub async fn connect(&self, _target: &Target) -> Result<Connection, ConnectError> {
        unimplemented!()
    }
}

impl Connection {
    /// Sends one message. Always reports on every recipient. Where the content cannot be read to its
    /// end, the connection is dropped before the end of data, and all recipients are `Broken`.
    pub async fn deliver(
        &mut self,
        _transaction: Transaction,
        _content: &mut impl Source,
    ) -> Report {
        unimplemented!()
    }

    /// Whether another message may follow.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        unimplemented!()
    }

    /// The connection's TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        unimplemented!()
    }

    /// Says QUIT, and closes, within a few seconds.
    pub async fn quit(self) {
        unimplemented!()
    }
}
