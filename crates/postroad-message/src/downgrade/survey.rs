//! The first pass: what has to change, and whether it may.

use std::sync::Arc;

use super::header::{Encoding, Field, Header, Leaf, Shape};
use super::walk::{Sink, Walker};
use super::{LINE_MAX, NotLegal, PARTS_MAX};

/// What has to change in a message.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For each entity, in the order in which they begin. None, where nothing has to.
    pub(super) changes: Arc<[Change]>,
}

impl Plan {
    /// Whether nothing has to: the message is of 7 bits, whatever it says of itself.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.changes.is_empty()
    }
}

/// What is done with an entity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) body: Body,
    /// Where it is a message: something within it changes.
    pub(super) is_touched: bool,
}

/// What is done with an entity's body, and its Content-Transfer-Encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Body {
    #[default]
    Keep,
    /// It is called what it is.
    SevenBit,
    QuotedPrintable,
    Base64,
    /// It is base64, in lines that are too long.
    Rewrap,
}

/// The first pass over a message.
#[derive(Debug)]
pub struct Survey {
    walker: Walker,
    found: Found,
}

#[derive(Debug)]
struct Found {
    entities: Vec<Entity>,
    /// Those of the whole message: where they are none, its structure does not matter.
    all: Octets,
    header: Octets,
    trouble: Option<NotLegal>,
    too_many: bool,
}

#[derive(Clone, Debug)]
struct Entity {
    parent: usize,
    kind: Kind,
    encoding: Encoding,
    /// Of a leaf's body, or outside a multipart's parts.
    octets: Octets,
    signed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Composite,
    Leaf(Leaf),
}

impl Default for Survey {
    fn default() -> Self {
        Self::new()
    }
}

impl Survey {
    /// Of a message from its first octet on.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            walker: Walker::new(),
            found: Found {
                entities: Vec::new(),
                all: Octets::new(),
                header: Octets::new(),
                trouble: None,
                too_many: false,
            },
        }
    }

    /// Takes the next octets in.
    pub fn push(&mut self, piece: &[u8]) {
        self.found.all.scan(piece);
        self.walker.push(piece, &mut self.found);
    }

    /// The message is complete.
    ///
    /// # Errors
    /// Where something has to change, and must not. That is never so for lines that are too long,
    /// where they are all there is: such a message stays as it is.
    pub fn finish(mut self) -> Result<Plan, NotLegal> {
        self.walker.finish(&mut self.found);
        // The message may have ended within a header.
        self.found.header_ended();
        self.found.all.finish();
        let unchanged = Plan {
            changes: Arc::new([]),
        };
        if self.found.all.are_plain() {
            return Ok(unchanged);
        }
        // Lines that are only too long go to such hosts in other messages, too.
        let only_long = !self.found.all.eight_bit && !self.found.all.binary;
        match self.found.plan() {
            Err(_) if only_long => Ok(unchanged),
            other => other,
        }
    }
}

impl Found {
    fn plan(mut self) -> Result<Plan, NotLegal> {
        let root_signed = self.entities.first().is_some_and(|root| root.signed);
        if root_signed {
            return Err(NotLegal::Signed);
        }
        if let Some(why) = self.trouble {
            return Err(why);
        }
        let mut changes = Vec::with_capacity(self.entities.len());
        let mut within_signed = Vec::with_capacity(self.entities.len());
        for entity in &mut self.entities {
            entity.octets.finish();
            // Parents come before what is within them.
            let signed = within_signed.get(entity.parent).copied().unwrap_or(false);
            let within = signed || entity.signed;
            within_signed.push(within);
            let body = entity.body()?;
            if within && entity.has_to_change() {
                return Err(NotLegal::Signed);
            }
            // A label that promises more than there is does no harm in what is signed.
            let body = if within { Body::Keep } else { body };
            changes.push(Change {
                body,
                is_touched: entity.has_to_change(),
            });
        }
        // And what is within comes behind its parent.
        for (n, entity) in self.entities.iter().enumerate().rev() {
            let touched = changes.get(n).is_some_and(|change| change.is_touched);
            if let Some(parent) = changes.get_mut(entity.parent).filter(|_| n > 0) {
                parent.is_touched |= touched;
            }
        }
        // Header lines that are too long stay so.
        if changes.iter().all(|change| *change == Change::default()) {
            changes.clear();
        }
        Ok(Plan {
            changes: changes.into(),
        })
    }

    fn header_ended(&mut self) {
        let mut header = std::mem::replace(&mut self.header, Octets::new());
        header.finish();
        if header.eight_bit {
            self.trouble(NotLegal::EightBitHeader);
        }
        if header.binary {
            self.trouble(NotLegal::Malformed("a header holds a bare CR, LF or NUL"));
        }
    }
}

impl Entity {
    /// Whether its body cannot stay as it is.
    const fn has_to_change(&self) -> bool {
        !self.octets.are_plain()
    }

    fn body(&self) -> Result<Body, NotLegal> {
        let as_it_is = if self.encoding.is_wide() {
            Body::SevenBit
        } else {
            Body::Keep
        };
        let Kind::Leaf(leaf) = self.kind else {
            return Ok(as_it_is);
        };
        if !self.has_to_change() {
            return Ok(as_it_is);
        }
        match (leaf, self.encoding) {
            (Leaf::Unsound, _) => Err(NotLegal::Malformed("a multipart has no boundary")),
            (_, Encoding::Base64) if !self.octets.eight_bit && !self.octets.binary => {
                Ok(Body::Rewrap)
            }
            (_, Encoding::Base64 | Encoding::QuotedPrintable) => Err(NotLegal::Mislabelled),
            (_, Encoding::Unknown) => Err(NotLegal::UnknownEncoding),
            (Leaf::Pkcs7, _) => Err(NotLegal::Signed),
            (Leaf::Fixed, _) => Err(NotLegal::FixedEncoding),
            (Leaf::Text, _) if !self.octets.binary => Ok(Body::QuotedPrintable),
            (Leaf::Text | Leaf::Data, _) => Ok(Body::Base64),
        }
    }
}

impl Sink for Found {
    fn begin(&mut self, parent: Option<usize>) {
        // A header that a boundary has cut short ends here too.
        self.header_ended();
        if self.entities.len() >= PARTS_MAX {
            self.too_many = true;
            self.trouble(NotLegal::TooManyParts);
            return;
        }
        self.entities.push(Entity {
            parent: parent.unwrap_or(0),
            kind: Kind::Leaf(Leaf::Text),
            encoding: Encoding::Unsaid,
            octets: Octets::new(),
            signed: false,
        });
    }

    fn field(&mut self, _: Field, _: bool, octets: &[u8]) {
        self.header.scan(octets);
    }

    fn header(&mut self, header: &Header, shape: &Shape) {
        self.header_ended();
        let is_root = self.entities.len() == 1;
        let Some(entity) = self.entities.last_mut().filter(|_| !self.too_many) else {
            return;
        };
        entity.encoding = header.encoding;
        entity.signed = is_root && header.is_signed;
        entity.kind = match shape {
            Shape::Leaf(leaf) => Kind::Leaf(*leaf),
            Shape::Multipart { signed, .. } => {
                entity.signed |= signed;
                Kind::Composite
            }
            Shape::Message => Kind::Composite,
        };
    }

    fn blank(&mut self, _: &[u8]) {}

    fn boundary(&mut self, _: &[u8], _: &[u8]) {}

    fn leaf(&mut self, octets: &[u8]) {
        if let Some(entity) = self.entities.last_mut().filter(|_| !self.too_many) {
            entity.octets.scan(octets);
        }
    }

    fn filler(&mut self, multipart: usize, octets: &[u8]) {
        if let Some(entity) = self.entities.get_mut(multipart) {
            entity.octets.scan(octets);
        }
    }

    fn trouble(&mut self, why: NotLegal) {
        self.trouble.get_or_insert(why);
    }
}

/// What octets there are.
#[derive(Clone, Debug)]
struct Octets {
    eight_bit: bool,
    /// A NUL, or a CR or LF outside a CRLF.
    binary: bool,
    /// A line of more than [`LINE_MAX`].
    long: bool,
    column: usize,
    last: u8,
}

impl Octets {
    const fn new() -> Self {
        Self {
            eight_bit: false,
            binary: false,
            long: false,
            column: 0,
            last: 0,
        }
    }

    fn scan(&mut self, octets: &[u8]) {
        self.eight_bit |= !octets.is_ascii();
        self.binary |= memchr::memchr(0, octets).is_some();
        let mut rest = octets;
        while let Some(&first) = rest.first() {
            let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            if self.last == b'\r' && first != b'\n' {
                self.binary = true;
            }
            if end > 0 {
                self.column = self.column.saturating_add(end);
                self.long |= self.column > LINE_MAX;
                self.last = 0;
            }
            match rest.get(end) {
                Some(b'\n') => {
                    self.binary |= self.last != b'\r';
                    (self.column, self.last) = (0, b'\n');
                }
                Some(_) => {
                    // Of two CR the first is bare.
                    self.binary |= self.last == b'\r';
                    self.last = b'\r';
                }
                None => {}
            }
            rest = rest.get(end + 1..).unwrap_or_default();
        }
    }

    const fn finish(&mut self) {
        if self.last == b'\r' {
            self.binary = true;
        }
    }

    const fn are_plain(&self) -> bool {
        !self.eight_bit && !self.binary && !self.long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets() {
        let long = |n| [&vec![b'x'; n][..], b"\r\n"].concat();
        for (octets, want) in [
            (&b""[..], "---"),
            (b"a\r\nb", "---"),
            (b"\xfc", "8--"),
            (b"a\0", "-b-"),
            (b"a\rb", "-b-"),
            (b"\rb", "-b-"),
            (b"a\r", "-b-"),
            (b"\n", "-b-"),
            (b"a\r\r\n", "-b-"),
            (b"a\r\n\n", "-b-"),
            (&long(998), "---"),
            (&long(999), "--l"),
            (&[long(998), long(998)].concat(), "---"),
        ] {
            for piece in [1, 2, 3, 5000] {
                let mut found = Octets::new();
                for piece in octets.chunks(piece) {
                    found.scan(piece);
                }
                found.finish();
                let flag = |on, flag| if on { flag } else { '-' };
                let shown: String = [
                    flag(found.eight_bit, '8'),
                    flag(found.binary, 'b'),
                    flag(found.long, 'l'),
                ]
                .iter()
                .collect();
                assert_eq!(shown, want, "{:?}", octets.escape_ascii().to_string());
            }
        }
    }
}
