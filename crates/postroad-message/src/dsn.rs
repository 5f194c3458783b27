//! Delivery status notifications: multipart/report with delivery-status (RFC 3461, 6522, 3464,
//! and 6533 where an address is not ASCII).
//!
//! A notice has nobody to tell of its own failure, and so asks nothing of the hosts on its way:
//!
//! | the notice goes to | addresses that are not ASCII | of an 8-bit message it returns |
//! |---|---|---|
//! | an ASCII address | as `\x{FC}` (RFC 6533 section 3) | the header, as text/rfc822-headers; in quoted-printable where it is 8-bit itself (RFC 6522 section 4). message/rfc822 may not be encoded (RFC 2046 section 5.2.1), and 8-bit would need 8BITMIME all the way |
//! | another | as they are, in the types of RFC 6533 | all of it: the way has SMTPUTF8, and with it 8BITMIME |

use std::fmt::Write as _;

use mail_parser::MessageParser;
use postroad_mail::{BodyKind, EnhancedCode, Envelope, Recipient, Ret, Timestamp};

use crate::dates::rfc5322_date;
use crate::text::{is_text, line, lines, printable, quoted_printable, unicode_escaped};

/// Octets of a message that a failure notice returns whole, at most: of a larger one only the
/// header is returned, also with `RET=FULL`, lest a forged sender get what somebody else has sent,
/// many times over. (Postfix's `bounce_size_limit` is 50,000.)
pub const RETURNED_MAX: usize = 64 << 10;

/// What has happened to a recipient (RFC 3464 section 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It will not be delivered.
    Failed,
    /// It has not been delivered yet.
    Delayed,
    /// It is in the recipient's mailbox.
    Delivered,
    /// It has gone to a server that does not send notices.
    Relayed,
    /// It has gone to the several recipients that the alias stands for.
    Expanded,
}

impl Action {
    /// As the `Action` field has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    const fn subject(self) -> &'static str {
        match self {
            Self::Failed => "Undelivered mail returned to sender",
            Self::Delayed => "Delayed mail (still being retried)",
            Self::Delivered | Self::Relayed | Self::Expanded => "Successful mail delivery report",
        }
    }

    const fn explanation(self) -> &'static str {
        match self {
            Self::Failed => {
                "I am sorry to tell you that your message could not be delivered to the\r\nrecipients named below, and will not be tried again. What the other side\r\nsaid, or what went wrong, stands behind each of them; often it tells what\r\nto do, such as to check the address. Your message, or its header, is\r\nattached.\r\n"
            }
            Self::Delayed => {
                "Your message has not been delivered yet to the recipients named below.\r\n\r\nYou need not do anything, nor send it again: it will be tried until it is\r\ndelivered, or its time is up. In that case you will be told.\r\n"
            }
            Self::Delivered => "Your message has been delivered to the recipients named below.\r\n",
            Self::Expanded => {
                "Your message has come to the addresses named below, and has been sent on to\r\nall for whom they stand. You will hear of it only should it not reach one\r\nof them.\r\n"
            }
            Self::Relayed => {
                "Your message has been handed on to a server that sends no notices of\r\ndelivery itself. You will hear of it only should it come back.\r\n"
            }
        }
    }
}

/// One recipient's part of a notice.
#[derive(Clone, Debug)]
pub struct RecipientReport<'a> {
    /// Who.
    pub recipient: &'a Recipient,
    /// The status.
    pub status: EnhancedCode,
    /// The host that said so.
    pub remote_mta: Option<&'a str>,
    /// What it said, or what we say: a reply in one line.
    pub diagnostic: &'a str,
    /// Whether `diagnostic` is the remote host's own reply.
    pub remote: bool,
    /// When that was.
    pub last_attempt: Timestamp,
    /// Until when it is tried.
    pub will_retry_until: Option<Timestamp>,
}

/// A notice to be written.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// What has happened; the same for all its recipients.
    pub action: Action,
    /// The name of this host.
    pub reporting_mta: &'a str,
    /// The queue id of the message.
    pub id: &'a str,
    /// Tells this notice from others about the same message.
    pub serial: u64,
    /// The message's envelope.
    pub envelope: &'a Envelope,
    /// When it came.
    pub arrived: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// Whom the notice goes to: the reverse-path, or a postmaster.
    pub to: &'a str,
    /// The recipients it is about.
    pub recipients: Vec<RecipientReport<'a>>,
    /// The start of the message: all of its header block, and its body as far as it is to be returned.
    pub original: &'a [u8],
    /// Where the body starts in `original`.
    pub body_at: usize,
    /// Whether `original` is the whole message.
    pub whole: bool,
}

/// A notice, written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The header block, with the empty line.
    pub head: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether it holds octets outside ASCII.
    pub body_kind: BodyKind,
}

/// Whether a notice of that kind returns the body (RFC 3461 section 6.2: a failure, unless
/// `RET=HDRS`; and never more than [`RETURNED_MAX`]).
#[must_use]
pub fn returns_body(action: Action, ret: Option<Ret>, size: u64) -> bool {
    let fits = usize::try_from(size).is_ok_and(|size| size <= RETURNED_MAX);
    action == Action::Failed && fits && ret != Some(Ret::Headers)
}

impl Report<'_> {
    /// Writes it.
    #[must_use]
    pub fn write(&self) -> Written {
        let boundary = self.boundary();
        let international = self.is_international();
        let mut body = String::with_capacity(2048);
        let charset = if international { "utf-8" } else { "us-ascii" };
        let encoding = if international { "8bit" } else { "7bit" };
        let _ = write!(
            body,
            "This is a notice in MIME format.\r\n\r\n--{boundary}\r\nContent-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\nContent-Description: Notification\r\n\r\n"
        );
        self.write_text(&mut body);
        let global = if international { "global-" } else { "" };
        let _ = write!(
            body,
            "\r\n--{boundary}\r\nContent-Type: message/{global}delivery-status\r\nContent-Transfer-Encoding: {encoding}\r\nContent-Description: Delivery report\r\n\r\n"
        );
        self.write_status(&mut body);
        let mut body = body.into_bytes();
        self.write_original(&boundary, &mut body);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let body_kind = if body.is_ascii() {
            BodyKind::SevenBit
        } else {
            BodyKind::EightBitMime
        };
        Written {
            head: self.head(&boundary, body_kind).into_bytes(),
            body,
            body_kind,
        }
    }

    /// One that no line of the returned message holds.
    fn boundary(&self) -> String {
        let mut boundary = format!("=_{}_{}", self.id, self.serial);
        while memchr::memmem::find(self.original, boundary.as_bytes()).is_some() {
            boundary.push('_');
        }
        boundary
    }

    /// Whether the notice travels with SMTPUTF8, and may be 8-bit.
    fn is_eight_bit(&self) -> bool {
        !self.to.is_ascii()
    }

    /// Whether an address is not ASCII and may be written so, in the types of RFC 6533.
    fn is_international(&self) -> bool {
        let original = |r: &RecipientReport<'_>| {
            r.recipient
                .original
                .as_ref()
                .is_none_or(|o| o.address.is_ascii())
        };
        let ascii = |r: &RecipientReport<'_>| r.recipient.address.is_ascii() && original(r);
        self.is_eight_bit() && !self.recipients.iter().all(ascii)
    }

    /// An address, as far as this notice can show it.
    fn address(&self, address: &str) -> String {
        if self.is_eight_bit() {
            printable(address)
        } else {
            unicode_escaped(address)
        }
    }

    fn head(&self, boundary: &str, body: BodyKind) -> String {
        let host = self.reporting_mta;
        let mut head = format!(
            "Date: {}\r\nFrom: Mail Delivery System <postmaster@{host}>\r\nTo: <{}>\r\nSubject: {}\r\nMessage-ID: <{}.{}.notice@{host}>\r\n",
            rfc5322_date(self.now),
            self.to,
            self.action.subject(),
            self.id,
            self.serial
        );
        let header = self.original.get(..self.body_at).unwrap_or_default();
        let parsed = MessageParser::default().parse_headers(header);
        let plain = |id: &&str| {
            id.len() < 250
                && id
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b'<' && b != b'>')
        };
        if let Some(id) = parsed.as_ref().and_then(|m| m.message_id()).filter(plain) {
            let _ = write!(head, "In-Reply-To: <{id}>\r\nReferences: <{id}>\r\n");
        }
        let encoding = if body == BodyKind::SevenBit {
            ""
        } else {
            "Content-Transfer-Encoding: 8bit\r\n"
        };
        let _ = write!(
            head,
            "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n{encoding}Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n"
        );
        head
    }

    /// For people.
    fn write_text(&self, out: &mut String) {
        let _ = write!(
            out,
            "This is the mail system at {}.\r\n\r\n{}",
            self.reporting_mta,
            self.action.explanation()
        );
        for report in &self.recipients {
            let address = self.address(&report.recipient.address.to_string());
            let _ = write!(out, "\r\n<{address}>:\r\n");
            let text = line(report.diagnostic);
            match report.remote_mta.filter(|_| report.remote) {
                Some(host) => {
                    let _ = write!(out, "    the server {} said: {text}\r\n", line(host));
                }
                None => {
                    let _ = write!(out, "    {text}\r\n");
                }
            }
            if let Some(until) = report.will_retry_until {
                let _ = write!(
                    out,
                    "    It will be tried until {}.\r\n",
                    rfc5322_date(until)
                );
            }
        }
    }

    /// For programs (RFC 3464 section 2).
    fn write_status(&self, out: &mut String) {
        let _ = write!(out, "Reporting-MTA: dns; {}\r\n", self.reporting_mta);
        if let Some(envid) = &self.envelope.envid {
            let _ = write!(out, "Original-Envelope-Id: {}\r\n", line(envid));
        }
        let _ = write!(
            out,
            "Arrival-Date: {}\r\nX-Postroad-Queue-ID: {}\r\n",
            rfc5322_date(self.arrived),
            self.id
        );
        for report in &self.recipients {
            out.push_str("\r\n");
            let address = &report.recipient.address;
            if let Some(original) = &report.recipient.original {
                let _ = write!(
                    out,
                    "Original-Recipient: {}; {}\r\n",
                    original.address_type,
                    self.address(&original.address)
                );
            }
            let kind = if address.is_ascii() {
                "rfc822"
            } else {
                "utf-8"
            };
            let address = self.address(&address.to_string());
            let _ = write!(
                out,
                "Final-Recipient: {kind}; {address}\r\nAction: {}\r\nStatus: {}\r\n",
                self.action.name(),
                report.status
            );
            if let Some(host) = report.remote_mta {
                let _ = write!(out, "Remote-MTA: dns; {}\r\n", line(host));
            }
            let kind = if report.remote { "smtp" } else { "X-Postroad" };
            let _ = write!(
                out,
                "Diagnostic-Code: {kind}; {}\r\nLast-Attempt-Date: {}\r\n",
                line(report.diagnostic),
                rfc5322_date(report.last_attempt)
            );
            if let Some(until) = report.will_retry_until {
                let _ = write!(out, "Will-Retry-Until: {}\r\n", rfc5322_date(until));
            }
        }
    }

    /// What is returned holds neither NUL nor bare CR or LF, which a notice could not carry: of a
    /// binary message only the header is returned. 8-bit: see the head of this file.
    fn write_original(&self, boundary: &str, out: &mut Vec<u8>) {
        let size = u64::try_from(self.original.len()).unwrap_or(u64::MAX);
        let full = self.whole
            && is_text(self.original)
            && (self.is_eight_bit() || self.original.is_ascii())
            && returns_body(self.action, self.envelope.ret, size);
        let (head, _) = self
            .original
            .split_at_checked(self.body_at)
            .unwrap_or((self.original, &[]));
        let returned = if full {
            self.original
        } else {
            head.get(..RETURNED_MAX).unwrap_or(head)
        };
        // "global" says that the header is UTF-8.
        let global = self.is_eight_bit() && !head.is_ascii() && std::str::from_utf8(head).is_ok();
        let kind = match (full, global) {
            (true, false) => "message/rfc822",
            (true, true) => "message/global",
            (false, false) => "text/rfc822-headers",
            (false, true) => "message/global-headers",
        };
        let encoding = match (returned.is_ascii(), self.is_eight_bit()) {
            (true, _) => "7bit",
            (false, true) => "8bit",
            (false, false) => "quoted-printable",
        };
        out.extend_from_slice(
            format!(
                "\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\nContent-Description: Undelivered message\r\n\r\n"
            )
            .as_bytes(),
        );
        if encoding == "quoted-printable" {
            quoted_printable(returned, out);
        } else if is_text(returned) {
            out.extend_from_slice(returned);
        } else {
            for line in lines(returned) {
                out.extend(line);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::MimeHeaders as _;
    use postroad_mail::ReversePath;

    const ORIGINAL: &[u8] = b"Message-ID: <one@sender.test>\r\nSubject: hello\r\n\r\nthe body\r\n";

    fn written(action: Action, ret: Option<Ret>, diagnostic: &str, address: &str) -> Vec<u8> {
        let mut recipient = Recipient::new(address.parse().unwrap());
        recipient.original = Some("rfc822;b+2Bx@r.test".parse().unwrap());
        let mut envelope = Envelope::new(
            "<me@sender.test>".parse::<ReversePath>().unwrap(),
            recipient,
        );
        envelope.ret = ret;
        envelope.envid = Some("env 1".to_owned());
        let at = Timestamp::from_millis(1_795_524_541_000);
        let report = Report {
            action,
            reporting_mta: "mx.test",
            id: "06a1",
            serial: 2,
            envelope: &envelope,
            arrived: at,
            now: at,
            to: "me@sender.test",
            recipients: vec![RecipientReport {
                recipient: &envelope.recipients()[0],
                status: "5.1.1".parse().unwrap(),
                remote_mta: Some("far.test"),
                diagnostic,
                remote: true,
                last_attempt: at,
                will_retry_until: (action == Action::Delayed).then_some(at),
            }],
            original: ORIGINAL,
            body_at: ORIGINAL.len() - 10,
            whole: true,
        };
        let written = report.write();
        [written.head, written.body].concat()
    }

    #[test]
    fn a_failure_as_golden_text() {
        let text = String::from_utf8(written(
            Action::Failed,
            None,
            "550 5.1.1 no Bob here",
            "b@r.test",
        ))
        .unwrap();
        insta::assert_snapshot!(text.replace("\r\n", "\n"));
    }

    #[test]
    fn a_parser_reads_it() {
        for (action, ret, kind) in [
            (Action::Failed, None, "rfc822"),
            (Action::Failed, Some(Ret::Headers), "rfc822-headers"),
            (Action::Delayed, Some(Ret::Full), "rfc822-headers"),
            (Action::Relayed, None, "rfc822-headers"),
        ] {
            let octets = written(action, ret, "x", "b@r.test");
            let message = MessageParser::default().parse(&octets).unwrap();
            assert_eq!(
                message.content_type().unwrap().attribute("report-type"),
                Some("delivery-status")
            );
            assert_eq!(message.in_reply_to().as_text(), Some("one@sender.test"));
            let last = message
                .parts
                .iter()
                .rfind(|p| p.content_type().is_some_and(|c| c.subtype() == Some(kind)));
            assert!(last.is_some(), "{action:?} {ret:?}");
        }
    }

    #[test]
    fn a_peer_cannot_inject_fields_or_parts() {
        let text = String::from_utf8(written(
            Action::Failed,
            None,
            "550 x\r\nAction: delivered\r\n\r\n--=_06a1_2--",
            "b@r.test",
        ))
        .unwrap();
        assert_eq!(text.matches("\r\nAction: ").count(), 1);
        assert_eq!(text.matches("\r\n--=_06a1_2").count(), 4);
    }

    #[test]
    fn only_text_is_returned() {
        let envelope = Envelope::new(
            ReversePath::Null,
            Recipient::new("b@r.test".parse().unwrap()),
        );
        let at = Timestamp::default();
        let original = b"A: b\n\nx\0=_id_1 y\r\n";
        let report = Report {
            action: Action::Failed,
            reporting_mta: "mx.test",
            id: "id",
            serial: 1,
            envelope: &envelope,
            arrived: at,
            now: at,
            to: "p@r.test",
            recipients: Vec::new(),
            original,
            body_at: original.len(),
            whole: true,
        };
        let written = report.write();
        assert!(
            is_text(&written.body),
            "{:?}",
            String::from_utf8_lossy(&written.body)
        );
        let text = String::from_utf8(written.body).unwrap();
        assert!(
            text.contains("--=_id_1_\r\n") && text.contains("text/rfc822-headers"),
            "{text}"
        );
    }
}
