use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::unitext::{unitext_decode, unitext_encode, unitext_encode_ascii};
use crate::xtext::{XtextError, xtext_decode, xtext_encode};

/// How much of the message a failure notice returns (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ret {
    /// `RET=FULL`
    Full,
    /// `RET=HDRS`
    Headers,
}

/// Which events the sender wants to be told of (RFC 3461 section 4.1); all off is `NOTIFY=NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Notify {
    /// `SUCCESS`
    pub success: bool,
    /// `FAILURE`
    pub failure: bool,
    /// `DELAY`
    pub delay: bool,
}

impl Notify {
    /// `NOTIFY=NEVER`
    pub const NEVER: Self = Self {
        success: false,
        failure: false,
        delay: false,
    };

    /// What holds where the sender said nothing: failures and delays.
    pub const DEFAULT: Self = Self {
        success: false,
        failure: true,
        delay: true,
    };
}

/// The value of a NOTIFY parameter is neither NEVER nor a list of SUCCESS, FAILURE, DELAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NOTIFY takes NEVER, or a list of SUCCESS, FAILURE and DELAY")]
pub struct NotifyError;

impl FromStr for Notify {
    type Err = NotifyError;

    fn from_str(s: &str) -> Result<Self, NotifyError> {
        if s.eq_ignore_ascii_case("never") {
            return Ok(Self::NEVER);
        }
        let mut notify = Self::NEVER;
        for word in s.split(',') {
            let flag = match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => &mut notify.success,
                "FAILURE" => &mut notify.failure,
                "DELAY" => &mut notify.delay,
                _ => return Err(NotifyError),
            };
            *flag = true;
        }
        Ok(notify)
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("NEVER");
        }
        let words = [
            (self.success, "SUCCESS"),
            (self.failure, "FAILURE"),
            (self.delay, "DELAY"),
        ];
        let mut separator = "";
        for (_, word) in words.iter().filter(|(on, _)| *on) {
            write!(f, "{separator}{word}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// The recipient as the sender first named it (ORCPT, RFC 3461 section 4.2), decoded.
///
/// Parsing takes the address in every form that a parameter may have it in; printing gives the one
/// that needs no SMTPUTF8, and [`OriginalRecipient::to_unitext`] the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OriginalRecipient {
    /// The address type, nearly always `rfc822` or `utf-8`.
    pub address_type: String,
    /// The address, decoded.
    pub address: String,
}

impl OriginalRecipient {
    /// The parameter's value for a server with SMTPUTF8: a `utf-8` address as it is
    /// (utf-8-addr-unitext of RFC 6533 section 3), any other type in xtext.
    #[must_use]
    pub fn to_unitext(&self) -> String {
        if self.is_utf8() {
            format!("{};{}", self.address_type, unitext_encode(&self.address))
        } else {
            self.to_string()
        }
    }

    fn is_utf8(&self) -> bool {
        is_utf8(&self.address_type)
    }
}

fn is_utf8(address_type: &str) -> bool {
    address_type.eq_ignore_ascii_case("utf-8")
}

impl FromStr for OriginalRecipient {
    type Err = XtextError;

    fn from_str(s: &str) -> Result<Self, XtextError> {
        let (address_type, xtext) = s.split_once(';').ok_or(XtextError::Character(';'))?;
        let valid = !address_type.is_empty()
            && address_type
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !valid {
            return Err(XtextError::Character(';'));
        }
        let address = match (is_utf8(address_type), xtext.is_ascii()) {
            (true, false) => match xtext.chars().find(|c| matches!(c, ' ' | '=')) {
                Some(c) => return Err(XtextError::Character(c)),
                None => unitext_decode(xtext)?,
            },
            // RFC 6533 section 3 leaves no `+` in this form, so that to read it as xtext first
            // changes nothing where the sender kept to it, and mends it where it did not.
            (true, true) => unitext_decode(&xtext_decode(xtext)?)?,
            (false, _) => xtext_decode(xtext)?,
        };
        if let Some(c) = address.chars().find(|c| c.is_control()) {
            return Err(XtextError::Character(c));
        }
        Ok(Self {
            address_type: address_type.to_owned(),
            address,
        })
    }
}

impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = if self.is_utf8() {
            unitext_encode_ascii(&self.address)
        } else {
            xtext_encode(&self.address)
        };
        write!(f, "{};{address}", self.address_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_both_ways() {
        for s in ["NEVER", "SUCCESS", "SUCCESS,FAILURE,DELAY", "FAILURE,DELAY"] {
            assert_eq!(s.parse::<Notify>().unwrap().to_string(), s);
        }
        for bad in ["", "NEVER,SUCCESS", "success;delay", "SUCCESS,"] {
            assert!(bad.parse::<Notify>().is_err(), "{bad}");
        }
    }

    #[test]
    fn orcpt_both_ways() {
        let o: OriginalRecipient = "rfc822;a+2Bb@example.org".parse().unwrap();
        assert_eq!(
            (o.address_type.as_str(), o.address.as_str()),
            ("rfc822", "a+b@example.org")
        );
        assert_eq!(o.to_string(), "rfc822;a+2Bb@example.org");
        for bad in [
            "a@b",
            ";a@b",
            "rfc 822;a@b",
            "rfc822;a b",
            "rfc822;a+0D+0Ab",
            "rfc822;ü@b",
            "utf-8;ü\\x{A}@b",
            "utf-8;a\\x{A}@b",
            "utf-8;ü =@b",
            "utf-8;ü\\@b",
        ] {
            assert!(bad.parse::<OriginalRecipient>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_internationalized_orcpt_in_both_its_forms() {
        for (xtext, unitext, address) in [
            ("utf-8;a@b", "utf-8;a@b", "a@b"),
            (
                "utf-8;\\x{FC}@b\\x{FC}cher.example",
                "utf-8;ü@bücher.example",
                "ü@bücher.example",
            ),
            (
                "UTF-8;\\x{1F600}\\x{2B}tag\\x{3D}@b",
                "UTF-8;😀\\x{2B}tag\\x{3D}@b",
                "😀+tag=@b",
            ),
            (
                "utf-8;\"\\x{FC}\\x{20}\\x{5C}x\"@b",
                "utf-8;\"ü\\x{20}\\x{5C}x\"@b",
                "\"ü \\x\"@b",
            ),
        ] {
            for written in [xtext, unitext] {
                let o: OriginalRecipient = written.parse().unwrap();
                assert_eq!(o.address, address, "{written}");
                assert_eq!(o.to_string(), xtext);
                assert_eq!(o.to_unitext(), unitext);
            }
        }
        // What senders write that know only RFC 3461.
        let o: OriginalRecipient = "utf-8;+C3+BC+2B+3D@b".parse().unwrap();
        assert_eq!(o.address, "ü+=@b");
        let o: OriginalRecipient = "rfc822;a+2Bb@c".parse().unwrap();
        assert_eq!(o.to_unitext(), "rfc822;a+2Bb@c");
    }

    proptest::proptest! {
        #[test]
        fn any_address_survives_both_forms(address in "[ -~ü€😀]{0,30}", utf8 in proptest::bool::ANY) {
            let address_type = if utf8 { "utf-8" } else { "rfc822" }.to_owned();
            let o = OriginalRecipient { address_type, address };
            proptest::prop_assert!(o.to_string().is_ascii());
            for written in [o.to_string(), o.to_unitext()] {
                proptest::prop_assert_eq!(written.parse(), Ok(o.clone()), "{}", written);
            }
        }
    }
}
