use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::id::QueueId;
use crate::store::{Content, Filter, Listed, Store, StoreError};

use super::reader::digits;
use super::{LINE_MAX, Line, MAGIC, PAGE, PIECE, TransferError, VERSION};

/// A queue, or those of its messages that a filter chooses, as a stream of octets.
///
/// Messages that leave the queue before their turn are not in it. Of a queue in use it is no
/// picture of one moment: what is delivered meanwhile may be in it all the same.
pub struct Export {
    store: Arc<dyn Store>,
    filter: Filter,
    page: VecDeque<Listed>,
    after: Option<QueueId>,
    step: Step,
    crc: u32,
    messages: u64,
}

enum Step {
    First,
    Between,
    Content(Reading),
    Ended,
}

/// The content of a message, as far as it is written.
struct Reading {
    /// None where it cannot be read (any more).
    content: Option<Arc<dyn Content>>,
    offset: u64,
    octets: u64,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("messages", &self.messages)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

impl Export {
    /// Of the messages that `filter` chooses.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, filter: Filter) -> Self {
        Self {
            store,
            filter,
            page: VecDeque::new(),
            after: None,
            step: Step::First,
            crc: 0,
            messages: 0,
        }
    }

    /// The next octets, some more than [`PIECE`] of them at most but for the line of a message
    /// with many recipients; `None` at the end.
    ///
    /// # Errors
    /// Where the queue cannot be read. What there is then of the stream is refused by whoever
    /// reads it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TransferError> {
        let octets = match &mut self.step {
            Step::First => {
                self.step = Step::Between;
                Bytes::from(format!("{MAGIC} {VERSION}\n"))
            }
            Step::Between => self.between().await?,
            Step::Content(reading) if reading.offset < reading.octets => reading.piece().await?,
            Step::Content(reading) => {
                let word = if reading.content.is_some() {
                    "ok"
                } else {
                    "void"
                };
                self.step = Step::Between;
                let crc = crc32c::crc32c_append(self.crc, b"\n");
                Bytes::from(format!("\n{word} {}\n", digits(crc)))
            }
            Step::Ended => return Ok(None),
        };
        self.crc = crc32c::crc32c_append(self.crc, &octets);
        Ok(Some(octets))
    }

    /// The line of the next message, or the last.
    async fn between(&mut self) -> Result<Bytes, TransferError> {
        loop {
            let Some(message) = self.page.pop_front() else {
                let page = self.store.page(&self.filter, self.after, PAGE).await?;
                let Some(last) = page.last() else {
                    self.step = Step::Ended;
                    let (messages, crc) = (self.messages, digits(self.crc));
                    return Ok(Bytes::from(format!("end {messages} {crc}\n")));
                };
                self.after = Some(last.id);
                self.page = page.into();
                continue;
            };
            let id = message.id;
            let content = match self.store.content(id).await {
                Ok(content) => Some(content),
                Err(StoreError::NotFound(_)) => continue,
                Err(StoreError::Closed) => return Err(StoreError::Closed.into()),
                Err(_) => None,
            };
            let octets = content.as_ref().map_or(0, |content| content.len());
            let mut line = serde_json::to_vec(&Line { octets, message }).map_err(|error| {
                StoreError::Damaged {
                    place: format!("message {id}"),
                    detail: error.to_string().into(),
                }
            })?;
            line.push(b'\n');
            if line.len() > LINE_MAX {
                let octets = line.len();
                return Err(TransferError::Line { id, octets });
            }
            self.messages += 1;
            self.step = Step::Content(Reading {
                content,
                offset: 0,
                octets,
            });
            return Ok(line.into());
        }
    }
}

impl Reading {
    /// What follows; zeros in place of what cannot be read, since its length has been said.
    async fn piece(&mut self) -> Result<Bytes, StoreError> {
        let left = usize::try_from(self.octets - self.offset).unwrap_or(usize::MAX);
        let mut piece = Bytes::new();
        if let Some(content) = &self.content {
            match content.read(self.offset, PIECE.min(left)).await {
                Ok(read) => piece = read.slice(..read.len().min(left)),
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(_) => {}
            }
        }
        if piece.is_empty() {
            self.content = None;
            piece = vec![0; PIECE.min(left)].into();
        }
        self.offset += piece.len() as u64;
        Ok(piece)
    }
}
