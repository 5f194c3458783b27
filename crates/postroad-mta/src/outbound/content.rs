use std::io;
use std::sync::Arc;

use bytes::Bytes;
use postroad_net::client::Source;
use postroad_queue::{Content, StoreError};

/// Octets read at a time.
const PIECE: usize = 128 << 10;

/// A message's octets, piece by piece.
#[derive(Debug)]
pub(crate) struct Pieces {
    content: Arc<dyn Content>,
    offset: u64,
    failed: Option<String>,
}

impl Pieces {
    pub(crate) const fn new(content: Arc<dyn Content>) -> Self {
        Self {
            content,
            offset: 0,
            failed: None,
        }
    }

    /// Why the message could not be read, where it could not: then what came of its transfer says
    /// nothing of the peer.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
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
        if self.offset >= self.content.len() {
            return Ok(Bytes::new());
        }
        match self.read().await {
            Ok(piece) => {
                self.offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                Ok(piece)
            }
            Err(detail) => {
                self.failed = Some(detail.clone());
                Err(io::Error::other(detail))
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
