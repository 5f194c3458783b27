//! What a message's content must be like, whichever command brings it.

use memchr::memchr3;
use postroad_mail::{Reply, replies};

pub(crate) const CRLF: &[u8] = b"\r\n";

/// The rules for the content of one message, and how far it has come.
#[derive(Debug)]
pub(crate) struct Content {
    newlines: Newlines,
    bounds: Bounds,
    octets: u64,
    header: Option<HeaderEnd>,
    failure: Option<Failure>,
    /// Where the next octet stands in its line.
    pub(crate) line: LineStart,
    /// A CR came as the last octet of a chunk, and is still to be given.
    pub(crate) held_cr: bool,
}

/// What becomes of a CR or LF that is not half of a CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newlines {
    /// It is a failure.
    Reject,
    /// It becomes a CRLF.
    Normalize,
    /// It is left alone, as is NUL: BINARYMIME.
    Keep,
}

/// Bounds of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Octets, at most.
    pub(crate) message: u64,
    /// Octets of the header, at most.
    pub(crate) header: usize,
    /// Whether the header must be ASCII.
    pub(crate) ascii_header: bool,
    /// Octets read in search of the end of a message that cannot be taken, at most.
    pub(crate) read_on: u64,
}

/// Why a message cannot be taken: the first thing found wrong in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    BareNewline,
    Nul,
    HeaderTooBig,
    EightBitHeader,
    TooBig,
}

impl Failure {
    pub(crate) const fn reply(self) -> Reply {
        match self {
            Self::BareNewline => replies::BARE_NEWLINE_IN_DATA,
            Self::Nul => replies::NUL_IN_DATA,
            Self::HeaderTooBig => replies::HEADER_TOO_BIG,
            Self::EightBitHeader => replies::EIGHT_BIT_HEADER,
            Self::TooBig => replies::MESSAGE_TOO_BIG,
        }
    }
}

/// Where an octet stands in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineStart {
    /// First, behind a CRLF or at the start of the message.
    AfterCrLf,
    /// First, behind a bare CR or LF that was made a CRLF.
    AfterBare,
    /// Not first.
    Inside,
}

/// What a scan came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The end of what there is, or what only the next octet can explain.
    More,
    /// A dot to take out.
    Dot,
    /// The dot and CRLF that end DATA.
    End,
    /// A bare CR or LF.
    Bare,
    /// A NUL.
    Nul,
}

impl Content {
    pub(crate) const fn new(newlines: Newlines, bounds: Bounds) -> Self {
        Self {
            newlines,
            bounds,
            octets: 0,
            header: Some(HeaderEnd { matched: 2 }),
            failure: None,
            line: LineStart::AfterCrLf,
            held_cr: false,
        }
    }

    pub(crate) const fn failure(&self) -> Option<Failure> {
        self.failure
    }

    pub(crate) fn normalizes(&self) -> bool {
        self.newlines == Newlines::Normalize
    }

    pub(crate) fn keeps_octets(&self) -> bool {
        self.newlines == Newlines::Keep
    }

    /// Whether that many octets more are beyond the message's bound.
    pub(crate) const fn exceeds(&self, more: u64) -> bool {
        self.octets.saturating_add(more) > self.bounds.message
    }

    pub(crate) const fn read_on_max(&self) -> u64 {
        self.bounds.read_on
    }

    /// Only the first failure counts.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Counts octets that go nowhere.
    pub(crate) const fn count(&mut self, octets: usize) {
        self.octets = self.octets.saturating_add(octets as u64);
    }

    /// Whether the message may go on with this piece: octet by octet where they stand in the
    /// header, so that what is found wrong first does not depend on how the input was split.
    pub(crate) fn take(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while let Some(header) = &mut self.header
            && let Some((&octet, behind)) = rest.split_first()
        {
            rest = behind;
            self.octets += 1;
            if self.octets > self.bounds.message {
                self.failure = Some(Failure::TooBig);
            } else if self.octets > self.bounds.header as u64 {
                self.failure = Some(Failure::HeaderTooBig);
            } else if self.bounds.ascii_header && !octet.is_ascii() {
                self.failure = Some(Failure::EightBitHeader);
            }
            if self.failure.is_some() {
                return false;
            }
            if header.ends_with(octet) {
                self.header = None;
            }
        }
        self.count(rest.len());
        if self.octets > self.bounds.message {
            self.failure = Some(Failure::TooBig);
        }
        self.failure.is_none()
    }

    /// How many octets at the start of `buf` can be given as they are, and what comes then.
    pub(crate) fn scan(&mut self, buf: &[u8], dots: bool) -> (usize, Stop) {
        let at = |index: usize| buf.get(index).copied();
        let mut here = 0;
        loop {
            if self.line != LineStart::Inside {
                match at(here) {
                    None => return (here, Stop::More),
                    Some(b'.') if dots => {
                        return (here, self.dot(at(here + 1), at(here + 2)));
                    }
                    Some(_) => self.line = LineStart::Inside,
                }
            }
            let rest = buf.get(here..).unwrap_or_default();
            let Some(found) = memchr3(b'\r', b'\n', 0, rest).map(|found| found + here) else {
                return (buf.len(), Stop::More);
            };
            match (at(found), at(found + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    here = found + 2;
                    self.line = LineStart::AfterCrLf;
                }
                (Some(b'\r'), None) => return (found, Stop::More),
                (Some(b'\r' | b'\n'), _) => return (found, Stop::Bare),
                _ => return (found, Stop::Nul),
            }
        }
    }

    /// A dot at the start of a line, by the two octets behind it.
    ///
    /// RFC 5321 section 4.1.1.4: only CRLF.CRLF ends the data; no line end that was made out of a
    /// bare CR or LF may take part in it.
    fn dot(&self, next: Option<u8>, after: Option<u8>) -> Stop {
        match (next, after) {
            (None, _) => Stop::More,
            (Some(b'\r'), None) if self.line == LineStart::AfterCrLf => Stop::More,
            (Some(b'\r'), Some(b'\n')) if self.line == LineStart::AfterCrLf => Stop::End,
            _ => Stop::Dot,
        }
    }
}

/// Finds the empty line behind the header.
#[derive(Debug)]
struct HeaderEnd {
    /// Octets of CRLFCRLF that have been seen.
    matched: u8,
}

impl HeaderEnd {
    const fn ends_with(&mut self, octet: u8) -> bool {
        self.matched = match (octet, self.matched) {
            (b'\r', 2) => 3,
            (b'\r', _) => 1,
            (b'\n', 1) => 2,
            (b'\n', 3) => 4,
            _ => 0,
        };
        self.matched == 4
    }
}
