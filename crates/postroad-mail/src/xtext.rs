/// Why a string is not xtext (RFC 3461 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XtextError {
    /// A character outside `!` to `~`, or a bare `=`.
    #[error("character {0:?} is not allowed in xtext")]
    Character(char),
    /// A `+` that two upper-case hexadecimal digits do not follow.
    #[error("`+` must be followed by two upper-case hexadecimal digits")]
    Escape,
    /// A backslash that `x{…}` with a character's code point does not follow (RFC 6533 section 3).
    #[error("`\\` must be followed by x{{…}} with the code point of a character")]
    CodePoint,
    /// The decoded octets are not UTF-8.
    #[error("the decoded octets are not UTF-8")]
    NotUtf8,
}

/// Decodes xtext (RFC 3461 section 4), as in ENVID, ORCPT and AUTH parameters.
///
/// # Errors
/// Where the input is not xtext, or does not decode to UTF-8.
pub fn xtext_decode(input: &str) -> Result<String, XtextError> {
    let mut out = Vec::with_capacity(input.len());
    let mut rest = input.chars();
    while let Some(c) = rest.next() {
        match c {
            '+' => {
                let digit = |c: Option<char>| match c {
                    Some(c @ '0'..='9') => Ok(c as u8 - b'0'),
                    Some(c @ 'A'..='F') => Ok(c as u8 - b'A' + 10),
                    _ => Err(XtextError::Escape),
                };
                let high = digit(rest.next())?;
                let low = digit(rest.next())?;
                out.push(high << 4 | low);
            }
            '!'..='~' if c != '=' => out.push(c as u8),
            _ => return Err(XtextError::Character(c)),
        }
    }
    String::from_utf8(out).map_err(|_| XtextError::NotUtf8)
}

/// Encodes any string as xtext (RFC 3461 section 4).
#[must_use]
pub fn xtext_encode(input: &str) -> String {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let mut out = String::with_capacity(input.len());
    for byte in input.bytes() {
        if (b'!'..=b'~').contains(&byte) && byte != b'+' && byte != b'=' {
            out.push(char::from(byte));
        } else {
            out.push('+');
            out.extend(HEX.get(usize::from(byte >> 4)));
            out.extend(HEX.get(usize::from(byte & 15)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (plain, encoded) in [
            ("a+b=c", "a+2Bb+3Dc"),
            ("plain", "plain"),
            ("ü x", "+C3+BC+20x"),
        ] {
            assert_eq!(xtext_encode(plain), encoded);
            assert_eq!(xtext_decode(encoded).unwrap(), plain);
        }
    }

    #[test]
    fn refused() {
        assert_eq!(xtext_decode("a=b"), Err(XtextError::Character('=')));
        assert_eq!(xtext_decode("a+2b"), Err(XtextError::Escape));
        assert_eq!(xtext_decode("a+2"), Err(XtextError::Escape));
        assert_eq!(xtext_decode("+FF"), Err(XtextError::NotUtf8));
    }

    proptest::proptest! {
        #[test]
        fn any_string_survives(s in ".*") {
            proptest::prop_assert_eq!(xtext_decode(&xtext_encode(&s)).unwrap(), s);
        }

        #[test]
        fn never_panics(s in ".*") {
            let _ = xtext_decode(&s);
        }
    }
}
