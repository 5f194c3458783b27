//! Quoted-printable and base64 (RFC 2045 section 6), in pieces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, BytesMut};

use super::LINE_MAX;

/// Characters of an encoded line (RFC 2045 sections 6.7 and 6.8).
const ENCODED_LINE: usize = 76;
/// Octets that make a line of base64.
const BASE64_OCTETS: usize = ENCODED_LINE / 4 * 3;

/// Writes the body of one part.
#[derive(Debug)]
pub(super) enum Encoder {
    /// As it stands.
    Plain,
    Quoted(Quoted),
    Base64(Base64),
    Rewrapped(Rewrapped),
}

impl Encoder {
    pub(super) fn write(&mut self, octets: &[u8], out: &mut BytesMut) {
        match self {
            Self::Plain => out.put_slice(octets),
            Self::Quoted(quoted) => quoted.write(octets, out),
            Self::Base64(base64) => base64.write(octets, out),
            Self::Rewrapped(rewrapped) => rewrapped.write(octets, out),
        }
    }

    /// The part is complete; `last`: so is the message, whose last line wants an end.
    pub(super) fn finish(&mut self, last: bool, out: &mut BytesMut) {
        match std::mem::replace(self, Self::Plain) {
            Self::Plain => {}
            Self::Quoted(quoted) => quoted.finish(last, out),
            Self::Base64(base64) => base64.finish(last, out),
            Self::Rewrapped(rewrapped) => {
                if last && rewrapped.column > 0 {
                    out.put_slice(b"\r\n");
                }
            }
        }
    }
}

/// Quoted-printable. Line ends are CRLF before and after.
#[derive(Debug, Default)]
pub(super) struct Quoted {
    column: usize,
    /// A space, tab or CR, whose meaning the next octet decides.
    held: Option<u8>,
}

impl Quoted {
    fn write(&mut self, octets: &[u8], out: &mut BytesMut) {
        for &octet in octets {
            match (self.held.take(), octet) {
                (Some(b'\r'), b'\n') => {
                    out.put_slice(b"\r\n");
                    self.column = 0;
                    continue;
                }
                // Spaces at the end of a line do not survive as they are.
                (Some(held), b'\r') if held != b'\r' => self.escaped(held, out),
                (Some(b'\r'), _) => self.escaped(b'\r', out),
                (Some(held), _) => self.literal(held, out),
                (None, _) => {}
            }
            match octet {
                b' ' | b'\t' | b'\r' => self.held = Some(octet),
                b'=' => self.escaped(octet, out),
                // A line that was broken here must not begin as a boundary does.
                b'-' if !self.has_room(1) => self.escaped(octet, out),
                b'!'..=b'~' => self.literal(octet, out),
                other => self.escaped(other, out),
            }
        }
    }

    fn finish(mut self, last: bool, out: &mut BytesMut) {
        if let Some(held) = self.held.take() {
            self.escaped(held, out);
        }
        if last && self.column > 0 {
            out.put_slice(b"=\r\n");
        }
    }

    /// Whether the line has room for as much, and the `=` of a break.
    const fn has_room(&self, characters: usize) -> bool {
        self.column + characters < ENCODED_LINE
    }

    fn literal(&mut self, octet: u8, out: &mut BytesMut) {
        self.room(1, out);
        out.put_u8(octet);
    }

    fn escaped(&mut self, octet: u8, out: &mut BytesMut) {
        const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
        let digit = |n: u8| DIGITS.get(usize::from(n)).copied().unwrap_or(b'0');
        self.room(3, out);
        out.put_slice(&[b'=', digit(octet >> 4), digit(octet & 15)]);
    }

    /// Breaks the line where it has no room for as much.
    fn room(&mut self, characters: usize, out: &mut BytesMut) {
        if !self.has_room(characters) {
            out.put_slice(b"=\r\n");
            self.column = 0;
        }
        self.column += characters;
    }
}

/// Base64.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    /// Of a line that is not full yet.
    pending: Vec<u8>,
    any: bool,
}

impl Base64 {
    fn write(&mut self, mut octets: &[u8], out: &mut BytesMut) {
        while !octets.is_empty() {
            let room = BASE64_OCTETS.saturating_sub(self.pending.len());
            let (now, rest) = octets.split_at_checked(room).unwrap_or((octets, &[]));
            self.pending.extend_from_slice(now);
            if self.pending.len() == BASE64_OCTETS {
                self.line(out);
            }
            octets = rest;
        }
    }

    fn line(&mut self, out: &mut BytesMut) {
        if self.any {
            out.put_slice(b"\r\n");
        }
        self.any = true;
        let mut encoded = [0; ENCODED_LINE];
        // A line of octets fits into a line of text.
        if let Ok(length) = STANDARD.encode_slice(&self.pending, &mut encoded) {
            out.put_slice(encoded.get(..length).unwrap_or_default());
        }
        self.pending.clear();
    }

    fn finish(mut self, last: bool, out: &mut BytesMut) {
        if !self.pending.is_empty() {
            self.line(out);
        }
        if last && self.any {
            out.put_slice(b"\r\n");
        }
    }
}

/// Base64 as it came, in lines that are not too long: line ends mean nothing there.
#[derive(Debug, Default)]
pub(super) struct Rewrapped {
    column: usize,
}

impl Rewrapped {
    fn write(&mut self, octets: &[u8], out: &mut BytesMut) {
        for &octet in octets {
            match octet {
                b'\r' | b'\n' => continue,
                _ if self.column == ENCODED_LINE => {
                    out.put_slice(b"\r\n");
                    self.column = 0;
                }
                _ => {}
            }
            out.put_u8(octet);
            self.column += 1;
        }
    }
}

/// What nobody reads: ASCII stays as it is, `?` stands for all else, and the rest of a line that is
/// too long is left out.
#[derive(Debug, Default)]
pub(super) struct Filler {
    column: usize,
    cr: bool,
}

impl Filler {
    pub(super) fn write(&mut self, octets: &[u8], out: &mut BytesMut) {
        for &octet in octets {
            if std::mem::take(&mut self.cr) {
                if octet == b'\n' {
                    out.put_slice(b"\r\n");
                    self.column = 0;
                    continue;
                }
                self.put(b'?', out);
            }
            match octet {
                b'\r' => self.cr = true,
                0 | b'\n' | 0x80.. => self.put(b'?', out),
                other => self.put(other, out),
            }
        }
    }

    /// The boundary, or the message's end, follows.
    pub(super) fn finish(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.cr) {
            self.put(b'?', out);
        }
        self.column = 0;
    }

    fn put(&mut self, octet: u8, out: &mut BytesMut) {
        if self.column < LINE_MAX {
            out.put_u8(octet);
            self.column += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::decoders::base64::base64_decode;
    use mail_parser::decoders::quoted_printable::quoted_printable_decode;

    fn encoded(mut encoder: Encoder, octets: &[u8], piece: usize, last: bool) -> String {
        let mut out = BytesMut::new();
        for piece in octets.chunks(piece) {
            encoder.write(piece, &mut out);
        }
        encoder.finish(last, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn quoted(octets: &[u8]) -> String {
        encoded(Encoder::Quoted(Quoted::default()), octets, 1000, false)
    }

    #[test]
    fn quoted_printable() {
        let x = |n: usize| "x".repeat(n);
        for (octets, want) in [
            ("", String::new()),
            ("a = b\r\n", "a =3D b\r\n".to_owned()),
            ("a \r\nb\t\r\n", "a=20\r\nb=09\r\n".to_owned()),
            ("a  b ", "a  b=20".to_owned()),
            (" \t\r\n", " =09\r\n".to_owned()),
            ("\u{fc}\0\x7f", "=C3=BC=00=7F".to_owned()),
            ("a\rb\nc\r", "a=0Db=0Ac=0D".to_owned()),
            ("a \r", "a=20=0D".to_owned()),
            ("-- \r\n--\r\n.\r\n", "--=20\r\n--\r\n.\r\n".to_owned()),
            (&x(75), x(75)),
            (&x(76), format!("{}=\r\nx", x(75))),
            (&format!("{}\r\n", x(75)), format!("{}\r\n", x(75))),
            (&format!("{}=", x(72)), format!("{}=3D", x(72))),
            (&format!("{}=", x(73)), format!("{}=\r\n=3D", x(73))),
            // Not where a boundary could begin.
            (&format!("{}--b", x(75)), format!("{}=\r\n=2D-b", x(75))),
            (&format!("{}---b", x(74)), format!("{}-=\r\n=2D-b", x(74))),
        ] {
            assert_eq!(quoted(octets.as_bytes()), want, "{octets:?}");
        }
        let end = encoded(Encoder::Quoted(Quoted::default()), b"a", 1, true);
        assert_eq!(end, "a=\r\n");
    }

    #[test]
    fn in_base64() {
        let base64 =
            |octets: &[u8], last| encoded(Encoder::Base64(Base64::default()), octets, 10, last);
        assert_eq!(base64(b"", true), "");
        assert_eq!(base64(b"abcd", false), "YWJjZA==");
        assert_eq!(base64(b"abcd", true), "YWJjZA==\r\n");
        let line = "YWFh".repeat(19);
        assert_eq!(base64(&[b'a'; 57], false), line);
        assert_eq!(base64(&[b'a'; 114], false), format!("{line}\r\n{line}"));
        assert_eq!(base64(&[b'a'; 60], false), format!("{line}\r\nYWFh"));
        let long = "YWFh".repeat(38);
        let again = encoded(
            Encoder::Rewrapped(Rewrapped::default()),
            format!("{long}\r\nYQ==").as_bytes(),
            9,
            false,
        );
        assert_eq!(again, format!("{line}\r\n{line}\r\nYQ=="));
    }

    #[test]
    fn what_nobody_reads() {
        let filled = |octets: &[u8], piece: usize| {
            let (mut filler, mut out) = (Filler::default(), BytesMut::new());
            for piece in octets.chunks(piece) {
                filler.write(piece, &mut out);
            }
            filler.finish(&mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let long = [&[b'x'; 1500][..], b"\r\nb"].concat();
        for piece in [1, 1000] {
            assert_eq!(filled(b"a\xfcb\0\r\n\rc\nd\r", piece), "a?b?\r\n?c?d?");
            assert_eq!(filled(&long, piece), format!("{}\r\nb", "x".repeat(998)));
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(octets in proptest::collection::vec(proptest::prop_oneof![proptest::num::u8::ANY, proptest::sample::select(b" \t\r\n=-x".to_vec())], 0..400), piece in 1usize..50, last: bool) {
            let quoted = encoded(Encoder::Quoted(Quoted::default()), &octets, piece, last);
            proptest::prop_assert!(quoted.is_ascii());
            proptest::prop_assert!(quoted.split("\r\n").all(|line| line.len() <= 76 && !line.contains(['\r', '\n']) && !line.ends_with([' ', '\t'])));
            proptest::prop_assert_eq!(quoted_printable_decode(quoted.as_bytes()).unwrap(), &octets[..]);
            let base64 = encoded(Encoder::Base64(Base64::default()), &octets, piece, last);
            proptest::prop_assert!(base64.split("\r\n").all(|line| line.len() <= 76));
            proptest::prop_assert_eq!(base64_decode(base64.as_bytes()).unwrap(), &octets[..]);
            proptest::prop_assert!(!last || octets.is_empty() || base64.ends_with("\r\n"));
        }
    }
}
