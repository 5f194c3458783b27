//! Netstrings, and the replies of a socketmap server in them: octets in, values out, no I/O.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Octets of a netstring's content, at most: what Postfix and Sendmail take.
pub(crate) const CONTENT_MAX: usize = 100_000;
/// Digits of a length, at most.
const DIGITS_MAX: usize = 6;

/// Not a netstring; the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetstringError {
    #[error("a length was expected: digits, no leading zeros, and a colon")]
    Length,
    #[error("a netstring of more than {CONTENT_MAX} octets")]
    TooLong,
    #[error("no comma behind a netstring")]
    Comma,
    #[error("more than was asked for")]
    Unasked,
}

/// Takes a netstring from the start of `input`; `None`: more octets are needed. No more than
/// [`CONTENT_MAX`] and a few octets are ever needed.
pub(crate) fn take(input: &mut BytesMut) -> Result<Option<Bytes>, NetstringError> {
    let digits = input.iter().take_while(|c| c.is_ascii_digit()).count();
    if digits > DIGITS_MAX {
        return Err(NetstringError::TooLong);
    }
    let leading_zero = digits > 1 && input.first() == Some(&b'0');
    match input.get(digits) {
        _ if leading_zero => return Err(NetstringError::Length),
        Some(b':') if digits > 0 => {}
        Some(_) => return Err(NetstringError::Length),
        None => return Ok(None),
    }
    let length = input.iter().take(digits).fold(0_usize, |length, c| {
        length * 10 + usize::from(c.saturating_sub(b'0'))
    });
    if length > CONTENT_MAX {
        return Err(NetstringError::TooLong);
    }
    match input.get(digits + 1 + length) {
        None => Ok(None),
        Some(b',') => {
            input.advance(digits + 1);
            let content = input.split_to(length).freeze();
            input.advance(1);
            Ok(Some(content))
        }
        Some(_) => Err(NetstringError::Comma),
    }
}

/// Writes a netstring; `None` where the content is too long.
pub(crate) fn netstring(content: &[&[u8]]) -> Option<Bytes> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    if length > CONTENT_MAX {
        return None;
    }
    let mut output = BytesMut::with_capacity(length + DIGITS_MAX + 2);
    output.put_slice(format!("{length}:").as_bytes());
    for part in content {
        output.put_slice(part);
    }
    output.put_u8(b',');
    Some(output.freeze())
}

/// What a socketmap server answers (socketmap_table(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    Ok(&'a str),
    NotFound,
    /// `TEMP`, `TIMEOUT`: later.
    Later(&'a str),
    /// `PERM`: never so.
    Never(&'a str),
}

impl<'a> Answer<'a> {
    /// `None`: none of them, or not UTF-8.
    pub(crate) fn parse(content: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?;
        // Some servers leave the space out where nothing follows it.
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "OK" => Some(Self::Ok(rest)),
            "NOTFOUND" => Some(Self::NotFound),
            "TEMP" | "TIMEOUT" => Some(Self::Later(rest)),
            "PERM" => Some(Self::Never(rest)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(input: &[u8]) -> Result<Option<Bytes>, NetstringError> {
        take(&mut BytesMut::from(input))
    }

    #[test]
    fn both_ways() {
        for (written, content) in [
            ("0:,", ""),
            ("5:OK me,", "OK me"),
            ("10:0123456789,", "0123456789"),
            ("3:a,b,", "a,b"),
        ] {
            assert_eq!(taken(written.as_bytes()).unwrap().unwrap(), content);
            assert_eq!(netstring(&[content.as_bytes()]).unwrap(), written);
        }
        let mut two = BytesMut::from("1:a,1:b,2:");
        assert_eq!(take(&mut two).unwrap().unwrap(), "a");
        assert_eq!(take(&mut two).unwrap().unwrap(), "b");
        assert_eq!(take(&mut two), Ok(None));
    }

    #[test]
    fn refused() {
        for (input, error) in [
            (":,", NetstringError::Length),
            ("x", NetstringError::Length),
            ("01:a,", NetstringError::Length),
            ("00", NetstringError::Length),
            ("-1:a,", NetstringError::Length),
            (" 1:a,", NetstringError::Length),
            ("1:ab", NetstringError::Comma),
            ("1:a\n", NetstringError::Comma),
            ("100001:", NetstringError::TooLong),
            ("9999999", NetstringError::TooLong),
        ] {
            assert_eq!(taken(input.as_bytes()), Err(error), "{input}");
        }
        assert_eq!(taken(b"100000:"), Ok(None));
        assert_eq!(netstring(&[&[b'x'; CONTENT_MAX], b"y"]), None);
    }

    #[test]
    fn answers() {
        for (content, answer) in [
            ("OK smtp://a:25", Some(Answer::Ok("smtp://a:25"))),
            ("OK ", Some(Answer::Ok(""))),
            ("NOTFOUND ", Some(Answer::NotFound)),
            ("NOTFOUND", Some(Answer::NotFound)),
            ("TEMP later", Some(Answer::Later("later"))),
            ("TIMEOUT slow", Some(Answer::Later("slow"))),
            ("PERM no map", Some(Answer::Never("no map"))),
            ("", None),
            ("ok x", None),
            ("OKAY", None),
        ] {
            assert_eq!(Answer::parse(content.as_bytes()), answer, "{content}");
        }
        assert_eq!(Answer::parse(b"OK \xff"), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(content: Vec<u8>, behind: Vec<u8>) {
            let mut input = BytesMut::from(&netstring(&[&content]).unwrap()[..]);
            input.extend_from_slice(&behind);
            proptest::prop_assert_eq!(take(&mut input).unwrap().unwrap(), content);
            proptest::prop_assert_eq!(&input[..], behind);
        }

        #[test]
        fn in_any_pieces(input in "[0-9:,a]{0,24}|([0-3]:[a,]{0,3},){0,6}", cuts: Vec<u8>) {
            crate::fuzz::socketmap(input.as_bytes(), &cuts);
        }

        #[test]
        fn any_octets(input: Vec<u8>, cuts: Vec<u8>) {
            crate::fuzz::socketmap(&input, &cuts);
        }
    }
}
