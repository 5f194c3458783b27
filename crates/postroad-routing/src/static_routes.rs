//! Routes from a configuration: the first rule that matches counts.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use blake2::{Blake2s256, Digest as _};
use ipnet::IpNet;
use postroad_mail::{Address, Class, Domain, EnhancedCode, Reply, ReplyCode, ReversePath};

use crate::route::{
    ChosenBy, Destination, Hop, Route, RouteError, RouteOptions, RouteRequest, Router,
};

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

/// Where a rule sends mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// `mx`
    Mx,
    /// `smtp://host:port`, `smtps://host:port`, …: one or more.
    Hops(Vec<Hop>),
    /// `maildir:/path`; `{local}` and `{domain}` in it stand for the recipient's.
    Maildir(String),
    /// `discard`
    Discard,
    /// `reject 5.1.1 text`
    Reject(Reply),
    /// `defer 4.2.0 text`
    Defer(Reply),
}

/// Not a way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViaError {
    /// None that we know.
    #[error(
        "`{0}` is no way for mail to go; expected `mx`, `smtp://host:port`, `smtps://host:port`, `maildir:/path`, `discard`, `reject 5.1.1 text` or `defer 4.2.0 text`"
    )]
    Unknown(String),
    /// Known, and not built.
    #[error("`{0}` is not built yet in this version")]
    NotBuilt(String),
    /// The host or port is wrong.
    #[error(
        "`{0}` names no host; expected one such as `mail.example.org:25`, `192.0.2.1:25` or `[2001:db8::1]:25`"
    )]
    Host(String),
    /// The enhanced code does not fit.
    #[error(
        "`{0}`: reject takes an enhanced code 5.x.y and defer one 4.x.y before its text, as in `reject 5.1.1 no such user`"
    )]
    Code(String),
    /// A path that is not absolute, or would leave its directory.
    #[error(
        "`{0}`: a maildir needs an absolute path, in which only {{local}} and {{domain}} may be replaced"
    )]
    Path(String),
}

impl FromStr for Via {
    type Err = ViaError;

    fn from_str(s: &str) -> Result<Self, ViaError> {
        let word = s.split([' ', ':']).next().unwrap_or_default();
        let rest = s.get(word.len()..).unwrap_or_default();
        match (word, rest) {
            ("mx", "") => Ok(Self::Mx),
            ("discard", "") => Ok(Self::Discard),
            ("smtp", _) if rest.starts_with("://") => hop(s, rest, 25, false),
            ("smtps", _) if rest.starts_with("://") => hop(s, rest, 465, true),
            ("lmtp" | "lmtp+unix", _) => Err(ViaError::NotBuilt(s.to_owned())),
            ("maildir", _) => maildir(s, rest.strip_prefix(':').unwrap_or_default()),
            ("reject", "") => Ok(Self::Reject(reply(s, Class::Permanent, "")?)),
            ("reject", _) => Ok(Self::Reject(reply(s, Class::Permanent, rest.trim())?)),
            ("defer", _) => Ok(Self::Defer(reply(s, Class::Transient, rest.trim())?)),
            _ => Err(ViaError::Unknown(s.to_owned())),
        }
    }
}

fn hop(whole: &str, rest: &str, default_port: u16, implicit_tls: bool) -> Result<Via, ViaError> {
    let wrong = || ViaError::Host(whole.to_owned());
    let authority = rest.trim_start_matches("://").trim_end_matches('/');
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => {
            let (ip, port) = literal.split_once(']').ok_or_else(wrong)?;
            (
                format!("[{}{ip}]", if ip.contains(':') { "IPv6:" } else { "" }),
                port.strip_prefix(':').or(port.is_empty().then_some("")),
            )
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let host = if host.parse::<std::net::Ipv4Addr>().is_ok() {
                format!("[{host}]")
            } else {
                host.to_owned()
            };
            (host, Some(port))
        }
    };
    let port = match port.ok_or_else(wrong)? {
        "" => default_port,
        port => port.parse().ok().filter(|&p| p > 0).ok_or_else(wrong)?,
    };
    Ok(Via::Hops(vec![Hop {
        implicit_tls,
        ..Hop::smtp(host.parse().map_err(|_| wrong())?, port)
    }]))
}

fn maildir(whole: &str, path: &str) -> Result<Via, ViaError> {
    let plain = path.replace("{local}", "x").replace("{domain}", "x");
    let safe = Path::new(path).is_absolute() && !plain.contains(['{', '}', '\0']);
    if safe {
        Ok(Via::Maildir(path.to_owned()))
    } else {
        Err(ViaError::Path(whole.to_owned()))
    }
}

fn reply(whole: &str, class: Class, rest: &str) -> Result<Reply, ViaError> {
    let wrong = || ViaError::Code(whole.to_owned());
    let (first, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let (enhanced, text) = match first.parse::<EnhancedCode>() {
        Ok(enhanced) if enhanced.class == class => (enhanced, text),
        // Also "550", and a text without a code: it would be sent as it is, in front of ours.
        Ok(_) => return Err(wrong()),
        Err(_) if !rest.is_empty() => return Err(wrong()),
        Err(_) if class == Class::Permanent => (EnhancedCode::permanent(7, 1), ""),
        Err(_) => (EnhancedCode::transient(7, 1), ""),
    };
    let (code, default) = match class {
        Class::Permanent => (550, "Rejected by a route"),
        Class::Transient | Class::Success => (451, "Deferred by a route"),
    };
    let code = ReplyCode::new(code).ok_or_else(wrong)?;
    let text = if text.is_empty() { default } else { text };
    Ok(Reply {
        code,
        enhanced: Some(enhanced),
        text: text.to_owned().into(),
    })
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
    use crate::route::HopAddress;

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
    fn ways() {
        let hop = |via: &str| match via.parse().unwrap() {
            Via::Hops(hops) => match &hops[0].at {
                HopAddress::Tcp { host, port } => {
                    format!("{host}:{port} {}", hops[0].implicit_tls)
                }
                HopAddress::Unix(_) => panic!("{via}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(hop("smtp://mail.example.org"), "mail.example.org:25 false");
        assert_eq!(hop("smtps://mail.example.org"), "mail.example.org:465 true");
        assert_eq!(hop("smtp://127.0.0.1:2525"), "[127.0.0.1]:2525 false");
        assert_eq!(hop("smtp://[::1]:2525"), "[IPv6:::1]:2525 false");
        let shown = |via: &str| match via.parse().unwrap() {
            Via::Reject(reply) | Via::Defer(reply) => reply.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(shown("reject 5.1.1 no such user"), "550 5.1.1 no such user");
        assert_eq!(shown("reject"), "550 5.7.1 Rejected by a route");
        assert_eq!(shown("defer"), "451 4.7.1 Deferred by a route");
        assert_eq!(shown("defer 4.2.0 come back"), "451 4.2.0 come back");
        for bad in [
            "",
            "mix",
            "mx now",
            "smtp://",
            "smtp://a:0",
            "smtp://a:99999",
            "smtp://a b",
            "reject 4.1.1 x",
            "defer 5.1.1 x",
            "defer come back",
            "reject 550 5.1.1 x",
            "reject no such user",
            "maildir:rel",
            "maildir:/a/{user}",
            "lmtp://a:24",
        ] {
            assert!(bad.parse::<Via>().is_err(), "{bad}");
        }
        assert!(matches!(
            "lmtp+unix:///run/lmtp".parse::<Via>(),
            Err(ViaError::NotBuilt(_))
        ));
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
        fn nothing_panics(s in ".{0,40}") {
            let _ = s.parse::<Pattern>();
            let _ = s.parse::<Via>();
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
