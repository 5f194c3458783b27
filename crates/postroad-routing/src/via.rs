//! The ways that mail can go, as configurations and tables name them.
//!
//! | text | way |
//! |---|---|
//! | `mx` | by the MX records of the recipient's domain |
//! | `smtp://host:25` | SMTP; the port may be left out |
//! | `smtps://host:465` | SMTP under TLS from the first octet (RFC 8314 section 3.3) |
//! | `lmtp://host:24` | LMTP (RFC 2033) |
//! | `lmtp+unix:///path` | LMTP on a Unix socket |
//! | `maildir:/path` | into a Maildir; `{local}` and `{domain}` stand for the recipient's |
//! | `discard` | nowhere |
//! | `reject 5.1.1 text`, `defer 4.2.0 text` | a bounce, or later |
//!
//! Behind a host may stand ` preference=10 weight=3`.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use postroad_mail::{Class, EnhancedCode, Protocol, Reply, ReplyCode};

use crate::route::{Hop, HopAddress};

/// Hosts of a way, at most.
pub const HOPS_MAX: usize = 32;

/// Octets of a path of a Unix socket, at most: what all systems take, with the final 0 counted.
const SOCKET_PATH_MAX: usize = 103;

/// Where a rule sends mail.
///
/// ```
/// # fn main() -> Result<(), postroad_routing::ViaError> {
/// use postroad_routing::Via;
///
/// let one: Via = "lmtp+unix:///run/dovecot/lmtp".parse()?;
/// let several = Via::list(&["smtp://a.example", "smtp://b.example:2525 preference=10 weight=3"])?;
/// let Via::Hops(hops) = several else { unreachable!("hosts") };
/// assert_eq!((hops[1].preference, hops[1].weight), (10, 3));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// `mx`
    Mx,
    /// `smtp://host:port`, `lmtp://host:port`, …: one or more.
    Hops(Vec<Hop>),
    /// `maildir:/path`; `{local}` and `{domain}` in it stand for the recipient's.
    Maildir(String),
    /// `discard`
    Discard,
    /// `reject 5.1.1 text`
    Reject(Reply),
    /// `defer 4.2.0 text`
    Defer(Reply),
}

/// Not a way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViaError {
    /// None that we know.
    #[error(
        "`{0}` is no way for mail to go; expected `mx`, `smtp://host:port`, `smtps://host:port`, `lmtp://host:port`, `lmtp+unix:///path`, `maildir:/path`, `discard`, `reject 5.1.1 text` or `defer 4.2.0 text`"
    )]
    Unknown(String),
    /// The host or port is wrong.
    #[error(
        "`{0}` names no host; expected one such as `mail.example.org:25`, `192.0.2.1:25` or `[2001:db8::1]:25`"
    )]
    Host(String),
    /// The path of a socket is wrong.
    #[error(
        "`{0}` names no socket; expected an absolute path of at most {SOCKET_PATH_MAX} octets, as in `lmtp+unix:///run/dovecot/lmtp`"
    )]
    Socket(String),
    /// What stands behind a host is wrong.
    #[error(
        "`{whole}`: `{word}` is unknown; behind a host may stand `preference=10` and `weight=3`, each once, with numbers from 0 to 65535"
    )]
    Setting {
        /// All of it.
        whole: String,
        /// The word that is wrong.
        word: String,
    },
    /// Something in a list that cannot have company.
    #[error(
        "`{0}` cannot be one of several: only hosts can, as in `smtp://a.example` and `smtp://b.example preference=10`"
    )]
    Alone(String),
    /// The same host more than once in a list.
    #[error(
        "`{0}` is named twice; a weight says how often a host is to be first, as in `weight=3`"
    )]
    Twice(String),
    /// A list without anything in it, or with too much.
    #[error("{0} ways; expected at least 1 and at most {HOPS_MAX}")]
    Count(usize),
    /// The enhanced code does not fit.
    #[error(
        "`{0}`: reject takes an enhanced code 5.x.y and defer one 4.x.y before its text, as in `reject 5.1.1 no such user`"
    )]
    Code(String),
    /// A path that is not absolute, or would leave its directory.
    #[error(
        "`{0}`: a maildir needs an absolute path, in which only {{local}} and {{domain}} may be replaced"
    )]
    Path(String),
}

impl Via {
    /// One way, or several hosts.
    ///
    /// # Errors
    /// Where one is none, or what is no host has company, or a host is named twice.
    pub fn list<S: AsRef<str>>(ways: &[S]) -> Result<Self, ViaError> {
        if let [one] = ways {
            return one.as_ref().parse();
        }
        if ways.is_empty() || ways.len() > HOPS_MAX {
            return Err(ViaError::Count(ways.len()));
        }
        let mut hops: Vec<Hop> = Vec::with_capacity(ways.len());
        for way in ways.iter().map(AsRef::as_ref) {
            let Self::Hops(more) = way.parse()? else {
                return Err(ViaError::Alone(way.to_owned()));
            };
            if more.iter().any(|hop| hops.iter().any(|h| h.at == hop.at)) {
                return Err(ViaError::Twice(way.to_owned()));
            }
            hops.extend(more);
        }
        Ok(Self::Hops(hops))
    }
}

impl FromStr for Via {
    type Err = ViaError;

    fn from_str(s: &str) -> Result<Self, ViaError> {
        let word = s.split([' ', ':']).next().unwrap_or_default();
        let rest = s.get(word.len()..).unwrap_or_default();
        match (word, rest) {
            ("mx", "") => Ok(Self::Mx),
            ("discard", "") => Ok(Self::Discard),
            ("smtp" | "smtps" | "lmtp" | "lmtp+unix", _) => match rest.strip_prefix("://") {
                Some(rest) => Ok(Self::Hops(vec![hop(s, word, rest)?])),
                None => Err(ViaError::Unknown(s.to_owned())),
            },
            ("maildir", _) => maildir(s, rest.strip_prefix(':').unwrap_or_default()),
            ("reject", "") => Ok(Self::Reject(reply(s, Class::Permanent, "")?)),
            ("reject", _) => Ok(Self::Reject(reply(s, Class::Permanent, rest.trim())?)),
            ("defer", _) => Ok(Self::Defer(reply(s, Class::Transient, rest.trim())?)),
            _ => Err(ViaError::Unknown(s.to_owned())),
        }
    }
}

impl fmt::Display for Hop {
    /// As a configuration has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.protocol, self.implicit_tls) {
            (Protocol::Smtp, false) => "smtp",
            (Protocol::Smtp, true) => "smtps",
            (Protocol::Lmtp, _) => "lmtp",
        };
        match &self.at {
            HopAddress::Tcp { host, port } => match host.ip() {
                Some(ip) => write!(f, "{scheme}://{}", std::net::SocketAddr::new(ip, *port))?,
                None => write!(f, "{scheme}://{}:{port}", host.ascii())?,
            },
            HopAddress::Unix(path) => write!(f, "{scheme}+unix://{}", path.display())?,
        }
        if self.preference != 0 {
            write!(f, " preference={}", self.preference)?;
        }
        if self.weight != 1 {
            write!(f, " weight={}", self.weight)?;
        }
        Ok(())
    }
}

/// `rest`: what stands behind `scheme://`.
fn hop(whole: &str, scheme: &str, rest: &str) -> Result<Hop, ViaError> {
    let mut words = rest.split_ascii_whitespace();
    let place = words.next().unwrap_or_default();
    // Not ` smtp:// host`.
    if !rest.starts_with(place) || place.is_empty() {
        return Err(ViaError::Host(whole.to_owned()));
    }
    let (default_port, implicit_tls, protocol) = match scheme {
        "smtps" => (465, true, Protocol::Smtp),
        "lmtp" | "lmtp+unix" => (24, false, Protocol::Lmtp),
        _ => (25, false, Protocol::Smtp),
    };
    let at = if scheme == "lmtp+unix" {
        socket(whole, place)?
    } else {
        host(whole, place, default_port)?
    };
    let (mut preference, mut weight) = (None, None);
    for word in words {
        let wrong = || ViaError::Setting {
            whole: whole.to_owned(),
            word: word.to_owned(),
        };
        let (key, value) = word.split_once('=').ok_or_else(wrong)?;
        let value: u16 = value.parse().map_err(|_| wrong())?;
        let before = match key {
            "preference" => preference.replace(value),
            "weight" => weight.replace(value),
            _ => return Err(wrong()),
        };
        if before.is_some() {
            return Err(wrong());
        }
    }
    Ok(Hop {
        at,
        protocol,
        implicit_tls,
        preference: preference.unwrap_or(0),
        weight: weight.unwrap_or(1),
    })
}

fn socket(whole: &str, path: &str) -> Result<HopAddress, ViaError> {
    let is_path = Path::new(path).is_absolute()
        && !path.ends_with('/')
        && path.len() <= SOCKET_PATH_MAX
        && !path.contains('\0');
    if is_path {
        Ok(HopAddress::Unix(PathBuf::from(path)))
    } else {
        Err(ViaError::Socket(whole.to_owned()))
    }
}

fn host(whole: &str, authority: &str, default_port: u16) -> Result<HopAddress, ViaError> {
    let wrong = || ViaError::Host(whole.to_owned());
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => {
            let (ip, port) = literal.split_once(']').ok_or_else(wrong)?;
            (
                format!("[{}{ip}]", if ip.contains(':') { "IPv6:" } else { "" }),
                port.strip_prefix(':').or(port.is_empty().then_some("")),
            )
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let host = if host.parse::<Ipv4Addr>().is_ok() {
                format!("[{host}]")
            } else {
                host.to_owned()
            };
            (host, Some(port))
        }
    };
    let port = match port.ok_or_else(wrong)? {
        "" => default_port,
        port => port.parse().ok().filter(|&p| p > 0).ok_or_else(wrong)?,
    };
    Ok(HopAddress::Tcp {
        host: host.parse().map_err(|_| wrong())?,
        port,
    })
}

fn maildir(whole: &str, path: &str) -> Result<Via, ViaError> {
    let plain = path.replace("{local}", "x").replace("{domain}", "x");
    let safe = Path::new(path).is_absolute() && !plain.contains(['{', '}', '\0']);
    if safe {
        Ok(Via::Maildir(path.to_owned()))
    } else {
        Err(ViaError::Path(whole.to_owned()))
    }
}

fn reply(whole: &str, class: Class, rest: &str) -> Result<Reply, ViaError> {
    let wrong = || ViaError::Code(whole.to_owned());
    let (first, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let (enhanced, text) = match first.parse::<EnhancedCode>() {
        Ok(enhanced) if enhanced.class == class => (enhanced, text),
        // Also "550", and a text without a code: it would be sent as it is, in front of ours.
        Ok(_) => return Err(wrong()),
        Err(_) if !rest.is_empty() => return Err(wrong()),
        Err(_) if class == Class::Permanent => (EnhancedCode::permanent(7, 1), ""),
        Err(_) => (EnhancedCode::transient(7, 1), ""),
    };
    let (code, default) = match class {
        Class::Permanent => (550, "Rejected by a route"),
        Class::Transient | Class::Success => (451, "Deferred by a route"),
    };
    let code = ReplyCode::new(code).ok_or_else(wrong)?;
    let text = if text.is_empty() { default } else { text };
    Ok(Reply {
        code,
        enhanced: Some(enhanced),
        text: text.to_owned().into(),
    })
}

#[cfg(test)]
#[path = "via_tests.rs"]
mod tests;
