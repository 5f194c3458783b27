//! Lines out of a stream, each within its limit.
//!
//! A line that is too long is thrown away as it comes; nothing of it is kept.

use bytes::{Buf as _, BytesMut};
use memchr::memchr;

/// Finds the lines at the start of a driver's buffer. It remembers how far it has looked, so that
/// a line that comes octet by octet is still looked at once.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    scanned: usize,
    discarding: Option<Overlong>,
}

/// What stands at the start of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A line: its octets are the first `text` of the buffer, and `all` are used up with it.
    Line {
        /// Octets without the line end.
        text: usize,
        /// Octets with it.
        all: usize,
        /// What ended the line.
        end: LineEnd,
    },
    /// A line that was too long has come to its end, and is gone.
    TooLong(Overlong),
    /// No line is complete.
    More,
}

/// What ended a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineEnd {
    /// CRLF, and no other CR in the line.
    CrLf,
    /// An LF without CR before it.
    BareLf,
    /// CRLF or LF, with a bare CR somewhere in the line.
    BareCr,
}

/// Which limit a line went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlong {
    /// That of a command.
    Command,
    /// That of AUTH.
    Auth,
    /// That of a command behind which content may come.
    BeforeContent,
}

impl Lines {
    /// Looks for a line. `limit` says how many octets a line that begins like this may have, its
    /// end included, and what to call a longer one.
    pub(crate) fn find(
        &mut self,
        input: &mut BytesMut,
        limit: impl Fn(&[u8]) -> (usize, Overlong),
    ) -> Found {
        let new = input.get(self.scanned..).unwrap_or_default();
        let Some(at) = memchr(b'\n', new).map(|at| at + self.scanned) else {
            self.hold_back(input, limit);
            return Found::More;
        };
        self.scanned = 0;
        let all = at + 1;
        if let Some(overlong) = self.discarding.take() {
            input.advance(all);
            return Found::TooLong(overlong);
        }
        let before = input.get(..at).unwrap_or_default();
        let (max, overlong) = limit(before);
        if all > max {
            input.advance(all);
            return Found::TooLong(overlong);
        }
        let (line, ended) = match before.strip_suffix(b"\r") {
            Some(line) => (line, LineEnd::CrLf),
            None => (before, LineEnd::BareLf),
        };
        let end = if memchr(b'\r', line).is_some() {
            LineEnd::BareCr
        } else {
            ended
        };
        Found::Line {
            text: line.len(),
            all,
            end,
        }
    }

    /// Forgets what was seen of a line: the buffer has been emptied.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn hold_back(&mut self, input: &mut BytesMut, limit: impl Fn(&[u8]) -> (usize, Overlong)) {
        if self.discarding.is_none() {
            let (max, overlong) = limit(input);
            // With its LF still to come, the line is at least one octet longer than this.
            if input.len() >= max {
                self.discarding = Some(overlong);
            }
        }
        if self.discarding.is_some() {
            input.clear();
        }
        self.scanned = input.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(line: &[u8]) -> (usize, Overlong) {
        if line.starts_with(b"AUTH") {
            (20, Overlong::Auth)
        } else {
            (10, Overlong::Command)
        }
    }

    fn all(lines: &mut Lines, input: &mut BytesMut, out: &mut Vec<String>) {
        loop {
            match lines.find(input, limit) {
                Found::Line { text, all, end } => {
                    out.push(format!(
                        "{} {end:?}",
                        String::from_utf8_lossy(&input[..text])
                    ));
                    input.advance(all);
                }
                Found::TooLong(overlong) => out.push(format!("too long: {overlong:?}")),
                Found::More => return,
            }
        }
    }

    #[test]
    fn lines_at_any_split() {
        let stream = b"\r\nEHLO abc\r\n12345678\r\n123456789\r\nab\ncd\re\r\n\r\r\nf\rg\n\
            AUTH 5678901234567\r\nAUTH 56789012345678\r\nAUTH 56789012345678901234567890\r\nend\r";
        let want = [
            " CrLf",
            "EHLO abc CrLf",
            "12345678 CrLf",
            "too long: Command",
            "ab BareLf",
            "cd\re BareCr",
            "\r BareCr",
            "f\rg BareCr",
            "AUTH 5678901234567 CrLf",
            "too long: Auth",
            "too long: Auth",
        ];
        let want: Vec<String> = want.iter().map(|&line| line.to_owned()).collect();
        for step in 1..stream.len() {
            let (mut lines, mut input, mut out) = (Lines::default(), BytesMut::new(), Vec::new());
            for piece in stream.chunks(step) {
                input.extend_from_slice(piece);
                all(&mut lines, &mut input, &mut out);
                assert!(input.len() < 20, "kept {}", input.len());
            }
            assert_eq!(out, want, "in steps of {step}");
        }
    }
}
