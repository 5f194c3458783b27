use std::io;
use std::sync::Arc;

use bytes::Bytes;
use postroad_net::client::Source;
use postroad_queue::Content;

/// Octets read at a time.
const PIECE: usize = 256 << 10;

/// A message's octets, piece by piece.
#[derive(Debug)]
pub(crate) struct Pieces {
    content: Arc<dyn Content>,
    offset: u64,
}

impl Pieces {
    pub(crate) const fn new(content: Arc<dyn Content>) -> Self {
        Self { content, offset: 0 }
    }
}

impl Source for Pieces {
    async fn next(&mut self) -> io::Result<Bytes> {
        if self.offset >= self.content.len() {
            return Ok(Bytes::new());
        }
        let piece = self
            .content
            .read(self.offset, PIECE)
            .await
            .map_err(io::Error::other)?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        Ok(piece)
    }
}
