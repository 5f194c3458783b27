//! One connection to the sink: as much of SMTP as a next hop must have, and no more.

use bytes::{Buf as _, BytesMut};

use super::tally::Tally;

/// What EHLO offers: what a next hop of today does, so that each server shows its best.
const EXTENSIONS: &[u8] =
    b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n\
250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n";

/// Octets of a message in which its number is looked for: past the trace of any server.
const HEAD_MAX: usize = 8 << 10;

/// Octets of a command line, at most.
const LINE_MAX: usize = 4096;

/// A session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    state: State,
    head: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Command,
    /// Content that ends with a dot; whether it has only just begun.
    Data {
        begun: bool,
    },
    /// Content of a known length.
    Chunk {
        left: usize,
        last: bool,
    },
    Over,
}

impl Session {
    /// Takes what it can from the input, and adds the replies to it; false: the session is over.
    pub(crate) fn advance(
        &mut self,
        input: &mut BytesMut,
        replies: &mut Vec<u8>,
        tally: &Tally,
    ) -> bool {
        loop {
            let more = match self.state {
                State::Command => self.command(input, replies, tally),
                State::Data { begun } => self.data(begun, input, replies, tally),
                State::Chunk { left, last } => self.chunk(left, last, input, replies, tally),
                State::Over => return false,
            };
            if !more {
                return true;
            }
        }
    }

    fn command(&mut self, input: &mut BytesMut, replies: &mut Vec<u8>, tally: &Tally) -> bool {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if input.len() > LINE_MAX {
                self.state = State::Over;
            }
            return input.len() > LINE_MAX;
        };
        let line = input.split_to(end + 1);
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply: &[u8] = match verb.as_slice() {
            b"EHLO" => EXTENSIONS,
            b"HELO" => b"250 sink.test\r\n",
            b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => b"250 2.0.0 Ok\r\n",
            b"DATA" => {
                self.state = State::Data { begun: false };
                b"354 Go ahead\r\n"
            }
            b"BDAT" => match size(&line) {
                Some((left, last)) => {
                    self.state = State::Chunk { left, last };
                    b""
                }
                None => b"501 5.5.4 Syntax: BDAT size [LAST]\r\n",
            },
            b"QUIT" => {
                self.state = State::Over;
                b"221 2.0.0 Bye\r\n"
            }
            _ => b"500 5.5.1 Unknown command\r\n",
        };
        replies.extend_from_slice(reply);
        if matches!(self.state, State::Chunk { left: 0, .. }) {
            self.chunk_is_over(replies, tally);
        }
        true
    }

    fn data(
        &mut self,
        begun: bool,
        input: &mut BytesMut,
        replies: &mut Vec<u8>,
        tally: &Tally,
    ) -> bool {
        if !begun && input.len() < 3 {
            return false;
        }
        let end = if !begun && input.starts_with(b".\r\n") {
            Some((0, 3))
        } else {
            memchr::memmem::find(input, b"\r\n.\r\n").map(|at| (at + 2, 3))
        };
        let Some((length, dot)) = end else {
            // The end may be cut in two: all of it but its last octet may be here.
            let whole = input.len().saturating_sub(4);
            self.keep(input.get(..whole).unwrap_or_default());
            input.advance(whole);
            self.state = State::Data { begun: true };
            return false;
        };
        self.keep(input.get(..length).unwrap_or_default());
        input.advance(length + dot);
        self.message_is_over(replies, tally);
        true
    }

    fn chunk(
        &mut self,
        left: usize,
        last: bool,
        input: &mut BytesMut,
        replies: &mut Vec<u8>,
        tally: &Tally,
    ) -> bool {
        let length = left.min(input.len());
        self.keep(input.get(..length).unwrap_or_default());
        input.advance(length);
        let left = left - length;
        self.state = State::Chunk { left, last };
        if left == 0 {
            self.chunk_is_over(replies, tally);
        }
        left == 0
    }

    fn chunk_is_over(&mut self, replies: &mut Vec<u8>, tally: &Tally) {
        if matches!(self.state, State::Chunk { last: true, .. }) {
            self.message_is_over(replies, tally);
        } else {
            self.state = State::Command;
            replies.extend_from_slice(b"250 2.0.0 Ok\r\n");
        }
    }

    fn message_is_over(&mut self, replies: &mut Vec<u8>, tally: &Tally) {
        self.state = State::Command;
        tally.arrived(&self.head);
        self.head.clear();
        replies.extend_from_slice(b"250 2.0.0 Ok\r\n");
    }

    fn keep(&mut self, content: &[u8]) {
        let room = HEAD_MAX - self.head.len();
        let kept = content.get(..room).unwrap_or(content);
        self.head.extend_from_slice(kept);
    }
}

/// The size in a BDAT command, and whether it is the last.
fn size(line: &[u8]) -> Option<(usize, bool)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace().skip(1);
    let size = words.next()?.parse().ok()?;
    let last = words.next().is_some_and(|w| w.eq_ignore_ascii_case("LAST"));
    Some((size, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `step` octets; gives the replies and how many have arrived.
    fn feed(text: &str, step: usize) -> (String, u64) {
        let tally = Tally::new(10, false);
        let (mut session, mut input) = (Session::default(), BytesMut::new());
        let mut replies = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            input.extend_from_slice(piece);
            session.advance(&mut input, &mut replies, &tally);
        }
        (String::from_utf8(replies).unwrap(), tally.distinct())
    }

    #[test]
    fn messages_by_data_and_by_chunks_cut_anywhere() {
        let text = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nA: b\r\nX-Bench: 1\r\n\r\n..\r\n.x\r\n.\r\n\
                    MAIL FROM:<>\r\nBDAT 6\r\nA: b\r\nBDAT 14\r\nX-Bench: 2\r\n\r\nBDAT 0 LAST\r\n\
                    MAIL FROM:<>\r\nbdat 26 last\r\nA: b\r\nX-Bench: 3\r\n\r\nbody\r\nQUIT\r\n";
        for step in 1..=text.len() {
            let (replies, arrived) = feed(text, step);
            let codes: Vec<_> = replies.lines().map(|l| &l[..3]).collect();
            let want = [
                "250", "250", "354", "250", "250", "250", "250", "250", "250", "250", "221",
            ];
            assert_eq!((codes.as_slice(), arrived), (&want[..], 3), "{step}");
        }
    }

    #[test]
    fn an_empty_message_ends() {
        assert_eq!(
            feed("DATA\r\n.\r\nRSET\r\n", 1).0,
            "354 Go ahead\r\n250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n"
        );
    }

    #[test]
    fn a_line_without_end_ends_the_session() {
        let tally = Tally::new(1, false);
        let (mut session, mut replies) = (Session::default(), Vec::new());
        let mut input = BytesMut::from(&[b'x'; LINE_MAX + 1][..]);
        assert!(!session.advance(&mut input, &mut replies, &tally));
    }
}
