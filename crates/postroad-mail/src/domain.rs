use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::path::PathError;

/// The part of an address behind the `@`: a domain name or an address literal
/// (RFC 5321 sections 4.1.2 and 4.1.3).
///
/// It keeps what was written and compares by what it means: names by their lower-case A-label
/// form (RFC 5890), so that `EXAMPLE.org` equals `example.org` and `bücher.example` equals
/// `xn--bcher-kva.example`. This is the one place where a domain is normalised.
#[derive(Clone)]
pub struct Domain {
    written: Box<str>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// The canonical form, where it differs from what was written.
    Name(Option<Box<str>>),
    Literal(IpAddr),
    General,
}

impl Domain {
    /// Octets of a domain, at most (RFC 5321 section 4.5.3.1.2).
    pub const MAX: usize = 255;

    /// The canonical form: a name in lower-case A-labels, a literal as written.
    #[must_use]
    pub fn ascii(&self) -> &str {
        match &self.kind {
            Kind::Name(Some(canonical)) => canonical,
            Kind::Name(None) | Kind::Literal(_) | Kind::General => &self.written,
        }
    }

    /// What was written, upper-case letters, U-labels and brackets included.
    #[must_use]
    pub fn as_written(&self) -> &str {
        &self.written
    }

    /// The address of a literal such as `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self.kind {
            Kind::Literal(ip) => Some(ip),
            Kind::Name(_) | Kind::General => None,
        }
    }

    /// Whether this is an address literal of any kind.
    #[must_use]
    pub const fn is_literal(&self) -> bool {
        !matches!(self.kind, Kind::Name(_))
    }

    fn literal(written: &str) -> Result<Self, PathError> {
        let inner = written
            .strip_prefix('[')
            .and_then(|s| s.strip_suffix(']'))
            .ok_or(PathError::Literal)?;
        let kind = if let Some((tag, content)) = inner.split_once(':') {
            if tag.eq_ignore_ascii_case("ipv6") {
                Kind::Literal(IpAddr::V6(ipv6(content).ok_or(PathError::Literal)?))
            } else {
                let tag_valid = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && tag
                        .bytes()
                        .next_back()
                        .is_some_and(|b| b.is_ascii_alphanumeric());
                let content_valid =
                    !content.is_empty() && content.bytes().all(|b| matches!(b, 33..=90 | 94..=126));
                if !tag_valid || !content_valid {
                    return Err(PathError::Literal);
                }
                Kind::General
            }
        } else {
            Kind::Literal(IpAddr::V4(ipv4(inner).ok_or(PathError::Literal)?))
        };
        Ok(Self {
            written: written.into(),
            kind,
        })
    }

    fn name(written: &str) -> Result<Self, PathError> {
        // A trailing dot is no part of the grammar, but the same name.
        let written = written.strip_suffix('.').unwrap_or(written);
        let canonical = if written.is_ascii() {
            written
                .bytes()
                .any(|b| b.is_ascii_uppercase())
                .then(|| written.to_ascii_lowercase())
        } else {
            Some(idna::domain_to_ascii(written).map_err(|_| PathError::Domain)?)
        };
        let ascii = canonical.as_deref().unwrap_or(written);
        if ascii.is_empty() || ascii.len() > Self::MAX {
            return Err(PathError::Domain);
        }
        let valid = ascii.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
        if !valid {
            return Err(PathError::Domain);
        }
        Ok(Self {
            written: written.into(),
            kind: Kind::Name(canonical.map(String::into_boxed_str)),
        })
    }
}

/// `IPv4-address-literal = Snum 3("."  Snum)` with `Snum = 1*3DIGIT` (RFC 5321 section 4.1.3):
/// decimal, leading zeros and all, which [`Ipv4Addr`] does not take.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut numbers = text.split('.').map(|number| {
        let valid = (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        valid.then(|| number.parse::<u8>().ok()).flatten()
    });
    let mut next = || numbers.next().flatten();
    let octets = [next()?, next()?, next()?, next()?];
    numbers.next().is_none().then(|| octets.into())
}

/// The last 32 bits may be written as those of an IPv4 literal.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    match text.rsplit_once(':') {
        Some((head, tail)) if tail.contains('.') => format!("{head}:{}", ipv4(tail)?).parse().ok(),
        _ => text.parse().ok(),
    }
}

impl FromStr for Domain {
    type Err = PathError;

    fn from_str(s: &str) -> Result<Self, PathError> {
        if s.len() > Self::MAX {
            return Err(PathError::Domain);
        }
        if s.starts_with('[') {
            Self::literal(s)
        } else {
            Self::name(s)
        }
    }
}

impl From<IpAddr> for Domain {
    fn from(ip: IpAddr) -> Self {
        let written = match ip {
            IpAddr::V4(ip) => format!("[{ip}]"),
            IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
        };
        Self {
            written: written.into(),
            kind: Kind::Literal(ip),
        }
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Literal(a), Kind::Literal(b)) => a == b,
            (Kind::Literal(_), _) | (_, Kind::Literal(_)) => false,
            (Kind::Name(_) | Kind::General, Kind::Name(_) | Kind::General) => {
                self.ascii() == other.ascii()
            }
        }
    }
}

impl Eq for Domain {}

impl Hash for Domain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.kind {
            Kind::Literal(ip) => ip.hash(state),
            Kind::Name(_) | Kind::General => self.ascii().hash(state),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_literals() {
        for (written, ascii) in [
            ("Example.ORG", "example.org"),
            ("localhost", "localhost"),
            ("example.org.", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("_dmarc.example", "_dmarc.example"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
            ("[x400:c=us]", "[x400:c=us]"),
        ] {
            assert_eq!(
                written.parse::<Domain>().unwrap().ascii(),
                ascii,
                "{written}"
            );
        }
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "a b",
            "[1.2.3]",
            "[1.2.3.4",
            "[1.2.3.4.5]",
            "[1.2.3.256]",
            "[1.2.3.0004]",
            "[1.2.3.]",
            "[1.2.3.+4]",
            "[IPv6:::ffff:1.2.3]",
            "[IPv6:zz]",
            "[:x]",
            "[a:]",
            "a@b",
            "a.b;c",
        ] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
        assert!("a".repeat(64).parse::<Domain>().is_err());
        assert!(
            ["a".repeat(60).as_str(); 5]
                .join(".")
                .parse::<Domain>()
                .is_err()
        );
    }

    #[test]
    fn equality_is_by_meaning() {
        let eq = |a: &str, b: &str| a.parse::<Domain>().unwrap() == b.parse::<Domain>().unwrap();
        assert!(eq("A.b", "a.B"));
        assert!(eq("BÜCHER.example", "xn--bcher-kva.example"));
        assert!(eq("[ipv6:::1]", "[IPv6:0:0:0:0:0:0:0:1]"));
        assert!(!eq("[127.0.0.1]", "[127.0.0.2]"));
    }

    #[test]
    fn numbers_of_a_literal_may_have_leading_zeros() {
        for (written, ip) in [
            ("[192.000.002.001]", "192.0.2.1"),
            ("[010.0.0.08]", "10.0.0.8"),
            ("[IPv6:::ffff:192.000.002.001]", "::ffff:192.0.2.1"),
            ("[IPv6:2001:db8::1]", "2001:db8::1"),
        ] {
            let domain: Domain = written.parse().unwrap();
            assert_eq!(domain.ip(), Some(ip.parse().unwrap()), "{written}");
            assert_eq!(domain.to_string(), written);
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_prints_what_it_parsed(s in ".{0,80}") {
            if let Ok(domain) = s.parse::<Domain>() {
                let again: Domain = domain.to_string().parse().unwrap();
                proptest::prop_assert_eq!(again, domain);
            }
        }
    }
}
