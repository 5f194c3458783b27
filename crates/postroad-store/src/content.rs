use std::sync::Arc;

use bytes::Bytes;
use postroad_queue::{BoxFuture, Content, StoreError, piece};

use crate::io::Disk;

/// Octets read at once, at most.
const PIECE_MAX: usize = 1 << 20;

/// A message on disk; it can be read on after it has left the queue.
#[derive(Debug)]
pub(crate) struct DiskContent {
    pub(crate) log: Arc<Disk>,
    pub(crate) at: u64,
    pub(crate) head: u64,
    pub(crate) body: u64,
    pub(crate) big: Option<Arc<Disk>>,
}

impl Content for DiskContent {
    fn len(&self) -> u64 {
        self.head.saturating_add(self.body)
    }

    fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        let (disk, from, left) = match (&self.big, offset.checked_sub(self.head)) {
            (Some(big), Some(from)) => (big, from, self.body.saturating_sub(from)),
            (Some(_), None) => (&self.log, self.at + offset, self.head - offset),
            (None, _) => (
                &self.log,
                self.at.saturating_add(offset),
                self.len().saturating_sub(offset),
            ),
        };
        let disk = Arc::clone(disk);
        let length = usize::try_from(left).unwrap_or(usize::MAX);
        let length = length.min(max).min(PIECE_MAX);
        Box::pin(async move {
            if length == 0 {
                return Ok(Bytes::new());
            }
            blocking(move || disk.read_at(length, from).map(Bytes::from)).await
        })
    }
}

/// A message in memory.
#[derive(Debug)]
pub(crate) struct MemoryContent {
    pub(crate) head: Bytes,
    pub(crate) body: Bytes,
}

impl Content for MemoryContent {
    fn len(&self) -> u64 {
        self.head.len() as u64 + self.body.len() as u64
    }

    fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        let piece = piece(&self.head, &self.body, offset, max);
        Box::pin(std::future::ready(Ok(piece)))
    }
}

/// Does what blocks where that is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The runtime is being shut down, or the work has panicked: either way not done.
        Err(_) => Err(StoreError::Closed),
    }
}
