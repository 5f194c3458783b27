//! Routes from a configuration: the first rule that matches counts.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use blake2::{Blake2s256, Digest as _};
use ipnet::IpNet;
use postroad_mail::{Address, Domain, ReversePath};

use crate::route::{ChosenBy, Destination, Route, RouteError, RouteOptions, RouteRequest, Router};
use crate::via::Via;

/// Octets of a recipient's part of a path, at most: file systems take 255, and the route may put
/// something around it.
const FILE_NAME_MAX: usize = 200;
/// Octets of a hash that are kept: names that collide cannot be found.
const HASH_OCTETS: usize = 16;

/// A pattern over addresses. Domains are compared by what they mean; local parts without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `*`: all.
    Any,
    /// `<>`: the null reverse-path.
    Null,
    /// `example.org`, `*@example.org`: all of a domain.
    Domain(Domain),
    /// `*.example.org`, `*@*.example.org`: all of the domains below.
    Below(Domain),
    /// `user@example.org`
    Address(Address),
    /// `user@*`: that local part anywhere.
    Local(String),
}

/// What a pattern may be.
const FORMS: &str = "`*`, `example.org` or `*@example.org`, `*.example.org` or `*@*.example.org`, `user@example.org`, `user@*` or `<>`";

/// Not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// None of the forms.
    #[error("`{0}` is no pattern; expected {FORMS}")]
    Form(String),
    /// A `*` that would be taken for the character itself.
    #[error("`{0}`: a `*` stands for a whole local part, not for some of one; expected {FORMS}")]
    Star(String),
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(s: &str) -> Result<Self, PatternError> {
        let wrong = || PatternError::Form(s.to_owned());
        match s {
            "*" | "*@*" => return Ok(Self::Any),
            "<>" => return Ok(Self::Null),
            _ => {}
        }
        // It could be part of an address, but hardly anybody means that; who does can quote it.
        let local = s.rsplit_once('@').map_or("", |(local, _)| local);
        if local != "*" && local.contains('*') && !local.starts_with('"') {
            return Err(PatternError::Star(s.to_owned()));
        }
        if let Some(local) = s.strip_suffix("@*") {
            let valid = format!("{local}@example.org")
                .parse::<Address>()
                .map_err(|_| wrong())?;
            return Ok(Self::Local(
                valid.local_part().as_str().to_ascii_lowercase(),
            ));
        }
        let domain = s.strip_prefix("*@").or((!s.contains('@')).then_some(s));
        match domain {
            Some(domain) => match domain.strip_prefix("*.") {
                Some(parent) => parent.parse().map(Self::Below).map_err(|_| wrong()),
                None => domain.parse().map(Self::Domain).map_err(|_| wrong()),
            },
            None => s.parse().map(Self::Address).map_err(|_| wrong()),
        }
    }
}

impl Pattern {
    /// Whether it matches a mailbox.
    #[must_use]
    pub fn matches(&self, address: &Address) -> bool {
        let domain = address.domain();
        match self {
            Self::Any => true,
            Self::Null => false,
            Self::Domain(of) => of == domain,
            Self::Below(parent) => domain
                .ascii()
                .strip_suffix(parent.ascii())
                .is_some_and(|start| start.ends_with('.') && start.len() > 1),
            Self::Address(one) => {
                one.domain() == domain && same(one.local_part().as_str(), address)
            }
            Self::Local(local) => same(local, address),
        }
    }

    fn matches_path(&self, path: &ReversePath) -> bool {
        match path.address() {
            Some(address) => self.matches(address),
            None => matches!(self, Self::Any | Self::Null),
        }
    }
}

fn same(local: &str, address: &Address) -> bool {
    address.local_part().as_str().eq_ignore_ascii_case(local)
}

/// One rule. What is not given matches all.
#[derive(Clone, Debug)]
pub struct RouteRule {
    /// Over the recipient.
    pub recipient: Option<Pattern>,
    /// Over the reverse-path.
    pub sender: Option<Pattern>,
    /// The authenticated user.
    pub user: Option<String>,
    /// The network of the client it came from.
    pub network: Option<IpNet>,
    /// Where it goes.
    pub via: Via,
    /// How.
    pub options: RouteOptions,
    /// Where the rule stands, as in `postroad.toml:41, [[route]] 2`.
    pub chosen_by: ChosenBy,
}

impl RouteRule {
    /// A rule for all mail.
    #[must_use]
    pub fn new(via: Via) -> Self {
        Self {
            recipient: None,
            sender: None,
            user: None,
            network: None,
            via,
            options: RouteOptions::default(),
            chosen_by: ChosenBy::default(),
        }
    }

    fn matches(&self, request: &RouteRequest<'_>) -> bool {
        let contains = |network: &IpNet| {
            request
                .network
                .is_some_and(|address| network.contains(&address))
        };
        self.recipient
            .as_ref()
            .is_none_or(|pattern| pattern.matches(request.recipient))
            && self
                .sender
                .as_ref()
                .is_none_or(|pattern| pattern.matches_path(request.sender))
            && self
                .user
                .as_deref()
                .is_none_or(|user| request.user == Some(user))
            && self.network.as_ref().is_none_or(contains)
    }

    fn destination(&self, recipient: &Address) -> Destination {
        match &self.via {
            Via::Mx => Destination::Mx(None),
            Via::Hops(hops) => Destination::Hops(hops.clone()),
            Via::Maildir(path) => {
                let local = file_name(&recipient.local_part().as_str().to_lowercase());
                let path = path
                    .replace("{local}", &local)
                    .replace("{domain}", &file_name(recipient.domain().ascii()));
                Destination::Maildir(PathBuf::from(path))
            }
            Via::Discard => Destination::Discard,
            Via::Reject(reply) => Destination::Reject(reply.clone()),
            Via::Defer(reply) => Destination::Defer(reply.clone()),
        }
    }
}

/// A name that stays in its directory and fits a file system, different for different names.
///
/// Whatever is not plain is written as `%` and two digits for each octet. What cannot come about
/// so stands for the rest: `%` alone for the empty name, and `%-` and a hash of the whole behind
/// the start of one that would be too long.
fn file_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for c in name.chars() {
        let plain = c.is_alphanumeric() || "-_+=@".contains(c) || (c == '.' && !encoded.is_empty());
        if plain {
            encoded.push(c);
        } else {
            let mut octets = [0; 4];
            for octet in c.encode_utf8(&mut octets).bytes() {
                let _ = write!(encoded, "%{octet:02x}");
            }
        }
    }
    if encoded.is_empty() {
        return "%".to_owned();
    }
    if encoded.len() > FILE_NAME_MAX {
        let mut at = FILE_NAME_MAX - 2 * HASH_OCTETS - 2;
        while !encoded.is_char_boundary(at) {
            at -= 1;
        }
        encoded.truncate(at);
        encoded.push_str("%-");
        for octet in Blake2s256::digest(name).iter().take(HASH_OCTETS) {
            let _ = write!(encoded, "{octet:02x}");
        }
    }
    encoded
}

/// Rules in order; the first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct StaticRouter {
    rules: Vec<RouteRule>,
}

impl StaticRouter {
    /// With these rules.
    #[must_use]
    pub const fn new(rules: Vec<RouteRule>) -> Self {
        Self { rules }
    }
}

impl Router for StaticRouter {
    async fn route(&self, request: &RouteRequest<'_>) -> Result<Option<Route>, RouteError> {
        let rule = self.rules.iter().find(|rule| rule.matches(request));
        Ok(rule.map(|rule| Route {
            destination: rule.destination(request.recipient),
            options: rule.options.clone(),
            chosen_by: rule.chosen_by.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, matching, other) in [
            ("*", "a@b", ""),
            ("example.org", "x@EXAMPLE.org", "x@sub.example.org"),
            ("*@example.org", "x@example.org", "x@example.com"),
            ("*@*.example.org", "x@a.b.example.org", "x@example.org"),
            ("*.example.org", "x@sub.example.org", "x@notexample.org"),
            ("User@example.org", "uSER@example.org", "users@example.org"),
            ("postmaster@*", "PostMaster@b", "x@b"),
            ("*@bücher.example", "x@xn--bcher-kva.example", "x@b"),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert!(pattern.matches(&matching.parse().unwrap()), "{pattern:?}");
            assert!(
                other.is_empty() || !pattern.matches(&other.parse().unwrap()),
                "{pattern:?}"
            );
        }
        for bad in ["", "a b", "*@", "@b", "a@@b", "*@*.", "*.*.b", "*@a*.b"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        for part in ["x*@b", "*x@b", "sales-*@example.org", "x*@*", "**@b"] {
            let error = part.parse::<Pattern>().unwrap_err().to_string();
            assert!(
                error.contains("a whole local part") && error.contains("`*@example.org`"),
                "{error}"
            );
        }
        let quoted: Pattern = "\"x*\"@b".parse().unwrap();
        assert!(quoted.matches(&"x*@b".parse().unwrap()));
    }

    #[test]
    fn a_recipient_cannot_leave_its_directory() {
        let rule = RouteRule::new("maildir:/mail/{domain}/{local}".parse().unwrap());
        for (recipient, path) in [
            ("Bob+x@Example.org", "/mail/example.org/bob+x"),
            (
                "\"../../etc\"@example.org",
                "/mail/example.org/%2e.%2f..%2fetc",
            ),
            ("\"..\"@example.org", "/mail/example.org/%2e."),
            ("\"\"@example.org", "/mail/example.org/%"),
            ("\"%\"@example.org", "/mail/example.org/%25"),
        ] {
            assert_eq!(
                rule.destination(&recipient.parse().unwrap()),
                Destination::Maildir(path.into())
            );
        }
    }

    #[test]
    fn long_names_differ_though_they_begin_alike() {
        let long = |end: &str| file_name(&format!("{}{end}", "a".repeat(250)));
        assert_eq!(long("x").len(), FILE_NAME_MAX);
        assert_ne!(long("x"), long("y"));
        // Nobody can have the name that stands for a long one.
        assert_ne!(file_name(&long("x")), long("x"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(s in "[ab*@.<>\"]{0,12}|.{0,40}") {
            crate::fuzz::pattern(s.as_bytes());
        }

        #[test]
        fn each_name_has_a_file_of_its_own(
            a in "[a-c.%/\u{fc}-]{0,3}|[ab]{198,202}|[ab\u{fc}]{300}|.{0,400}",
            b in "[a-c.%/\u{fc}-]{0,3}|[ab]{198,202}|[ab\u{fc}]{300}|.{0,400}",
        ) {
            let (one, other) = (file_name(&a), file_name(&b));
            proptest::prop_assert_eq!(one == other, a == b, "{} {}", one, other);
            for name in [one, other] {
                proptest::prop_assert!((1..=FILE_NAME_MAX).contains(&name.len()), "{}", name);
                proptest::prop_assert!(!name.starts_with('.') && !name.contains(['/', '\0']), "{}", name);
            }
        }
    }
}
