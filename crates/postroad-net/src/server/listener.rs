use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use postroad_proto::server::BareNewline;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 1024;

/// How a listener secures its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerTls {
    /// Plaintext until STARTTLS.
    StartTls,
    /// TLS from the first octet.
    Implicit,
    /// Plaintext.
    None,
}

/// A listening socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address}: {source}")]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// A listening socket.
#[derive(Debug)]
pub struct BoundListener {
    listener: std::net::TcpListener,
    terms: Terms,
}

/// What a listener has its sessions do, whatever the role's settings are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) tls: ListenerTls,
    pub(crate) bare_newline: Option<BareNewline>,
}

impl Terms {
    const fn new(tls: ListenerTls) -> Self {
        Self {
            tls,
            bare_newline: None,
        }
    }
}

impl BoundListener {
    /// Listens on an address. `[::]` means both families; where IPv6 is off, `0.0.0.0`.
    ///
    /// # Errors
    /// Where the address is not ours, is taken, or needs rights that we do not have.
    pub fn bind(address: SocketAddr, tls: ListenerTls) -> Result<Self, BindError> {
        let any = address.is_ipv6() && address.ip().is_unspecified();
        let listener = listen(address, any).or_else(|error| {
            if any && no_ipv6(&error) {
                return listen(
                    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()),
                    false,
                );
            }
            Err(error)
        });
        let listener = listener.map_err(|source| BindError { address, source })?;
        let terms = Terms::new(tls);
        Ok(Self { listener, terms })
    }

    /// Takes over a socket that listens already, as from systemd.
    #[must_use]
    pub const fn from_std(listener: std::net::TcpListener, tls: ListenerTls) -> Self {
        let terms = Terms::new(tls);
        Self { listener, terms }
    }

    /// Its sessions treat bare newlines like this, not as the role has it.
    #[must_use]
    pub const fn bare_newline(mut self, treatment: BareNewline) -> Self {
        self.terms.bare_newline = Some(treatment);
        self
    }

    /// Where it listens: with the port that the system chose, where it was left to it.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub(crate) fn into_tokio(self) -> io::Result<(TcpListener, Terms)> {
        self.listener.set_nonblocking(true)?;
        Ok((TcpListener::from_std(self.listener)?, self.terms))
    }
}

fn listen(address: SocketAddr, both: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!both)?;
    }
    // A restart must not wait for connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}
