use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Config;
use super::place::{Place, locate};
use super::problem::{ConfigError, Problem, nearest};
use super::words;
use crate::telemetry;

/// Octets of a Unix socket's path, at most: what the system has room for, without the NUL.
const SOCKET_PATH_MAX: usize = 107;

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
    // Its relative paths must lead to the same files after a change of directory, too.
    let absolute = std::path::absolute(path).map_err(|error| unreadable(path, &error))?;
    let base = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let main = parse(path, &text)?;
    let mut loaded = Loaded {
        config: Config::default(),
        path: absolute,
        files: vec![(path.to_owned(), text)],
    };
    for (nth, pattern) in main.include.iter().enumerate() {
        for file in expand(path.parent().unwrap_or(Path::new("")), pattern) {
            let text = fs::read_to_string(&file).map_err(|error| {
                let message = format!("{} cannot be read: {error}", file.display());
                loaded.problem("include", nth, message)
            })?;
            loaded.files.push((file, text));
        }
    }
    loaded.config = merged(&loaded.files)?;
    loaded.config.resolve_paths(&base);
    if let Err(error) = telemetry::filter(&loaded.config.log.level) {
        return Err(loaded.problem("log.level", 0, error).into());
    }
    let socket = loaded.config.admin_socket();
    let octets = socket.as_os_str().len();
    if octets > SOCKET_PATH_MAX {
        let message = format!(
            "{} has {octets} octets, and a socket's path at most {SOCKET_PATH_MAX}; name a shorter one, as in \"/run/postroad/admin.sock\"",
            socket.display()
        );
        return Err(loaded.problem("admin.socket", 0, message).into());
    }
    Ok(loaded)
}

fn merged(files: &[(PathBuf, String)]) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut whole = Table::new();
    for (n, (file, text)) in files.iter().enumerate() {
        match parse(file, text) {
            Ok(config) if n > 0 && !config.include.is_empty() => {
                let message = "include: an included file cannot include more";
                problems.push(placed(file, text, "include", message));
            }
            Ok(_) => {
                let table: Table = toml::from_str(text).unwrap_or_default();
                for key in merge(&mut whole, table, "") {
                    let message = format!("{key}: given in another file already");
                    problems.push(placed(file, text, &key, message));
                }
            }
            Err(ConfigError(more)) => problems.extend(more),
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    whole.try_into().map_err(|error: toml::de::Error| {
        let place = files.first().map(|(file, _)| file.display().to_string());
        ConfigError::from(Problem {
            place: place.unwrap_or_default(),
            message: words::plain(error.message()),
        })
    })
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

    /// Reads it again. One made by a program stays what it is.
    pub(crate) fn again(&self) -> Result<Self, ConfigError> {
        if self.files.is_empty() {
            return Ok(self.clone());
        }
        load(&self.path)
    }

    /// A mistake in the value of a key such as `limits.message_size`, or in that of the n-th
    /// entry of a list such as `route`.
    pub(crate) fn problem(&self, key: &str, nth: usize, message: impl fmt::Display) -> Problem {
        let mut left = nth;
        let mut place = None;
        for (file, text) in &self.files {
            match locate(text, key, left) {
                Place::Key(line) => {
                    place = Some((file, line));
                    break;
                }
                Place::Table(line) => place = place.or(Some((file, line))),
                Place::Short(entries) => left -= entries.min(left),
                Place::Nowhere => {}
            }
        }
        Problem {
            place: match (place, self.files.first()) {
                (Some((file, line)), _) => format!("{}:{line}", file.display()),
                (None, Some((file, _))) => file.display().to_string(),
                (None, None) => self.path.display().to_string(),
            },
            message: format!("{key}: {message}"),
        }
    }
}

fn placed(file: &Path, text: &str, key: &str, message: impl fmt::Display) -> Problem {
    let file = file.display();
    Problem {
        place: match locate(text, key, 0) {
            Place::Key(line) | Place::Table(line) => format!("{file}:{line}"),
            Place::Short(_) | Place::Nowhere => file.to_string(),
        },
        message: message.to_string(),
    }
}

impl Config {
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
        if let Some(anchor) = &mut self.dns.trust_anchor {
            resolve(anchor);
        }
        for route in &mut self.route {
            for via in &mut route.via.0 {
                if let Some(path) = via.strip_prefix("maildir:") {
                    let mut path = PathBuf::from(path);
                    resolve(&mut path);
                    *via = format!("maildir:{}", path.display());
                }
            }
            if let Some(table) = &mut route.table {
                table.0.resolve(&mut resolve);
            }
            if let Some(auth) = &mut route.auth {
                auth.password.resolve(&mut resolve);
            }
        }
        for alias in &mut self.alias {
            alias.table.0.resolve(&mut resolve);
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

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError::from(Problem {
        place: path.display().to_string(),
        message: format!("cannot be read: {error}"),
    })
}

fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    toml::from_str::<Config>(text)
        .map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, str::len) + 1;
            let source = text.lines().nth(line - 1).unwrap_or_default().trim();
            let mut message = words::plain(error.message());
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

/// Arrays are added to, tables joined; gives the keys of all else that is said twice.
fn merge(whole: &mut Table, more: Table, prefix: &str) -> Vec<String> {
    let mut twice = Vec::new();
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
            (Some(Value::Table(old)), Value::Table(new)) => twice.extend(merge(old, new, &path)),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (Some(_), _) => twice.push(path),
        }
    }
    twice
}

/// Files that match, in order of name. `*` stands for any part of a file's name.
fn expand(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = base.join(pattern);
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let Some((start, end)) = name.split_once('*') else {
        return vec![path];
    };
    let directory = path
        .parent()
        .filter(|d| !d.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // No directory yet, no files in it.
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
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
    found
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
            error.contains("2.toml:2: limits.errors: given in another file already"),
            "{error}"
        );
    }

    #[test]
    fn mistakes_in_included_files_are_placed_there() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write(
            "main.toml",
            "include = [\"more.toml\"]\nrelay.domains = [\"a.test\"]\n[[route]]\nvia = \"mx\"\n",
        );
        write(
            "more.toml",
            "relay.domains = [\n\"b.test\",\n\"c.test\"]\n[[route]]\nvia = \"discard\"\n[[route]]\nvia = \"mx\"\n",
        );
        let loaded = load(&directory.path().join("main.toml")).unwrap();
        for (key, nth, place) in [
            ("route.via", 0, "main.toml:4"),
            ("route.via", 1, "more.toml:5"),
            ("route.via", 2, "more.toml:7"),
            ("relay.domains", 0, "main.toml:2"),
            ("relay.domains", 2, "more.toml:3"),
            ("relay.trusted_networks", 0, "main.toml:2"),
        ] {
            let found = loaded.problem(key, nth, "x").place;
            assert!(found.ends_with(place), "{key} {nth}: {found}");
        }
        write("main.toml", "\ninclude = [\"none.toml\"]\n");
        let error = load(&directory.path().join("main.toml")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("main.toml:2: include: ") && text.contains("none.toml cannot be read"),
            "{text}"
        );
    }

    #[test]
    fn relative_paths_become_absolute() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let path = directory.path().join("c.toml");
        fs::write(&path, "[[route]]\nvia = \"maildir:mail/{local}\"\n").unwrap();
        let relative = path.strip_prefix(std::env::current_dir().unwrap());
        let loaded = load(relative.unwrap_or(&path)).unwrap();
        let via = &loaded.config.route[0].via.0[0];
        assert!(
            via.starts_with("maildir:/") && via.ends_with("/mail/{local}"),
            "{via}"
        );
        assert!(loaded.path().is_absolute() && loaded.config.admin_socket().is_absolute());
    }

    #[test]
    fn a_socket_whose_path_is_too_long_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        let error = |text: String| {
            fs::write(&path, text).unwrap();
            load(&path).map_or_else(|e| e.to_string(), |_| String::new())
        };
        let socket = |octets: usize| format!("[admin]\nsocket = \"/{}\"\n", "s".repeat(octets - 1));
        assert_eq!(error(socket(107)), "");
        let long = error(socket(108));
        assert!(
            long.contains("c.toml:2: admin.socket: ") && long.contains("has 108 octets"),
            "{long}"
        );
        // The one that there is without the key counts, too.
        let queue = error(format!("[queue]\npath = \"/{}\"\n", "q".repeat(100)));
        assert!(queue.contains("admin.socket: /qqq"), "{queue}");
    }

    #[test]
    fn a_filter_of_the_log_that_is_none_is_placed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        fs::write(&path, "[log]\nlevel = \"inof\"\n").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("c.toml:2: log.level: `inof`"), "{error}");
    }
}
