//! Routes in a text file: the first line that matches counts.

use std::collections::HashMap;
use std::path::Path;

use postroad_mail::{Address, Domain};
use postroad_routing::{Pattern, Via, ViaError};

use crate::key::address_key;
use crate::lines::{Line, LineError, lines};
use crate::watched::{FileError, Watched};

/// A file of `pattern via` lines.
///
/// A pattern is one of a route's `recipient`, a via what stands in a route's `via`: one, or several
/// hosts with commas between. The first line that matches counts; a pattern stands there once. As
/// with [`FileTable`](crate::FileTable), a new file with a mistake is not taken in.
#[derive(Debug)]
pub struct RouteFile(Watched<Routes>);

#[derive(Debug, Default)]
pub(crate) struct Routes {
    lines: Vec<RouteLine>,
    /// Which line has a pattern, by the pattern as it is written in [`written`].
    by_pattern: HashMap<String, usize>,
}

/// A line.
#[derive(Clone, Debug)]
pub(crate) struct RouteLine {
    /// Counted from 1.
    pub(crate) number: usize,
    pub(crate) pattern: String,
    pub(crate) via: Via,
}

impl RouteFile {
    /// Reads the file; blocks.
    ///
    /// # Errors
    /// Where it cannot be read, or has a mistake.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Watched::open(path, routes).map(Self)
    }

    /// The first line that matches.
    pub(crate) fn line(&self, recipient: &Address) -> Option<RouteLine> {
        self.0.get().line(recipient).cloned()
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Routes {
    fn line(&self, recipient: &Address) -> Option<&RouteLine> {
        let mut first = None::<usize>;
        let domain = recipient.domain();
        let mut consider = |key: &str| {
            let at = self.by_pattern.get(key).copied();
            first = first.into_iter().chain(at).min();
        };
        consider("*");
        consider(&address_key(recipient));
        consider(&local_key(recipient.local_part().as_str()));
        consider(domain.ascii());
        for parent in parents(domain) {
            consider(&format!("*.{parent}"));
        }
        first.and_then(|first| self.lines.get(first))
    }
}

/// The domains above one, the nearest first; none above an address literal.
pub(crate) fn parents(domain: &Domain) -> impl DoubleEndedIterator<Item = &str> {
    let name = if domain.is_literal() {
        ""
    } else {
        domain.ascii()
    };
    name.match_indices('.')
        .filter_map(move |(at, _)| name.get(at + 1..))
}

fn local_key(local: &str) -> String {
    format!("{}@*", local.to_ascii_lowercase())
}

/// The one way to write a pattern; `None`: it can match no recipient.
fn written(pattern: &Pattern) -> Option<String> {
    match pattern {
        Pattern::Any => Some("*".to_owned()),
        Pattern::Null => None,
        Pattern::Domain(domain) => Some(domain.ascii().to_owned()),
        Pattern::Below(parent) => Some(format!("*.{}", parent.ascii())),
        Pattern::Address(address) => Some(address_key(address)),
        Pattern::Local(local) => Some(local_key(local)),
    }
}

fn routes(text: &str) -> Result<Routes, LineError> {
    let mut routes = Routes::default();
    for line in lines(text) {
        let Line { number, key, value } = line?;
        let wrong = |detail: String| LineError::new(number, detail);
        let pattern = key
            .parse::<Pattern>()
            .map_err(|error| wrong(error.to_string()))?;
        let written =
            written(&pattern).ok_or_else(|| wrong(format!("`{key}` is never a recipient")))?;
        let via = via(&[value]).map_err(|error| wrong(error.to_string()))?;
        if let Some(first) = routes.by_pattern.get(&written) {
            let first = routes.lines.get(*first).map_or(0, |line| line.number);
            return Err(wrong(format!("`{key}` stands in line {first} already")));
        }
        routes.by_pattern.insert(written, routes.lines.len());
        routes.lines.push(RouteLine {
            number,
            pattern: key.to_owned(),
            via,
        });
    }
    Ok(routes)
}

/// What values say: one via, or several hosts, with commas between or as values of their own.
pub(crate) fn via<S: AsRef<str>>(values: &[S]) -> Result<Via, ViaError> {
    let mut ways = Vec::new();
    for value in values.iter().map(|value| value.as_ref().trim()) {
        // In the text of a reply, a comma is a part of that.
        if value.starts_with("smtp") || value.starts_with("lmtp") {
            ways.extend(value.split(',').map(str::trim));
        } else {
            ways.push(value);
        }
    }
    Via::list(&ways)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts() {
        let routes = routes(
            "vip@example.org smtp://vip:25\n\
             *@sub.example.org discard\n\
             *.example.org smtp://below:25\n\
             deep.sub.example.org smtp://never:25\n\
             abuse@* smtp://abuse:25\n\
             example.org,smtp://a:25, smtp://b:26\n\
             *.org reject 5.1.2 not here, nor there\n",
        )
        .unwrap();
        for (recipient, line) in [
            ("VIP@Example.org", Some(1)),
            ("x@example.org", Some(6)),
            ("abuse@example.org", Some(5)),
            ("abuse@sub.example.org", Some(2)),
            ("x@deep.sub.example.org", Some(3)),
            ("x@other.org", Some(7)),
            ("x@org", None),
            ("x@[192.0.2.1]", None),
        ] {
            let found = routes.line(&recipient.parse().unwrap());
            assert_eq!(found.map(|line| line.number), line, "{recipient}");
        }
        assert!(matches!(&routes.lines[5].via, Via::Hops(hops) if hops.len() == 2));
    }

    #[test]
    fn mistakes() {
        for (text, line, detail) in [
            ("a@b mix\n", 1, "`mix` is no way"),
            ("*x@b mx\n", 1, "a whole local part"),
            ("<> mx\n", 1, "`<>` is never a recipient"),
            (
                "\na@b mx\nA@B discard\n",
                3,
                "`A@B` stands in line 2 already",
            ),
            ("b mx\n*@b mx\n", 2, "`*@b` stands in line 1 already"),
            ("b smtp://a:25, mx\n", 1, "`mx` cannot be one of several"),
            ("b smtp://a:25, smtp://\n", 1, "names no host"),
            ("b\n", 1, "expected a key"),
        ] {
            let error = routes(text).unwrap_err();
            assert_eq!(error.number, line, "{text}");
            assert!(error.detail.contains(detail), "{}", error.detail);
        }
        assert!(via::<&str>(&[]).is_err());
        assert!(via(&["smtp://a:25", "smtp://b:25"]).is_ok());
        assert!(via(&["discard", "mx"]).is_err());
        let unix = via(&["lmtp+unix:///a,lmtp+unix:///b weight=3"]);
        assert!(matches!(unix, Ok(Via::Hops(hops)) if hops.len() == 2 && hops[1].weight == 3));
        assert!(via(&[""]).is_err());
    }

    proptest::proptest! {
        /// The index finds what going through the lines does.
        #[test]
        fn as_if_read_through(
            patterns in proptest::collection::vec("(u|v|\\*)@(\\*\\.)?(b\\.)?(a|b)|u@\\*|\\*|(\\*\\.)?(b\\.)?a", 1..8),
            recipient in "[uvw]@(b\\.)?(b\\.)?[abc]",
        ) {
            let mut kept = Vec::<Pattern>::new();
            let mut text = String::new();
            for written in &patterns {
                let Ok(pattern) = written.parse::<Pattern>() else { continue };
                if !kept.contains(&pattern) {
                    text.push_str(&format!("{written} discard\n"));
                    kept.push(pattern);
                }
            }
            let recipient: Address = recipient.parse().unwrap();
            let expected = kept.iter().position(|pattern| pattern.matches(&recipient));
            let routes = routes(&text).unwrap();
            let found = routes.line(&recipient).map(|line| line.number - 1);
            proptest::prop_assert_eq!(found, expected, "{}", text);
        }
    }
}
