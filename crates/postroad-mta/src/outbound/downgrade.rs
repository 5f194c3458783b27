//! A message for a hop without 8BITMIME, or without BINARYMIME.

use std::sync::Arc;

use bytes::BytesMut;
use postroad_message::downgrade::{Downgrade, NotLegal, Plan, Survey};
use postroad_queue::Content;

use super::content::Pieces;

/// A message of which it is known how it becomes one of 7 bits. It goes with
/// [`postroad_mail::BodyKind::SevenBit`].
#[derive(Clone, Debug)]
pub(crate) struct Downgraded {
    content: Arc<dyn Content>,
    plan: Plan,
    size: u64,
}

/// Why it cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDowngraded {
    /// It must stay as it is: it goes back to the sender, 5.6.3.
    #[error("it cannot be downgraded: {0}")]
    NotLegal(#[from] NotLegal),
    /// It cannot be read: our own fault.
    #[error("{0}")]
    Unread(String),
}

impl Downgraded {
    /// Octets of what [`Downgraded::pieces`] gives.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The message as it is to be sent, from its start, as often as it is asked for.
    pub(crate) fn pieces(&self) -> Pieces {
        Pieces::downgraded(Arc::clone(&self.content), Downgrade::new(&self.plan))
    }
}

/// Finds out how a message becomes one of 7 bits: reads it twice, and holds none of it.
pub(crate) async fn downgrade(content: &Arc<dyn Content>) -> Result<Downgraded, NotDowngraded> {
    let mut survey = Survey::new();
    let mut raw = Pieces::new(Arc::clone(content));
    while let Some(piece) = raw.read_on().await.map_err(NotDowngraded::Unread)? {
        survey.push(&piece);
        tokio::task::yield_now().await;
    }
    let mut downgraded = Downgraded {
        content: Arc::clone(content),
        plan: survey.finish()?,
        size: content.len(),
    };
    if !downgraded.plan.is_unchanged() {
        downgraded.size = size(content, &downgraded.plan).await?;
    }
    Ok(downgraded)
}

/// What SIZE is to say.
async fn size(content: &Arc<dyn Content>, plan: &Plan) -> Result<u64, NotDowngraded> {
    let (mut downgrade, mut out) = (Downgrade::new(plan), BytesMut::new());
    let mut raw = Pieces::new(Arc::clone(content));
    let mut size = 0u64;
    let mut count = |out: &mut BytesMut| {
        size = size.saturating_add(u64::try_from(out.len()).unwrap_or(u64::MAX));
        out.clear();
    };
    while let Some(piece) = raw.read_on().await.map_err(NotDowngraded::Unread)? {
        downgrade.push(&piece, &mut out);
        count(&mut out);
        tokio::task::yield_now().await;
    }
    downgrade.finish(&mut out);
    count(&mut out);
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use postroad_net::client::Source as _;
    use postroad_queue::{BoxFuture, StoreError};

    /// A message that is read a few octets at a time, and perhaps not to its end.
    #[derive(Debug)]
    struct Message {
        octets: Bytes,
        piece: usize,
        readable: usize,
    }

    impl Content for Message {
        fn len(&self) -> u64 {
            self.octets.len() as u64
        }

        fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
            let start = usize::try_from(offset).unwrap();
            let end = (start + max.min(self.piece)).min(self.octets.len());
            let read = if end > self.readable {
                Err(StoreError::Io {
                    action: "reading",
                    place: "seg-1".to_owned(),
                    source: std::io::ErrorKind::InvalidData.into(),
                })
            } else {
                Ok(self.octets.slice(start..end))
            };
            Box::pin(std::future::ready(read))
        }
    }

    fn message(octets: &[u8], piece: usize, readable: usize) -> Arc<dyn Content> {
        Arc::new(Message {
            octets: Bytes::copy_from_slice(octets),
            piece,
            readable,
        })
    }

    async fn all(mut pieces: Pieces) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let piece = pieces.next().await.unwrap();
            if piece.is_empty() {
                return all;
            }
            all.extend_from_slice(&piece);
        }
    }

    #[tokio::test]
    async fn the_same_every_time_and_of_the_size_that_is_told() {
        let octets = "Subject: x\r\nContent-Type: image/x\r\nMIME-Version: 1.0\r\n\r\n\u{fc}\r\n";
        for piece in [1, 7, 1000] {
            let content = message(octets.as_bytes(), piece, usize::MAX);
            let downgraded = downgrade(&content).await.unwrap();
            for _ in 0..2 {
                let sent = all(downgraded.pieces()).await;
                assert_eq!(
                    std::str::from_utf8(&sent).unwrap(),
                    "Subject: x\r\nContent-Type: image/x\r\nMIME-Version: 1.0\r\n\
                     Content-Transfer-Encoding: base64\r\n\r\nw7wNCg==\r\n"
                );
                assert_eq!(downgraded.size(), sent.len() as u64);
            }
        }
    }

    #[tokio::test]
    async fn what_is_of_7_bits_goes_as_it_is() {
        let octets = b"DKIM-Signature: x\r\n\r\nhello\r\n";
        let downgraded = downgrade(&message(octets, 3, usize::MAX)).await.unwrap();
        assert_eq!(downgraded.size(), octets.len() as u64);
        assert_eq!(all(downgraded.pieces()).await, octets);
    }

    #[tokio::test]
    async fn why_not() {
        let signed = "DKIM-Signature: x\r\n\r\n\u{fc}\r\n";
        let refused = downgrade(&message(signed.as_bytes(), 5, usize::MAX)).await;
        let text = refused.unwrap_err().to_string();
        assert_eq!(text, "it cannot be downgraded: it is signed");
        // A disk that fails, in the first pass and in the one that is sent.
        let octets = "Subject: x\r\n\r\n\u{fc}\r\n".as_bytes();
        let unread = downgrade(&message(octets, 5, 10)).await.unwrap_err();
        assert!(matches!(unread, NotDowngraded::Unread(_)), "{unread}");
        let sound = downgrade(&message(octets, 5, usize::MAX)).await.unwrap();
        let broken = Downgraded {
            content: message(octets, 5, 10),
            ..sound
        };
        let mut pieces = broken.pieces();
        while pieces.failure().is_none() {
            let piece = pieces.next().await;
            assert!(piece.is_err() || !piece.unwrap().is_empty());
        }
    }
}
