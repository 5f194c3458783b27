//! Passwords: in the file itself, in a file of their own, or in a variable.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use postroad_mail::Secret;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Octets of a file with a secret, at most.
const FILE_MAX: u64 = 64 << 10;

/// A password, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretKey {
    /// It stands in the configuration.
    Here(Secret),
    /// In a file; a line break at its end is none of it.
    File(PathBuf),
    /// In a variable of the process's environment.
    Env(String),
}

/// A secret cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SecretUnread(String);

impl SecretKey {
    /// The password itself.
    ///
    /// # Errors
    /// Where its file or variable cannot be read, or has nothing in it.
    pub fn read(&self) -> Result<Secret, SecretUnread> {
        let (text, place) = match self {
            Self::Here(secret) => (secret.expose().to_owned(), "the password".to_owned()),
            Self::File(path) => {
                let place = path.display().to_string();
                let wrong = |detail: String| SecretUnread(format!("reading {place}: {detail}"));
                let octets = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
                if octets.len() > FILE_MAX {
                    return Err(wrong(format!("over {FILE_MAX} octets, no password")));
                }
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| wrong(error.to_string()))?;
                (text.trim_end_matches(['\r', '\n']).to_owned(), place)
            }
            Self::Env(name) => {
                let place = format!("the variable {name}");
                let text = std::env::var(name)
                    .map_err(|error| SecretUnread(format!("{place}: {error}")))?;
                (text, place)
            }
        };
        if text.is_empty() {
            return Err(SecretUnread(format!("{place} is empty")));
        }
        Ok(Secret::new(text))
    }

    /// Makes a relative path one from the directory.
    pub(in crate::config) fn resolve(&mut self, mut resolve: impl FnMut(&mut PathBuf)) {
        if let Self::File(path) = self {
            resolve(path);
        }
    }
}

/// As it is written, where it is not the password itself.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Where {
    /// A file that holds it, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// A variable of the environment that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    env: Option<String>,
}

impl Serialize for SecretKey {
    /// Never the password itself.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (file, env) = match self {
            Self::Here(_) => return serializer.serialize_str("…"),
            Self::File(path) => (Some(path.clone()), None),
            Self::Env(name) => (None, Some(name.clone())),
        };
        Where { file, env }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SecretKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Secrets;
        impl<'de> Visitor<'de> for Secrets {
            type Value = SecretKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes, { file = \"…\" } or { env = \"…\" }")
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<SecretKey, E> {
                Ok(SecretKey::Here(Secret::new(s.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretKey, A::Error> {
                match Where::deserialize(MapAccessDeserializer::new(map))? {
                    Where {
                        file: Some(path),
                        env: None,
                    } => Ok(SecretKey::File(path)),
                    Where {
                        file: None,
                        env: Some(name),
                    } => Ok(SecretKey::Env(name)),
                    _ => Err(de::Error::custom(
                        "a secret is in one place: expected { file = \"…\" } or { env = \"…\" }",
                    )),
                }
            }
        }
        deserializer.deserialize_any(Secrets)
    }
}

impl JsonSchema for SecretKey {
    fn schema_name() -> Cow<'static, str> {
        "secret".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let place = Where::json_schema(generator);
        json_schema!({ "anyOf": [{ "type": "string" }, place] })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct One {
        password: SecretKey,
    }

    fn parsed(text: &str) -> Result<SecretKey, String> {
        toml::from_str::<One>(&format!("password = {text}"))
            .map(|one| one.password)
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn three_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "from a file\r\n").unwrap();
        let file = format!("{{ file = \"{}\" }}", path.display());
        for (text, secret) in [("\"here\"", "here"), (&file, "from a file")] {
            let read = parsed(text).unwrap().read().unwrap();
            assert_eq!(read.expose(), secret);
        }
        // Of those that there are for sure.
        let read = parsed("{ env = \"PATH\" }").unwrap().read().unwrap();
        assert_eq!(read.expose(), std::env::var("PATH").unwrap());
        for (text, said) in [
            ("5", "{ file = "),
            ("{}", "in one place"),
            ("{ file = \"a\", env = \"B\" }", "in one place"),
            ("{ fiel = \"a\" }", "`file`"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        std::fs::write(&path, "\n").unwrap();
        for (text, said) in [
            ("{ file = \"/no/such/file\" }", "reading /no/such/file: "),
            (&file, "is empty"),
            ("\"\"", "is empty"),
            (
                "{ env = \"POSTROAD_NOT_SET\" }",
                "the variable POSTROAD_NOT_SET: ",
            ),
        ] {
            let error = parsed(text).unwrap().read().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn never_shown() {
        let secret = parsed("\"pa55\"").unwrap();
        assert!(!format!("{secret:?}").contains("pa55"));
        assert!(!serde_json::to_string(&secret).unwrap().contains("pa55"));
    }
}
