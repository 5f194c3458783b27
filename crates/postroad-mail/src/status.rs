use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the first digit of a reply says (RFC 5321 section 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// 2yz: done.
    Success,
    /// 3yz: go on with the data.
    Continue,
    /// 4yz: not now.
    Transient,
    /// 5yz: no.
    Permanent,
}

/// A three-digit reply code, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ReplyCode(u16);

impl ReplyCode {
    /// The code, where it is one.
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        if 200 <= code && code <= 599 {
            Some(Self(code))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// What its first digit says.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self.0 / 100 {
            2 => Severity::Success,
            3 => Severity::Continue,
            4 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }
}

impl TryFrom<u16> for ReplyCode {
    type Error = &'static str;

    fn try_from(code: u16) -> Result<Self, Self::Error> {
        Self::new(code).ok_or("a reply code is 200 to 599")
    }
}

impl From<ReplyCode> for u16 {
    fn from(code: ReplyCode) -> Self {
        code.0
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The class of an enhanced status code (RFC 3463 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// 2
    Success,
    /// 4
    Transient,
    /// 5
    Permanent,
}

/// An enhanced status code such as 5.1.1 (RFC 3463).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedCode {
    /// The first number.
    pub class: Class,
    /// The second number, at most 999.
    pub subject: u16,
    /// The third number, at most 999.
    pub detail: u16,
}

impl EnhancedCode {
    /// `2.subject.detail`
    #[must_use]
    pub const fn success(subject: u16, detail: u16) -> Self {
        Self {
            class: Class::Success,
            subject,
            detail,
        }
    }

    /// `4.subject.detail`
    #[must_use]
    pub const fn transient(subject: u16, detail: u16) -> Self {
        Self {
            class: Class::Transient,
            subject,
            detail,
        }
    }

    /// `5.subject.detail`
    #[must_use]
    pub const fn permanent(subject: u16, detail: u16) -> Self {
        Self {
            class: Class::Permanent,
            subject,
            detail,
        }
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            Class::Success => 2,
            Class::Transient => 4,
            Class::Permanent => 5,
        };
        write!(f, "{class}.{}.{}", self.subject, self.detail)
    }
}

/// Not of the form `c.sss.ddd` with class 2, 4 or 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code")]
pub struct NotEnhanced;

impl FromStr for EnhancedCode {
    type Err = NotEnhanced;

    fn from_str(s: &str) -> Result<Self, NotEnhanced> {
        let mut parts = s.split('.');
        let mut number = |digits: usize| {
            let part = parts.next().ok_or(NotEnhanced)?;
            let valid =
                (1..=digits).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            if valid {
                part.parse::<u16>().map_err(|_| NotEnhanced)
            } else {
                Err(NotEnhanced)
            }
        };
        let class = match number(1)? {
            2 => Class::Success,
            4 => Class::Transient,
            5 => Class::Permanent,
            _ => return Err(NotEnhanced),
        };
        let (subject, detail) = (number(3)?, number(3)?);
        if parts.next().is_some() {
            return Err(NotEnhanced);
        }
        Ok(Self {
            class,
            subject,
            detail,
        })
    }
}

impl Serialize for EnhancedCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EnhancedCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let s = String::deserialize(deserializer)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities() {
        use Severity::{Continue, Permanent, Success, Transient};
        for (code, want) in [
            (250, Success),
            (354, Continue),
            (421, Transient),
            (550, Permanent),
        ] {
            assert_eq!(ReplyCode::new(code).unwrap().severity(), want, "{code}");
        }
        assert!(ReplyCode::new(199).is_none() && ReplyCode::new(600).is_none());
    }

    #[test]
    fn enhanced_both_ways() {
        for s in ["2.0.0", "4.4.2", "5.7.11", "5.999.999"] {
            assert_eq!(s.parse::<EnhancedCode>().unwrap().to_string(), s);
        }
        for bad in [
            "", "5", "5.1", "3.1.1", "5.1.1.1", "5.1000.1", "5.+1.1", "5.1.", "55.1.1",
        ] {
            assert!(bad.parse::<EnhancedCode>().is_err(), "{bad}");
        }
    }
}
