use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};
use postroad_mail::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::QueueId;
use crate::resume::Resume;
use crate::store::{BoxFuture, Draft, Incoming, Listed, Store, StoreError};

use super::{COMMITS_MAX, HEAD_MAX, Part, Reader, Skip, TransferError};

/// What an import has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Imported {
    /// Messages that are in the queue now.
    pub messages: u64,
    /// Octets of those.
    pub octets: u64,
    /// Messages that were to be skipped.
    pub skipped: u64,
    /// Messages whose content could not be read when they were exported: left out.
    pub void: u64,
    /// Messages whose recipients are all done with: left out.
    pub done_with: u64,
}

/// An import has failed. What was imported stays.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct ImportError {
    /// Why.
    #[source]
    pub cause: Box<TransferError>,
    /// What it had come to.
    pub imported: Imported,
    /// What the next one of the same stream has to skip, so that no message comes twice.
    pub skip: Skip,
}

/// Puts an export into a queue: each message under a new name, whole or not at all, and from its
/// first moment where it stood in the other queue.
///
/// The stream is handed to [`Import::take`] as it comes; [`Import::finish`] says what came of it.
pub struct Import {
    store: Arc<dyn Store>,
    reader: Reader,
    /// Which messages are in the queue, those of earlier imports included.
    done: Skip,
    imported: Imported,
    /// Messages begun.
    number: u64,
    current: Option<Current>,
    commits: FuturesOrdered<BoxFuture<'static, Committed>>,
    failed: Option<TransferError>,
}

/// The message whose content comes in.
struct Current {
    message: Box<Listed>,
    octets: u64,
    incoming: Box<dyn Incoming>,
    head: Head,
}

/// The header block.
enum Head {
    /// As far as it has come.
    Begun(BytesMut),
    /// All of it, or none where it has no end that is near enough.
    Known(Bytes),
}

struct Committed {
    number: u64,
    octets: u64,
    outcome: Result<QueueId, StoreError>,
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import")
            .field("imported", &self.imported)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Import {
    /// Into that store, but for the messages that it has already.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, skip: Skip) -> Self {
        Self {
            store,
            reader: Reader::default(),
            done: skip,
            imported: Imported::default(),
            number: 0,
            current: None,
            commits: FuturesOrdered::new(),
            failed: None,
        }
    }

    /// Takes what follows of the stream. Slow where the store is: that is the back-pressure.
    /// Whether more is wanted; it is not once the import has failed.
    pub async fn take(&mut self, now: Timestamp, mut octets: Bytes) -> bool {
        while self.failed.is_none() {
            let taken = match self.reader.next(&mut octets) {
                Ok(None) => return true,
                Ok(Some(part)) => self.part(now, part).await,
                Err(damage) => Err(damage.into()),
            };
            if let Err(error) = taken {
                self.fail(error);
            }
        }
        false
    }

    /// The stream cannot be read any further.
    pub fn fail(&mut self, error: TransferError) {
        self.failed.get_or_insert(error);
    }

    /// What it has come to so far.
    #[must_use]
    pub const fn imported(&self) -> Imported {
        self.imported
    }

    /// The stream has ended, or nothing more is wanted of it: waits for what is being committed.
    ///
    /// # Errors
    /// Where the stream was damaged or cut off, or the store did not take a message.
    pub async fn finish(mut self) -> Result<Imported, ImportError> {
        self.current = None;
        while let Some(committed) = self.commits.next().await {
            self.committed(committed);
        }
        if self.failed.is_none()
            && let Err(damage) = self.reader.finish()
        {
            self.failed = Some(damage.into());
        }
        match self.failed {
            None => Ok(self.imported),
            Some(cause) => Err(ImportError {
                cause: Box::new(cause),
                imported: self.imported,
                skip: self.done,
            }),
        }
    }

    async fn part(&mut self, now: Timestamp, part: Part) -> Result<(), TransferError> {
        match part {
            Part::Message { message, octets } => {
                self.number += 1;
                if self.done.contains(self.number) {
                    self.imported.skipped += 1;
                    return Ok(());
                }
                self.current = Some(Current {
                    message,
                    octets,
                    incoming: self.store.begin(now)?,
                    head: Head::Begun(BytesMut::new()),
                });
            }
            Part::Piece(piece) => {
                if let Some(current) = &mut self.current {
                    current.take(piece).await?;
                }
            }
            Part::Whole => {
                if let Some(current) = self.current.take() {
                    self.commit(now, current).await;
                }
            }
            Part::Void => {
                if self.current.take().is_some() {
                    self.imported.void += 1;
                    self.done.insert(self.number);
                }
            }
            Part::End(_) => {}
        }
        Ok(())
    }

    /// Begins to; the next message can come in meanwhile.
    async fn commit(&mut self, now: Timestamp, current: Current) {
        let (number, octets) = (self.number, current.octets);
        let commit = current.commit(now);
        self.commits.push_back(Box::pin(async move {
            let outcome = commit.await;
            Committed {
                number,
                octets,
                outcome,
            }
        }));
        // This also starts it.
        while let Some(Some(committed)) = self.commits.next().now_or_never() {
            self.committed(committed);
        }
        while self.commits.len() >= COMMITS_MAX {
            let Some(committed) = self.commits.next().await else {
                return;
            };
            self.committed(committed);
        }
    }

    fn committed(&mut self, committed: Committed) {
        match committed.outcome {
            Ok(_) => {
                self.imported.messages += 1;
                self.imported.octets += committed.octets;
            }
            Err(StoreError::NobodyWaits) => self.imported.done_with += 1,
            Err(error) => {
                self.fail(error.into());
                return;
            }
        }
        self.done.insert(committed.number);
    }
}

impl Current {
    async fn take(&mut self, piece: Bytes) -> Result<(), StoreError> {
        let Head::Begun(head) = &mut self.head else {
            return self.incoming.write(piece).await;
        };
        // The line end that closes the header block may stand across two pieces.
        let from = head.len().saturating_sub(EMPTY_LINE.len());
        head.extend_from_slice(&piece);
        if let Some(end) = head_end(head, from) {
            let known = head.split_to(end).freeze();
            let rest = std::mem::take(head).freeze();
            self.head = Head::Known(known);
            return self.incoming.write(rest).await;
        }
        if head.len() > HEAD_MAX {
            let body = std::mem::take(head).freeze();
            self.head = Head::Known(Bytes::new());
            return self.incoming.write(body).await;
        }
        Ok(())
    }

    fn commit(self, now: Timestamp) -> BoxFuture<'static, Result<QueueId, StoreError>> {
        let message = *self.message;
        let resumes = Some(Resume::of(&message));
        let lanes = message.recipients.into_iter().map(|r| r.lane);
        let draft = Draft {
            lanes: lanes.collect(),
            envelope: message.envelope,
            origin: message.origin,
            head: match self.head {
                Head::Begun(all) => all.freeze(),
                Head::Known(head) => head,
            },
            resumes,
        };
        self.incoming.commit(now, draft)
    }
}

const EMPTY_LINE: &[u8] = b"\r\n\r\n";

/// Where the header block ends, its empty line included; nothing before `from` needs to be looked
/// at.
fn head_end(octets: &[u8], from: usize) -> Option<usize> {
    let bare = EMPTY_LINE.get(2..).unwrap_or_default();
    if octets.starts_with(bare) {
        return Some(bare.len());
    }
    let rest = octets.get(from..)?;
    let at = rest
        .windows(EMPTY_LINE.len())
        .position(|four| four == EMPTY_LINE)?;
    Some(from + at + EMPTY_LINE.len())
}
