//! Name servers as a configuration names them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The port of DNS over TLS (RFC 7858 section 3.1).
const TLS_PORT: u16 = 853;

/// A name server: over UDP and TCP, or over TLS.
///
/// ```
/// # fn main() -> Result<(), postroad_routing::NameServerError> {
/// use postroad_routing::NameServer;
///
/// let plain: NameServer = "127.0.0.1:53".parse()?;
/// assert_eq!(plain.tls, None);
/// let over_tls: NameServer = "tls://9.9.9.9#dns.quad9.net".parse()?;
/// assert_eq!(over_tls.to_string(), "tls://9.9.9.9:853#dns.quad9.net");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameServer {
    /// Where it is.
    pub address: SocketAddr,
    /// Over TLS only (RFC 7858), with a certificate that is valid for this name or address.
    pub tls: Option<String>,
}

/// Not a name server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name server; expected an address with a port, as in `127.0.0.1:53` or `[::1]:53`, or one over TLS with the name of its certificate, as in `tls://9.9.9.9:853#dns.quad9.net`"
)]
pub struct NameServerError(String);

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }
}

impl FromStr for NameServer {
    type Err = NameServerError;

    fn from_str(s: &str) -> Result<Self, NameServerError> {
        let wrong = || NameServerError(s.to_owned());
        let Some(rest) = s.strip_prefix("tls://") else {
            return s.parse::<SocketAddr>().map(Self::from).map_err(|_| wrong());
        };
        let (at, name) = rest.split_once('#').ok_or_else(wrong)?;
        let ip = at
            .strip_prefix('[')
            .and_then(|ip| ip.strip_suffix(']'))
            .unwrap_or(at);
        let address = at
            .parse::<SocketAddr>()
            .ok()
            .or_else(|| Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, TLS_PORT)))
            .ok_or_else(wrong)?;
        rustls::pki_types::ServerName::try_from(name).map_err(|_| wrong())?;
        Ok(Self {
            address,
            tls: Some(name.to_owned()),
        })
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            Some(name) => write!(f, "tls://{}#{name}", self.address),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, shown) in [
            ("127.0.0.1:53", "127.0.0.1:53"),
            ("[::1]:5353", "[::1]:5353"),
            (
                "tls://9.9.9.9:8853#dns.quad9.net",
                "tls://9.9.9.9:8853#dns.quad9.net",
            ),
            ("tls://9.9.9.9#9.9.9.9", "tls://9.9.9.9:853#9.9.9.9"),
            (
                "tls://[2620:fe::fe]#dns.quad9.net",
                "tls://[2620:fe::fe]:853#dns.quad9.net",
            ),
            ("tls://[2620:fe::fe]:853#a", "tls://[2620:fe::fe]:853#a"),
        ] {
            let server: NameServer = text.parse().unwrap();
            assert_eq!(server.to_string(), shown);
            assert_eq!(shown.parse::<NameServer>().unwrap(), server);
        }
        for bad in [
            "",
            "127.0.0.1",
            "localhost:53",
            "tls://9.9.9.9:853",
            "tls://9.9.9.9#",
            "tls://9.9.9.9#a b",
            "tls://dns.quad9.net#dns.quad9.net",
            "https://x",
        ] {
            let error = bad.parse::<NameServer>().unwrap_err().to_string();
            assert!(
                error.contains("`tls://9.9.9.9:853#dns.quad9.net`"),
                "{bad}: {error}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(s in "(tls://)?[0-9.:\\[\\]a-f#]{0,30}|.{0,30}") {
            if let Ok(server) = s.parse::<NameServer>() {
                proptest::prop_assert_eq!(server.to_string().parse::<NameServer>().unwrap(), server);
            }
        }
    }
}
