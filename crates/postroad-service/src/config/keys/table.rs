//! Tables outside of the configuration: files, socketmap servers, HTTP services, LDAP directories
//! and SQL databases.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::secret::SecretKey;
use crate::config::units::Span;

/// A table: the path of a file, or what kind it is and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(pub TableKeys);

/// A table that is asked for an address and gives the ways, or the addresses, that stand behind it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableKeys {
    /// `"file"`, `"socketmap"`, `"http"`, `"ldap"` or `"sql"`. `table = "routes.txt"` is short for
    /// `table = { kind = "file", path = "routes.txt" }`. docs/routing.md shows each.
    pub kind: TableKind,
    /// Of a file: where it is. It is read again when it has changed; while it has a mistake, it stays what it was.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Of `"socketmap"`: `"unix:/run/map.sock"`, or a host with a port.
    #[serde(default)]
    pub socket: Option<String>,
    /// Of `"socketmap"`, and of `"http"` if wanted: what the server calls the table. Default with `"http"`: `"routes"` or
    /// `"aliases"`.
    #[serde(default)]
    pub map: Option<String>,
    /// Of `"http"`: `"https://…"` or `"http://…"`; of `"ldap"`: `"ldap://…"`, `"ldaps://…"` or `"ldapi://…"`;
    /// of `"sql"`: `"postgres://user@host/database"`.
    #[serde(default)]
    pub url: Option<String>,
    /// Of `"http"`: sent as `Authorization: Bearer …`. A text, `{ file = "…" }` or `{ env = "…" }`.
    #[serde(default)]
    pub token: Option<SecretKey>,
    /// Of `"ldap"`: STARTTLS before anything else. Default: false.
    #[serde(default)]
    pub starttls: Option<bool>,
    /// Of `"ldap"`: below which entry to search.
    #[serde(default)]
    pub base: Option<String>,
    /// Of `"ldap"`: which entries, as in `"(mail=%s)"`; `%s` is the key, `%u` its local part and `%d` its domain, escaped.
    #[serde(default)]
    pub filter: Option<String>,
    /// Of `"ldap"`: the attributes whose values count.
    #[serde(default)]
    pub attributes: Option<Vec<String>>,
    /// Of `"ldap"`: the name to bind as. Default: anonymous.
    #[serde(default)]
    pub bind: Option<String>,
    /// Of `"ldap"` and `"sql"`: a text, `{ file = "…" }` or `{ env = "…" }`.
    #[serde(default)]
    pub password: Option<SecretKey>,
    /// Of `"sql"`: a query for the key `$1` (`$2` is its local part, `$3` its domain); all columns of all rows are the values.
    #[serde(default)]
    pub query: Option<String>,
    /// How long an answer may take, a connection included. Default: `"5s"`.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Connections at the same time. Default: 4.
    #[serde(default)]
    pub connections: Option<usize>,
    /// How long an answer is kept; `"0s"`: not at all. Default: `"5m"`.
    #[serde(default)]
    pub cache: Option<Span>,
    /// How long it is kept that there is none; `"0s"`: not at all. Default: `"1m"`.
    #[serde(default)]
    pub cache_negative: Option<Span>,
    /// Answers kept, at most. Default: 10000.
    #[serde(default)]
    pub cache_entries: Option<u64>,
}

/// The kind of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// A text file.
    File,
    /// A server of Postfix's socketmap protocol.
    Socketmap,
    /// An HTTP service.
    Http,
    /// A directory.
    Ldap,
    /// A PostgreSQL database.
    Sql,
}

impl TableKind {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Socketmap => "socketmap",
            Self::Http => "http",
            Self::Ldap => "ldap",
            Self::Sql => "sql",
        }
    }
}

impl TableKeys {
    /// Of a kind, and nothing else said.
    #[must_use]
    pub const fn of(kind: TableKind) -> Self {
        Self {
            kind,
            path: None,
            socket: None,
            map: None,
            url: None,
            token: None,
            starttls: None,
            base: None,
            filter: None,
            attributes: None,
            bind: None,
            password: None,
            query: None,
            timeout: None,
            connections: None,
            cache: None,
            cache_negative: None,
            cache_entries: None,
        }
    }

    /// Makes relative paths ones from the directory.
    pub(in crate::config) fn resolve(&mut self, mut resolve: impl FnMut(&mut PathBuf)) {
        if let Some(path) = &mut self.path {
            resolve(path);
        }
        if let Some(socket) = self.socket.as_mut()
            && let Some(path) = socket.strip_prefix("unix:")
        {
            let mut path = PathBuf::from(path);
            resolve(&mut path);
            *socket = format!("unix:{}", path.display());
        }
        for secret in [&mut self.token, &mut self.password].into_iter().flatten() {
            secret.resolve(&mut resolve);
        }
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tables;
        impl<'de> Visitor<'de> for Tables {
            type Value = Table;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a file, in quotes, or a table such as { kind = \"http\", url = \"…\" }")
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<Table, E> {
                Ok(Table(TableKeys {
                    path: Some(s.into()),
                    ..TableKeys::of(TableKind::File)
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table, A::Error> {
                TableKeys::deserialize(MapAccessDeserializer::new(map)).map(Table)
            }
        }
        deserializer.deserialize_any(Tables)
    }
}

impl JsonSchema for Table {
    fn schema_name() -> Cow<'static, str> {
        "Table".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<TableKeys>();
        json_schema!({ "anyOf": [{ "type": "string" }, keys] })
    }

    fn inline_schema() -> bool {
        true
    }
}
