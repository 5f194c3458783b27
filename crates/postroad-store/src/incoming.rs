use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use postroad_mail::Timestamp;
use postroad_queue::jobs::Flow;
use postroad_queue::{BoxFuture, Draft, Incoming, Lane, MessageInfo, Notice, QueueId, StoreError};
use tokio::sync::oneshot;

use crate::Durability;
use crate::content::{MemoryContent, blocking};
use crate::inner::{Inner, Ready};
use crate::io::Disk;
use crate::record::{BIG, Header, INLINE, Meta, Settles};
use crate::store::Handle;
use crate::writer::{Commit, Prepared};

/// A message on its way in: in memory up to a bound, then in a file of its own.
pub(crate) struct LocalIncoming {
    inner: Arc<Inner>,
    handle: Weak<Handle>,
    id: QueueId,
    body: BytesMut,
    big: Option<Big>,
    committed: bool,
    /// A write has not come to its end: what is there is not the message.
    broken: bool,
}

struct Big {
    disk: Arc<Disk>,
    length: u64,
    crc: u32,
}

impl LocalIncoming {
    pub(crate) fn new(inner: Arc<Inner>, handle: Weak<Handle>, id: QueueId) -> Self {
        Self {
            inner,
            handle,
            id,
            body: BytesMut::new(),
            big: None,
            committed: false,
            broken: false,
        }
    }

    /// What is in memory goes to the file.
    async fn spill(&mut self) -> Result<(), StoreError> {
        let broken = std::mem::replace(&mut self.broken, true);
        let chunk = self.body.split().freeze();
        let big = match &mut self.big {
            Some(big) => big,
            None => {
                let (inner, id) = (Arc::clone(&self.inner), self.id);
                let disk = blocking(move || inner.io.create(&inner.big_path(id), 0)).await?;
                self.big.insert(Big {
                    disk: Arc::new(disk),
                    length: 0,
                    crc: 0,
                })
            }
        };
        let (disk, at) = (Arc::clone(&big.disk), big.length);
        big.length += chunk.len() as u64;
        self.inner.take_space(chunk.len() as u64);
        big.crc = crc32c::crc32c_append(big.crc, &chunk);
        blocking(move || disk.write_at(&chunk, at)).await?;
        self.broken = broken;
        Ok(())
    }

    async fn finish(
        mut self: Box<Self>,
        now: Timestamp,
        draft: Draft,
    ) -> Result<QueueId, StoreError> {
        self.inner.refuse_if_closed()?;
        if self.broken {
            return Err(StoreError::Damaged {
                place: format!("message {}", self.id),
                detail: "an earlier piece of it was not written".into(),
            });
        }
        if self.big.is_some() && !self.body.is_empty() {
            self.spill().await?;
        }
        let mut big_part = None;
        if let Some(big) = &self.big {
            big_part = Some((big.length, big.crc));
            if self.inner.options.durability == Durability::Sync {
                let (inner, disk) = (Arc::clone(&self.inner), Arc::clone(&big.disk));
                blocking(move || {
                    disk.sync()?;
                    inner.io.sync_dir(&inner.big_dir())
                })
                .await?;
            }
        }
        let body = std::mem::take(&mut self.body).freeze();
        let message = prepare(self.id, now, draft, body, big_part, None)?;
        // Before the sender, and so dropped after it: whoever drops the last handle waits for the
        // writer, which waits for the senders.
        let handle = self.handle.upgrade().ok_or(StoreError::Closed)?;
        let sender = handle.commits()?;
        let (reply, replied) = oneshot::channel();
        let commit = Commit {
            messages: vec![message],
            settle: None,
            from: None,
            now,
            reply,
        };
        let place = sender.reserve_owned().await;
        let place = place.map_err(|_| StoreError::Closed)?;
        // From here on the record may be written, whatever becomes of this future.
        self.committed = true;
        drop(place.send(commit)); // the last sender's end is the writer's
        replied.await.map_err(|_| StoreError::Closed)??;
        Ok(self.id)
    }
}

impl Incoming for LocalIncoming {
    fn id(&self) -> QueueId {
        self.id
    }

    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        if self.big.is_some() && self.body.is_empty() {
            // As much as will be gathered: growing to it would take twice that.
            let most = self.inner.options.inline_max.saturating_add(chunk.len());
            self.body.reserve(most);
        }
        self.body.extend_from_slice(&chunk);
        if self.body.len() <= self.inner.options.inline_max {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(self.spill())
    }

    fn commit(
        self: Box<Self>,
        now: Timestamp,
        draft: Draft,
    ) -> BoxFuture<'static, Result<QueueId, StoreError>> {
        Box::pin(self.finish(now, draft))
    }
}

impl Drop for LocalIncoming {
    fn drop(&mut self) {
        if self.big.is_some() && !self.committed {
            let _ = self.inner.io.remove(&self.inner.big_path(self.id)); // else swept at the next start
        }
    }
}

/// A message as the writer wants it.
pub(crate) fn prepare(
    id: QueueId,
    now: Timestamp,
    mut draft: Draft,
    body: Bytes,
    big: Option<(u64, u32)>,
    settles: Option<Settles>,
) -> Result<Prepared, StoreError> {
    draft.complete_lanes();
    let lanes: Arc<[Lane]> = draft.lanes.clone().into();
    let size = draft.head.len() as u64 + big.map_or(body.len() as u64, |(length, _)| length);
    let flow = Flow::of(&draft.envelope, &draft.origin);
    let mut resumed = None;
    let mut arrived = now;
    if let Some(resume) = &draft.resumes {
        let saved = resume.saved(now, size, flow, &lanes);
        resumed = Some(Box::new(saved.ok_or(StoreError::NobodyWaits)?));
        arrived = resume.arrived;
    }
    let meta = Meta {
        envelope: draft.envelope,
        origin: draft.origin,
        lanes: draft.lanes,
        big_crc: big.map(|(_, crc)| crc),
        settles,
        resumes: draft.resumes,
        moved: None,
    };
    let json = serde_json::to_vec(&meta).map_err(|error| StoreError::Damaged {
        place: format!("the envelope of {id}"),
        detail: error.to_string().into(),
    })?;
    let header = Header {
        kind: if big.is_some() { BIG } else { INLINE },
        id,
        epoch: 0,
        segment: 0,
        meta: 0,
        head: 0,
        body: big.map_or(0, |(length, _)| length),
        arrived,
        due: now,
        meta_crc: 0,
        payload_crc: 0,
    };
    let ready = big.is_none().then(|| {
        let info = MessageInfo {
            id,
            envelope: meta.envelope,
            origin: meta.origin,
            arrived,
            size,
        };
        Ready {
            info: Arc::new(info),
            lanes: Arc::clone(&lanes),
            content: Arc::new(MemoryContent {
                head: draft.head.clone(),
                body: body.clone(),
            }),
        }
    });
    let prepared = Prepared {
        header,
        meta: json,
        head: draft.head,
        body,
        ready,
        lanes,
        flow,
        resumed,
    };
    Ok(prepared.finish())
}

/// The messages owed for a record; the last one says for which, so that a batch torn in between
/// repeats a notice and loses none.
pub(crate) fn prepare_notices(
    inner: &Inner,
    now: Timestamp,
    notices: Vec<Notice>,
    settles: &Settles,
) -> Result<Vec<Prepared>, StoreError> {
    let last = notices.len().saturating_sub(1);
    let each = notices.into_iter().enumerate().map(|(n, notice)| {
        let settles = (n == last).then(|| settles.clone());
        prepare(
            inner.mint(now),
            now,
            notice.draft,
            notice.body,
            None,
            settles,
        )
    });
    each.collect()
}
