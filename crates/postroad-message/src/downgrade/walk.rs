//! The structure of a message that comes in pieces: headers, parts, and the lines between them.
//!
//! Both passes walk the same way, whatever the pieces, so that the n-th entity of one is the n-th
//! of the other.

use super::header::{BOUNDARY_MAX, Field, Header, Leaf, Shape};
use super::{DEPTH_MAX, NotLegal};

/// Octets of a line that may still be a boundary: with `--` on both sides, and white space behind.
const DELIMITER_MAX: usize = BOUNDARY_MAX + 256;
/// Octets of a line that may still be a field, before its colon.
const NAME_MAX: usize = 256;

/// What a walk finds, in order. Entities are numbered in the order in which they begin.
pub(super) trait Sink {
    /// An entity begins, within another one but for the first.
    fn begin(&mut self, parent: Option<usize>);
    /// Octets of a header field, its name and line ends included.
    fn field(&mut self, field: Field, first: bool, octets: &[u8]);
    /// The header of the entity that has begun last is complete, but for the empty line.
    fn header(&mut self, header: &Header, shape: &Shape);
    /// The empty line behind it.
    fn blank(&mut self, line: &[u8]);
    /// A boundary, and the line end before it, which is no part of the body there.
    fn boundary(&mut self, before: &[u8], line: &[u8]);
    /// Octets of the body of the entity that has begun last.
    fn leaf(&mut self, octets: &[u8]);
    /// Octets of a multipart outside its parts.
    fn filler(&mut self, multipart: usize, octets: &[u8]);
    /// The message cannot be told apart for sure.
    fn trouble(&mut self, why: NotLegal);
}

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walker {
    frames: Vec<Frame>,
    entities: usize,
    place: Place,
    /// The start of the line under way, while it is not known what it is.
    line: Vec<u8>,
    at_start: bool,
    /// A line end that is the part's, or the boundary's where one follows.
    held: Held,
    last: u8,
    /// The line before ended with a bare LF.
    bare: bool,
    begun: bool,
}

/// An entity with others within.
#[derive(Debug)]
struct Frame {
    entity: usize,
    /// None: message/rfc822.
    boundary: Option<Vec<u8>>,
    digest: bool,
    /// Its last boundary has come.
    closed: bool,
}

#[derive(Debug)]
enum Place {
    Header(Box<Header>),
    Leaf,
    Filler(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    Cr,
    CrLf,
}

impl Held {
    const fn octets(self) -> &'static [u8] {
        match self {
            Self::Nothing => b"",
            Self::Cr => b"\r",
            Self::CrLf => b"\r\n",
        }
    }
}

impl Walker {
    pub(super) const fn new() -> Self {
        Self {
            frames: Vec::new(),
            entities: 0,
            place: Place::Leaf,
            line: Vec::new(),
            at_start: true,
            held: Held::Nothing,
            last: b'\n',
            bare: false,
            begun: false,
        }
    }

    pub(super) fn push(&mut self, mut piece: &[u8], sink: &mut impl Sink) {
        self.begin_message(sink);
        while let Some((&first, rest)) = piece.split_first() {
            if self.at_start {
                self.start(first, sink);
                piece = rest;
            } else {
                let end = memchr::memchr(b'\n', piece).map_or(piece.len(), |end| end + 1);
                let (line, rest) = piece.split_at_checked(end).unwrap_or((piece, &[]));
                self.within(line, sink);
                piece = rest;
            }
        }
    }

    pub(super) fn finish(&mut self, sink: &mut impl Sink) {
        self.begin_message(sink);
        if !self.line.is_empty() {
            self.decided(sink);
        }
        let held = std::mem::replace(&mut self.held, Held::Nothing);
        self.body(held.octets(), sink);
    }

    fn begin_message(&mut self, sink: &mut impl Sink) {
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(None, true, false, sink);
        }
    }

    fn begin(
        &mut self,
        parent: Option<usize>,
        is_message: bool,
        default_message: bool,
        sink: &mut impl Sink,
    ) {
        sink.begin(parent);
        self.entities += 1;
        self.place = Place::Header(Box::new(Header::new(is_message, default_message)));
        self.held = Held::Nothing;
    }

    /// An octet at the start of a line.
    fn start(&mut self, octet: u8, sink: &mut impl Sink) {
        self.line.push(octet);
        let (line, ended) = (self.line.as_slice(), octet == b'\n');
        let may_be_boundary = line == b"-" || line.starts_with(b"--");
        let undecided = if may_be_boundary && self.frames.iter().any(|f| f.boundary.is_some()) {
            line.len() < DELIMITER_MAX
        } else if matches!(self.place, Place::Header(_)) {
            let folded = line.first().is_some_and(|first| is_space(*first));
            !folded && octet != b':' && line.len() < NAME_MAX
        } else {
            false
        };
        if ended || !undecided {
            self.decided(sink);
        }
    }

    /// It is known what the line under way is.
    fn decided(&mut self, sink: &mut impl Sink) {
        let line = std::mem::take(&mut self.line);
        self.at_start = false;
        match self.boundary(&line, sink) {
            Some((frame, closes)) => self.cross(frame, closes, &line, sink),
            None => match &self.place {
                Place::Header(_) if line == b"\r\n" => self.end_header(&line, sink),
                Place::Header(_) => self.header_line(&line, sink),
                Place::Leaf | Place::Filler(_) => self.within(&line, sink),
            },
        }
        self.line = line;
        self.line.clear();
    }

    /// Which boundary a line is, and whether it is the last of its multipart.
    fn boundary(&self, line: &[u8], sink: &mut impl Sink) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?;
        let found = self.frames.iter().enumerate().rev().find_map(|(n, frame)| {
            let rest = text.strip_prefix(frame.boundary.as_deref()?)?;
            Some((n, frame, rest))
        });
        let (n, frame, rest) = found?;
        let (rest, closes) = match rest.strip_prefix(b"--") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        // The last line of a message may lack its end.
        let padding = rest.strip_suffix(b"\r\n").unwrap_or(rest);
        let whole = padding.iter().all(|octet| is_space(*octet));
        if !whole || self.bare || frame.closed {
            // RFC 2046 section 5.1.1 asks for no more than the beginning of the line, and some
            // readers ask for less.
            let why = "a line is much like a boundary, and is none";
            sink.trouble(NotLegal::Malformed(why));
            return None;
        }
        Some((n, closes))
    }

    /// A boundary: what is within its multipart ends.
    fn cross(&mut self, frame: usize, closes: bool, line: &[u8], sink: &mut impl Sink) {
        sink.boundary(self.held.octets(), line);
        self.held = Held::Nothing;
        self.frames.truncate(frame + 1);
        self.next_line(line);
        let Some(frame) = self.frames.last_mut() else {
            return;
        };
        let (entity, digest) = (frame.entity, frame.digest);
        if closes {
            frame.closed = true;
            self.place = Place::Filler(entity);
        } else {
            self.begin(Some(entity), false, digest, sink);
        }
    }

    fn end_header(&mut self, line: &[u8], sink: &mut impl Sink) {
        let Place::Header(header) = &mut self.place else {
            return;
        };
        let shape = header.end().unwrap_or_else(|why| {
            sink.trouble(why);
            Shape::Leaf(Leaf::Data)
        });
        sink.header(header, &shape);
        sink.blank(line);
        let entity = self.entities.saturating_sub(1);
        let is_leaf = matches!(shape, Shape::Leaf(_));
        self.held = Held::Nothing;
        self.next_line(line);
        if !is_leaf && self.frames.len() >= DEPTH_MAX {
            sink.trouble(NotLegal::TooDeep);
            self.place = Place::Leaf;
            return;
        }
        match shape {
            Shape::Leaf(_) => self.place = Place::Leaf,
            Shape::Multipart {
                boundary, digest, ..
            } => {
                self.frames.push(Frame {
                    entity,
                    boundary: Some(boundary),
                    digest,
                    closed: false,
                });
                self.place = Place::Filler(entity);
            }
            Shape::Message => {
                self.frames.push(Frame {
                    entity,
                    boundary: None,
                    digest: false,
                    closed: false,
                });
                self.begin(Some(entity), true, false, sink);
            }
        }
    }

    /// The start of a line of a header.
    fn header_line(&mut self, line: &[u8], sink: &mut impl Sink) {
        let Place::Header(header) = &mut self.place else {
            return;
        };
        let continues = line.first().is_some_and(|first| is_space(*first));
        if !continues {
            let colon = memchr::memchr(b':', line);
            let name = line.get(..colon.unwrap_or(line.len())).unwrap_or_default();
            let name = name.trim_ascii_end();
            // A longer name than is looked at is a name all the same.
            let is_name = colon.is_some() || line.len() >= NAME_MAX;
            if !is_name || name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                sink.trouble(NotLegal::Malformed(
                    "a header holds a line that is no field",
                ));
            }
            if let Err(why) = header.begin(Field::named(name)) {
                sink.trouble(why);
            }
        } else if header.field().is_none() {
            sink.trouble(NotLegal::Malformed("a header begins within a field"));
        }
        self.header_octets(line, !continues, sink);
    }

    fn header_octets(&mut self, octets: &[u8], first: bool, sink: &mut impl Sink) {
        if let Place::Header(header) = &mut self.place {
            header.push(octets);
            sink.field(header.field().unwrap_or(Field::Other), first, octets);
        }
        self.next_line(octets);
    }

    /// Octets of a line of which it is known what it is.
    fn within(&mut self, octets: &[u8], sink: &mut impl Sink) {
        if matches!(self.place, Place::Header(_)) {
            self.header_octets(octets, false, sink);
            return;
        }
        let Some(&first) = octets.first() else {
            return;
        };
        let mut rest = octets;
        let held = std::mem::replace(&mut self.held, Held::Nothing);
        if held == Held::Cr && first == b'\n' {
            self.held = Held::CrLf;
            rest = &[];
        } else {
            self.body(held.octets(), sink);
            if let Some(before) = rest.strip_suffix(b"\r\n") {
                (rest, self.held) = (before, Held::CrLf);
            } else if let Some(before) = rest.strip_suffix(b"\r") {
                (rest, self.held) = (before, Held::Cr);
            }
        }
        self.body(rest, sink);
        self.next_line(octets);
    }

    fn body(&mut self, octets: &[u8], sink: &mut impl Sink) {
        if octets.is_empty() {
            return;
        }
        match self.place {
            Place::Leaf => sink.leaf(octets),
            Place::Filler(multipart) => sink.filler(multipart, octets),
            Place::Header(_) => {}
        }
    }

    /// Whether another line begins behind these octets.
    fn next_line(&mut self, octets: &[u8]) {
        let mut ends = octets.iter().rev();
        if let Some(&last) = ends.next() {
            let before = ends.next().copied().unwrap_or(self.last);
            self.at_start = last == b'\n';
            self.bare = last == b'\n' && before != b'\r';
            self.last = last;
        }
    }
}

const fn is_space(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}
