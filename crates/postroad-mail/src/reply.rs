use std::borrow::Cow;
use std::fmt;

use bytes::BufMut;
use serde::{Deserialize, Serialize};

use crate::status::{Class, EnhancedCode, ReplyCode, Severity};

/// A reply: code, enhanced status code (RFC 2034) and text; both those we give and those we get.
///
/// The text may hold several lines, separated by `\n`. On the wire ([`Reply::write_to`]) each
/// line is cut at [`Reply::LINE_MAX`] octets, and whatever is not printable ASCII becomes `?`, so
/// that no text can forge a line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reply {
    /// The three digits.
    pub code: ReplyCode,
    /// The enhanced code; absent in greetings, HELO, EHLO, 334 and 354 replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<EnhancedCode>,
    /// What a person reads; lines separated by `\n`.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// Octets of text in one line at most, so that a line stays under 512 octets
    /// (RFC 5321 section 4.5.3.1.5).
    pub const LINE_MAX: usize = 480;

    /// A row of the table in [`crate::replies`].
    ///
    /// # Panics
    /// In a constant, and so at compile time, where `code` is no reply code, or the classes
    /// disagree (RFC 2034 section 4).
    #[must_use]
    pub const fn row(code: u16, enhanced: EnhancedCode, text: &'static str) -> Self {
        let class = match enhanced.class {
            Class::Success => 2,
            Class::Transient => 4,
            Class::Permanent => 5,
        };
        assert!(
            code / 100 == class,
            "RFC 2034 section 4: the classes must agree"
        );
        let Some(code) = ReplyCode::new(code) else {
            panic!("not a reply code")
        };
        Self {
            code,
            enhanced: Some(enhanced),
            text: Cow::Borrowed(text),
        }
    }

    /// A row without enhanced code.
    ///
    /// # Panics
    /// In a constant, and so at compile time, where `code` is no reply code.
    #[must_use]
    pub const fn plain(code: u16, text: &'static str) -> Self {
        let Some(code) = ReplyCode::new(code) else {
            panic!("not a reply code")
        };
        Self {
            code,
            enhanced: None,
            text: Cow::Borrowed(text),
        }
    }

    /// The same codes with another text.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.text = text.into();
        self
    }

    /// What the first digit says.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// Whether the reply is 2yz.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.severity(), Severity::Success)
    }

    /// Writes the reply as it goes over the wire, CRLF included.
    pub fn write_to(&self, out: &mut impl BufMut) {
        self.write_lines(Self::LINE_MAX, out);
    }

    /// The same, with lines of any length: a challenge of AUTH is of no use but whole, and may be
    /// longer than other replies (RFC 4954 section 4).
    pub fn write_uncut(&self, out: &mut impl BufMut) {
        self.write_lines(usize::MAX, out);
    }

    fn write_lines(&self, max: usize, out: &mut impl BufMut) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { b'-' } else { b' ' };
            put_number(out, self.code.get());
            out.put_u8(separator);
            if let Some(enhanced) = self.enhanced {
                let class = match enhanced.class {
                    Class::Success => b'2',
                    Class::Transient => b'4',
                    Class::Permanent => b'5',
                };
                out.put_u8(class);
                out.put_u8(b'.');
                put_number(out, enhanced.subject);
                out.put_u8(b'.');
                put_number(out, enhanced.detail);
                out.put_u8(b' ');
            }
            let line = line.as_bytes();
            let line = line.get(..max).unwrap_or(line);
            if line.iter().all(|b| (b' '..=b'~').contains(b)) {
                out.put_slice(line);
            } else {
                for &b in line {
                    out.put_u8(if (b' '..=b'~').contains(&b) { b } else { b'?' });
                }
            }
            out.put_slice(b"\r\n");
        }
    }
}

fn put_number(out: &mut impl BufMut, n: u16) {
    let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
    if n >= 100 {
        out.put_u8(digit(n / 100));
    }
    if n >= 10 {
        out.put_u8(digit(n / 10));
    }
    out.put_u8(digit(n));
}

/// One line, for logs and notices: lines of the text joined by a space.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in self.text.split('\n') {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn written_line_by_line() {
        let reply = Reply::row(250, EnhancedCode::success(0, 0), "one\ntwo");
        assert_eq!(wire(&reply), "250-2.0.0 one\r\n250 2.0.0 two\r\n");
        assert_eq!(wire(&Reply::plain(354, "go")), "354 go\r\n");
        let reply = Reply::row(550, EnhancedCode::permanent(7, 11), "x");
        assert_eq!(wire(&reply), "550 5.7.11 x\r\n");
    }

    #[test]
    fn text_cannot_forge_a_line() {
        let reply = Reply::plain(250, "x").with_text("a\r250 b\u{e9}");
        assert_eq!(wire(&reply), "250 a?250 b??\r\n");
        let reply = Reply::plain(250, "x").with_text("y".repeat(2000));
        assert!(wire(&reply).len() <= 512);
        let mut whole = Vec::new();
        reply.write_uncut(&mut whole);
        assert_eq!(whole.len(), "250 ".len() + 2000 + 2);
    }
}
