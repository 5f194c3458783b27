//! Sizes and times as a person writes them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A number of octets: `"50MiB"`, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

const SIZES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, octets) = SIZES
            .into_iter()
            .find(|(_, n)| self.0 >= *n && self.0.is_multiple_of(*n))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / octets)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Octets;
        impl Visitor<'_> for Octets {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"50MiB\" (B, KiB, MiB, GiB), or a number of octets")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Size, E> {
                u64::try_from(n)
                    .map(Size)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<Size, E> {
                let wrong = || E::invalid_value(de::Unexpected::Str(s), &self);
                let (number, unit) = split_unit(s);
                let octets = SIZES
                    .iter()
                    .find(|(name, _)| *name == unit)
                    .map(|(_, n)| *n)
                    .ok_or_else(wrong)?;
                let number: u64 = number.parse().map_err(|_| wrong())?;
                number.checked_mul(octets).map(Size).ok_or_else(wrong)
            }
        }
        deserializer.deserialize_any(Octets)
    }
}

/// A length of time: `"500ms"`, `"2m"`, `"4h"`, `"5d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

const SPANS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

impl Span {
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub(super) fn parse(s: &str) -> Option<Self> {
        let (number, unit) = split_unit(s);
        let (_, millis) = SPANS.iter().find(|(name, _)| *name == unit)?;
        number
            .parse::<u64>()
            .ok()?
            .checked_mul(*millis)
            .map(|n| Self(Duration::from_millis(n)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let fits = |n: u64| millis >= u128::from(n) && millis.is_multiple_of(u128::from(n));
        let (unit, n) = SPANS
            .into_iter()
            .find(|(_, n)| fits(*n))
            .unwrap_or(("s", 1000));
        write!(f, "{}{unit}", millis / u128::from(n))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text {
            expected: "a time such as \"30s\", \"2m\", \"4h\", \"5d\" (ms, s, m, h, d)",
            parse: Self::parse,
        })
    }
}

/// A length of time, or `"never"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanOrNever(pub Option<Duration>);

impl fmt::Display for SpanOrNever {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => Span(span).fmt(f),
            None => f.write_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for SpanOrNever {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text {
            expected: "a time such as \"4h\", or \"never\"",
            parse: |s| match s {
                "never" => Some(Self(None)),
                _ => Span::parse(s).map(|span| Self(Some(span.0))),
            },
        })
    }
}

/// Takes a text of some form, and says which for all else, numbers included.
pub(super) struct Text<T> {
    pub(super) expected: &'static str,
    pub(super) parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, s: &str) -> Result<T, E> {
        (self.parse)(s).ok_or_else(|| E::invalid_value(de::Unexpected::Str(s), &self))
    }
}

fn split_unit(s: &str) -> (&str, &str) {
    let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (number, unit) = s.split_at(end);
    (number, unit.trim_start())
}

macro_rules! as_text {
    ($($name:ident, $title:literal, $types:tt);+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $title.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "format": $title })
            }

            fn inline_schema() -> bool {
                true
            }
        }
    )+};
}

as_text!(
    Size, "size", ["string", "integer"];
    Span, "time", "string";
    SpanOrNever, "time or never", "string"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct One {
        #[serde(default)]
        size: Option<Size>,
        #[serde(default)]
        span: Option<Span>,
    }

    #[test]
    fn both_ways() {
        for (text, octets) in [
            ("\"50MiB\"", 50 << 20),
            ("\"1 KiB\"", 1024),
            ("7", 7),
            ("\"3B\"", 3),
            ("\"0B\"", 0),
        ] {
            let one: One = toml::from_str(&format!("size = {text}")).unwrap();
            assert_eq!(one.size, Some(Size(octets)), "{text}");
        }
        for (text, millis) in [
            ("500ms", 500),
            ("2m", 120_000),
            ("4h", 14_400_000),
            ("5d", 432_000_000),
            ("0s", 0),
        ] {
            let one: One = toml::from_str(&format!("span = \"{text}\"")).unwrap();
            assert_eq!(
                one.span,
                Some(Span(Duration::from_millis(millis))),
                "{text}"
            );
            assert_eq!(one.span.unwrap().to_string(), text);
        }
        assert_eq!(Size(50 << 20).to_string(), "50MiB");
    }

    #[test]
    fn refused() {
        for text in [
            "size = \"50MB\"",
            "size = -1",
            "size = \"MiB\"",
            "size = \"99999999999GiB\"",
            "span = \"5\"",
            "span = \"5 weeks\"",
            "span = 5",
        ] {
            assert!(toml::from_str::<One>(text).is_err(), "{text}");
        }
    }
}
