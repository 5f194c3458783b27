use std::fmt::Write as _;
use std::net::IpAddr;

use postroad_mail::{Address, Domain, Origin, Timestamp};

use crate::dates::rfc5322_date;

/// Octets of a line, where it can be folded.
const LINE: usize = 78;

/// The trace field that a server puts before a message (RFC 5321 section 4.4).
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// How the message came.
    pub origin: &'a Origin,
    /// Whether the client said EHLO.
    pub extended: bool,
    /// Whether the transaction had SMTPUTF8.
    pub smtputf8: bool,
    /// The name of this host.
    pub by: &'a str,
    /// The queue id.
    pub id: &'a str,
    /// The recipient, where there is just one: with more, the field would tell each of the others.
    pub only_recipient: Option<&'a Address>,
    /// Now.
    pub at: Timestamp,
}

impl Received<'_> {
    /// The field, folded, with its CRLF. Whatever the client said is quoted, so that it can end
    /// neither its clause nor the field. The authenticated user is not named.
    #[must_use]
    pub fn to_field(&self) -> String {
        let mut clauses = Vec::with_capacity(8);
        let helo = self
            .origin
            .helo
            .as_deref()
            .map_or_else(|| "unknown".to_owned(), word);
        clauses.push(match self.origin.address {
            Some(address) => format!("from {helo} ({})", literal(address)),
            None => format!("from {helo}"),
        });
        clauses.push(format!("by {}", word(self.by)));
        let protocol = with_protocol(
            self.extended,
            self.origin.tls.is_some(),
            self.origin.user.is_some(),
            self.smtputf8,
        );
        clauses.push(format!("with {protocol}"));
        if let Some(tls) = &self.origin.tls {
            clauses.push(format!(
                "({} {})",
                comment(&tls.version),
                comment(&tls.cipher)
            ));
        }
        clauses.push(format!("id {}", word(self.id)));
        if let Some(recipient) = self.only_recipient {
            clauses.push(format!("for <{recipient}>"));
        }
        if let Some(last) = clauses.last_mut() {
            last.push(';');
        }
        clauses.push(rfc5322_date(self.at));
        fold("Received:", &clauses)
    }
}

/// The protocol name for the `with` clause (RFC 3848, RFC 6531 section 4.3).
#[must_use]
#[expect(
    clippy::fn_params_excessive_bools,
    reason = "the names are made of four yes and no"
)]
pub const fn with_protocol(
    extended: bool,
    tls: bool,
    authenticated: bool,
    smtputf8: bool,
) -> &'static str {
    match (extended, smtputf8, tls, authenticated) {
        (false, ..) => "SMTP",
        (true, false, false, false) => "ESMTP",
        (true, false, true, false) => "ESMTPS",
        (true, false, false, true) => "ESMTPA",
        (true, false, true, true) => "ESMTPSA",
        (true, true, false, false) => "UTF8SMTP",
        (true, true, true, false) => "UTF8SMTPS",
        (true, true, false, true) => "UTF8SMTPA",
        (true, true, true, true) => "UTF8SMTPSA",
    }
}

fn fold(name: &str, clauses: &[String]) -> String {
    let mut field = String::with_capacity(320);
    field.push_str(name);
    let mut column = name.len();
    for clause in clauses {
        if column + 1 + clause.len() > LINE && column > name.len() {
            field.push_str("\r\n\t");
            column = 8;
        } else {
            field.push(' ');
            column += 1;
        }
        field.push_str(clause);
        column += clause.len();
    }
    field.push_str("\r\n");
    field
}

fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

/// A domain (in A-labels) or literal as it is, anything else as a quoted string of ASCII.
fn word(text: &str) -> String {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b))
    };
    if plain(text) {
        return text.to_owned();
    }
    if let Ok(domain) = text.parse::<Domain>()
        && plain(domain.ascii())
    {
        return domain.ascii().to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                let _ = write!(quoted, "\\{c}");
            }
            c if c.is_control() || !c.is_ascii() => quoted.push('?'),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn comment(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_graphic() && !"()\\".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_mail::TlsInfo;

    fn field(helo: &str, tls: bool, recipient: Option<&str>) -> String {
        let origin = Origin {
            service: "relay".to_owned(),
            user: None,
            address: Some("2001:db8::1".parse().unwrap()),
            helo: Some(helo.to_owned()),
            tls: tls.then(|| TlsInfo {
                version: "TLS1.3".to_owned(),
                cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
            }),
        };
        let recipient: Option<Address> = recipient.map(|r| r.parse().unwrap());
        let received = Received {
            origin: &origin,
            extended: true,
            smtputf8: false,
            by: "mx.example.org",
            id: "06a1",
            only_recipient: recipient.as_ref(),
            at: Timestamp::from_millis(1_795_524_541_000),
        };
        received.to_field()
    }

    #[test]
    fn all_clauses() {
        assert_eq!(
            field("client.example", true, Some("bob@example.org")),
            "Received: from client.example ([IPv6:2001:db8::1]) by mx.example.org with\r\n"
                .replace(" with\r\n", "\r\n\twith ESMTPS (TLS1.3 TLS_AES_256_GCM_SHA384) id 06a1\r\n\tfor <bob@example.org>; Tue, 24 Nov 2026 12:49:01 +0000\r\n")
        );
    }

    #[test]
    fn nothing_can_be_injected() {
        let text = field("x) by evil\r\nBcc: all\r\n\"\\", false, None);
        assert_eq!(
            text.matches("\r\n").count(),
            text.matches("\r\n\t").count() + 1
        );
        assert!(
            text.contains(r#"from "x) by evil??Bcc: all??\"\\" (["#),
            "{text}"
        );
        assert!(field("b\u{fc}cher.example", false, None).contains("from xn--bcher-kva.example ("));
        assert!(field("b\u{fc} \u{202e}x", false, None).contains("from \"b? ?x\" ("));
        let text = field(&"long.".repeat(50), false, None);
        assert!(!text.contains("for "), "{text}");
    }
}
