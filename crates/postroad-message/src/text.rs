//! What of a peer's octets a notice can show.

use std::fmt::Write as _;

/// Lines without what ends them, and without what no line may hold.
pub(crate) fn lines(octets: &[u8]) -> impl Iterator<Item = impl Iterator<Item = u8>> {
    let text = |b: &u8| !matches!(b, b'\r' | 0);
    octets
        .strip_suffix(b"\n")
        .unwrap_or(octets)
        .split(|&b| b == b'\n')
        .map(move |line| line.iter().copied().filter(text))
}

/// RFC 2045 section 6.7.
pub(crate) fn quoted_printable(octets: &[u8], out: &mut Vec<u8>) {
    const LINE: usize = 76;
    for line in lines(octets) {
        let mut column = 0;
        let mut line = line.peekable();
        while let Some(octet) = line.next() {
            let last = line.peek().is_none();
            let plain = matches!(octet, b'!'..=b'<' | b'>'..=b'~')
                || (matches!(octet, b' ' | b'\t') && !last);
            let width = if plain { 1 } else { 3 };
            // A soft break needs a place of its own, unless the line ends here.
            if column + width > LINE - usize::from(!last) {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            column += width;
            if plain {
                out.push(octet);
            } else {
                out.extend_from_slice(format!("={octet:02X}").as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Neither NUL, nor a CR or LF without the other.
pub(crate) fn is_text(octets: &[u8]) -> bool {
    let mut last = 0;
    for &octet in octets {
        let bare = (last == b'\r') != (octet == b'\n');
        if octet == 0 || bare {
            return false;
        }
        last = octet;
    }
    last != b'\r'
}

/// Printable, bounded, and in the sender's own letters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(512)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// An address in ASCII: what is not, as RFC 6533 section 3 writes it in `utf-8-addr-xtext`.
pub(crate) fn unicode_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    out
}

/// A peer's text as part of one line: printable, bounded.
pub(crate) fn line(text: &str) -> String {
    text.chars()
        .take(512)
        .map(|c| {
            if c.is_control() {
                ' '
            } else if c.is_ascii() {
                c
            } else {
                '?'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_printable_is_as_it_must_be() {
        let encoded = |octets: &[u8]| {
            let mut out = Vec::new();
            quoted_printable(octets, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            encoded(b"A: =\xfc x \r\n\tb\n\r\n"),
            "A: =3D=FC x=20\r\n\tb\r\n\r\n"
        );
        for octet in ["a", "\u{fc}"] {
            for length in 70..160 {
                let text = encoded(octet.repeat(length).as_bytes());
                assert!(text.split("\r\n").all(|line| line.len() <= 76), "{text}");
                assert_eq!(
                    text.replace("=\r\n", "").replace("=C3=BC", "\u{fc}"),
                    format!("{}\r\n", octet.repeat(length))
                );
            }
        }
    }

    #[test]
    fn lines_end_in_crlf_and_nothing_else() {
        assert!(is_text(b"a\r\nb\r\n\r\n") && is_text(b""));
        for binary in [&b"a\0"[..], b"a\nb", b"a\rb", b"\r", b"\n", b"a\r\r\n"] {
            assert!(!is_text(binary), "{binary:?}");
        }
    }
}
