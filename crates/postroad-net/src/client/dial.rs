use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

/// Where a next hop listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddress {
    /// On a TCP port.
    Tcp(SocketAddr),
    /// On a Unix socket of this machine.
    Unix(PathBuf),
}

impl PeerAddress {
    /// Its IP address, where it has one.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for PeerAddress {
    /// `192.0.2.1:25`, `[2001:db8::1]:25`, `unix:/run/lmtp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// Octets both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A stream that is being made.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// How connections are made: [`Sockets`], or what a simulation has in their place.
pub trait Dial: fmt::Debug + Send + Sync + 'static {
    /// Makes a connection; from `source`, where one is given and the address has a family. It
    /// needs no timeout of its own: the caller drops it when its time is over.
    ///
    /// # Errors
    /// Of the system. [`io::ErrorKind::NetworkUnreachable`] and
    /// [`io::ErrorKind::AddrNotAvailable`] say that there is no way there from here.
    fn dial<'a>(&'a self, address: &'a PeerAddress, source: Option<IpAddr>) -> Dialling<'a>;
}

/// The system's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sockets;

impl Dial for Sockets {
    fn dial<'a>(&'a self, address: &'a PeerAddress, source: Option<IpAddr>) -> Dialling<'a> {
        Box::pin(async move {
            let stream: Box<dyn Stream> = match address {
                PeerAddress::Tcp(address) => Box::new(tcp(*address, source).await?),
                PeerAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
            };
            Ok(stream)
        })
    }
}

async fn tcp(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether the system itself knew that there is no way there.
pub(crate) fn is_unreachable(error: &io::Error) -> bool {
    // A family that is switched off is said so when the socket is made, or bound.
    const EAFNOSUPPORT: i32 = 97;
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable
    ) || error.raw_os_error() == Some(EAFNOSUPPORT)
}
