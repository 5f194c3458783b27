use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::Address;

/// Why a path or address does not parse (RFC 5321 section 4.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// A path must stand in angle brackets.
    #[error("the path must be enclosed in < and >")]
    Brackets,
    /// The local part is not a dot-string or quoted string.
    #[error("the local part is not valid")]
    LocalPart,
    /// No `@` follows the local part.
    #[error("the address has no domain")]
    NoDomain,
    /// Not a domain name.
    #[error("the domain is not valid")]
    Domain,
    /// Not an address literal.
    #[error("the address literal is not valid")]
    Literal,
    /// The source route before the mailbox is malformed.
    #[error("the source route is not valid")]
    SourceRoute,
    /// Longer than any implementation needs to take.
    #[error("the address is too long")]
    TooLong,
    /// Something follows a complete address.
    #[error("unexpected characters after the address")]
    Trailing,
}

/// Whom to tell about what happens to a message: the argument of MAIL FROM.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ReversePath {
    /// `<>`: a notification that must never be answered by another (RFC 5321 section 4.5.5).
    Null,
    /// A mailbox.
    Address(Address),
}

impl ReversePath {
    /// Parses `<…>` at the start of `s`, strips a source route, returns what follows.
    ///
    /// # Errors
    /// Where no path stands there.
    pub fn parse_prefix(s: &str) -> Result<(Self, &str), PathError> {
        if let Some(rest) = s.strip_prefix("<>") {
            return Ok((Self::Null, rest));
        }
        let (address, rest) = bracketed(s)?;
        Ok((Self::Address(address), rest))
    }

    /// The mailbox, unless the path is null.
    #[must_use]
    pub const fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }

    /// Whether this is `<>`.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// The argument of RCPT TO.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain (RFC 5321 section 4.1.1.3): this host's.
    Postmaster,
    /// A mailbox.
    Address(Address),
}

impl ForwardPath {
    /// Parses `<…>` at the start of `s`, strips a source route, returns what follows.
    ///
    /// # Errors
    /// Where no path stands there; `<>` is none.
    pub fn parse_prefix(s: &str) -> Result<(Self, &str), PathError> {
        const POSTMASTER: &str = "<postmaster>";
        if let Some((head, rest)) = s.split_at_checked(POSTMASTER.len())
            && head.eq_ignore_ascii_case(POSTMASTER)
        {
            return Ok((Self::Postmaster, rest));
        }
        let (address, rest) = bracketed(s)?;
        Ok((Self::Address(address), rest))
    }
}

fn bracketed(s: &str) -> Result<(Address, &str), PathError> {
    let mut inner = s.strip_prefix('<').ok_or(PathError::Brackets)?;
    if inner.starts_with('@') {
        inner = skip_source_route(inner)?;
    }
    let (address, rest) = Address::parse_prefix(inner)?;
    let rest = rest.strip_prefix('>').ok_or(PathError::Brackets)?;
    Ok((address, rest))
}

/// `A-d-l = At-domain *( "," At-domain )`, then `:` (RFC 5321 section 4.1.2): checked, forgotten.
fn skip_source_route(s: &str) -> Result<&str, PathError> {
    let mut rest = s;
    loop {
        rest = rest.strip_prefix('@').ok_or(PathError::SourceRoute)?;
        let end = if rest.starts_with('[') {
            rest.find(']').map(|at| at + 1)
        } else {
            rest.find([',', ':', '>'])
        };
        let (domain, behind) = rest.split_at(end.ok_or(PathError::SourceRoute)?);
        domain
            .parse::<crate::Domain>()
            .map_err(|_| PathError::SourceRoute)?;
        if let Some(path) = behind.strip_prefix(':') {
            return Ok(path);
        }
        rest = behind.strip_prefix(',').ok_or(PathError::SourceRoute)?;
    }
}

impl FromStr for ReversePath {
    type Err = PathError;

    fn from_str(s: &str) -> Result<Self, PathError> {
        match Self::parse_prefix(s)? {
            (path, "") => Ok(path),
            _ => Err(PathError::Trailing),
        }
    }
}

impl FromStr for ForwardPath {
    type Err = PathError;

    fn from_str(s: &str) -> Result<Self, PathError> {
        match Self::parse_prefix(s)? {
            (path, "") => Ok(path),
            _ => Err(PathError::Trailing),
        }
    }
}

/// The mailbox without brackets; nothing for the null path.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("postmaster"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Serialize for ReversePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReversePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let s = String::deserialize(deserializer)?;
        if s.is_empty() {
            return Ok(Self::Null);
        }
        s.parse()
            .map(Self::Address)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (written, meant) in [
            ("<>", ""),
            ("<a@b>", "a@b"),
            ("<@x,@[192.0.2.1]:a@b>", "a@b"),
            ("<\"a>b\"@c>", "\"a>b\"@c"),
        ] {
            assert_eq!(written.parse::<ReversePath>().unwrap().to_string(), meant);
        }
        assert_eq!("<PostMaster>".parse(), Ok(ForwardPath::Postmaster));
        assert_eq!(
            ForwardPath::parse_prefix("<a@b> NOTIFY=NEVER").unwrap().1,
            " NOTIFY=NEVER"
        );
    }

    #[test]
    fn refused() {
        for bad in [
            "a@b", "<a@b", "< a@b>", "<a@b >", "<@x:>", "<@x,a@b>", "<@:a@b>", "<a>", "<a@b>x",
            "<<a@b>>",
        ] {
            assert!(bad.parse::<ReversePath>().is_err(), "{bad}");
        }
        assert!("<>".parse::<ForwardPath>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(s in "<?[ -~ü\\r\\n@,:\\[\\]\"\\\\]{0,40}>?") {
            let _ = ReversePath::parse_prefix(&s);
            let _ = ForwardPath::parse_prefix(&s);
        }
    }
}
