use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OriginalRecipient {
    /// The address type, nearly always `rfc822` or `utf-8`.
    pub address_type: String,
    /// The address, xtext decoded.
    pub address: String,
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
        // RFC 6533 section 3: utf-8 addresses may come unencoded, with \x{…} escapes kept as text.
        let address = if address_type.eq_ignore_ascii_case("utf-8") && !xtext.is_ascii() {
            if let Some(c) = xtext
                .chars()
                .find(|c| c.is_control() || matches!(c, ' ' | '='))
            {
                return Err(XtextError::Character(c));
            }
            xtext.to_owned()
        } else {
            xtext_decode(xtext)?
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
        write!(f, "{};{}", self.address_type, xtext_encode(&self.address))
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
        ] {
            assert!(bad.parse::<OriginalRecipient>().is_err(), "{bad}");
        }
    }
}
