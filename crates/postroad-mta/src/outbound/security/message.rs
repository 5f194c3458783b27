use bytes::BytesMut;
use postroad_mail::{Envelope, ReversePath};
use postroad_queue::{Content, StoreError};

/// Octets of a header block that are searched for `TLS-Required`, at most; behind that it counts
/// as absent, which is the strict side.
const HEAD_MAX: usize = 256 << 10;
/// Octets read at a time.
const READ: usize = 16 << 10;

/// What a message says of TLS on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum MessageTls {
    /// Nothing.
    #[default]
    Unsaid,
    /// REQUIRETLS (RFC 8689 section 2): a verified way, or none.
    Required,
    /// `TLS-Required: No` (RFC 8689 section 3): delivery matters more than policies of recipient
    /// domains.
    Optional,
}

impl MessageTls {
    /// Reads it from the envelope and, where that says nothing, from the header.
    ///
    /// # Errors
    /// Where the message cannot be read.
    pub(crate) async fn read(
        envelope: &Envelope,
        content: &dyn Content,
    ) -> Result<Self, StoreError> {
        if envelope.require_tls {
            // A bounce must not be lost to it (RFC 8689 section 5): it holds no more than the
            // header block of what failed.
            return Ok(match envelope.from {
                ReversePath::Null => Self::Unsaid,
                // It outranks the header field (RFC 8689 section 3).
                ReversePath::Address(_) => Self::Required,
            });
        }
        let mut head = BytesMut::new();
        let mut offset = 0;
        while offset < content.len() && head.len() < HEAD_MAX {
            let piece = content.read(offset, READ).await?;
            if piece.is_empty() {
                break;
            }
            offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            // The end of the header block may lie across two pieces.
            let from = head.len().saturating_sub(3);
            head.extend_from_slice(&piece);
            let tail = head.get(from..).unwrap_or_default();
            if tail.windows(4).any(|w| w == b"\r\n\r\n") {
                break;
            }
        }
        Ok(Self::of_header(&head))
    }

    /// By a header block; of a field that is there twice, neither counts.
    fn of_header(head: &[u8]) -> Self {
        let mut said = None;
        for line in head.split(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                break;
            }
            let Some(colon) = line.iter().position(|&b| b == b':') else {
                continue;
            };
            let (name, value) = line.split_at(colon);
            if !name.trim_ascii_end().eq_ignore_ascii_case(b"TLS-Required") {
                continue;
            }
            if said.is_some() {
                return Self::Unsaid;
            }
            let value = value.strip_prefix(b":").unwrap_or(value);
            said = Some(value.trim_ascii().eq_ignore_ascii_case(b"No"));
        }
        if said == Some(true) {
            Self::Optional
        } else {
            Self::Unsaid
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_mail::Recipient;
    use postroad_queue::BoxFuture;

    #[test]
    fn tls_required_no() {
        for (head, optional) in [
            ("TLS-Required: No\r\n\r\n", true),
            ("Subject: x\r\ntls-required:no \r\nTo: y\r\n\r\n", true),
            ("Subject: x\r\nTLS-Required : NO\r\n\r\n", true),
            ("TLS-Required: Yes\r\n\r\n", false),
            ("TLS-Required: No way\r\n\r\n", false),
            ("TLS-Required: No\r\nTLS-Required: No\r\n\r\n", false),
            ("X-TLS-Required: No\r\n\r\n", false),
            ("Subject: x\r\n TLS-Required: No\r\n\r\n", false),
            ("Subject: x\r\n\r\nTLS-Required: No\r\n", false),
            ("", false),
        ] {
            let said = MessageTls::of_header(head.as_bytes());
            assert_eq!(said == MessageTls::Optional, optional, "{head:?}");
        }
    }

    /// A message that is read some octets at a time.
    #[derive(Debug)]
    struct Slow(Vec<u8>, usize);

    impl Content for Slow {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<bytes::Bytes, StoreError>> {
            let rest = &self.0[usize::try_from(offset).unwrap()..];
            let piece = rest[..rest.len().min(max).min(self.1)].to_vec();
            Box::pin(std::future::ready(Ok(piece.into())))
        }
    }

    #[tokio::test]
    async fn read_from_the_message() {
        let recipient = Recipient::new("b@d.test".parse().unwrap());
        let mut envelope = Envelope::new("<a@s.test>".parse().unwrap(), recipient);
        let message = |head: &str| [head, "\r\nTLS-Required: No\r\n", &"x".repeat(999)].concat();
        let (said, unsaid) = (message("A: b\r\nTLS-Required: No\r\n"), message("A: b\r\n"));
        for step in [1, 2, 3, 4, 5, 7, 16, 9999] {
            let read = |text: &str| Slow(text.as_bytes().to_vec(), step);
            let came = MessageTls::read(&envelope, &read(&said)).await.unwrap();
            assert_eq!(came, MessageTls::Optional, "{step}");
            let came = MessageTls::read(&envelope, &read(&unsaid)).await.unwrap();
            assert_eq!(came, MessageTls::Unsaid, "{step}");
        }
        envelope.require_tls = true;
        let came = MessageTls::read(&envelope, &Slow(said.into_bytes(), 99)).await;
        assert_eq!(came.unwrap(), MessageTls::Required);
        envelope.from = ReversePath::Null;
        let came = MessageTls::read(&envelope, &Slow(b"A: b\r\n\r\n".to_vec(), 99)).await;
        assert_eq!(came.unwrap(), MessageTls::Unsaid);
    }
}
