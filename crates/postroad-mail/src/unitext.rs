//! Addresses outside ASCII in a parameter (RFC 6533 section 3): what cannot stand there is written
//! `\x{HEX}`, by code point and not, as in xtext, by octet.

use std::fmt::Write as _;

use crate::xtext::XtextError;

/// utf-8-addr-unitext: characters outside ASCII as they are.
pub(crate) fn unitext_encode(address: &str) -> String {
    encode(address, |c| !c.is_ascii())
}

/// utf-8-addr-xtext: nothing but ASCII.
pub(crate) fn unitext_encode_ascii(address: &str) -> String {
    encode(address, |_| false)
}

fn encode(address: &str, stands: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(address.len());
    for c in address.chars() {
        if is_qchar(c) || stands(c) {
            out.push(c);
        } else {
            // Writing to memory does not fail.
            let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    out
}

/// `QCHAR`: printable ASCII without `+`, `=` and the backslash.
const fn is_qchar(c: char) -> bool {
    matches!(c, '!'..='~') && !matches!(c, '+' | '=' | '\\')
}

/// Reads either form. A `+` stands for itself: RFC 6533 also allows the address without any
/// encoding.
pub(crate) fn unitext_decode(text: &str) -> Result<String, XtextError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '\\' => {
                let (c, behind) = escaped(rest).ok_or(XtextError::CodePoint)?;
                out.push(c);
                rest = behind;
            }
            c if c.is_control() => return Err(XtextError::Character(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// What the escape stands for whose backslash has just been read, and what is behind it.
fn escaped(text: &str) -> Option<(char, &str)> {
    let (digits, behind) = text.strip_prefix("x{")?.split_once('}')?;
    let valid = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let code = valid
        .then(|| u32::from_str_radix(digits, 16).ok())
        .flatten()?;
    Some((char::from_u32(code)?, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, plain) in [
            ("a", "a"),
            ("\\x{20}\\x{2B}\\x{3d}", " +="),
            ("\\x{10FFFF}", "\u{10ffff}"),
            ("ü+x", "ü+x"),
        ] {
            assert_eq!(unitext_decode(text).unwrap(), plain, "{text}");
        }
        for bad in [
            "\\",
            "\\x",
            "\\x{}",
            "\\x{20",
            "\\x{D800}",
            "\\x{110000}",
            "\\x{0000020}",
            "\\x{+2}",
            "a\u{7f}",
        ] {
            assert!(unitext_decode(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(s in ".*|([\\\\x{}0-9A-F]{0,20})") {
            let _ = unitext_decode(&s);
        }
    }
}
