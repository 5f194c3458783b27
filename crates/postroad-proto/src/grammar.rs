//! The arguments of commands (RFC 5321 sections 4.1.1 and 4.1.2, RFC 3030, RFC 4954).
//!
//! ```text
//! ehlo         = "EHLO" SP ( Domain / address-literal ) CRLF
//! mail         = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF
//! rcpt         = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path )
//!                [SP Rcpt-parameters] CRLF
//! bdat         = "BDAT" SP chunk-size [ SP "LAST" ] CRLF
//! auth         = "AUTH" SP sasl-mech [ SP initial-response ] CRLF
//! ```

use std::borrow::Cow;

use postroad_mail::{Address, ForwardPath, PathError, Reply, ReversePath, replies};

use crate::ehlo::Extensions;
use crate::params;
use crate::server::{Mail, Rcpt};

/// Octets of a HELO or EHLO argument, at most (RFC 5321 section 4.5.3.1.2).
const HELLO_MAX: usize = 255;

/// A chunk as BDAT announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BdatArgument {
    pub(crate) size: u64,
    pub(crate) last: bool,
}

/// Why the argument of BDAT is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BdatError {
    /// It cannot be told how many octets follow, and so not where the next command starts.
    Size,
    /// That many octets follow, and something is wrong with the rest.
    Trailing(u64),
}

/// The host's name in HELO or EHLO. Which names are good ones is for policy to say.
pub(crate) fn hello(argument: &[u8]) -> Result<String, Reply> {
    if argument.is_empty() || argument.len() > HELLO_MAX {
        return Err(replies::BAD_HELLO);
    }
    let name = String::from_utf8_lossy(argument);
    if name.chars().any(char::is_control) {
        return Err(replies::BAD_HELLO);
    }
    Ok(name.into_owned())
}

/// MAIL FROM, with the parameters of extensions that are offered.
pub(crate) fn mail(argument: &[u8], offered: &Extensions) -> Result<Mail, Reply> {
    let argument = text(argument)?;
    let path = behind(
        argument,
        "FROM:",
        "Syntax: MAIL FROM:<address> [parameters]",
    )?;
    let (from, rest) =
        ReversePath::parse_prefix(path).map_err(|e| bad_path(e, replies::BAD_SENDER))?;
    let mail = params::mail(from, split_parameters(rest, &replies::BAD_SENDER)?, offered)?;
    let ascii = mail.from.address().is_none_or(Address::is_ascii);
    if !ascii && !mail.smtputf8 {
        return Err(replies::NEEDS_SMTPUTF8);
    }
    Ok(mail)
}

/// RCPT TO, with the parameters of extensions that are offered, in a transaction with SMTPUTF8
/// or without.
pub(crate) fn rcpt(argument: &[u8], offered: &Extensions, smtputf8: bool) -> Result<Rcpt, Reply> {
    let argument = text(argument)?;
    let path = behind(argument, "TO:", "Syntax: RCPT TO:<address> [parameters]")?;
    let (to, rest) =
        ForwardPath::parse_prefix(path).map_err(|e| bad_path(e, replies::BAD_RECIPIENT))?;
    let parameters = split_parameters(rest, &replies::BAD_RECIPIENT)?;
    let rcpt = params::rcpt(to, parameters, offered)?;
    let ascii = match &rcpt.to {
        ForwardPath::Postmaster => true,
        ForwardPath::Address(address) => address.is_ascii(),
    };
    // RFC 6533 section 3: an ORCPT as it is also needs SMTPUTF8; its other form does not.
    if !(smtputf8 || ascii && rest.is_ascii()) {
        return Err(replies::NEEDS_SMTPUTF8);
    }
    Ok(rcpt)
}

/// BDAT.
pub(crate) fn bdat(argument: &[u8]) -> Result<BdatArgument, BdatError> {
    let argument = std::str::from_utf8(argument).map_err(|_| BdatError::Size)?;
    let (size, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let size = number(size).ok_or(BdatError::Size)?;
    match rest.trim_start_matches(' ') {
        "" => Ok(BdatArgument { size, last: false }),
        word if word.eq_ignore_ascii_case("LAST") => Ok(BdatArgument { size, last: true }),
        _ => Err(BdatError::Trailing(size)),
    }
}

/// AUTH: the mechanism's name, and the initial response, still in base64.
pub(crate) fn auth(argument: &[u8]) -> Result<(&str, Option<&str>), Reply> {
    let syntax = || syntax("Syntax: AUTH mechanism [initial-response]");
    let argument = text(argument)?;
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    let mechanism = words.next().ok_or_else(syntax)?;
    let initial = words.next();
    if words.next().is_some() {
        return Err(syntax());
    }
    Ok((mechanism, initial))
}

/// The argument of VRFY or EXPN.
pub(crate) fn text_argument(argument: &[u8]) -> Result<String, Reply> {
    match text(argument)? {
        "" => Err(syntax("An argument is needed: a user name or an address")),
        argument => Ok(argument.to_owned()),
    }
}

/// Nothing, where a command takes no argument.
pub(crate) fn nothing(argument: &[u8]) -> Result<(), Reply> {
    if argument.is_empty() {
        Ok(())
    } else {
        Err(syntax("This command takes no argument"))
    }
}

/// UTF-8 without control characters; whether more than ASCII is allowed depends on SMTPUTF8.
pub(crate) fn text(argument: &[u8]) -> Result<&str, Reply> {
    match std::str::from_utf8(argument) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(text),
        _ => Err(replies::INVALID_OCTETS),
    }
}

/// A number in decimal digits and nothing else.
pub(crate) fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// A syntax error, with the text that says what is wrong.
pub(crate) fn syntax(text: impl Into<Cow<'static, str>>) -> Reply {
    replies::BAD_ARGUMENTS.with_text(text)
}

/// What stands behind `FROM:` or `TO:`; one space there is common, and harmless.
fn behind<'a>(argument: &'a str, keyword: &str, usage: &'static str) -> Result<&'a str, Reply> {
    let (head, path) = argument
        .split_at_checked(keyword.len())
        .filter(|(head, _)| head.eq_ignore_ascii_case(keyword))
        .unwrap_or(("", ""));
    if head.is_empty() {
        return Err(syntax(usage));
    }
    Ok(path.strip_prefix(' ').unwrap_or(path))
}

fn bad_path(error: PathError, otherwise: Reply) -> Reply {
    match error {
        PathError::Brackets => replies::BAD_PATH,
        _ => otherwise,
    }
}

/// The parameters behind a path, which a space must keep apart from it.
fn split_parameters<'a>(
    rest: &'a str,
    bad_path: &Reply,
) -> Result<impl Iterator<Item = &'a str> + use<'a>, Reply> {
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(bad_path.clone());
    }
    Ok(rest.split(' ').filter(|word| !word.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Extensions {
        Extensions {
            size: Some(0),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            ..Extensions::default()
        }
    }

    #[test]
    fn paths() {
        for (argument, want) in [
            ("FROM:<>", ""),
            ("from:<a@b>", "a@b"),
            ("FROM: <a@b>", "a@b"),
            ("FROM:<@x,@y:\"a b\"@c>", "\"a b\"@c"),
            ("FROM:<a@[IPv6:::1]>  SIZE=5", "a@[IPv6:::1]"),
        ] {
            let mail = mail(argument.as_bytes(), &all()).unwrap();
            assert_eq!(mail.from.to_string(), want, "{argument}");
        }
        for (argument, want) in [
            ("TO:<Postmaster>", "postmaster"),
            ("to: <a%b!c@d>", "a%b!c@d"),
        ] {
            let rcpt = rcpt(argument.as_bytes(), &all(), false).unwrap();
            assert_eq!(rcpt.to.to_string(), want, "{argument}");
        }
    }

    #[test]
    fn refused() {
        for (argument, want) in [
            ("", "501 5.5.4"),
            ("FROM <a@b>", "501 5.5.4"),
            ("TO:<a@b>", "501 5.5.4"),
            ("FROM:a@b", "501 5.5.2"),
            ("FROM:  <a@b>", "501 5.5.2"),
            ("FROM:<a@b", "501 5.5.2"),
            ("FROM:<a@>", "501 5.1.7"),
            ("FROM:<a..b@c>", "501 5.1.7"),
            ("FROM:<a@b>SIZE=1", "501 5.1.7"),
            ("FROM:<ü@b>", "553 5.6.7"),
            ("FROM:<a@ü.example>", "553 5.6.7"),
            ("FROM:<a\t@b>", "500 5.5.2"),
        ] {
            let reply = mail(argument.as_bytes(), &all()).unwrap_err().to_string();
            assert!(reply.starts_with(want), "{argument}: {reply}");
        }
        let invalid = mail(b"FROM:<\xff@b>", &all()).unwrap_err();
        assert_eq!(invalid, replies::INVALID_OCTETS);
        for (argument, want) in [
            ("TO:<>", "501 5.1.3"),
            ("TO:<a>", "501 5.1.3"),
            ("TO:postmaster", "501 5.5.2"),
            ("TO:<ü@b>", "553 5.6.7"),
            ("TO:<a@b> ORCPT=utf-8;ü@b", "553 5.6.7"),
        ] {
            let reply = rcpt(argument.as_bytes(), &all(), false)
                .unwrap_err()
                .to_string();
            assert!(reply.starts_with(want), "{argument}: {reply}");
        }
        assert!(rcpt("TO:<ü@b>".as_bytes(), &all(), true).is_ok());
        assert!(rcpt("TO:<a@b> ORCPT=utf-8;ü@b".as_bytes(), &all(), true).is_ok());
        assert!(rcpt(b"TO:<a@b> ORCPT=utf-8;\\x{FC}@b", &all(), false).is_ok());
    }

    #[test]
    fn chunks() {
        for (argument, want) in [
            ("0", Ok((0, false))),
            ("10 LAST", Ok((10, true))),
            ("10  last", Ok((10, true))),
            ("18446744073709551615", Ok((u64::MAX, false))),
            ("18446744073709551616", Err(BdatError::Size)),
            ("", Err(BdatError::Size)),
            ("LAST", Err(BdatError::Size)),
            ("+1", Err(BdatError::Size)),
            ("-1", Err(BdatError::Size)),
            ("1x", Err(BdatError::Size)),
            ("7 FIRST", Err(BdatError::Trailing(7))),
            ("7 LAST x", Err(BdatError::Trailing(7))),
        ] {
            let got = bdat(argument.as_bytes()).map(|bdat| (bdat.size, bdat.last));
            assert_eq!(got, want, "{argument}");
        }
    }

    #[test]
    fn hello_takes_any_name() {
        for name in ["host.example", "[192.0.2.1]", "x", "two words", "ü", "-_-"] {
            assert_eq!(hello(name.as_bytes()).unwrap(), name);
        }
        assert_eq!(hello(b"\xff").unwrap(), "\u{fffd}");
        assert!(hello(&[b'x'; 255]).is_ok());
        for bad in [
            &b""[..],
            &[b'x'; 256],
            b"a\x00b",
            b"a\tb",
            "a\u{85}b".as_bytes(),
        ] {
            assert_eq!(hello(bad), Err(replies::BAD_HELLO), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(argument in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let _ = hello(&argument);
            let _ = mail(&argument, &all());
            let _ = rcpt(&argument, &all(), true);
            let _ = bdat(&argument);
            let _ = auth(&argument);
        }
    }
}
