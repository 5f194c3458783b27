use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::Domain;
use crate::path::PathError;

/// The part of an address before the `@` (RFC 5321 section 4.1.2), without its quoting.
///
/// Two local parts are equal if their octets are: `"john"` equals `john`, `John` does not.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LocalPart(Box<str>);

impl LocalPart {
    /// Octets accepted, at most. RFC 5321 section 4.5.3.1.1 asks for 64 and forbids nothing above;
    /// VERP and SRS make longer ones.
    pub const MAX: usize = 255;

    /// The meaning: quotes and quoting backslashes removed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `postmaster`, in any case (RFC 5321 section 4.5.1).
    #[must_use]
    pub fn is_postmaster(&self) -> bool {
        self.0.eq_ignore_ascii_case("postmaster")
    }

    fn is_dot_string(&self) -> bool {
        self.0
            .split('.')
            .all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
    }

    /// Parses the local part at the start of `s`; returns it with the rest.
    fn parse_prefix(s: &str) -> Result<(Self, &str), PathError> {
        let (content, rest) = if let Some(quoted) = s.strip_prefix('"') {
            unquote(quoted)?
        } else {
            let end = s.find(|c| !(is_atext(c) || c == '.')).unwrap_or(s.len());
            let (atoms, rest) = s.split_at(end);
            if atoms.split('.').any(str::is_empty) {
                return Err(PathError::LocalPart);
            }
            (atoms.to_owned(), rest)
        };
        if content.len() > Self::MAX {
            return Err(PathError::TooLong);
        }
        Ok((Self(content.into()), rest))
    }
}

/// `s` is what follows the opening quote.
fn unquote(s: &str) -> Result<(String, &str), PathError> {
    let mut content = String::new();
    let mut chars = s.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let rest = s.get(at + 1..).ok_or(PathError::LocalPart)?;
                return Ok((content, rest));
            }
            '\\' => match chars.next() {
                Some((_, c @ ' '..='~')) => content.push(c),
                _ => return Err(PathError::LocalPart),
            },
            ' '..='~' => content.push(c),
            c if !c.is_ascii() && !c.is_control() => content.push(c),
            _ => return Err(PathError::LocalPart),
        }
    }
    Err(PathError::LocalPart)
}

/// `atext` of RFC 5322 section 3.2.3, widened by RFC 6531 section 3.3.
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || (!c.is_ascii() && !c.is_control())
}

impl fmt::Display for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_dot_string() {
            return f.write_str(&self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

impl fmt::Debug for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A mailbox: local part and domain (RFC 5321 section 4.1.2).
///
/// Serialised as it is written on the wire.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    local: LocalPart,
    domain: Domain,
}

impl Address {
    /// `postmaster` at a domain.
    #[must_use]
    pub fn postmaster_at(domain: Domain) -> Self {
        Self {
            local: LocalPart("postmaster".into()),
            domain,
        }
    }

    /// Parses the mailbox at the start of `s`; returns it with what follows it.
    ///
    /// # Errors
    /// Where no mailbox stands there.
    pub fn parse_prefix(s: &str) -> Result<(Self, &str), PathError> {
        let (local, rest) = LocalPart::parse_prefix(s)?;
        let rest = rest.strip_prefix('@').ok_or(PathError::NoDomain)?;
        let end = if rest.starts_with('[') {
            rest.find(']').map(|at| at + 1).ok_or(PathError::Literal)?
        } else {
            rest.find(['>', ' ', ',', ':', ';']).unwrap_or(rest.len())
        };
        let (domain, rest) = rest.split_at(end);
        Ok((
            Self {
                local,
                domain: domain.parse()?,
            },
            rest,
        ))
    }

    /// The part before the `@`.
    #[must_use]
    pub const fn local_part(&self) -> &LocalPart {
        &self.local
    }

    /// The part behind the `@`.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The same mailbox name at another domain.
    #[must_use]
    pub fn at(&self, domain: Domain) -> Self {
        Self {
            local: self.local.clone(),
            domain,
        }
    }

    /// Whether transmitting the local part needs SMTPUTF8 (RFC 6531). A domain alone never does:
    /// it can travel in A-labels.
    #[must_use]
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.0.is_ascii()
    }

    /// Whether the address as written holds any character outside ASCII.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.local.0.is_ascii() && self.domain.as_written().is_ascii()
    }

    /// The form to send to a peer that has no SMTPUTF8: the domain in A-labels.
    #[must_use]
    pub fn to_ascii_domain(&self) -> String {
        format!("{}@{}", self.local, self.domain.ascii())
    }
}

impl FromStr for Address {
    type Err = PathError;

    fn from_str(s: &str) -> Result<Self, PathError> {
        match Self::parse_prefix(s)? {
            (address, "") => Ok(address),
            _ => Err(PathError::Trailing),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{self}>")
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let s = String::deserialize(deserializer)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for s in [
            "a@b",
            "first.last+tag@example.org",
            "\"a b\"@example.org",
            "\"a\\\"b\\\\c\"@example.org",
            "\"\"@example.org",
            "user%other!bang@example.org",
            "x@[192.0.2.1]",
            "x@[IPv6:2001:db8::1]",
            "ü@bücher.example",
        ] {
            assert_eq!(s.parse::<Address>().unwrap().to_string(), s);
        }
        assert_eq!(
            "\"plain\"@b".parse::<Address>().unwrap().to_string(),
            "plain@b"
        );
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a b@c",
            "\"a@b",
            "\"a\"b@c",
            "a@b c",
            "a@b>",
            "\"a\rb\"@c",
            "a(b)@c",
            "a@[1.2.3.4]x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert!(format!("{}@b", "a".repeat(256)).parse::<Address>().is_err());
    }

    #[test]
    fn smtputf8_is_needed_for_the_local_part_only() {
        let a: Address = "a@bücher.example".parse().unwrap();
        assert!(!a.needs_smtputf8());
        assert!(!a.is_ascii());
        assert_eq!(a.to_ascii_domain(), "a@xn--bcher-kva.example");
        assert!("ü@b".parse::<Address>().unwrap().needs_smtputf8());
    }

    proptest::proptest! {
        #[test]
        fn what_parses_prints_to_the_same(s in "[ -~ü]{0,20}@[a-z\\[\\]0-9.:]{1,12}") {
            if let Ok(address) = s.parse::<Address>() {
                let again: Address = address.to_string().parse().unwrap();
                proptest::prop_assert_eq!(again, address);
            }
        }
    }
}
