//! Users in a TOML file: one table each, `[users."alice@example.org"]`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use postroad_mail::Address;
use postroad_net::clock;
use postroad_proto::sasl::Secret;
use serde::Deserialize;
use tracing::{error, info};

use crate::auth::{AuthError, Authenticator, Found, Identity};
use crate::checker::Checker;
use crate::hashing::{Cost, HashError, HashFault, is_password};

/// How often the file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsersFileError {
    /// Reading or writing failed.
    #[error("{action} {}", path.display())]
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
    /// A password that is no Argon2id hash within bounds.
    #[error("{}: users.{user}.password {fault}; set it with `postroad user passwd {user}`", path.display())]
    NotHashed {
        /// The file.
        path: PathBuf,
        /// Whose.
        user: String,
        /// What is wrong with it.
        fault: HashFault,
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
pub(crate) struct Contents {
    #[serde(default)]
    users: BTreeMap<String, User>,
}

/// What was read, and where.
#[derive(Debug)]
struct Read {
    path: PathBuf,
    users: BTreeMap<String, User>,
    /// Checked where there is no such user, so that it takes as long as for most who are.
    nobody: String,
}

/// Which file it was, and as of when: an edit changes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Version {
    fn of(file: &fs::Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        }
    }
}

/// The last look at the file.
#[derive(Debug)]
struct Look {
    at: Option<Instant>,
    /// What was there, good or not; `None` where nothing could be found.
    seen: Option<Version>,
}

/// The users of a file, as an [`Authenticator`].
///
/// The file is looked at before a password is checked, and read again where it has changed: who
/// is removed from it cannot log in a second later. One that has a mistake is not taken, and the
/// users stay those that were read last.
#[derive(Debug)]
pub struct UsersFile {
    shared: Arc<Shared>,
    checker: Checker,
}

#[derive(Debug)]
struct Shared {
    file: ArcSwap<Read>,
    look: Mutex<Look>,
}

impl UsersFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Where it cannot be read, or is no users file.
    pub fn open(path: &Path) -> Result<Self, UsersFileError> {
        let (file, version) = Read::new(path)?;
        Ok(Self {
            shared: Arc::new(Shared {
                file: ArcSwap::from_pointee(file),
                look: Mutex::new(Look {
                    at: None,
                    seen: Some(version),
                }),
            }),
            checker: Checker::new(),
        })
    }

    /// From now on the users are those of another file, or of the same one read again.
    pub fn replace(&self, new: &Self) {
        let seen = new.shared.look().seen;
        let mut look = self.shared.look();
        self.shared.file.store(new.shared.file.load_full());
        *look = Look { at: None, seen };
    }
}

impl Shared {
    /// Reads the file again if it has changed. To be called where waiting for a disk does no harm.
    fn refresh(&self, now: Instant) {
        let mut look = self.look();
        if look.at.is_some_and(|at| now < at + LOOK_EVERY) {
            return;
        }
        look.at = Some(now);
        let path = self.file.load().path.clone();
        let found = fs::metadata(&path).ok().map(|file| Version::of(&file));
        if found == look.seen {
            return;
        }
        // Also where it is not good: one error for each change, not for each login.
        look.seen = found;
        match Read::new(&path) {
            Ok((file, version)) => {
                look.seen = Some(version);
                info!(file = %path.display(), users = file.users.len(), "the users file has changed, and was read again");
                self.file.store(Arc::new(file));
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                error!(%error, cause, "the users file has changed, and cannot be used; the users stay those that were read last");
            }
        }
    }

    fn verify(&self, user: &str, secret: &Secret) -> Option<Identity> {
        self.refresh(clock::instant());
        let file = self.file.load_full();
        let found = file.users.get(user).filter(|u| !u.disabled);
        let hash = found.map_or(&file.nobody, |u| &u.password);
        let right = is_password(hash, secret);
        found.filter(|_| right).map(|found| Identity {
            user: user.to_owned(),
            addresses: found.addresses.clone(),
        })
    }

    fn look(&self) -> MutexGuard<'_, Look> {
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authenticator for UsersFile {
    async fn verify(&self, user: &str, secret: &Secret) -> Result<Option<Identity>, AuthError> {
        let shared = Arc::clone(&self.shared);
        let (user, secret) = (user.to_owned(), secret.clone());
        let checking = self.checker.run(move || shared.verify(&user, &secret));
        checking.await.map_err(|error| AuthError {
            directory: self.shared.file.load().path.display().to_string(),
            detail: error.to_string(),
        })
    }

    async fn find(&self, whom: &str) -> Result<Found, AuthError> {
        Ok(find(&self.shared.file.load().users, whom))
    }
}

/// Looks for a user by name, address, or local part of an address.
fn find(users: &BTreeMap<String, User>, whom: &str) -> Found {
    let whom = whom.trim();
    let bare = whom.strip_prefix('<').and_then(|w| w.strip_suffix('>'));
    let whom = bare.unwrap_or(whom);
    let address: Option<Address> = whom.parse().ok();
    let users = || users.iter().filter(|(_, user)| !user.disabled);
    let is_meant = |name: &str, user: &User| {
        name == whom
            || user.addresses.iter().any(|own| match &address {
                Some(address) => own == address,
                None => own.local_part().as_str() == whom,
            })
    };
    let mut meant = users().filter(|(name, user)| is_meant(name, user));
    match (meant.next(), meant.next()) {
        (Some((name, user)), None) => {
            let mailbox = user
                .addresses
                .iter()
                .find(|own| Some(*own) == address.as_ref());
            let mailbox = mailbox.or_else(|| user.addresses.first()).cloned();
            let mailbox = mailbox.or_else(|| name.parse().ok());
            mailbox.map_or(Found::CannotSay, Found::Mailbox)
        }
        (Some(_), Some(_)) => Found::Ambiguous,
        (None, _) => {
            let is_here = |address: &Address| {
                users().any(|(_, user)| {
                    let mut own = user.addresses.iter();
                    own.any(|own| own.domain() == address.domain())
                })
            };
            if address.as_ref().is_none_or(is_here) {
                Found::Unknown
            } else {
                Found::CannotSay
            }
        }
    }
}

impl Read {
    /// With the version of just what was read.
    fn new(path: &Path) -> Result<(Self, Version), UsersFileError> {
        let failed = |source| UsersFileError::Io {
            action: "reading",
            path: path.to_owned(),
            source,
        };
        let mut file = fs::File::open(path).map_err(failed)?;
        // Before it is read: whatever is written meanwhile makes another version of it.
        let version = Version::of(&file.metadata().map_err(failed)?);
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let users = parse(path, &text)?.users;
        let hashes = users.values().map(|user| user.password.as_str());
        let nobody = Cost::usual(hashes).nobody()?;
        let path = path.to_owned();
        let read = Self {
            path,
            users,
            nobody,
        };
        Ok((read, version))
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

pub(crate) fn parse(path: &Path, text: &str) -> Result<Contents, UsersFileError> {
    let contents: Contents = toml::from_str(text).map_err(|error| UsersFileError::Syntax {
        path: path.to_owned(),
        // Its own text shows the line, and with it perhaps a hash: only where and what.
        detail: format!("{}{}", place(text, error.span()), error.message()),
    })?;
    for (user, entry) in &contents.users {
        Cost::of(&entry.password).map_err(|fault| UsersFileError::NotHashed {
            path: path.to_owned(),
            user: user.clone(),
            fault,
        })?;
    }
    Ok(contents)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users_edit::{add_user, remove_user, set_password};

    #[test]
    fn what_vrfy_finds() {
        let path = Path::new("users.toml");
        let text = format!(
            r#"
            [users.alice]
            password = "{hash}"
            addresses = ["alice@example.org", "info@example.org"]
            [users."bob@example.org"]
            password = "{hash}"
            [users.carol]
            password = "{hash}"
            addresses = ["info@example.net"]
            [users.dan]
            password = "{hash}"
            [users.gone]
            password = "{hash}"
            addresses = ["gone@example.org"]
            disabled = true
            "#,
            hash = crate::hash_password("x").unwrap()
        );
        let users = parse(path, &text).unwrap().users;
        let mailbox = |address: &str| Found::Mailbox(address.parse().unwrap());
        for (whom, found) in [
            ("alice", mailbox("alice@example.org")),
            ("<alice@example.org>", mailbox("alice@example.org")),
            ("info@example.org", mailbox("info@example.org")),
            ("info@EXAMPLE.net", mailbox("info@example.net")),
            ("bob@example.org", mailbox("bob@example.org")),
            ("info", Found::Ambiguous),
            ("nobody", Found::Unknown),
            ("nobody@example.org", Found::Unknown),
            ("gone", Found::Unknown),
            ("dan", Found::CannotSay),
            ("nobody@elsewhere.org", Found::CannotSay),
            ("", Found::Unknown),
        ] {
            assert_eq!(find(&users, whom), found, "{whom}");
        }
    }

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
        users.replace(&UsersFile::open(&path).unwrap());
        assert_eq!(verify("bob", "builder").await, None);
        assert_eq!(verify("bob", "changed").await.as_deref(), Some("bob"));
    }

    #[tokio::test]
    async fn who_is_removed_cannot_log_in_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        add_user(&path, "alice", "one").unwrap();
        add_user(&path, "bob", "two").unwrap();
        let users = UsersFile::open(&path).unwrap();
        let may = async |user: &str, password: &str| {
            let secret = Secret::new(password.to_owned());
            users.verify(user, &secret).await.unwrap().is_some()
        };
        // The first login looks; nothing but logins is needed for the next to see the change.
        assert!(may("alice", "one").await && may("bob", "two").await);
        remove_user(&path, "bob").unwrap();
        set_password(&path, "alice", "three").unwrap();
        tokio::time::sleep(LOOK_EVERY).await;
        assert!(!may("bob", "two").await && !may("alice", "one").await);
        assert!(may("alice", "three").await);
    }

    #[test]
    fn the_file_is_looked_at_once_a_second_and_a_broken_one_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        add_user(&path, "alice", "one").unwrap();
        let users = UsersFile::open(&path).unwrap();
        let names = || {
            let file = users.shared.file.load();
            file.users.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        let (start, mut seconds) = (clock::instant(), 0);
        let mut look = || {
            seconds += 1;
            users.shared.refresh(start + seconds * LOOK_EVERY);
            users.shared.look().seen
        };
        let good = look();
        add_user(&path, "bob", "two").unwrap();
        users.shared.refresh(start + LOOK_EVERY * 3 / 2);
        assert_eq!(names(), "alice");
        assert_ne!(look(), good);
        assert_eq!(names(), "alice bob");

        // Half an edit, then no file, then a good one: what was seen is not looked into again.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, "[users.alice").unwrap();
        let broken = look();
        assert_eq!((look(), names().as_str()), (broken, "alice bob"));
        fs::remove_file(&path).unwrap();
        assert_eq!((look(), names().as_str()), (None, "alice bob"));
        fs::write(&path, text.replace("users.bob", "users.carol")).unwrap();
        assert!(look().is_some());
        assert_eq!(names(), "alice carol");
    }

    #[tokio::test]
    async fn who_does_not_exist_costs_as_much_and_the_disabled_stay_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        // m=64, t=1: far from what new hashes have. The password is "nobody".
        let hash = Cost::usual(["$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$hX2B5sYw9aWq2Yb0iM1h0m6Jx0dC9ZQ7zB0s4uK1c2E"].into_iter())
            .nobody()
            .unwrap();
        let text = format!(
            "[users.a]\npassword = \"{hash}\"\n[users.b]\npassword = \"{hash}\"\ndisabled = true\n"
        );
        fs::write(&path, text).unwrap();
        let users = UsersFile::open(&path).unwrap();
        assert_eq!(Cost::of(&users.shared.file.load().nobody), Cost::of(&hash));
        for (user, may) in [("a", true), ("b", false), ("c", false)] {
            let secret = Secret::new("nobody".to_owned());
            let found = users.verify(user, &secret).await.unwrap();
            assert_eq!(found.is_some(), may, "{user}");
        }
        add_user(&path, "d", "x").unwrap();
        add_user(&path, "e", "x").unwrap();
        add_user(&path, "f", "x").unwrap();
        users.replace(&UsersFile::open(&path).unwrap());
        assert_ne!(Cost::of(&users.shared.file.load().nobody), Cost::of(&hash));
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
                .contains("users.a.password is no Argon2id hash")
        );
        assert!(!error("[users.a]\npassword = \"secret\"\nx = 1\n").contains("secret"));
    }
}
