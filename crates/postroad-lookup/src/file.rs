//! A table in a text file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use postroad_mail::{Address, Domain};

use crate::key::canonical;
use crate::lines::{Line, LineError, lines};
use crate::table::{LookupError, Table};
use crate::watched::{FileError, Watched};

/// A file of `key value` lines.
///
/// Key and value have space or a comma between them; the value is the rest of the line. Empty
/// lines, and those that start with `#`, say nothing. Keys are compared in lower case, domains by
/// what they mean. A key stands there once.
///
/// The file is looked at once a second while it is in use. A new one with a mistake is not taken
/// in, and logged with the line. Write a new file and rename it: one that is written in place may
/// be read half.
#[derive(Debug)]
pub struct FileTable(Watched<Keys>);

/// What the keys of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKeys {
    /// Anything.
    Any,
    /// `user@domain` and `@domain`, with addresses as values, as [`Aliases`](crate::Aliases) take
    /// them: anything else is a mistake in the file.
    Aliases,
}

#[derive(Debug, Default)]
struct Keys(HashMap<String, (String, usize)>);

impl FileTable {
    /// Reads the file; blocks.
    ///
    /// # Errors
    /// Where it cannot be read, or has a mistake.
    pub fn open(path: &Path, keys: FileKeys) -> Result<Self, FileError> {
        let parse = match keys {
            FileKeys::Any => any,
            FileKeys::Aliases => aliases,
        };
        Watched::open(path, parse).map(Self)
    }
}

impl Table for FileTable {
    async fn lookup(&self, key: &str) -> Result<Option<Vec<String>>, LookupError> {
        let keys = self.0.get();
        let found = keys.0.get(&canonical(key));
        Ok(found.map(|(value, _)| vec![value.clone()]))
    }

    fn name(&self) -> String {
        self.0.path().display().to_string()
    }
}

fn any(text: &str) -> Result<Keys, LineError> {
    keys(text, |_| Ok(()))
}

fn aliases(text: &str) -> Result<Keys, LineError> {
    keys(text, |line| {
        let Line { number, key, value } = *line;
        let wrong = |detail| Err(LineError::new(number, detail));
        let asked = match key.strip_prefix('@') {
            Some(domain) if domain.parse::<Domain>().is_ok() => "x".to_owned() + key,
            _ => key.to_owned(),
        };
        let Ok(asked) = asked.parse::<Address>() else {
            return wrong(format!(
                "`{key}` is no address; expected `user@domain` or `@domain`"
            ));
        };
        match crate::aliases::parsed(&[value.to_owned()], &asked, "", key) {
            Ok(_) => Ok(()),
            Err(error) => wrong(error.to_string().trim_start_matches(", ").to_owned()),
        }
    })
}

fn keys(text: &str, check: impl Fn(&Line<'_>) -> Result<(), LineError>) -> Result<Keys, LineError> {
    let mut keys = HashMap::new();
    for line in lines(text) {
        let line = line?;
        check(&line)?;
        match keys.entry(canonical(line.key)) {
            Entry::Vacant(vacant) => {
                vacant.insert((line.value.to_owned(), line.number));
            }
            Entry::Occupied(first) => {
                let (_, first) = first.get();
                let detail = format!("`{}` stands in line {first} already", line.key);
                return Err(LineError::new(line.number, detail));
            }
        }
    }
    Ok(Keys(keys))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::test_log::Log;
    use crate::watched::FILE_OCTETS_MAX;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table.txt");
        fs::write(&path, text).unwrap();
        (directory, path)
    }

    async fn value(table: &FileTable, key: &str) -> Option<String> {
        let values = table.lookup(key).await.unwrap();
        values.map(|values| values.join("|"))
    }

    #[tokio::test]
    async fn keys_and_values() {
        let (_directory, path) = file("# c\nBob@Example.org a@y, b@y\nb\u{fc}cher.example,x\n");
        let table = FileTable::open(&path, FileKeys::Any).unwrap();
        assert_eq!(value(&table, "bob@example.ORG").await.unwrap(), "a@y, b@y");
        assert_eq!(value(&table, "xn--bcher-kva.example").await.unwrap(), "x");
        assert_eq!(value(&table, "other").await, None);
        assert_eq!(table.name(), path.display().to_string());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("a@x b@y\nc\n", ":2: expected a key"),
            ("a@x b@y\nA@X c@y\n", ":2: `A@X` stands in line 1 already"),
            (
                "a@x b@y\nbob c@y\n",
                ":2: `bob` is no address; expected `user@domain`",
            ),
            ("@ b@y\n", ":1: `@` is no address"),
            ("a@x |cmd\n", ":1: key `a@x`: `|cmd` is no address"),
            ("@x @y\n@z c@y, d\n", ":2: key `@z`: `c@y, d` is no address"),
        ] {
            let (_directory, path) = file(text);
            let error = FileTable::open(&path, FileKeys::Aliases).unwrap_err();
            let error = error.to_string();
            let expected = format!("{}{expected}", path.display());
            assert!(error.starts_with(&expected), "{error}");
        }
        let (directory, path) = file("a b\n");
        fs::write(&path, b"a b\n\xff c\n").unwrap();
        let error = FileTable::open(&path, FileKeys::Any)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with(":2: expected UTF-8"), "{error}");
        let large = fs::File::create(&path).unwrap();
        large.set_len(FILE_OCTETS_MAX + 1).unwrap();
        let error = FileTable::open(&path, FileKeys::Any)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is larger than"), "{error}");
        let error = FileTable::open(directory.path(), FileKeys::Any).unwrap_err();
        assert!(
            error.to_string().ends_with("it is no regular file"),
            "{error}"
        );
        let missing = directory.path().join("missing");
        let error = FileTable::open(&missing, FileKeys::Any).unwrap_err();
        assert!(
            error.to_string().contains("missing: No such file"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_taken_in_and_mistakes_are_not() {
        let (directory, path) = file("a 1\n");
        let table = FileTable::open(&path, FileKeys::Any).unwrap();
        let log = Log::start();
        let at = path.display();
        let replace = |text: &str| {
            let new = directory.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
        };
        replace("a 2\n");
        // Not before its time, whatever is asked.
        assert_eq!(value(&table, "a").await.unwrap(), "1");
        table.0.look();
        assert_eq!(value(&table, "a").await.unwrap(), "2");
        assert_eq!(
            log.lines(),
            [format!(
                "INFO a table file has changed and is in force path={at}"
            )]
        );

        let kept = "what it said before stays in force";
        let complaint = format!("ERROR a table file has changed and cannot be used; {kept} error=");
        for (bad, detail) in [
            ("a 3\nb\n", format!("{at}:2: expected a key")),
            ("a 4\na 5\n", format!("{at}:2: `a` stands in line 1")),
        ] {
            replace(bad);
            // Once for a change, however often it is looked at.
            for _ in 0..3 {
                table.0.look();
            }
            let logged = log.lines();
            assert_eq!(logged.len(), 1, "{logged:?}");
            assert!(
                logged[0].starts_with(&format!("{complaint}{detail}")),
                "{logged:?}"
            );
            assert_eq!(value(&table, "a").await.unwrap(), "2");
        }
        fs::remove_file(&path).unwrap();
        table.0.look();
        table.0.look();
        assert_eq!(value(&table, "a").await.unwrap(), "2");
        let logged = log.lines();
        assert_eq!(logged.len(), 1, "{logged:?}");
        assert!(logged[0].contains("No such file"), "{logged:?}");
        replace("a 6\n");
        table.0.look();
        assert_eq!(value(&table, "a").await.unwrap(), "6");
    }

    #[tokio::test]
    async fn lookups_look_by_themselves() {
        tokio::time::pause();
        let (directory, path) = file("a 1\n");
        let table = FileTable::open(&path, FileKeys::Any).unwrap();
        let new = directory.path().join("new");
        fs::write(&new, "a 2\n").unwrap();
        fs::rename(&new, &path).unwrap();
        // Each lookup gets what there is; the file is read beside. It is there as soon as that is
        // done, for which there are ten virtual minutes.
        let mut lookups = 0;
        while value(&table, "a").await.unwrap() == "1" {
            tokio::time::sleep(Duration::from_millis(100)).await;
            lookups += 1;
            assert!(lookups < 6000);
        }
        assert!(lookups >= 10);
    }
}
