/// What a message's header block holds, as far as a server cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Received fields: hops so far.
    pub received: usize,
    /// There is a Date.
    pub has_date: bool,
    /// There is a Message-ID.
    pub has_message_id: bool,
    /// There are octets outside ASCII.
    pub eight_bit: bool,
    /// It starts with the line that separates messages in an mbox, `From ` (perhaps quoted by
    /// `>`), which is no field.
    pub mailbox_line: bool,
}

/// What a piece has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// The header block goes on.
    More,
    /// It ended in this piece.
    End {
        /// Where in this piece the body starts.
        body_at: usize,
    },
    /// It is larger than it may be.
    TooLarge,
}

/// Finds the end of the header block of a message that comes in pieces: lines ended by CRLF (or,
/// as BINARYMIME may have, LF), up to and with the first empty one. A line that can be no header field ends it too, without
/// being part of it: the message is a body without a header, or lacks the empty line.
#[derive(Debug)]
pub struct HeadScanner {
    limit: usize,
    seen: usize,
    /// The start of the line under way, enough to name a field.
    line: Vec<u8>,
    /// Octets of it in earlier pieces, where it turned out to be the body's.
    unfinished: usize,
    state: Line,
    fields: Fields,
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Nothing of it yet.
    Start,
    /// In its name, or in what a name may be.
    Name,
    /// Known to belong to the block.
    Rest,
}

/// Octets of the longest name that matters, and more than any that is used.
const NAME_MAX: usize = 998;

impl HeadScanner {
    /// For header blocks of at most `limit` octets.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: 0,
            line: Vec::new(),
            unfinished: 0,
            state: Line::Start,
            fields: Fields {
                received: 0,
                has_date: false,
                has_message_id: false,
                eight_bit: false,
                mailbox_line: false,
            },
            ended: false,
        }
    }

    /// What has been seen so far.
    #[must_use]
    pub const fn fields(&self) -> Fields {
        self.fields
    }

    /// Takes the next piece. After [`Scanned::End`] or [`Scanned::TooLarge`] nothing more may be pushed.
    ///
    /// Where the line under way turns out to be no field, `body_at` is 0 and [`HeadScanner::unfinished`]
    /// is how much of the body came in earlier pieces.
    pub fn push(&mut self, piece: &[u8]) -> Scanned {
        let mut at = 0;
        while let Some(rest) = piece.get(at..).filter(|rest| !rest.is_empty()) {
            if self.state == Line::Rest {
                let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
                self.look(rest.get(..end).unwrap_or_default());
                if rest.get(end - 1) == Some(&b'\n') {
                    self.next_line();
                }
                at += end;
            } else {
                // At the start of a line, octet by octet, until it is known what it is.
                let Some(&octet) = rest.first() else { break };
                let end = self.start_of_line(octet);
                self.ended = end.is_some();
                match end {
                    Some(End::AfterThis) => {
                        self.seen += 1;
                        return Scanned::End { body_at: at + 1 };
                    }
                    Some(End::BeforeThisLine) => {
                        let before = self.line.len() - 1;
                        self.unfinished = before.saturating_sub(at);
                        return Scanned::End {
                            body_at: at.saturating_sub(before),
                        };
                    }
                    None => at += 1,
                }
                self.look(&[octet]);
            }
            if self.seen > self.limit {
                return Scanned::TooLarge;
            }
        }
        Scanned::More
    }

    /// Octets of earlier pieces that belong to the body: after a [`Scanned::End`] before a line that began in
    /// one, and at the end of the message in the middle of a line that may still have become a field.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        if self.unfinished == 0 && self.state == Line::Name && self.line.last() != Some(&b'\n') {
            // Not ended: all of it is in what has been pushed.
            return if self.ended { 0 } else { self.line.len() };
        }
        self.unfinished
    }

    fn look(&mut self, octets: &[u8]) {
        self.seen += octets.len();
        if !octets.is_ascii() {
            self.fields.eight_bit = true;
        }
    }

    fn next_line(&mut self) {
        self.line.clear();
        self.state = Line::Start;
    }

    fn start_of_line(&mut self, octet: u8) -> Option<End> {
        if self.state == Line::Start && (octet == b' ' || octet == b'\t') && self.seen > 0 {
            self.state = Line::Rest;
            return None;
        }
        self.line.push(octet);
        if self.line == b"\r\n" || self.line == b"\n" {
            return Some(End::AfterThis);
        }
        self.state = Line::Name;
        match octet {
            b':' if self.line.len() > 1 => {
                self.name();
                self.state = Line::Rest;
                None
            }
            b'\r' if self.line.len() == 1 => None,
            // White space may stand between name and colon (RFC 5322 section 4.5).
            b' ' | b'\t' if self.line.len() > 1 => None,
            b'!'..=b'~'
                if octet != b':'
                    && self.line.len() <= NAME_MAX
                    && self.line.first() != Some(&b'\r') =>
            {
                let spaced = self
                    .line
                    .iter()
                    .rev()
                    .nth(1)
                    .is_some_and(|b| *b == b' ' || *b == b'\t');
                if spaced && self.is_mailbox_line() {
                    self.fields.mailbox_line = true;
                    self.state = Line::Rest;
                    return None;
                }
                if spaced { Self::not_a_field() } else { None }
            }
            _ => Self::not_a_field(),
        }
    }

    /// Whether the very first line is that of an mbox; `From :` is a field, by obsolete syntax.
    fn is_mailbox_line(&self) -> bool {
        let quoted = self.line.iter().take_while(|b| **b == b'>').count();
        self.seen + 1 == self.line.len()
            && self
                .line
                .get(quoted..)
                .is_some_and(|line| line.starts_with(b"From "))
    }

    const fn not_a_field() -> Option<End> {
        Some(End::BeforeThisLine)
    }

    fn name(&mut self) {
        let name = self
            .line
            .strip_suffix(b":")
            .unwrap_or_default()
            .trim_ascii_end();
        if name.eq_ignore_ascii_case(b"Received") {
            self.fields.received += 1;
        } else if name.eq_ignore_ascii_case(b"Date") {
            self.fields.has_date = true;
        } else if name.eq_ignore_ascii_case(b"Message-ID") {
            self.fields.has_message_id = true;
        }
    }
}

enum End {
    AfterThis,
    BeforeThisLine,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head and body of a message that comes cut at `cuts`.
    fn split(message: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<u8>, Fields) {
        let mut scanner = HeadScanner::new(10_000);
        let mut head = Vec::new();
        let mut from = 0;
        for &cut in cuts.iter().chain([&message.len()]) {
            let piece = &message[from..cut];
            match scanner.push(piece) {
                Scanned::More => head.extend_from_slice(piece),
                Scanned::End { body_at } => {
                    let earlier = scanner.unfinished();
                    let mut body = head.split_off(head.len() - earlier);
                    head.extend_from_slice(&piece[..body_at]);
                    body.extend_from_slice(&piece[body_at..]);
                    body.extend_from_slice(&message[cut..]);
                    return (head, body, scanner.fields());
                }
                Scanned::TooLarge => panic!(),
            }
            from = cut;
        }
        let body = head.split_off(head.len() - scanner.unfinished());
        (head, body, scanner.fields())
    }

    #[test]
    fn at_any_cut() {
        for (head, body) in [
            ("Subject: x\r\n\r\n", "body\r\n"),
            ("A: b\r\n c: d\r\n\te\r\nDate : x\r\n\r\n", ""),
            ("\r\n", "body"),
            ("", "no header here\r\n\r\nbody\r\n"),
            ("", "NoColon\r\n"),
            ("A: b\r\n", "not a field\r\n\r\nbody"),
            ("A: b\r\n", ": empty name\r\n"),
            ("A: b\r\n", "\rx"),
            ("", " folded first\r\n"),
            ("A: b\r\n", "Unended"),
            ("Received: a\r\nreceived: b\r\nMessage-Id: c\r\n", ""),
            ("From a@b Tue Nov 24 12:49:01 2026\r\nA: b\r\n\r\n", "body"),
            (">From a@b x\r\nA: b\r\n\r\n", "body"),
            ("A: b\r\n", "From a@b x\r\n\r\nbody"),
            ("From : a@b\r\n\r\n", "body"),
        ] {
            let message = format!("{head}{body}").into_bytes();
            for a in 0..=message.len() {
                for b in a..=message.len() {
                    let (h, rest, _) = split(&message, &[a, b]);
                    assert_eq!(
                        (String::from_utf8_lossy(&h), String::from_utf8_lossy(&rest)),
                        (head.into(), body.into()),
                        "cut at {a}, {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn fields_are_seen() {
        let (_, _, fields) = split("Received: a\r\nRECEIVED : b\r\n x Received: no\r\nX-Received: no\r\nDate: d\r\n\r\nDate: body".as_bytes(), &[]);
        assert_eq!(
            fields,
            Fields {
                received: 2,
                has_date: true,
                has_message_id: false,
                eight_bit: false,
                mailbox_line: false
            }
        );
        let (_, _, fields) = split(b"From a@b x\r\nDate: d\r\n\r\n", &[]);
        assert!(fields.mailbox_line && fields.has_date);
        let (_, _, fields) = split(b"From : a@b\r\nDate: d\r\n\r\n", &[]);
        assert!(!fields.mailbox_line && fields.has_date);
        let (_, _, fields) = split("Subject: \u{fc}\r\nMessage-ID: x\r\n\r\n".as_bytes(), &[]);
        assert!(fields.eight_bit && fields.has_message_id);
    }

    #[test]
    fn too_large_is_said_in_time() {
        let mut scanner = HeadScanner::new(100);
        assert_eq!(scanner.push(&[b'x'; 50]), Scanned::More);
        assert_eq!(scanner.push(&[b'x'; 51]), Scanned::TooLarge);
        let mut scanner = HeadScanner::new(100);
        assert_eq!(scanner.push(b"A: "), Scanned::More);
        assert_eq!(scanner.push(&[b'x'; 200]), Scanned::TooLarge);
    }

    proptest::proptest! {
        #[test]
        fn cuts_never_matter(message in "[aA: \t\r\nz\u{e9}]{0,60}", a: proptest::sample::Index, b: proptest::sample::Index) {
            let message = message.into_bytes();
            let mut cuts = [a.index(message.len() + 1), b.index(message.len() + 1)];
            cuts.sort_unstable();
            proptest::prop_assert_eq!(split(&message, &cuts), split(&message, &[]));
        }
    }
}
