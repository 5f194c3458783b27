use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Config;

/// One mistake, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file`, `file:line` or `file:line:column`.
    pub place: String,
    /// The key, what is wrong with it, and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// A configuration, and the text it came from, so that mistakes in it can be placed.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What it says; its paths are absolute, or relative to the working directory.
    pub config: Config,
    path: PathBuf,
    files: Vec<(PathBuf, String)>,
}

/// Reads a file and those it includes.
///
/// # Errors
/// Names each mistake: file, line, key, what was expected.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let mut files = vec![read(path)?];
    let main = parse(path, files.first().map_or("", |(_, text)| text))?;
    for pattern in &main.include {
        for included in expand(path, pattern)? {
            files.push(read(&included)?);
        }
    }
    let mut problems = Vec::new();
    let mut whole = Table::new();
    for (file, text) in &files {
        match parse(file, text) {
            Ok(config) if !config.include.is_empty() && file != path => {
                problems.push(Problem {
                    place: file.display().to_string(),
                    message: "include: an included file cannot include more".to_owned(),
                });
            }
            Ok(_) => {
                let table: Table = toml::from_str(text).unwrap_or_default();
                merge(&mut whole, table, file, "", &mut problems);
            }
            Err(ConfigError(more)) => problems.extend(more),
        }
    }
    let merged = Config::deserialize_table(whole).map_err(|message| Problem {
        place: path.display().to_string(),
        message,
    });
    match merged {
        Ok(mut config) if problems.is_empty() => {
            config.resolve_paths(path.parent().unwrap_or(Path::new("")));
            Ok(Loaded {
                config,
                path: path.to_owned(),
                files,
            })
        }
        Ok(_) => Err(ConfigError(problems)),
        Err(problem) if problems.is_empty() => Err(ConfigError(vec![problem])),
        Err(_) => Err(ConfigError(problems)),
    }
}

impl Loaded {
    /// One made by a program, not read from a file.
    #[must_use]
    pub fn from_config(config: Config) -> Self {
        Self {
            config,
            path: PathBuf::from("the built-in configuration"),
            files: Vec::new(),
        }
    }

    /// The file it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A mistake in the value of a key such as `limits.message_size`, or in the n-th `route`.
    pub(crate) fn problem(&self, key: &str, nth: usize, message: impl fmt::Display) -> Problem {
        let place = self.files.iter().find_map(|(file, text)| {
            Some(format!("{}:{}", file.display(), line_of(text, key, nth)?))
        });
        Problem {
            place: place.unwrap_or_else(|| self.path.display().to_string()),
            message: format!("{key}: {message}"),
        }
    }
}

impl Config {
    fn deserialize_table(table: Table) -> Result<Self, String> {
        table
            .try_into()
            .map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// Makes relative paths relative to the file's directory.
    fn resolve_paths(&mut self, base: &Path) {
        let mut resolve = |path: &mut PathBuf| {
            if path.is_relative() {
                *path = base.join(&*path);
            }
        };
        resolve(&mut self.queue.path);
        if let Some(tls) = &mut self.tls {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
        }
        if let Some(path) = self
            .submission
            .directory
            .as_mut()
            .and_then(|d| d.path.as_mut())
        {
            resolve(path);
        }
        if let Some(socket) = &mut self.admin.socket {
            resolve(socket);
        }
        self.delivery.authorities.iter_mut().for_each(&mut resolve);
        for route in &mut self.route {
            if let Some(path) = route.via.strip_prefix("maildir:").map(PathBuf::from)
                && path.is_relative()
            {
                route.via = format!("maildir:{}", base.join(path).display());
            }
        }
    }

    /// The admin socket: as configured, or in the queue's directory.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.admin
            .socket
            .clone()
            .unwrap_or_else(|| self.queue.path.join("admin.sock"))
    }
}

fn read(path: &Path) -> Result<(PathBuf, String), ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok((path.to_owned(), text)),
        Err(error) => Err(ConfigError(vec![Problem {
            place: path.display().to_string(),
            message: format!("cannot be read: {error}"),
        }])),
    }
}

fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    toml::from_str::<Config>(text)
        .map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, str::len) + 1;
            let source = text.lines().nth(line - 1).unwrap_or_default().trim();
            let mut message = error.message().trim().replace('\n', " ");
            if let Some(nearest) = nearest(&message) {
                message.push_str(&format!("; did you mean `{nearest}`?"));
            }
            Problem {
                place: format!("{}:{line}:{column}", path.display()),
                message: format!("{message}\n    {source}"),
            }
        })
        .map_err(|problem| ConfigError(vec![problem]))
}

/// In ``unknown field `a`, expected one of `b`, `c` ``: the one nearest to `a`.
fn nearest(message: &str) -> Option<&str> {
    let mut names = message
        .strip_prefix("unknown ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = names.next()?;
    let (distance, name) = names.map(|name| (distance(unknown, name), name)).min()?;
    (distance <= unknown.len().div_ceil(2)).then_some(name)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Arrays are added to, tables joined, everything else may be said once.
fn merge(whole: &mut Table, more: Table, file: &Path, prefix: &str, problems: &mut Vec<Problem>) {
    for (key, value) in more {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match (whole.get_mut(&key), value) {
            (None, value) => {
                whole.insert(key, value);
            }
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new, file, &path, problems),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (Some(_), _) => problems.push(Problem {
                place: file.display().to_string(),
                message: format!("{path}: given in another file already"),
            }),
        }
    }
}

/// Files that match, in order of name. `*` stands for any part of a file's name.
fn expand(main: &Path, pattern: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let path = main.parent().unwrap_or(Path::new("")).join(pattern);
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let Some((start, end)) = name.split_once('*') else {
        return Ok(vec![path]);
    };
    let directory = path.parent().unwrap_or(Path::new(""));
    // No directory yet, no files in it.
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(Vec::new());
    };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

/// The line of a key: of `[table]` … `key =`, or of the `nth` `[[table]]`.
fn line_of(text: &str, key: &str, nth: usize) -> Option<usize> {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let (mut current, mut seen) = (String::new(), 0);
    let mut header = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(inner) = line.strip_prefix('[') {
            let array = inner.starts_with('[');
            current = inner
                .trim_start_matches('[')
                .split(']')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned();
            if current == table && array {
                seen += 1;
            }
            if current == table && (!array || seen == nth + 1) {
                header = Some(number + 1);
            } else if current == table {
                current.clear();
            }
            if current == key {
                return Some(number + 1);
            }
            continue;
        }
        let here = line
            .strip_prefix(name)
            .is_some_and(|rest| rest.trim_start().starts_with('='));
        if current == table && here {
            return Some(number + 1);
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("p.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_placed() {
        let unknown = error("\n[limits]\nmesage_size = 5\n");
        assert!(
            unknown.starts_with("p.toml:3:1: unknown field `mesage_size`"),
            "{unknown}"
        );
        assert!(
            unknown.contains("did you mean `message_size`?"),
            "{unknown}"
        );
        let value = error("[limits]\nmessage_size = \"5 bananas\"\n");
        assert!(
            value.starts_with("p.toml:2:16: ")
                && value.contains("such as \"50MiB\"")
                && value.contains("message_size ="),
            "{value}"
        );
    }

    #[test]
    fn lines_of_keys() {
        let text = "a = 1\n[t]\nb = 2\n[[r]]\nc = 3\n[[r]]\nx = 0\nc = 4\n";
        for (key, nth, line) in [
            ("a", 0, 1),
            ("t.b", 0, 3),
            ("r.c", 0, 5),
            ("r.c", 1, 8),
            ("t", 0, 2),
            ("t.missing", 0, 2),
        ] {
            assert_eq!(line_of(text, key, nth), Some(line), "{key} {nth}");
        }
    }

    #[test]
    fn files_are_joined() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        fs::create_dir(directory.path().join("conf.d")).unwrap();
        write(
            "main.toml",
            "include = [\"conf.d/*.toml\"]\n[[route]]\nvia = \"mx\"\n[relay]\ndomains = [\"a.test\"]\n",
        );
        write(
            "conf.d/1.toml",
            "[[route]]\nvia = \"discard\"\n[relay]\ndomains = [\"b.test\"]\n[limits]\nerrors = 3\n",
        );
        let loaded = load(&directory.path().join("main.toml")).unwrap();
        assert_eq!(loaded.config.relay.domains, ["a.test", "b.test"]);
        assert_eq!(loaded.config.route.len(), 2);
        assert_eq!(loaded.config.limits.errors, 3);
        assert!(
            loaded
                .problem("limits.errors", 0, "x")
                .to_string()
                .contains("1.toml:6: limits.errors: x")
        );
        write("conf.d/2.toml", "[limits]\nerrors = 4\n");
        let error = load(&directory.path().join("main.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("2.toml: limits.errors: given in another file already"),
            "{error}"
        );
    }
}
