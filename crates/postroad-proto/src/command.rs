//! The commands by their verbs (RFC 5321 section 4.1.1).

/// A command line taken apart: the verb, and what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Which command.
    pub verb: Verb,
    /// What stands behind the verb, without the spaces around it.
    pub argument: &'a [u8],
}

/// The commands that a server may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// HELO
    Helo,
    /// EHLO
    Ehlo,
    /// MAIL
    Mail,
    /// RCPT
    Rcpt,
    /// DATA
    Data,
    /// BDAT (RFC 3030)
    Bdat,
    /// RSET
    Rset,
    /// VRFY
    Vrfy,
    /// EXPN
    Expn,
    /// NOOP
    Noop,
    /// HELP
    Help,
    /// QUIT
    Quit,
    /// STARTTLS (RFC 3207)
    StartTls,
    /// AUTH (RFC 4954)
    Auth,
}

impl<'a> Command<'a> {
    /// Takes a line apart, its end not included; `None` where the verb is none of ours.
    ///
    /// ```
    /// use postroad_proto::command::{Command, Verb};
    ///
    /// let command = Command::parse(b"mail FROM:<a@b.example> ").unwrap();
    /// assert_eq!(command.verb, Verb::Mail);
    /// assert_eq!(command.argument, b"FROM:<a@b.example>");
    /// assert_eq!(Command::parse(b"MAILFROM:<a@b.example>"), None);
    /// ```
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let end = memchr::memchr(b' ', line).unwrap_or(line.len());
        let (word, rest) = line.split_at_checked(end)?;
        let verb = Verb::ALL
            .into_iter()
            .find(|verb| verb.name().as_bytes().eq_ignore_ascii_case(word))?;
        Some(Self {
            verb,
            argument: trim_spaces(rest),
        })
    }
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 14] = [
        Self::Rcpt,
        Self::Mail,
        Self::Data,
        Self::Bdat,
        Self::Ehlo,
        Self::Helo,
        Self::Rset,
        Self::Quit,
        Self::Noop,
        Self::Auth,
        Self::StartTls,
        Self::Vrfy,
        Self::Expn,
        Self::Help,
    ];

    /// The verb as it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Helo => "HELO",
            Self::Ehlo => "EHLO",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Bdat => "BDAT",
            Self::Rset => "RSET",
            Self::Vrfy => "VRFY",
            Self::Expn => "EXPN",
            Self::Noop => "NOOP",
            Self::Help => "HELP",
            Self::Quit => "QUIT",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
        }
    }
}

/// Whether a line, however malformed, may have been meant as BDAT or DATA: content may be what
/// comes next. A bare CR in it may have been meant as a line end.
pub(crate) fn announces_content(line: &[u8]) -> bool {
    line.split(|&octet| octet == b'\r').any(|part| {
        part.trim_ascii_start()
            .split_at_checked(4)
            .is_some_and(|(word, rest)| {
                [Verb::Bdat, Verb::Data]
                    .iter()
                    .any(|verb| verb.name().as_bytes().eq_ignore_ascii_case(word))
                    && rest
                        .first()
                        .is_none_or(|next| !next.is_ascii_alphanumeric())
            })
    })
}

/// RFC 5321 section 4.1.1: servers should tolerate white space before the line end.
fn trim_spaces(mut text: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_in_any_case() {
        for verb in Verb::ALL {
            for line in [
                verb.name().to_owned(),
                verb.name().to_ascii_lowercase(),
                format!("{}  ", verb.name()),
                format!("{} x y ", verb.name()),
            ] {
                let command = Command::parse(line.as_bytes()).unwrap();
                assert_eq!(command.verb, verb, "{line}");
                assert!([&b""[..], b"x y"].contains(&command.argument), "{line}");
            }
        }
    }

    #[test]
    fn others() {
        for line in [
            "", " ", " NOOP", "NOOPX", "NOO", "NOOP\tx", "ETRN x", "NOOP\0",
        ] {
            assert_eq!(Command::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn what_may_announce_content() {
        for line in [
            "BDAT 5",
            "bdat",
            "DATA",
            "data\0",
            " BDAT\t5",
            "NOOP\rBDAT 5",
            "BDAT 5\r",
        ] {
            assert!(announces_content(line.as_bytes()), "{line:?}");
        }
        for line in ["", "NOOP", "BDA", "DATABASE", "NOOP BDAT 5", "DATA5"] {
            assert!(!announces_content(line.as_bytes()), "{line:?}");
        }
    }
}
