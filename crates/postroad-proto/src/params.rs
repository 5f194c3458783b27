//! The ESMTP parameters of MAIL and RCPT (RFC 5321 section 4.1.1.11).

use postroad_mail::{
    AuthParam, BodyKind, ForwardPath, Reply, Ret, ReversePath, replies, xtext_decode,
};

use crate::ehlo::Extensions;
use crate::grammar::{number, syntax};
use crate::server::{Mail, Rcpt};

/// Octets of a command line, its end included, without extensions (RFC 5321 section 4.5.3.1.4).
pub(crate) const COMMAND_LINE: usize = 512;
/// Octets of ENVID, encoded (RFC 3461 section 4.4).
const ENVID_MAX: usize = 100;
/// Octets of ORCPT, encoded (RFC 3461 section 4.2), and of AUTH (RFC 4954 section 3).
pub(crate) const XTEXT_MAX: usize = 500;

/// Octets of command lines, their ends included, with the parameters of what is offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineLimits {
    mail: usize,
    rcpt: usize,
}

impl Default for LineLimits {
    fn default() -> Self {
        Self::new(&Extensions::default())
    }
}

impl LineLimits {
    pub(crate) fn new(offered: &Extensions) -> Self {
        let with = |on: bool, octets: usize| if on { octets } else { 0 };
        // RFC 1870 section 3, RFC 6152 section 2 (which BODY=BINARYMIME fits into), RFC 6531
        // section 3.1, RFC 8689 section 2, RFC 4954 section 3. RFC 3461 names no sum: its
        // parameters at their longest (sections 4.1 to 4.4).
        let mail = with(offered.size.is_some(), 26)
            + with(offered.eight_bit_mime, 17)
            + with(offered.smtputf8, 10)
            + with(offered.require_tls, " REQUIRETLS".len())
            + with(!offered.auth.is_empty(), 500)
            + with(offered.dsn, " RET=FULL ENVID=".len() + ENVID_MAX);
        let rcpt = " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=".len() + XTEXT_MAX;
        Self {
            mail: COMMAND_LINE + mail,
            rcpt: COMMAND_LINE + with(offered.dsn, rcpt),
        }
    }

    /// The limit of a line that begins like this.
    pub(crate) fn of(self, line: &[u8]) -> usize {
        match line.get(..5) {
            Some(word) if word.eq_ignore_ascii_case(b"MAIL ") => self.mail,
            Some(word) if word.eq_ignore_ascii_case(b"RCPT ") => self.rcpt,
            _ => COMMAND_LINE,
        }
    }
}

/// MAIL's parameters.
pub(crate) fn mail<'a>(
    from: ReversePath,
    words: impl Iterator<Item = &'a str>,
    offered: &Extensions,
) -> Result<Mail, Reply> {
    let mut mail = Mail {
        from,
        size: None,
        body: BodyKind::default(),
        smtputf8: false,
        require_tls: false,
        ret: None,
        envid: None,
        auth: None,
    };
    let mut seen = Seen::default();
    for word in words {
        let (keyword, value) = split(word)?;
        let known = keyword_of(keyword, &MAIL_KEYWORDS).filter(|keyword| match keyword {
            Keyword::Size => offered.size.is_some(),
            Keyword::Body => offered.eight_bit_mime,
            Keyword::SmtpUtf8 => offered.smtputf8,
            Keyword::RequireTls => offered.require_tls,
            Keyword::Auth => !offered.auth.is_empty(),
            Keyword::Ret | Keyword::EnvId | Keyword::Notify | Keyword::OrCpt => offered.dsn,
        });
        let known = known.ok_or_else(|| unknown(keyword))?;
        seen.first_time(known)?;
        match (known, value) {
            (Keyword::Size, Some(value)) => mail.size = Some(size(value)?),
            (Keyword::Body, Some(value)) => mail.body = body(value, offered)?,
            (Keyword::SmtpUtf8, None) => mail.smtputf8 = true,
            (Keyword::RequireTls, None) => mail.require_tls = true,
            (Keyword::Ret, Some(value)) => mail.ret = Some(ret(value)?),
            (Keyword::EnvId, Some(value)) => mail.envid = Some(envid(value)?),
            (Keyword::Auth, Some(value)) => mail.auth = Some(auth(value)?),
            _ => return Err(bad(known)),
        }
    }
    Ok(mail)
}

/// RCPT's parameters.
pub(crate) fn rcpt<'a>(
    to: ForwardPath,
    words: impl Iterator<Item = &'a str>,
    offered: &Extensions,
) -> Result<Rcpt, Reply> {
    let mut rcpt = Rcpt {
        to,
        notify: None,
        original: None,
    };
    let mut seen = Seen::default();
    for word in words {
        let (keyword, value) = split(word)?;
        let known = keyword_of(keyword, &RCPT_KEYWORDS).filter(|_| offered.dsn);
        let known = known.ok_or_else(|| unknown(keyword))?;
        seen.first_time(known)?;
        match (known, value) {
            (Keyword::Notify, Some(value)) => {
                rcpt.notify = Some(value.parse().map_err(|_| bad(known))?);
            }
            (Keyword::OrCpt, Some(value)) if value.len() <= XTEXT_MAX => {
                rcpt.original = Some(value.parse().map_err(|_| bad(known))?);
            }
            _ => return Err(bad(known)),
        }
    }
    Ok(rcpt)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyword {
    Size,
    Body,
    SmtpUtf8,
    RequireTls,
    Ret,
    EnvId,
    Auth,
    Notify,
    OrCpt,
}

const MAIL_KEYWORDS: [Keyword; 7] = [
    Keyword::Size,
    Keyword::Body,
    Keyword::SmtpUtf8,
    Keyword::RequireTls,
    Keyword::Ret,
    Keyword::EnvId,
    Keyword::Auth,
];

const RCPT_KEYWORDS: [Keyword; 2] = [Keyword::Notify, Keyword::OrCpt];

impl Keyword {
    const fn name(self) -> &'static str {
        match self {
            Self::Size => "SIZE",
            Self::Body => "BODY",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::RequireTls => "REQUIRETLS",
            Self::Ret => "RET",
            Self::EnvId => "ENVID",
            Self::Auth => "AUTH",
            Self::Notify => "NOTIFY",
            Self::OrCpt => "ORCPT",
        }
    }
}

/// Which parameters have come: none may come twice.
#[derive(Debug, Default)]
struct Seen(u16);

impl Seen {
    fn first_time(&mut self, keyword: Keyword) -> Result<(), Reply> {
        let bit = 1 << keyword as u16;
        if self.0 & bit != 0 {
            return Err(syntax(format!(
                "The parameter {} is given twice",
                keyword.name()
            )));
        }
        self.0 |= bit;
        Ok(())
    }
}

fn keyword_of(word: &str, known: &[Keyword]) -> Option<Keyword> {
    known
        .iter()
        .copied()
        .find(|keyword| keyword.name().eq_ignore_ascii_case(word))
}

/// `esmtp-param = esmtp-keyword ["=" esmtp-value]`
fn split(word: &str) -> Result<(&str, Option<&str>), Reply> {
    let (keyword, value) = match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    };
    let valid = keyword
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && keyword.bytes().next().is_some_and(|b| b != b'-');
    if valid && value != Some("") {
        Ok((keyword, value))
    } else {
        Err(syntax("Syntax error in a parameter"))
    }
}

fn unknown(keyword: &str) -> Reply {
    replies::UNKNOWN_PARAMETER.with_text(format!(
        "Parameter {keyword} not recognised or not implemented"
    ))
}

fn bad(keyword: Keyword) -> Reply {
    syntax(match keyword {
        Keyword::Size => "SIZE takes a number of octets",
        Keyword::Body => "BODY takes 7BIT, 8BITMIME or BINARYMIME",
        Keyword::SmtpUtf8 => "SMTPUTF8 takes no value",
        Keyword::RequireTls => "REQUIRETLS takes no value",
        Keyword::Ret => "RET takes FULL or HDRS",
        Keyword::EnvId => "ENVID takes xtext, 100 characters at most",
        Keyword::Auth => "AUTH takes <> or xtext, 500 characters at most",
        Keyword::Notify => "NOTIFY takes NEVER, or a list of SUCCESS, FAILURE and DELAY",
        Keyword::OrCpt => {
            "ORCPT takes an address type, a semicolon, and xtext, 500 characters at most"
        }
    })
}

/// `size-value ::= 1*20DIGIT` (RFC 1870 section 3); what no number can hold is beyond any limit.
fn size(value: &str) -> Result<u64, Reply> {
    if value.len() > 20 || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad(Keyword::Size));
    }
    Ok(number(value).unwrap_or(u64::MAX))
}

fn body(value: &str, offered: &Extensions) -> Result<BodyKind, Reply> {
    match value {
        _ if value.eq_ignore_ascii_case("7BIT") => Ok(BodyKind::SevenBit),
        _ if value.eq_ignore_ascii_case("8BITMIME") => Ok(BodyKind::EightBitMime),
        _ if value.eq_ignore_ascii_case("BINARYMIME") => {
            if offered.binary_mime {
                Ok(BodyKind::BinaryMime)
            } else {
                Err(unknown("BODY=BINARYMIME"))
            }
        }
        _ => Err(bad(Keyword::Body)),
    }
}

fn ret(value: &str) -> Result<Ret, Reply> {
    match value {
        _ if value.eq_ignore_ascii_case("FULL") => Ok(Ret::Full),
        _ if value.eq_ignore_ascii_case("HDRS") => Ok(Ret::Headers),
        _ => Err(bad(Keyword::Ret)),
    }
}

fn envid(value: &str) -> Result<String, Reply> {
    if value.len() > ENVID_MAX {
        return Err(bad(Keyword::EnvId));
    }
    printable(value).ok_or_else(|| bad(Keyword::EnvId))
}

fn auth(value: &str) -> Result<AuthParam, Reply> {
    if value == "<>" {
        return Ok(AuthParam::Unknown);
    }
    if value.len() > XTEXT_MAX {
        return Err(bad(Keyword::Auth));
    }
    match printable(value) {
        Some(identity) => Ok(AuthParam::Identity(identity)),
        None => Err(bad(Keyword::Auth)),
    }
}

/// Decoded xtext that could not break a line of a report or header.
fn printable(xtext: &str) -> Option<String> {
    let text = xtext_decode(xtext).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::Mechanism;

    fn all() -> Extensions {
        Extensions {
            size: Some(0),
            eight_bit_mime: true,
            binary_mime: true,
            smtputf8: true,
            require_tls: true,
            dsn: true,
            auth: vec![Mechanism::Plain],
            ..Extensions::default()
        }
    }

    fn mail_of(words: &str, offered: &Extensions) -> Result<Mail, String> {
        mail(ReversePath::Null, words.split_ascii_whitespace(), offered)
            .map_err(|reply| reply.to_string())
    }

    fn rcpt_of(words: &str, offered: &Extensions) -> Result<Rcpt, String> {
        rcpt(
            ForwardPath::Postmaster,
            words.split_ascii_whitespace(),
            offered,
        )
        .map_err(|reply| reply.to_string())
    }

    #[test]
    fn all_of_mail() {
        let words = "SIZE=1000 body=8bitmime SMTPUTF8 RequireTLS RET=HDRS ENVID=a+2Bb AUTH=x+3Dy";
        assert_eq!(
            mail_of(words, &all()).unwrap(),
            Mail {
                from: ReversePath::Null,
                size: Some(1000),
                body: BodyKind::EightBitMime,
                smtputf8: true,
                require_tls: true,
                ret: Some(Ret::Headers),
                envid: Some("a+b".to_owned()),
                auth: Some(AuthParam::Identity("x=y".to_owned())),
            }
        );
        assert_eq!(
            mail_of("AUTH=<>", &all()).unwrap().auth,
            Some(AuthParam::Unknown)
        );
        let huge = mail_of("SIZE=99999999999999999999", &all()).unwrap();
        assert_eq!(huge.size, Some(u64::MAX));
    }

    #[test]
    fn all_of_rcpt() {
        let rcpt = rcpt_of("notify=DELAY ORCPT=rfc822;a+2Bb@c", &all()).unwrap();
        assert_eq!(rcpt.notify.unwrap().to_string(), "DELAY");
        assert_eq!(rcpt.original.unwrap().address, "a+b@c");
    }

    #[test]
    fn refused() {
        let long = format!("ENVID={}", "x".repeat(101));
        for (words, want) in [
            ("SIZE", "501 5.5.4"),
            ("SIZE=", "501 5.5.4"),
            ("SIZE=-1", "501 5.5.4"),
            ("SIZE=123456789012345678901", "501 5.5.4"),
            ("SIZE=1 size=1", "501 5.5.4"),
            ("BODY=9BIT", "501 5.5.4"),
            ("SMTPUTF8=yes", "501 5.5.4"),
            ("REQUIRETLS=yes", "501 5.5.4"),
            ("REQUIRETLS requiretls", "501 5.5.4"),
            ("RET=SOME", "501 5.5.4"),
            ("ENVID=a=b", "501 5.5.4"),
            ("ENVID=a+0Ab", "501 5.5.4"),
            (&long, "501 5.5.4"),
            ("AUTH=a+0Db", "501 5.5.4"),
            ("=x", "501 5.5.4"),
            ("NOTIFY=NEVER", "555 5.5.4"),
            ("X-FOO=1", "555 5.5.4"),
        ] {
            let reply = mail_of(words, &all()).unwrap_err();
            assert!(reply.starts_with(want), "{words}: {reply}");
        }
        for (words, want) in [
            ("NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4"),
            ("ORCPT=a@b", "501 5.5.4"),
            ("SIZE=1", "555 5.5.4"),
        ] {
            let reply = rcpt_of(words, &all()).unwrap_err();
            assert!(reply.starts_with(want), "{words}: {reply}");
        }
    }

    #[test]
    fn what_is_not_offered_is_not_implemented() {
        let none = Extensions::default();
        for words in [
            "SIZE=1",
            "BODY=7BIT",
            "SMTPUTF8",
            "REQUIRETLS",
            "RET=FULL",
            "ENVID=x",
            "AUTH=<>",
        ] {
            let reply = mail_of(words, &none).unwrap_err();
            assert!(reply.starts_with("555 5.5.4"), "{words}: {reply}");
        }
        for words in ["NOTIFY=NEVER", "ORCPT=rfc822;a@b"] {
            let reply = rcpt_of(words, &none).unwrap_err();
            assert!(reply.starts_with("555 5.5.4"), "{words}: {reply}");
        }
        let text_only = Extensions {
            binary_mime: false,
            ..all()
        };
        let reply = mail_of("BODY=BINARYMIME", &text_only).unwrap_err();
        assert!(reply.starts_with("555 5.5.4"), "{reply}");
    }

    #[test]
    fn the_line_grows_with_the_extensions() {
        let none = Extensions::default;
        for (offered, mail, rcpt) in [
            (none(), 512, 512),
            (
                Extensions {
                    size: Some(1),
                    ..none()
                },
                512 + 26,
                512,
            ),
            (
                Extensions {
                    eight_bit_mime: true,
                    ..none()
                },
                512 + 17,
                512,
            ),
            (
                Extensions {
                    smtputf8: true,
                    ..none()
                },
                512 + 10,
                512,
            ),
            (
                Extensions {
                    require_tls: true,
                    ..none()
                },
                512 + 11,
                512,
            ),
            (
                Extensions {
                    auth: vec![Mechanism::Plain],
                    ..none()
                },
                512 + 500,
                512,
            ),
            (
                Extensions {
                    dsn: true,
                    ..none()
                },
                512 + 116,
                1048,
            ),
            (all(), 512 + 26 + 17 + 10 + 11 + 500 + 116, 1048),
        ] {
            let limits = LineLimits::new(&offered);
            assert_eq!(limits.of(b"mail FROM:<"), mail, "{offered:?}");
            assert_eq!(limits.of(b"RCPT TO:<"), rcpt, "{offered:?}");
            assert_eq!(limits.of(b"NOOP"), 512);
            assert_eq!(limits.of(b"RCPTX"), 512);
        }
    }
}
