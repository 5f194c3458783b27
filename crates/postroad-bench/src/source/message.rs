//! The messages that are sent: all alike, but for a number by which the sink knows each.

use std::borrow::Cow;
use std::io::Write as _;

use bytes::Bytes;

/// The header field with a message's number, as it stands in the content.
pub(crate) const FIELD: &str = "\r\nX-Bench: ";

/// Up to this size a message is copied together and sent in one write.
const COPIED_MAX: usize = 64 << 10;

/// Octets of a line of the body, its end included: what mail is commonly folded to.
const LINE: usize = 72;

/// Messages of one size.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    body: Bytes,
    destinations: u64,
}

/// The domain of a destination.
pub(crate) fn domain(number: u64) -> String {
    format!("d{number}.dest.test")
}

impl Messages {
    /// Messages of about that many octets.
    pub(crate) fn of(size: usize) -> Self {
        let body = size.saturating_sub(head(0).len());
        let mut text = Vec::with_capacity(body + LINE);
        while text.len() < body {
            text.extend_from_slice(&[b'x'; LINE - 2]);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b".\r\n");
        Self {
            body: text.into(),
            destinations: 0,
        }
    }

    /// For so many destinations in turn; 0: for the one.
    pub(crate) fn to(mut self, destinations: u64) -> Self {
        self.destinations = destinations;
        self
    }

    /// The RCPT line of the message `number`.
    pub(crate) fn recipient(&self, number: u64) -> Cow<'static, [u8]> {
        match number.checked_rem(self.destinations) {
            None => Cow::Borrowed(b"RCPT TO:<someone@sink.test>\r\n"),
            Some(n) => Cow::Owned(format!("RCPT TO:<someone@{}>\r\n", domain(n)).into_bytes()),
        }
    }

    /// Puts the message `number` into `buffer`; gives what is to be sent after it, which is
    /// nothing for a small message. The end of data is in it.
    pub(crate) fn write(&self, number: u64, buffer: &mut Vec<u8>) -> Bytes {
        buffer.extend_from_slice(&head(number));
        if self.body.len() > COPIED_MAX {
            return self.body.clone();
        }
        buffer.extend_from_slice(&self.body);
        Bytes::new()
    }
}

fn head(number: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(256);
    // Writing to a vector does not fail.
    let _ = write!(
        head,
        "From: <source@client.test>\r\nTo: <someone@sink.test>\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{number:010}@client.test>\r\n\
         Subject: A message of the benchmark{FIELD}{number:010}\r\n\r\n"
    );
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_size_and_its_end() {
        for size in [0, 1, 4096, 10 << 20] {
            let mut buffer = Vec::new();
            let rest = Messages::of(size).write(7, &mut buffer);
            buffer.extend_from_slice(&rest);
            assert!(buffer.ends_with(b"\r\n.\r\n"), "{size}");
            assert_eq!(memchr::memmem::find_iter(&buffer, b"\r\n.").count(), 1);
            if size > 400 {
                assert!((size..size + LINE + 8).contains(&buffer.len()), "{size}");
            }
            let field = format!("{FIELD}0000000007\r\n");
            assert!(memchr::memmem::find(&buffer, field.as_bytes()).is_some());
        }
    }
}
