//! The pure crates: what they are not built on, and what their sources do not name.
//!
//! Time, randomness, files and sockets are arguments to them. The one exception is the DNS adapter
//! of `postroad-routing`, a module and those below it.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// Crates with no I/O, no clock, no randomness and no runtime.
pub(crate) const PURE: &[&str] = &[
    "postroad-mail",
    "postroad-proto",
    "postroad-message",
    "postroad-queue",
];

/// What a pure crate is never built on, however indirectly.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "rustls",
    "hickory-resolver",
    "sled",
    "tracing",
    "rand",
    "getrandom",
];

/// The crate that is pure but for one module, and that module, without extension: its file, and
/// the files of those below it.
const ALMOST: (&str, &str) = ("postroad-routing", "crates/postroad-routing/src/dns");

/// What the sources of a pure crate never name. Addresses, as in `std::net::IpAddr`, are only values.
const UNNAMED: &[&str] = &[
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "Instant::now",
    "SystemTime::now",
    "tokio",
];

/// Modules of `std` that must not stand in the braces of `use std::{…}` either.
const UNNAMED_OF_STD: &[&str] = &["fs", "thread", "process", "env", "os"];

/// Which of `names`, all that a pure crate is built on, it must not be.
pub(crate) fn impure<'a>(names: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let mut found: Vec<_> = names.iter().copied().collect();
    found.retain(|name| IMPURE.contains(name));
    found
}

/// Looks through the sources; `files` are all of the workspace, with their text.
pub(crate) fn sources(files: &[(PathBuf, String)], faults: &mut Vec<String>) {
    let pure: Vec<_> = files.iter().filter(|(path, _)| is_pure(path)).collect();
    let tests: HashSet<PathBuf> = pure
        .iter()
        .flat_map(|(path, text)| test_modules(path, text))
        .collect();
    for (path, text) in pure {
        let is_test = path
            .with_extension("")
            .ancestors()
            .any(|module| tests.contains(module));
        if !is_test {
            source(path, text, faults);
        }
    }
}

fn is_pure(path: &Path) -> bool {
    let within = |name: &str| path.starts_with(format!("crates/{name}/src"));
    path.extension().is_some_and(|extension| extension == "rs")
        && (PURE.iter().any(|name| within(name)) || within(ALMOST.0) && !is_adapter(path))
}

fn is_adapter(path: &Path) -> bool {
    path.with_extension("").starts_with(ALMOST.1)
}

fn source(path: &Path, text: &str, faults: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        // A module of tests closes a file; it may do as it likes.
        if starts_tests(text, number) {
            return;
        }
        let code = line.split("//").next().unwrap_or_default();
        let named = UNNAMED.iter().find(|needle| code.contains(*needle));
        let braced = || {
            let (_, list) = code.split_once("use std::{")?;
            UNNAMED_OF_STD.iter().find(|module| {
                list.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(|word| word == **module)
            })
        };
        if let Some(needle) = named.or_else(braced) {
            faults.push(format!(
                "{}:{}: `{needle}`: this crate has no I/O, clock or runtime",
                path.display(),
                number + 1
            ));
        }
    }
}

/// Whether at that line `#[cfg(test)] mod … {` begins, with whatever other attributes.
fn starts_tests(text: &str, number: usize) -> bool {
    let mut lines = text.lines().skip(number);
    lines.next() == Some("#[cfg(test)]")
        && lines
            .find_map(module)
            .is_some_and(|rest| rest.ends_with('{'))
}

/// What follows `mod `, in a line that declares a module.
fn module(line: &str) -> Option<&str> {
    let visible = ["pub(crate) ", "pub(super) ", "pub "];
    let line = visible
        .iter()
        .find_map(|visible| line.strip_prefix(visible))
        .unwrap_or(line);
    line.strip_prefix("mod ")
}

/// The modules in files of their own that a source declares behind `#[cfg(test)]`, as paths
/// without extension.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let is_top = path.ends_with("mod.rs") || path.ends_with("lib.rs");
    let directory = if is_top {
        path.parent().map(Path::to_owned).unwrap_or_default()
    } else {
        path.with_extension("")
    };
    let mut modules = Vec::new();
    let mut behind = false;
    for line in text.lines() {
        if line == "#[cfg(test)]" {
            behind = true;
        } else if !line.starts_with("#[") {
            let name = module(line).and_then(|rest| rest.strip_suffix(';'));
            modules.extend(name.filter(|_| behind).map(|name| directory.join(name)));
            behind = false;
        }
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        sources(&[(path.into(), text.to_owned())], &mut faults);
        faults
    }

    #[test]
    fn what_is_named_is_found() {
        const PATH: &str = "crates/postroad-queue/src/a.rs";
        for text in [
            "use std::fs;",
            "use std::{fs, io};",
            "use std::{cell::Cell, env};",
            "fn f() { let now = Instant::now(); }",
            "    tokio::spawn(f());",
            "use std::net::{IpAddr, TcpStream};",
            "fn f() {}\n\n#[cfg(test)]\nmod other;\n\nuse std::thread;",
        ] {
            assert_eq!(faults(PATH, text).len(), 1, "{text}");
        }
        for text in [
            "use std::net::IpAddr;",
            "use std::{fmt, io};",
            "use std::{cell::Cell, error::Error};",
            "/// Not for tokio alone.",
            "fn f() {} // No std::fs here.",
            "fn f() {}\n#[cfg(test)]\n#[expect(x)]\nmod tests {\n    use std::fs;\n}",
        ] {
            assert_eq!(faults(PATH, text), [""; 0], "{text}");
        }
        // Other crates may, and so may the adapter.
        for path in [
            "crates/postroad-store/src/io.rs",
            "crates/postroad-queue/tests/a.rs",
            "crates/postroad-routing/src/dns.rs",
            "crates/postroad-routing/src/dns/client.rs",
        ] {
            assert_eq!(faults(path, "use std::fs;"), [""; 0], "{path}");
        }
        assert_eq!(
            faults("crates/postroad-routing/src/mx.rs", "use std::fs;"),
            [
                "crates/postroad-routing/src/mx.rs:1: `std::fs`: this crate has no I/O, clock or runtime"
            ]
        );
    }

    #[test]
    fn files_of_tests_may_do_as_they_like() {
        let files = |declared: &str| {
            let top = "crates/postroad-proto/src/sasl/mod.rs";
            let steps = "crates/postroad-proto/src/sasl/steps.rs";
            let mut faults = Vec::new();
            let files = [(top, declared), (steps, "fn f() { Instant::now(); }")]
                .map(|(path, text)| (path.into(), text.to_owned()));
            sources(&files, &mut faults);
            faults.len()
        };
        assert_eq!(files("mod plain;\n#[cfg(test)]\nmod steps;\n"), 0);
        assert_eq!(files("#[cfg(test)]\npub(crate) mod steps;\n"), 0);
        assert_eq!(files("#[cfg(test)]\nmod other;\nmod steps;\n"), 1);
    }

    #[test]
    fn what_it_is_built_on_is_found() {
        let names = BTreeSet::from(["bytes", "getrandom", "tokio-util", "uuid"]);
        assert_eq!(impure(&names), ["getrandom"]);
    }
}
