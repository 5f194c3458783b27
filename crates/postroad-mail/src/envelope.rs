use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::dsn_params::{Notify, OriginalRecipient, Ret};
use crate::path::ReversePath;

/// What the body holds, as the sender declared it (RFC 6152, RFC 3030).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyKind {
    /// `BODY=7BIT`, and where nothing was declared.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`
    EightBitMime,
    /// `BODY=BINARYMIME`
    BinaryMime,
}

/// The AUTH= parameter of MAIL (RFC 4954 section 5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthParam {
    /// `AUTH=<>`
    Unknown,
    /// The identity that first submitted the message, xtext decoded.
    Identity(String),
}

/// One recipient with its ESMTP parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// Where the message goes.
    pub address: Address,
    /// NOTIFY, where the sender gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// ORCPT, where the sender gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<OriginalRecipient>,
    /// The reverse-path for this recipient, where it is not the envelope's: that of the list whose
    /// expansion it came from (RFC 5321 section 3.9.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ReversePath>,
}

impl Recipient {
    /// A recipient without parameters.
    #[must_use]
    pub const fn new(address: Address) -> Self {
        Self {
            address,
            notify: None,
            original: None,
            from: None,
        }
    }

    /// What the sender wants to be told, defaults applied.
    #[must_use]
    pub fn notify(&self) -> Notify {
        self.notify.unwrap_or(Notify::DEFAULT)
    }
}

/// A transaction as agreed with the client: reverse-path, at least one recipient, parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// MAIL FROM.
    pub from: ReversePath,
    #[serde(deserialize_with = "at_least_one")]
    recipients: Vec<Recipient>,
    /// BODY=
    #[serde(default)]
    pub body: BodyKind,
    /// SMTPUTF8 (RFC 6531)
    #[serde(default)]
    pub smtputf8: bool,
    /// RET= (RFC 3461)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    /// ENVID= (RFC 3461), xtext decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
    /// AUTH= (RFC 4954)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthParam>,
    /// REQUIRETLS (RFC 8689): verified TLS on every hop, or the message goes back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_tls: bool,
}

impl Envelope {
    /// An envelope with one recipient and no parameters.
    #[must_use]
    pub fn new(from: ReversePath, recipient: Recipient) -> Self {
        Self {
            from,
            recipients: vec![recipient],
            body: BodyKind::default(),
            smtputf8: false,
            ret: None,
            envid: None,
            auth: None,
            require_tls: false,
        }
    }

    /// Adds a recipient behind those already there.
    pub fn push(&mut self, recipient: Recipient) {
        self.recipients.push(recipient);
    }

    /// The recipients in the order of their RCPT commands; never empty. A recipient's place in
    /// this list is its name in the queue.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// The reverse-path of a recipient: its own, or the envelope's.
    #[must_use]
    pub fn reverse_path(&self, recipient: usize) -> &ReversePath {
        let own = self.recipients.get(recipient).and_then(|r| r.from.as_ref());
        own.unwrap_or(&self.from)
    }

    /// Drops recipients whose address was named before; the first naming counts.
    pub fn drop_duplicates(&mut self) {
        let mut seen = std::collections::HashSet::new();
        self.recipients
            .retain(|recipient| seen.insert(recipient.address.clone()));
    }

    /// Puts others in the place of all recipients, where there is at least one; whether there was.
    pub fn replace_recipients(&mut self, recipients: Vec<Recipient>) -> bool {
        if recipients.is_empty() {
            return false;
        }
        self.recipients = recipients;
        true
    }

    /// The recipients, to rewrite them.
    #[must_use]
    pub fn recipients_mut(&mut self) -> &mut [Recipient] {
        &mut self.recipients
    }
}

fn at_least_one<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Recipient>, D::Error> {
    let recipients = Vec::deserialize(deserializer)?;
    if recipients.is_empty() {
        return Err(serde::de::Error::custom(
            "an envelope has at least one recipient",
        ));
    }
    Ok(recipients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_each() {
        let recipient = |a: &str| Recipient::new(a.parse().unwrap());
        let mut envelope = Envelope::new(ReversePath::Null, recipient("a@b"));
        for again in ["c@d", "a@B", "A@b", "c@d"] {
            envelope.push(recipient(again));
        }
        envelope.drop_duplicates();
        let left: Vec<_> = envelope
            .recipients()
            .iter()
            .map(|r| r.address.to_string())
            .collect();
        assert_eq!(left, ["a@b", "c@d", "A@b"]);
    }

    #[test]
    fn serialised_as_read() {
        let mut envelope = Envelope::new(ReversePath::Null, Recipient::new("a@b".parse().unwrap()));
        envelope.push(Recipient {
            address: "\"x y\"@[192.0.2.1]".parse().unwrap(),
            notify: Some(Notify::NEVER),
            original: Some("rfc822;z@y".parse().unwrap()),
            from: None,
        });
        envelope.auth = Some(AuthParam::Identity("me".to_owned()));
        envelope.ret = Some(Ret::Headers);
        let json = serde_json::to_string(&envelope).unwrap();
        assert_eq!(serde_json::from_str::<Envelope>(&json).unwrap(), envelope);
        assert!(serde_json::from_str::<Envelope>(r#"{"from":"","recipients":[]}"#).is_err());
    }
}
