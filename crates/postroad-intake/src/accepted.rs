//! What the history is told of a message that has come.

use postroad_mail::{Envelope, Origin, Timestamp, escape_peer_text};
use postroad_queue::QueueId;
use postroad_queue::history::{Accepted, Event, Happening};

/// Recipients that the history names, at most.
const RECIPIENTS_MAX: usize = 300;
/// Octets of a Message-ID, at most (RFC 5322 section 2.1.1: a line).
const MESSAGE_ID_MAX: usize = 998;

/// A message that has come.
pub(crate) struct Come<'a> {
    pub(crate) id: QueueId,
    pub(crate) began: Timestamp,
    pub(crate) at: Timestamp,
    pub(crate) envelope: &'a Envelope,
    pub(crate) origin: &'a Origin,
    pub(crate) size: u64,
    pub(crate) head: &'a [u8],
    pub(crate) expansions: Vec<String>,
}

pub(crate) fn event(come: Come<'_>) -> Event {
    let all = come.envelope.recipients();
    let named = all.iter().take(RECIPIENTS_MAX);
    let accepted = Accepted {
        began: come.began,
        origin: come.origin.clone(),
        from: come.envelope.from.to_string(),
        recipients: named.map(|r| r.address.to_string()).collect(),
        recipients_count: all.len(),
        size: come.size,
        message_id: message_id(come.head),
        expansions: come.expansions,
    };
    Event {
        id: come.id,
        at: come.at,
        what: Happening::Accepted(accepted),
    }
}

/// The Message-ID of a header block, without angle brackets; the first, where there are several.
fn message_id(head: &[u8]) -> Option<String> {
    let mut lines = head.split(|&b| b == b'\n').peekable();
    while let Some(line) = lines.next() {
        let Some(value) = value_of(line, b"message-id") else {
            continue;
        };
        let mut value = value.to_vec();
        // It may go on in the lines that follow.
        while let Some(more) =
            lines.next_if(|line| line.starts_with(b" ") || line.starts_with(b"\t"))
        {
            if value.len() > MESSAGE_ID_MAX {
                break;
            }
            value.extend_from_slice(more);
        }
        let text = String::from_utf8_lossy(&value);
        let text: String = text.split_ascii_whitespace().collect();
        let id = match text.split_once('<') {
            Some((_, rest)) => rest.split('>').next().unwrap_or_default(),
            None => &text,
        };
        let id: String = id.chars().take(MESSAGE_ID_MAX).collect();
        return (!id.is_empty()).then(|| escape_peer_text(&id));
    }
    None
}

/// What stands behind the name of a field, where it is that field's first line.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    let rest = rest.trim_ascii_start();
    start
        .eq_ignore_ascii_case(name)
        .then(|| rest.strip_prefix(b":"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids() {
        for (head, id) in [
            ("Message-ID: <a@b>\r\n\r\n", Some("a@b")),
            (
                "Received: x\r\n\tMessage-ID: <no>\r\nMESSAGE-id :<a@b>\r\n",
                Some("a@b"),
            ),
            ("Message-ID:\r\n <a@b>\r\nSubject: x\r\n", Some("a@b")),
            ("Message-ID: <a\r\n\t@b> (x)\r\n", Some("a@b")),
            ("Message-ID: a@b\r\n", Some("a@b")),
            ("Message-ID: (odd) <a@b>\n\n", Some("a@b")),
            ("Message-ID: <a\u{1b}@b>\r\n", Some("a\\u{1b}@b")),
            ("Message-IDs: <a@b>\r\n\r\n", None),
            ("Message-ID: <>\r\n", None),
            ("Message-ID:", None),
            ("Message-ID", None),
            ("", None),
        ] {
            assert_eq!(message_id(head.as_bytes()).as_deref(), id, "{head:?}");
        }
        let endless = format!("Message-ID: <{}\r\n", " x\r\n".repeat(100_000));
        assert!(message_id(endless.as_bytes()).unwrap().len() <= MESSAGE_ID_MAX);
    }
}
