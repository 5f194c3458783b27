//! Postfix's and Sendmail's socketmap protocol: `name key` in a netstring, an answer in another.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use postroad_mail::escape_peer_text;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::netstring::{Answer, CONTENT_MAX, NetstringError, netstring, take};
use crate::pool::Pool;
use crate::table::{LookupError, Table};

/// Octets read at once.
const READ_SIZE: usize = 4 << 10;

/// Where a socketmap server listens: `unix:/run/map.sock`, `127.0.0.1:8888`, `inet:host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAddress {
    /// On a Unix socket.
    Unix(PathBuf),
    /// On a TCP port: `host:port`.
    Tcp(String),
}

/// Not where a server can listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a server; expected `unix:/path` or `host:port`")]
pub struct SocketAddressError(String);

impl FromStr for SocketAddress {
    type Err = SocketAddressError;

    fn from_str(s: &str) -> Result<Self, SocketAddressError> {
        let wrong = || SocketAddressError(s.to_owned());
        if let Some(path) = s.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return path
                .is_absolute()
                .then_some(Self::Unix(path))
                .ok_or_else(wrong);
        }
        let at = s.strip_prefix("inet:").unwrap_or(s);
        let (host, port) = at.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = !host.is_empty() && !host.contains([' ', '/', '[', ']', ':']);
        let port: u16 = port.parse().map_err(|_| wrong())?;
        if port == 0 || !(plain || bracketed) {
            return Err(wrong());
        }
        Ok(Self::Tcp(at.to_owned()))
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(at) => f.write_str(at),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A map of a socketmap server.
///
/// Waits for ever by itself: put it into [`guarded`](crate::SharedTable::guarded).
#[derive(Debug)]
pub struct SocketmapTable {
    at: SocketAddress,
    map: String,
    pool: Pool<Box<dyn Stream>>,
}

/// Why a connection gave no answer.
enum Failure {
    /// It broke: one that was used before may have been closed meanwhile.
    Io(io::Error),
    /// What came makes no sense.
    Netstring(NetstringError),
}

impl SocketmapTable {
    /// The map `map` of the server at `at`, over at most `connections` connections.
    ///
    /// # Errors
    /// Where the map's name is empty or has a space in it, which ends it in the protocol.
    pub fn new(at: SocketAddress, map: &str, connections: usize) -> Result<Self, MapNameError> {
        if map.is_empty() || map.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(MapNameError(map.to_owned()));
        }
        Ok(Self {
            at,
            map: map.to_owned(),
            pool: Pool::new(connections),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, LookupError> {
        let connected: io::Result<Box<dyn Stream>> = match &self.at {
            SocketAddress::Unix(path) => UnixStream::connect(path)
                .await
                .map(|stream| Box::new(stream) as _),
            SocketAddress::Tcp(at) => match TcpStream::connect(at.as_str()).await {
                Ok(stream) => stream.set_nodelay(true).map(|()| Box::new(stream) as _),
                Err(error) => Err(error),
            },
        };
        connected.map_err(|error| {
            self.unavailable(&format!(
                "connecting to {}: {error}; is the server running, and may this process connect?",
                self.at
            ))
        })
    }

    fn unavailable(&self, detail: &str) -> LookupError {
        LookupError::unavailable(self, detail)
    }

    fn invalid(&self, detail: &str) -> LookupError {
        LookupError::invalid(self, detail)
    }

    fn failed(&self, failure: &Failure) -> LookupError {
        match failure {
            Failure::Io(error) => self.unavailable(&format!("the connection broke: {error}")),
            Failure::Netstring(error) => self.invalid(&error.to_string()),
        }
    }

    fn values(&self, content: &[u8]) -> Result<Option<Vec<String>>, LookupError> {
        const SHOWN: usize = 100;
        match Answer::parse(content) {
            Some(Answer::Ok(value)) => Ok(Some(vec![value.to_owned()])),
            Some(Answer::NotFound) => Ok(None),
            Some(Answer::Later(why)) => {
                Err(self.unavailable(&format!("it says: {}", escape_peer_text(why))))
            }
            Some(Answer::Never(why)) => {
                Err(self.invalid(&format!("it says: {}", escape_peer_text(why))))
            }
            None => {
                let start = content.get(..SHOWN).unwrap_or(content);
                let start = escape_peer_text(&String::from_utf8_lossy(start));
                Err(self.invalid(&format!(
                    "`{start}`; expected OK, NOTFOUND, TEMP, TIMEOUT or PERM"
                )))
            }
        }
    }
}

/// Not the name of a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a map; expected one word")]
pub struct MapNameError(String);

impl Table for SocketmapTable {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        let request = netstring(&[self.map.as_bytes(), b" ", key.as_bytes()]).ok_or_else(|| {
            self.invalid(&format!("a question of more than {CONTENT_MAX} octets"))
        })?;
        let slot = self.pool.slot().await;
        if let Some(mut used) = slot.idle() {
            match ask(&mut *used, &request).await {
                Ok(content) => {
                    slot.give_back(used);
                    return self.values(&content);
                }
                // It may have been closed while nobody used it; a new one has not.
                Err(Failure::Io(_)) => {}
                Err(failure) => return Err(self.failed(&failure)),
            }
        }
        let mut new = self.connect().await?;
        let content = ask(&mut *new, &request)
            .await
            .map_err(|failure| self.failed(&failure))?;
        slot.give_back(new);
        self.values(&content)
    }

    fn name(&self) -> String {
        format!("socketmap {} {}", self.at, self.map)
    }
}

async fn ask(stream: &mut dyn Stream, request: &Bytes) -> Result<Bytes, Failure> {
    stream.write_all(request).await.map_err(Failure::Io)?;
    stream.flush().await.map_err(Failure::Io)?;
    let mut input = BytesMut::with_capacity(READ_SIZE);
    loop {
        // Taken before more is read: a netstring that can never end is refused at once.
        if let Some(content) = take(&mut input).map_err(Failure::Netstring)? {
            // What comes unasked would be taken for the next answer.
            return if input.is_empty() {
                Ok(content)
            } else {
                Err(Failure::Netstring(NetstringError::Unasked))
            };
        }
        input.reserve(READ_SIZE);
        if stream.read_buf(&mut input).await.map_err(Failure::Io)? == 0 {
            return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (written, shown) in [
            ("unix:/run/map.sock", "unix:/run/map.sock"),
            ("127.0.0.1:8888", "127.0.0.1:8888"),
            ("[::1]:8888", "[::1]:8888"),
            ("inet:map.example:8888", "map.example:8888"),
        ] {
            assert_eq!(written.parse::<SocketAddress>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "unix:",
            "unix:run/x",
            "/run/x",
            "host",
            "host:",
            "host:0",
            ":1",
            "::1:5",
            "a b:5",
        ] {
            assert!(bad.parse::<SocketAddress>().is_err(), "{bad}");
        }
        for bad in ["", "a b", "a\n"] {
            let at = SocketAddress::Tcp("h:1".to_owned());
            assert!(SocketmapTable::new(at, bad, 1).is_err());
        }
    }
}
