//! Forms of values that several keys have.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, IntoDeserializer as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::units::Span;

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            all => all.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes, or a list of them")
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<Self::Value, E> {
                T::deserialize(s.into_deserializer()).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = list.next_element()? {
                    all.push(one);
                }
                Ok(OneOrMany(all))
            }
        }
        deserializer.deserialize_any(Values(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one.clone(), { "type": "array", "items": one }] })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// So many in a time: `"100/1m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateKey {
    /// How many, at least 1.
    pub count: u32,
    /// In which time, more than nothing.
    pub per: Duration,
}

impl RateKey {
    fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once('/')?;
        let count = count.trim().parse().ok().filter(|count| *count > 0)?;
        let per = Span::parse(per.trim())?.0;
        (!per.is_zero()).then_some(Self { count, per })
    }
}

impl fmt::Display for RateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, Span(self.per))
    }
}

impl Serialize for RateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(crate::config::units::Text {
            expected: "so many in a time, such as \"100/1m\" or \"10/1s\"",
            parse: Self::parse,
        })
    }
}

impl JsonSchema for RateKey {
    fn schema_name() -> Cow<'static, str> {
        "rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "rate" })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, Serialize)]
    struct One {
        #[serde(default)]
        via: OneOrMany<String>,
        #[serde(default)]
        rate: Option<RateKey>,
    }

    #[test]
    fn one_or_many() {
        for (text, values) in [
            ("via = \"a\"", &["a"][..]),
            ("via = [\"a\", \"b\"]", &["a", "b"]),
            ("via = []", &[]),
            ("", &[]),
        ] {
            let one: One = toml::from_str(text).unwrap();
            assert_eq!(one.via.0, values, "{text}");
        }
        for text in ["via = 5", "via = {}", "via = [5]"] {
            let error = toml::from_str::<One>(text).unwrap_err().to_string();
            assert!(error.contains("expected a "), "{text}: {error}");
        }
    }

    #[test]
    fn rates() {
        let one: One = toml::from_str("rate = \"100 / 1m\"").unwrap();
        let rate = one.rate.unwrap();
        assert_eq!((rate.count, rate.per), (100, Duration::from_secs(60)));
        assert_eq!(rate.to_string(), "100/1m");
        for bad in [
            "\"100\"",
            "\"0/1m\"",
            "\"5/0s\"",
            "\"5/m\"",
            "\"-1/1s\"",
            "5",
        ] {
            let error = toml::from_str::<One>(&format!("rate = {bad}")).unwrap_err();
            assert!(error.to_string().contains("\"100/1m\""), "{bad}: {error}");
        }
    }
}
