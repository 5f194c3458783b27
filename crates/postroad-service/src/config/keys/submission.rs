use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The submission service.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Submission {
    /// What AUTH offers: `"PLAIN"`, `"LOGIN"`; under TLS only.
    pub mechanisms: Vec<String>,
    /// Who the users are: `{ kind = "file", path = "users.toml" }`. `postroad user` writes the file; what
    /// is in it says docs/users.md. A change of it counts from the next login on, a second later at most.
    pub directory: Option<Directory>,
    /// Users may use their own addresses only: their name, where it is one, and `addresses` of the directory.
    pub sender_must_match: bool,
}

impl Default for Submission {
    fn default() -> Self {
        Self {
            mechanisms: vec!["PLAIN".to_owned(), "LOGIN".to_owned()],
            directory: None,
            sender_must_match: false,
        }
    }
}

/// Who the users are.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// `"file"`.
    pub kind: DirectoryKind,
    /// The users file, which `postroad user` writes, and which keeps its owner, group and mode. It is read
    /// again whenever it has changed; while it has a mistake, the users stay those that were read last.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// The kind of directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DirectoryKind {
    /// A TOML file.
    File,
    /// Not built yet.
    Ldap,
    /// Not built yet.
    Sql,
}
