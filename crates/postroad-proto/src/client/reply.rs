use bytes::{Buf as _, BytesMut};
use postroad_mail::{Class, EnhancedCode, Reply, ReplyCode, Severity};

use crate::server::AUTH_LINE_MAX;

/// Octets of a reply line, at most, its LF not included. RFC 5321 section 4.5.3.1.5 says 512; real
/// servers say more, and the challenges of AUTH may be as long as this (RFC 4954 section 4).
pub const REPLY_LINE_MAX: usize = "334 ".len() + AUTH_LINE_MAX + "\r".len();
/// Lines of a reply, at most.
pub const REPLY_LINES_MAX: usize = 256;
/// Octets of a reply's text, at most.
pub const REPLY_MAX: usize = 32 << 10;

/// Reads replies (RFC 5321 section 4.2), line by line, as their octets come.
#[derive(Debug, Default)]
pub(crate) struct ReplyParser {
    code: Option<ReplyCode>,
    text: String,
    lines: usize,
    /// Octets at the start of the input that hold no line end.
    scanned: usize,
}

impl ReplyParser {
    /// Takes complete lines out of the input; gives the reply once it is complete.
    pub(crate) fn take(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, &'static str> {
        loop {
            let unseen = input.get(self.scanned..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', unseen).map(|at| at + self.scanned) else {
                self.scanned = input.len();
                return if input.len() > REPLY_LINE_MAX {
                    Err("a line that does not end")
                } else {
                    Ok(None)
                };
            };
            self.scanned = 0;
            if end > REPLY_LINE_MAX {
                return Err("a line that does not end");
            }
            let line = input.split_to(end);
            input.advance(1);
            let last = self.line(line.strip_suffix(b"\r").unwrap_or(&line))?;
            if last {
                let Some(code) = self.code.take() else {
                    return Err("no code");
                };
                let text = std::mem::take(&mut self.text);
                self.lines = 0;
                return Ok(Some(with_enhanced(code, text)));
            }
        }
    }

    /// Takes one line in; says whether it is the reply's last.
    fn line(&mut self, line: &[u8]) -> Result<bool, &'static str> {
        let (digits, rest) = line.split_at_checked(3).ok_or("a line without a code")?;
        let code = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .and_then(ReplyCode::new)
            .ok_or("a line without a code")?;
        if self.code.is_some_and(|first| first != code) {
            return Err("a code that changes between the lines of a reply");
        }
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err("a code that neither space nor hyphen follows"),
        };
        self.lines += 1;
        if self.lines > REPLY_LINES_MAX || self.text.len() + text.len() > REPLY_MAX {
            return Err("a reply that does not end");
        }
        if self.code.replace(code).is_some() {
            self.text.push('\n');
        }
        self.text.push_str(&String::from_utf8_lossy(text));
        Ok(last)
    }
}

/// Takes the enhanced code out of the text, where each line starts with one of the right class.
fn with_enhanced(code: ReplyCode, text: String) -> Reply {
    let class = match code.severity() {
        Severity::Success => Class::Success,
        Severity::Transient => Class::Transient,
        Severity::Permanent => Class::Permanent,
        Severity::Continue => {
            return Reply {
                code,
                enhanced: None,
                text: text.into(),
            };
        }
    };
    let first = text.split([' ', '\n']).next().unwrap_or_default();
    let Some(enhanced) = first
        .parse::<EnhancedCode>()
        .ok()
        .filter(|e| e.class == class)
    else {
        return Reply {
            code,
            enhanced: None,
            text: text.into(),
        };
    };
    let lines: Vec<_> = text
        .split('\n')
        .map(|line| match line.split_once(' ') {
            Some((word, rest)) if word == first => rest,
            None if line == first => "",
            _ => line,
        })
        .collect();
    Reply {
        code,
        enhanced: Some(enhanced),
        text: lines.join("\n").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(octets: &[u8]) -> Result<Option<Reply>, &'static str> {
        ReplyParser::default().take(&mut BytesMut::from(octets))
    }

    #[test]
    fn replies() {
        for (octets, shown) in [
            (&b"250 OK\r\n"[..], "250 OK"),
            (b"250\r\n", "250 "),
            (b"250 2.1.0 OK\r\n", "250 2.1.0 OK"),
            (
                b"550-5.1.1 no\r\n550 5.1.1 such user\r\n",
                "550 5.1.1 no such user",
            ),
            (b"550 4.1.1 wrong class\r\n", "550 4.1.1 wrong class"),
            (b"354 go\n", "354 go"),
            (b"421 4.3.2\r\n", "421 4.3.2 "),
        ] {
            assert_eq!(parse(octets).unwrap().unwrap().to_string(), shown);
        }
        assert_eq!(parse(b"550 4.1.1 x\r\n").unwrap().unwrap().enhanced, None);
        assert_eq!(parse(b"250-one\r\n250 tw").unwrap(), None);
    }

    #[test]
    fn refused() {
        for octets in [
            &b"\r\n"[..],
            b"25\r\n",
            b"abc def\r\n",
            b"199 x\r\n",
            b"600 x\r\n",
            b"250-a\r\n251 b\r\n",
            b"250_a\r\n",
            b"+50 x\r\n",
        ] {
            assert!(
                parse(octets).is_err(),
                "{:?}",
                String::from_utf8_lossy(octets)
            );
        }
        assert!(parse(&vec![b'2'; REPLY_LINE_MAX + 1]).is_err());
        assert!(parse(&b"250-x\r\n".repeat(REPLY_LINES_MAX + 1)).is_err());
        let challenge = "x".repeat(AUTH_LINE_MAX);
        let reply = parse(format!("334 {challenge}\r\n").as_bytes()).unwrap();
        assert_eq!(reply.unwrap().text, challenge);
        let long = [b"250-".as_slice(), &[b'x'; 4000], b"\r\n"].concat();
        assert!(parse(&long.repeat(9)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_octets_in_any_pieces(pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..40), 0..20)) {
            let mut parser = ReplyParser::default();
            let mut input = BytesMut::new();
            for piece in pieces {
                input.extend_from_slice(&piece);
                if parser.take(&mut input).is_err() {
                    break;
                }
                proptest::prop_assert!(input.len() <= REPLY_LINE_MAX + 40);
            }
        }
    }
}
