use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use postroad_queue::{BoxFuture, Content, QueueId, StoreError, piece};

use crate::io::Disk;

/// Octets read at once, at most.
const PIECE_MAX: usize = 1 << 20;

/// A message on disk; it can be read on after it has left the queue.
#[derive(Debug)]
pub(crate) struct DiskContent {
    pub(crate) id: QueueId,
    pub(crate) log: Arc<Disk>,
    pub(crate) at: u64,
    pub(crate) head: u64,
    pub(crate) body: u64,
    pub(crate) big: Option<BigBody>,
    /// Found to be other than what was written: not to be read.
    pub(crate) damaged: bool,
}

/// A body in a file of its own. Too long to be checked before it is read, it is checked while it
/// is read from its start to its end: its last piece is not given where it is damaged.
#[derive(Debug)]
pub(crate) struct BigBody {
    disk: Arc<Disk>,
    length: u64,
    crc: Option<u32>,
    /// Where a reader is that began at the start, and the CRC up to there.
    read: Mutex<(u64, u32)>,
}

impl BigBody {
    pub(crate) const fn new(disk: Arc<Disk>, length: u64, crc: Option<u32>) -> Self {
        Self {
            disk,
            length,
            crc,
            read: Mutex::new((0, 0)),
        }
    }

    fn is_good(&self, from: u64, piece: &[u8]) -> bool {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if from == 0 {
            *read = (0, 0);
        }
        if read.0 != from {
            return true;
        }
        *read = (
            from + piece.len() as u64,
            crc32c::crc32c_append(read.1, piece),
        );
        read.0 != self.length || self.crc.is_none_or(|crc| crc == read.1)
    }
}

impl Content for DiskContent {
    fn len(&self) -> u64 {
        self.head.saturating_add(self.body)
    }

    fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        let damaged = || StoreError::Damaged {
            place: format!("message {}", self.id),
            detail: "its content is not what was written".into(),
        };
        if self.damaged {
            return Box::pin(std::future::ready(Err(damaged())));
        }
        let (disk, from, left) = match (&self.big, offset.checked_sub(self.head)) {
            (Some(big), Some(from)) => (&big.disk, from, self.body.saturating_sub(from)),
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
            let piece = blocking(move || disk.read_at(length, from).map(Bytes::from)).await?;
            match &self.big {
                Some(big) if offset >= self.head && !big.is_good(from, &piece) => Err(damaged()),
                _ => Ok(piece),
            }
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
