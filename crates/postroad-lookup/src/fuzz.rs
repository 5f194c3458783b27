//! What a fuzzer, or a property test, feeds: each takes any octets and panics on a broken promise.

use bytes::BytesMut;

use crate::lines::{self, Line};
use crate::netstring::{Answer, CONTENT_MAX, netstring, take};

/// Octets that a netstring has around its content, at most.
const FRAME_MAX: usize = 8;

/// Reads what a socketmap server sends, in the pieces whose lengths `cuts` gives, over and over.
///
/// # Panics
/// Where the pieces change what is read, more octets are asked for than a netstring can have, or
/// what was read is not what would be written.
pub fn socketmap(input: &[u8], cuts: &[u8]) {
    let mut whole = BytesMut::from(input);
    let mut expected = Vec::new();
    let end = loop {
        match take(&mut whole) {
            Ok(Some(content)) => expected.push(content),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
    let mut cuts = cuts.iter().copied().cycle();
    let mut rest = input;
    let end_in_pieces = loop {
        match take(&mut buffer) {
            Ok(Some(content)) => read.push(content),
            Ok(None) if rest.is_empty() => break None,
            Ok(None) => {
                assert!(buffer.len() <= CONTENT_MAX + FRAME_MAX, "unbounded");
                let length = usize::from(cuts.next().unwrap_or(0)) + 1;
                let (piece, more) = rest.split_at(length.min(rest.len()));
                buffer.extend_from_slice(piece);
                rest = more;
            }
            Err(error) => break Some(error),
        }
    };
    assert_eq!(read, expected, "the pieces matter");
    assert_eq!(end_in_pieces, end, "the pieces matter");
    let mut written = Vec::new();
    for content in &read {
        let _ = Answer::parse(content);
        written.extend_from_slice(&netstring(&[content]).unwrap_or_default());
    }
    assert!(input.starts_with(&written), "not what was sent");
}

/// Reads a table file.
///
/// # Panics
/// Where a key or a value holds what belongs to neither.
pub fn table_file(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    for Line { key, value, .. } in lines::lines(text).flatten() {
        assert!(!key.is_empty() && !value.is_empty(), "an empty part");
        assert!(!key.starts_with('#'), "a comment as a key");
        assert!(!value.contains(['\r', '\n']), "more than a line");
        assert_eq!(value, value.trim(), "space around a value");
    }
}
