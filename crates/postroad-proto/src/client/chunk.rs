use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};

use super::SessionError;
use super::dot::LineEnds;

/// Writes a message as chunks for BDAT (RFC 3030 section 2), one for each piece that comes, the
/// last of them marked. Outside BINARYMIME a bare CR or LF becomes CRLF, as it does behind DATA:
/// the octets of a chunk are counted when they are known, so that one more does no harm.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// Octets of the message still to come.
    left: u64,
    complete: bool,
    /// None for BINARYMIME: its octets are its own affair.
    line_ends: Option<LineEnds>,
}

/// What a piece has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Nothing yet.
    Nothing,
    /// A chunk, to be answered.
    One,
    /// The last.
    Last,
}

impl Chunks {
    /// Chunks of a message of that size.
    pub(crate) const fn new(size: u64, binary: bool) -> Self {
        Self {
            left: size,
            complete: false,
            line_ends: if binary { None } else { Some(LineEnds::new()) },
        }
    }

    /// Whether the last chunk has been written.
    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes a piece; of a message of no octets there is an empty one.
    pub(crate) fn write(
        &mut self,
        piece: &[u8],
        out: &mut BytesMut,
    ) -> Result<Chunk, SessionError> {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.left = self
            .left
            .checked_sub(length)
            .ok_or(SessionError::Protocol("more content than was announced"))?;
        let last = self.left == 0 && !self.complete;
        self.complete |= last;
        match &mut self.line_ends {
            Some(line_ends) if !line_ends.are_sound(piece) => {
                let mut mended = BytesMut::new();
                line_ends.write(piece, &mut mended);
                if last {
                    line_ends.finish(&mut mended);
                }
                Ok(put(&mended, last, out))
            }
            Some(_) | None => Ok(put(piece, last, out)),
        }
    }
}

fn put(chunk: &[u8], last: bool, out: &mut BytesMut) -> Chunk {
    if chunk.is_empty() && !last {
        return Chunk::Nothing;
    }
    let mark = if last { " LAST" } else { "" };
    // Writing to memory does not fail.
    let _ = write!(out, "BDAT {}{mark}\r\n", chunk.len());
    out.put_slice(chunk);
    if last { Chunk::Last } else { Chunk::One }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(pieces: &[&[u8]], binary: bool) -> String {
        let size = pieces.iter().map(|p| p.len() as u64).sum();
        let mut out = BytesMut::new();
        let mut chunks = Chunks::new(size, binary);
        for piece in pieces {
            chunks.write(piece, &mut out).unwrap();
        }
        assert!(chunks.is_complete());
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// The content of chunks, by their counts.
    fn content(mut wire: &str) -> String {
        let mut content = String::new();
        loop {
            let (command, rest) = wire.split_once("\r\n").unwrap();
            let (size, last) = match command.strip_prefix("BDAT ").unwrap().split_once(' ') {
                Some((size, "LAST")) => (size, true),
                None => (command.strip_prefix("BDAT ").unwrap(), false),
                other => panic!("{other:?}"),
            };
            let (chunk, behind) = rest.split_at(size.parse().unwrap());
            content += chunk;
            wire = behind;
            if last {
                assert_eq!(wire, "");
                return content;
            }
        }
    }

    #[test]
    fn one_chunk_for_each_piece() {
        let wire = chunked(&[b"a\r\n.\r\n", b"", b"b"], false);
        assert_eq!(wire, "BDAT 6\r\na\r\n.\r\nBDAT 1 LAST\r\nb");
        assert_eq!(chunked(&[b""], false), "BDAT 0 LAST\r\n");
        let more = Chunks::new(1, false).write(b"ab", &mut BytesMut::new());
        assert!(more.is_err());
    }

    #[test]
    fn no_bare_newline_leaves() {
        for (message, sent) in [
            ("a\r\nb", "a\r\nb"),
            ("a\nb", "a\r\nb"),
            ("a\rb", "a\r\nb"),
            ("a\n.\r\nb", "a\r\n.\r\nb"),
            ("a\r\r\nb\n\n", "a\r\n\r\nb\r\n\r\n"),
            ("a\r", "a\r\n"),
            ("\r", "\r\n"),
            ("\n", "\r\n"),
        ] {
            for split in 0..=message.len() {
                let (a, b) = message.as_bytes().split_at(split);
                assert_eq!(
                    content(&chunked(&[a, b], false)),
                    sent,
                    "{message:?} at {split}"
                );
                assert_eq!(content(&chunked(&[a, b], true)), message, "binary");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn behind_bdat_as_behind_data(pieces in proptest::collection::vec("[a\r\n]{0,8}", 1..8)) {
            let refs: Vec<_> = pieces.iter().map(String::as_bytes).collect();
            let sent = content(&chunked(&refs, false));
            proptest::prop_assert!(!sent.replace("\r\n", "").contains(['\r', '\n']));
            let mut whole = BytesMut::new();
            let mut line_ends = LineEnds::new();
            line_ends.write(pieces.concat().as_bytes(), &mut whole);
            line_ends.finish(&mut whole);
            proptest::prop_assert_eq!(sent.as_bytes(), &whole[..]);
        }
    }
}
