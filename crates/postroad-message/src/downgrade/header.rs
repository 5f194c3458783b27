//! The fields of an entity's header that say what its body is (RFC 2045, RFC 2046).

use super::NotLegal;

/// Octets of a field's value that are looked at; of Content-Type, more is not sound.
const VALUE_MAX: usize = 8 << 10;
/// Octets of a boundary, at most. RFC 2046 section 5.1.1 says 70.
pub(super) const BOUNDARY_MAX: usize = 200;

/// A header field, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    ContentType,
    Encoding,
    MimeVersion,
    Signature,
    Other,
}

impl Field {
    pub(super) fn named(name: &[u8]) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("Content-Type") {
            Self::ContentType
        } else if is("Content-Transfer-Encoding") {
            Self::Encoding
        } else if is("MIME-Version") {
            Self::MimeVersion
        } else if is("DKIM-Signature") || is("ARC-Message-Signature") || is("ARC-Seal") {
            Self::Signature
        } else {
            Self::Other
        }
    }
}

/// What a Content-Transfer-Encoding field says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    /// There is none: 7bit.
    #[default]
    Unsaid,
    SevenBit,
    EightBit,
    Binary,
    QuotedPrintable,
    Base64,
    Unknown,
}

impl Encoding {
    fn parse(value: &[u8]) -> Self {
        let value = value.trim_ascii();
        let end = value
            .iter()
            .position(|&octet| octet == b'(' || octet == b';' || octet.is_ascii_whitespace());
        let word = value.get(..end.unwrap_or(value.len())).unwrap_or_default();
        for (name, encoding) in [
            ("7bit", Self::SevenBit),
            ("8bit", Self::EightBit),
            ("binary", Self::Binary),
            ("quoted-printable", Self::QuotedPrintable),
            ("base64", Self::Base64),
        ] {
            if word.eq_ignore_ascii_case(name.as_bytes()) {
                return encoding;
            }
        }
        Self::Unknown
    }

    /// Whether the body is as it stands.
    pub(super) const fn is_identity(self) -> bool {
        matches!(
            self,
            Self::Unsaid | Self::SevenBit | Self::EightBit | Self::Binary
        )
    }

    /// Whether it says that the body may hold more than a line of 7 bits.
    pub(super) const fn is_wide(self) -> bool {
        matches!(self, Self::EightBit | Self::Binary)
    }
}

/// What an entity's body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Multipart {
        boundary: Vec<u8>,
        /// Its parts are messages, where they do not say otherwise.
        digest: bool,
        signed: bool,
    },
    /// message/rfc822
    Message,
    Leaf(Leaf),
}

/// What a leaf holds, as far as its encoding goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Quoted-printable serves.
    Text,
    /// Base64 serves.
    Data,
    /// Signed or encrypted by S/MIME.
    Pkcs7,
    /// No encoding is allowed.
    Fixed,
    /// A multipart that names no boundary, or is encoded as a whole, which RFC 2045 section 6.4
    /// forbids: readers do not agree on it.
    Unsound,
}

/// What has been seen of an entity's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    /// The header of a message, not of a part.
    pub(super) is_message: bool,
    /// Without a Content-Type it is message/rfc822, as in multipart/digest.
    default_message: bool,
    pub(super) has_type: bool,
    pub(super) has_mime_version: bool,
    pub(super) is_signed: bool,
    pub(super) encoding: Encoding,
    /// Of the field under way.
    value: Vec<u8>,
    field: Option<Field>,
    content_type: Vec<u8>,
}

impl Header {
    pub(super) fn new(is_message: bool, default_message: bool) -> Self {
        Self {
            is_message,
            default_message,
            ..Self::default()
        }
    }

    /// A field begins.
    pub(super) fn begin(&mut self, field: Field) -> Result<(), NotLegal> {
        let ended = self.end_field();
        self.field = Some(field);
        match field {
            Field::MimeVersion => self.has_mime_version = true,
            Field::Signature => self.is_signed = true,
            Field::ContentType | Field::Encoding | Field::Other => {}
        }
        ended
    }

    /// The field under way.
    pub(super) const fn field(&self) -> Option<Field> {
        self.field
    }

    /// Octets of the field under way, its name included.
    pub(super) fn push(&mut self, octets: &[u8]) {
        if matches!(self.field, Some(Field::ContentType | Field::Encoding)) {
            // One more than is taken, so that it can be seen.
            let room = (VALUE_MAX + 1).saturating_sub(self.value.len());
            self.value
                .extend_from_slice(octets.get(..room).unwrap_or(octets));
        }
    }

    /// The field under way is complete.
    fn end_field(&mut self) -> Result<(), NotLegal> {
        let field = std::mem::take(&mut self.value);
        let colon = memchr::memchr(b':', &field).map_or(0, |at| at + 1);
        let value = field.get(colon..).unwrap_or_default();
        match self.field.take() {
            Some(_) if field.len() > VALUE_MAX => {
                return Err(NotLegal::Malformed("a Content field is too long"));
            }
            Some(Field::ContentType) if self.has_type => {
                return Err(NotLegal::Malformed("a part has two types"));
            }
            Some(Field::ContentType) => {
                self.has_type = true;
                self.content_type = value.to_vec();
            }
            Some(Field::Encoding) if self.encoding != Encoding::Unsaid => {
                return Err(NotLegal::Malformed("a part has two encodings"));
            }
            Some(Field::Encoding) => self.encoding = Encoding::parse(value),
            Some(Field::MimeVersion | Field::Signature | Field::Other) | None => {}
        }
        Ok(())
    }

    /// The header is complete: what is behind it?
    pub(super) fn end(&mut self) -> Result<Shape, NotLegal> {
        self.end_field()?;
        if !self.has_type && self.default_message {
            return Ok(Shape::Message);
        }
        // RFC 2045 section 5.2: what is not said, or cannot be read, is text.
        let Some(content_type) = ContentType::parse(&self.content_type) else {
            return Ok(Shape::Leaf(Leaf::Text));
        };
        Ok(content_type.shape(self.encoding))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct ContentType {
    kind: Vec<u8>,
    subtype: Vec<u8>,
    boundary: Option<Vec<u8>>,
}

impl ContentType {
    fn shape(self, encoding: Encoding) -> Shape {
        let is = |word: &[u8], other: &str| word.eq_ignore_ascii_case(other.as_bytes());
        let subtype = |other: &str| is(&self.subtype, other);
        if is(&self.kind, "multipart") {
            return match self.boundary {
                Some(ref boundary) if encoding.is_identity() && is_boundary(boundary) => {
                    Shape::Multipart {
                        boundary: boundary.clone(),
                        digest: subtype("digest"),
                        signed: subtype("signed"),
                    }
                }
                _ => Shape::Leaf(Leaf::Unsound),
            };
        }
        let leaf = if is(&self.kind, "message") {
            if subtype("rfc822") && encoding.is_identity() {
                return Shape::Message;
            }
            // RFC 2046 section 5.2.
            if subtype("rfc822") || subtype("partial") || subtype("external-body") {
                Leaf::Fixed
            } else {
                Leaf::Data
            }
        } else if is(&self.kind, "text") {
            Leaf::Text
        } else if is(&self.kind, "application")
            && (subtype("pkcs7-mime") || subtype("x-pkcs7-mime"))
        {
            Leaf::Pkcs7
        } else {
            Leaf::Data
        };
        Shape::Leaf(leaf)
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let mut words = Words(value);
        let Word::Text(kind) = words.next()? else {
            return None;
        };
        let (Word::Mark(b'/'), Word::Text(subtype)) = (words.next()?, words.next()?) else {
            return None;
        };
        const BOUNDARY: &[u8] = b"boundary";
        let (mut boundary, mut seen) = (None, false);
        while let Some(word) = words.next() {
            // A parameter is name, "=", value; what is none is passed over.
            let Word::Text(name) = word else { continue };
            if words.peek() != Some(b'=') {
                continue;
            }
            words.next();
            let value = words.next();
            let is_boundary = name.get(..BOUNDARY.len());
            if !is_boundary.is_some_and(|start| start.eq_ignore_ascii_case(BOUNDARY)) {
                continue;
            }
            match value {
                Some(Word::Text(value) | Word::Quoted(value))
                    if name.len() == BOUNDARY.len() && !seen =>
                {
                    boundary = Some(value);
                }
                // Twice, or in the pieces of RFC 2231: readers differ.
                _ => boundary = None,
            }
            seen = true;
        }
        Some(Self {
            kind,
            subtype,
            boundary,
        })
    }
}

/// Not a space at its end, since lines may have lost those (RFC 2046 section 5.1.1).
fn is_boundary(boundary: &[u8]) -> bool {
    !boundary.is_empty()
        && boundary.len() <= BOUNDARY_MAX
        && boundary.iter().all(|octet| (b' '..=b'~').contains(octet))
        && boundary.last() != Some(&b' ')
}

/// A structured field's value, word by word, without comments and white space.
struct Words<'a>(&'a [u8]);

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Text(Vec<u8>),
    Quoted(Vec<u8>),
    Mark(u8),
}

impl Words<'_> {
    /// The octet that the next word begins with.
    fn peek(&mut self) -> Option<u8> {
        let mut depth = 0usize;
        loop {
            let (&first, rest) = self.0.split_first()?;
            match first {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => {
                    self.0 = rest.get(1..)?;
                    continue;
                }
                _ if depth > 0 || first.is_ascii_whitespace() => {}
                _ => return Some(first),
            }
            self.0 = rest;
        }
    }

    fn quoted(&mut self) -> Word {
        let mut text = Vec::new();
        while let Some((&first, rest)) = self.0.split_first() {
            self.0 = rest;
            match first {
                b'"' => break,
                b'\\' => {
                    if let Some((&escaped, rest)) = self.0.split_first() {
                        text.push(escaped);
                        self.0 = rest;
                    }
                }
                // Folding.
                b'\r' | b'\n' => {}
                other => text.push(other),
            }
        }
        Word::Quoted(text)
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        let first = self.peek()?;
        if is_mark(first) {
            self.0 = self.0.get(1..)?;
            return Some(if first == b'"' {
                self.quoted()
            } else {
                Word::Mark(first)
            });
        }
        let end = self
            .0
            .iter()
            .position(|&octet| is_mark(octet) || octet == b'(' || octet.is_ascii_whitespace());
        let (text, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        self.0 = rest;
        Some(Word::Text(text.to_vec()))
    }
}

/// The marks that matter; others of RFC 2045 section 5.1, as `:` and `?`, stand in boundaries that
/// ought to be quoted and are not.
const fn is_mark(octet: u8) -> bool {
    matches!(octet, b'"' | b';' | b'=' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(fields: &[&str]) -> Result<Shape, NotLegal> {
        let mut header = Header::default();
        for field in fields {
            let name = field.split(':').next().unwrap();
            header.begin(Field::named(name.as_bytes()))?;
            for octet in field.as_bytes() {
                header.push(&[*octet]);
            }
        }
        header.end()
    }

    #[test]
    fn shapes() {
        let multipart = |boundary: &str| Shape::Multipart {
            boundary: boundary.into(),
            digest: false,
            signed: false,
        };
        for (field, want) in [
            ("Content-Type: text/plain", Shape::Leaf(Leaf::Text)),
            (
                "content-type: TEXT/x; charset=utf-8\r\n",
                Shape::Leaf(Leaf::Text),
            ),
            ("Content-Type: nonsense\r\n", Shape::Leaf(Leaf::Text)),
            ("Content-Type: image/png", Shape::Leaf(Leaf::Data)),
            (
                "Content-Type: application/pkcs7-mime",
                Shape::Leaf(Leaf::Pkcs7),
            ),
            ("Content-Type: message/RFC822", Shape::Message),
            ("Content-Type: message/partial", Shape::Leaf(Leaf::Fixed)),
            ("Content-Type: message/global", Shape::Leaf(Leaf::Data)),
            ("Content-Type: multipart/mixed", Shape::Leaf(Leaf::Unsound)),
            (
                "Content-Type: multipart/mixed; boundary=\"\"",
                Shape::Leaf(Leaf::Unsound),
            ),
            ("Content-Type: multipart/mixed; boundary=a", multipart("a")),
            (
                "Content-Type: multipart/mixed (a \\) comment); x=y;\r\n\tBoundary = \"a \\\"b; c\" \r\n",
                multipart("a \"b; c"),
            ),
            (
                "Content-Type: multipart/mixed; boundary==_x?",
                Shape::Leaf(Leaf::Unsound),
            ),
            (
                "Content-Type: multipart/mixed; boundary=----=_x",
                multipart("----"),
            ),
            (
                "Content-Type: multipart/mixed; x=\"boundary=a\"; boundary=b",
                multipart("b"),
            ),
            (
                "Content-Type: multipart/mixed; boundary=a; boundary=b",
                Shape::Leaf(Leaf::Unsound),
            ),
            (
                "Content-Type: multipart/mixed; boundary*0=a; boundary*1=b",
                Shape::Leaf(Leaf::Unsound),
            ),
            (
                "Content-Type: multipart/mixed; (boundary=a) boundary=b",
                multipart("b"),
            ),
        ] {
            assert_eq!(shape(&[field]), Ok(want), "{field}");
        }
    }

    #[test]
    fn more_than_a_type() {
        assert_eq!(shape(&[]), Ok(Shape::Leaf(Leaf::Text)));
        let encoded = |encoding: &str| {
            shape(&[
                "Content-Type: message/rfc822",
                &format!("Content-Transfer-Encoding: {encoding}"),
            ])
        };
        assert_eq!(encoded(" 8BIT (yes)\r\n"), Ok(Shape::Message));
        assert_eq!(encoded("base64"), Ok(Shape::Leaf(Leaf::Fixed)));
        assert_eq!(
            shape(&["Content-Type: text/plain", "Content-Type: text/html"]),
            Err(NotLegal::Malformed("a part has two types"))
        );
        let long = format!("Content-Type: text/plain; x={}", "y".repeat(VALUE_MAX));
        assert!(shape(&[&long]).is_err());
    }
}
