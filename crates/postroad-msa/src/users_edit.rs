//! Edits of a users file, which leave alone what they are not about.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, value};

use crate::hashing::hash_password;
use crate::users_file::{UsersFileError, parse};

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
///
/// Who could read the file can read it afterwards, whoever ran the command: root's edit must not
/// take it away from the service's user.
fn write(path: &Path, document: &DocumentMut) -> Result<(), UsersFileError> {
    let failed = |action: &'static str| {
        let path = path.to_owned();
        move |source| UsersFileError::Io {
            action,
            path,
            source,
        }
    };
    // A link stays one: what it leads to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = target
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let rights = Rights::of(&target, directory).map_err(failed("reading the rights of"))?;
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = (|| {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("writing")(error));
            }
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("writing"))?;
        rights.give(&file).map_err(failed(
            "keeping owner, group and mode (run this as root or as the file's owner; nothing was changed) of",
        ))?;
        file.write_all(document.to_string().as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, &target))
            .and_then(|()| fs::File::open(directory)?.sync_all())
            .map_err(failed("writing"))
    })();
    written.inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    /// `None`: whoever makes it.
    owner: Option<u32>,
    group: u32,
    mode: u32,
}

impl Rights {
    /// Those of a file that there is; a new one belongs to the group of its directory, which may read it.
    fn of(file: &Path, directory: &Path) -> io::Result<Self> {
        match fs::metadata(file) {
            Ok(old) => Ok(Self {
                owner: Some(old.uid()),
                group: old.gid(),
                mode: old.mode() & 0o777,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let own = nix::unistd::getegid().as_raw();
                Ok(Self::new_in(fs::metadata(directory)?.gid(), own))
            }
            Err(error) => Err(error),
        }
    }

    /// Where the directory's group is only the maker's own, nobody was meant to read along.
    const fn new_in(group: u32, own: u32) -> Self {
        Self {
            owner: None,
            group,
            mode: if group == own { 0o600 } else { 0o640 },
        }
    }

    fn give(self, file: &fs::File) -> io::Result<()> {
        let now = file.metadata()?;
        let owner = self.owner.filter(|owner| *owner != now.uid());
        let group = (self.group != now.gid()).then_some(self.group);
        if owner.is_some() || group.is_some() {
            fchown(file, owner, group)?;
        }
        // After the owner: only then does nobody else read what is about to be written.
        file.set_permissions(fs::Permissions::from_mode(self.mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users_file::list_users;

    #[test]
    fn edits_keep_what_they_do_not_touch() {
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
    fn an_edit_leaves_the_file_to_whom_it_belongs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        add_user(&path, "alice", "one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        // Only root can give files away; for others the mode alone is to be kept.
        let (owner, group) = if nix::unistd::geteuid().is_root() {
            (65534, 65533)
        } else {
            (
                fs::metadata(&path).unwrap().uid(),
                fs::metadata(&path).unwrap().gid(),
            )
        };
        std::os::unix::fs::chown(&path, Some(owner), Some(group)).unwrap();
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let rights = || {
            let file = fs::metadata(&path).unwrap();
            (file.uid(), file.gid(), file.mode() & 0o777)
        };
        add_user(&path, "bob", "two").unwrap();
        assert_eq!(rights(), (owner, group, 0o644));
        set_password(&link, "bob", "three").unwrap();
        remove_user(&path, "bob").unwrap();
        assert_eq!(rights(), (owner, group, 0o644));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_new_file_is_for_the_group_of_its_directory() {
        assert_eq!(Rights::new_in(7, 0).mode, 0o640);
        assert_eq!(Rights::new_in(7, 7).mode, 0o600);
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), None, Some(65533)).unwrap();
        let path = directory.path().join("users.toml");
        add_user(&path, "alice", "one").unwrap();
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.gid(), file.mode() & 0o777), (65533, 0o640));
    }
}
