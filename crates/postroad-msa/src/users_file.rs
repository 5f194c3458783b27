//! Users in a TOML file: one table each, `[users."alice@example.org"]`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use postroad_mail::Address;
use postroad_proto::sasl::Secret;
use serde::Deserialize;
use toml_edit::{DocumentMut, Item, Table, value};

use crate::auth::{AuthError, Authenticator, Identity};
use crate::hashing::{Checker, HashError, hash_password, is_hash};

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsersFileError {
    /// Reading or writing failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// Not what a users file looks like.
    #[error("{}: {detail}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column, and what was expected.
        detail: String,
    },
    /// A password that is no Argon2 hash.
    #[error("{}: users.{user}.password is no Argon2 hash; set it with `postroad user passwd {user}`", path.display())]
    NotHashed {
        /// The file.
        path: PathBuf,
        /// Whose.
        user: String,
    },
    /// The user is there already.
    #[error("{} has a user {user} already; `postroad user passwd {user}` changes the password", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// Who.
        user: String,
    },
    /// There is no such user.
    #[error("{} has no user {user}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Who.
        user: String,
    },
    /// A name that no client could send.
    #[error(
        "`{0}` cannot be a user's name: it must not be empty, hold control characters, or be longer than 255 octets"
    )]
    BadName(String),
    /// The password cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// A user as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    password: String,
    /// Addresses that are the user's besides the name itself.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// May not log in.
    #[serde(default)]
    pub disabled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    users: BTreeMap<String, User>,
}

/// The users of a file, as an [`Authenticator`].
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    contents: ArcSwap<Contents>,
    checker: Checker,
    /// Checked where there is no such user, so that it takes as long.
    nobody: String,
}

impl UsersFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Where it cannot be read, or is no users file.
    pub fn open(path: &Path) -> Result<Self, UsersFileError> {
        Ok(Self {
            path: path.to_owned(),
            contents: ArcSwap::from_pointee(read(path)?),
            checker: Checker::new(),
            nobody: hash_password("nobody")?,
        })
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// As [`UsersFile::open`]; the users stay who they were.
    pub fn reload(&self) -> Result<(), UsersFileError> {
        self.contents.store(read(&self.path)?.into());
        Ok(())
    }
}

impl Authenticator for UsersFile {
    async fn verify(&self, user: &str, secret: &Secret) -> Result<Option<Identity>, AuthError> {
        let found = self
            .contents
            .load()
            .users
            .get(user)
            .filter(|u| !u.disabled)
            .cloned();
        let hash = found
            .as_ref()
            .map_or_else(|| self.nobody.clone(), |u| u.password.clone());
        let right = self
            .checker
            .check(hash, secret.clone())
            .await
            .map_err(|error| AuthError {
                directory: self.path.display().to_string(),
                detail: error.to_string(),
            })?;
        Ok(found.filter(|_| right).map(|found| Identity {
            user: user.to_owned(),
            addresses: found.addresses,
        }))
    }
}

fn read(path: &Path) -> Result<Contents, UsersFileError> {
    let text = fs::read_to_string(path).map_err(|source| UsersFileError::Io {
        action: "reading",
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Contents, UsersFileError> {
    let contents: Contents = toml::from_str(text).map_err(|error| UsersFileError::Syntax {
        path: path.to_owned(),
        // Its own text shows the line, and with it perhaps a hash: only where and what.
        detail: format!("{}{}", place(text, error.span()), error.message()),
    })?;
    match contents
        .users
        .iter()
        .find(|(_, user)| !is_hash(&user.password))
    {
        Some((user, _)) => Err(UsersFileError::NotHashed {
            path: path.to_owned(),
            user: user.clone(),
        }),
        None => Ok(contents),
    }
}

fn place(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let before = span.and_then(|span| text.get(..span.start));
    before.map_or_else(String::new, |before| {
        format!("line {}: ", before.matches('\n').count() + 1)
    })
}

/// The users of a file, by name.
///
/// # Errors
/// Where it cannot be read.
pub fn list_users(path: &Path) -> Result<BTreeMap<String, User>, UsersFileError> {
    Ok(read(path)?.users)
}

/// Adds a user; makes the file where there is none.
///
/// # Errors
/// Where there is one of that name, or the file cannot be written.
pub fn add_user(path: &Path, user: &str, password: &str) -> Result<(), UsersFileError> {
    if user.is_empty() || user.len() > 255 || user.chars().any(char::is_control) {
        return Err(UsersFileError::BadName(user.to_owned()));
    }
    let mut document = if path.exists() {
        document(path)?
    } else {
        DocumentMut::new()
    };
    let users = users_of(&mut document, path)?;
    if users.contains_key(user) {
        return Err(UsersFileError::Exists {
            path: path.to_owned(),
            user: user.to_owned(),
        });
    }
    let mut table = Table::new();
    table.insert("password", value(hash_password(password)?));
    users.insert(user, Item::Table(table));
    write(path, &document)
}

/// Changes a user's password.
///
/// # Errors
/// Where there is no such user, or the file cannot be written.
pub fn set_password(path: &Path, user: &str, password: &str) -> Result<(), UsersFileError> {
    let mut document = document(path)?;
    let users = users_of(&mut document, path)?;
    let table = users.get_mut(user).and_then(Item::as_table_like_mut);
    let table = table.ok_or_else(|| UsersFileError::Unknown {
        path: path.to_owned(),
        user: user.to_owned(),
    })?;
    table.insert("password", value(hash_password(password)?));
    write(path, &document)
}

/// Removes a user.
///
/// # Errors
/// Where there is no such user, or the file cannot be written.
pub fn remove_user(path: &Path, user: &str) -> Result<(), UsersFileError> {
    let mut document = document(path)?;
    if users_of(&mut document, path)?.remove(user).is_none() {
        return Err(UsersFileError::Unknown {
            path: path.to_owned(),
            user: user.to_owned(),
        });
    }
    write(path, &document)
}

fn document(path: &Path) -> Result<DocumentMut, UsersFileError> {
    let text = fs::read_to_string(path).map_err(|source| UsersFileError::Io {
        action: "reading",
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)?;
    text.parse::<DocumentMut>()
        .map_err(|error| UsersFileError::Syntax {
            path: path.to_owned(),
            detail: error.message().to_owned(),
        })
}

fn users_of<'a>(
    document: &'a mut DocumentMut,
    path: &Path,
) -> Result<&'a mut Table, UsersFileError> {
    let users = document.entry("users").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    users.as_table_mut().ok_or_else(|| UsersFileError::Syntax {
        path: path.to_owned(),
        detail: "`users` must be tables such as [users.alice] to be edited".to_owned(),
    })
}

/// Beside the file, synced, then in its place: a crash leaves the old or the new, never half.
fn write(path: &Path, document: &DocumentMut) -> Result<(), UsersFileError> {
    let failed = |source| UsersFileError::Io {
        action: "writing",
        path: path.to_owned(),
        source,
    };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(document.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let directory = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::File::open(directory)?.sync_all()
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_who() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        add_user(&path, "alice@example.org", "right").unwrap();
        add_user(&path, "bob", "builder").unwrap();
        let users = UsersFile::open(&path).unwrap();
        let verify = async |user: &str, password: &str| {
            users
                .verify(user, &Secret::new(password.to_owned()))
                .await
                .unwrap()
                .map(|identity| identity.user)
        };
        assert_eq!(
            verify("alice@example.org", "right").await.as_deref(),
            Some("alice@example.org")
        );
        assert_eq!(verify("alice@example.org", "wrong").await, None);
        assert_eq!(verify("bob", "right").await, None);
        assert_eq!(verify("carol", "nobody").await, None);
        set_password(&path, "bob", "changed").unwrap();
        assert_eq!(verify("bob", "builder").await.as_deref(), Some("bob"));
        users.reload().unwrap();
        assert_eq!(verify("bob", "builder").await, None);
        fs::write(&path, "users = 5").unwrap();
        assert!(users.reload().is_err());
        assert_eq!(verify("bob", "changed").await.as_deref(), Some("bob"));
    }

    #[test]
    fn edits_keep_what_they_do_not_touch() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        add_user(&path, "alice", "one").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let text = format!(
            "# the staff\n{}addresses = [\"info@example.org\"] # shared\n",
            fs::read_to_string(&path).unwrap()
        );
        fs::write(&path, text).unwrap();
        add_user(&path, "bob", "two").unwrap();
        set_password(&path, "alice", "three").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# the staff\n")
                && text.contains("# shared")
                && !text.contains("three"),
            "{text}"
        );
        assert!(matches!(
            add_user(&path, "bob", "x"),
            Err(UsersFileError::Exists { .. })
        ));
        assert!(matches!(
            add_user(&path, "a\nb", "x"),
            Err(UsersFileError::BadName(_))
        ));
        remove_user(&path, "bob").unwrap();
        assert!(matches!(
            remove_user(&path, "bob"),
            Err(UsersFileError::Unknown { .. })
        ));
        assert_eq!(
            list_users(&path).unwrap().into_keys().collect::<Vec<_>>(),
            ["alice"]
        );
    }

    #[test]
    fn mistakes_are_named() {
        let path = Path::new("users.toml");
        let error = |text: &str| parse(path, text).map(|_| ()).unwrap_err().to_string();
        assert!(
            error("\n[users.a]\npasword = \"x\"\n").contains("line 3: unknown field `pasword`"),
            "{}",
            error("\n[users.a]\npasword = \"x\"\n")
        );
        assert!(
            error("[users.a]\npassword = \"secret\"\n")
                .contains("users.a.password is no Argon2 hash")
        );
        assert!(!error("[users.a]\npassword = \"secret\"\nx = 1\n").contains("secret"));
    }
}
