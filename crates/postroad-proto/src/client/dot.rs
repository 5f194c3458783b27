use bytes::{BufMut as _, BytesMut};

/// Writes a message for DATA: dots at the start of lines doubled (RFC 5321 section 4.5.2), a last
/// line without its end completed.
#[derive(Debug)]
pub(crate) struct DotStuffer(LineEnds);

impl DotStuffer {
    pub(crate) const fn new() -> Self {
        Self(LineEnds {
            last: Last::LineEnd,
            dots: true,
        })
    }

    pub(crate) fn write(&mut self, piece: &[u8], out: &mut BytesMut) {
        self.0.write(piece, out);
    }

    /// Completes the last line, and writes the final dot.
    pub(crate) fn finish(self, out: &mut BytesMut) {
        if self.0.last != Last::LineEnd {
            out.put_slice(b"\r\n");
        }
        out.put_slice(b".\r\n");
    }
}

/// Writes text: a bare CR or LF, which the queue never holds outside BINARYMIME, becomes CRLF.
/// None may leave, or the next hop could be made to see an end that is none.
#[derive(Debug)]
pub(crate) struct LineEnds {
    last: Last,
    /// Whether a dot at the start of a line is doubled.
    dots: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// CRLF, or nothing yet.
    LineEnd,
    /// A CR whose LF may follow in the next piece; not written yet.
    Cr,
    Other,
}

impl LineEnds {
    pub(crate) const fn new() -> Self {
        Self {
            last: Last::LineEnd,
            dots: false,
        }
    }

    /// Whether the piece could be written as it stands, were it not for dots: all its CR and LF
    /// are CRLF, and no CR is held back from the piece before.
    pub(crate) fn are_sound(&self, piece: &[u8]) -> bool {
        let mut ends = 0;
        for at in memchr::memchr_iter(b'\n', piece) {
            if at.checked_sub(1).and_then(|before| piece.get(before)) != Some(&b'\r') {
                return false;
            }
            ends += 1;
        }
        self.last != Last::Cr && memchr::memchr_iter(b'\r', piece).count() == ends
    }

    pub(crate) fn write(&mut self, piece: &[u8], out: &mut BytesMut) {
        let mut rest = piece;
        out.reserve(piece.len() + piece.len() / 64 + 4);
        while let Some(&first) = rest.first() {
            if self.last == Last::Cr {
                out.put_slice(b"\r\n");
                self.last = Last::LineEnd;
                if first == b'\n' {
                    rest = rest.get(1..).unwrap_or_default();
                    continue;
                }
            }
            if self.dots && self.last == Last::LineEnd && first == b'.' {
                out.put_u8(b'.');
            }
            let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            let (text, ending) = rest.split_at(end);
            if !text.is_empty() {
                out.put_slice(text);
                self.last = Last::Other;
            }
            match ending.first() {
                Some(b'\r') => self.last = Last::Cr,
                Some(_) => {
                    out.put_slice(b"\r\n");
                    self.last = Last::LineEnd;
                }
                None => {}
            }
            rest = ending.get(1..).unwrap_or_default();
        }
    }

    /// Completes a line end that was held back.
    pub(crate) fn finish(&mut self, out: &mut BytesMut) {
        if self.last == Last::Cr {
            out.put_slice(b"\r\n");
            self.last = Last::LineEnd;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(pieces: &[&[u8]]) -> String {
        let mut out = BytesMut::new();
        let mut stuffer = DotStuffer::new();
        for piece in pieces {
            stuffer.write(piece, &mut out);
        }
        stuffer.finish(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn at_any_split() {
        for (message, wire) in [
            ("", ".\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            (".\r\n..\r\na.b\r\n", "..\r\n...\r\na.b\r\n.\r\n"),
            ("\r\n.\r\n", "\r\n..\r\n.\r\n"),
            ("a\n.\nb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r.\rb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\n.\r\nb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r\r\nb", "a\r\n\r\nb\r\n.\r\n"),
            ("a\r", "a\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(&[message.as_bytes()]), wire, "{message:?}");
            for split in 0..=message.len() {
                let (a, b) = message.as_bytes().split_at(split);
                assert_eq!(stuffed(&[a, b]), wire, "{message:?} at {split}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn ends_once_and_holds_no_bare_newline(pieces in proptest::collection::vec("[a.\r\n]{0,8}", 0..8)) {
            let refs: Vec<_> = pieces.iter().map(String::as_bytes).collect();
            let wire = stuffed(&refs);
            let bare = wire.replace("\r\n", "");
            proptest::prop_assert!(!bare.contains(['\r', '\n']));
            let end = wire.find("\r\n.\r\n").map_or(0, |at| at + 2);
            proptest::prop_assert_eq!(&wire[end..], ".\r\n");
        }
    }
}
