use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postroad_message::downgrade::Downgrade;
use postroad_net::client::Source;
use postroad_queue::{Content, StoreError};

/// Octets read at a time.
const PIECE: usize = 128 << 10;

/// A message's octets, piece by piece: as they are, or as they become.
#[derive(Debug)]
pub(crate) struct Pieces {
    content: Arc<dyn Content>,
    offset: u64,
    failed: Option<String>,
    downgrade: Option<Downgrade>,
}

impl Pieces {
    pub(crate) const fn new(content: Arc<dyn Content>) -> Self {
        Self {
            content,
            offset: 0,
            failed: None,
            downgrade: None,
        }
    }

    /// Of what the message becomes.
    pub(crate) fn downgraded(content: Arc<dyn Content>, downgrade: Downgrade) -> Self {
        Self {
            downgrade: Some(downgrade),
            ..Self::new(content)
        }
    }

    /// Why the message could not be read, where it could not: then what came of its transfer says
    /// nothing of the peer.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// The next octets as they are stored; none at the end.
    pub(crate) async fn read_on(&mut self) -> Result<Option<Bytes>, String> {
        if self.offset >= self.content.len() {
            return Ok(None);
        }
        match self.read().await {
            Ok(piece) => {
                let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                self.offset = self.offset.saturating_add(length);
                Ok(Some(piece))
            }
            Err(detail) => {
                self.failed = Some(detail.clone());
                Err(detail)
            }
        }
    }

    async fn read(&self) -> Result<Bytes, String> {
        match self.content.read(self.offset, PIECE).await {
            Ok(piece) if piece.is_empty() => Err(format!(
                "it ends at octet {} of {}",
                self.offset,
                self.content.len()
            )),
            Ok(piece) => Ok(piece),
            Err(error) => Err(with_cause(&error)),
        }
    }
}

impl Source for Pieces {
    async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            let piece = self.read_on().await.map_err(io::Error::other)?;
            let mut out = BytesMut::new();
            match (piece, &mut self.downgrade) {
                (Some(piece), None) => return Ok(piece),
                (Some(piece), Some(downgrade)) => downgrade.push(&piece, &mut out),
                (None, downgrade) => {
                    if let Some(downgrade) = downgrade.take() {
                        downgrade.finish(&mut out);
                    }
                    return Ok(out.freeze());
                }
            }
            // A piece may have become nothing yet.
            if !out.is_empty() {
                return Ok(out.freeze());
            }
        }
    }
}

fn with_cause(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
