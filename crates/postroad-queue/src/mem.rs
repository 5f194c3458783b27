use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postroad_mail::Timestamp;

use crate::health::{Health, Verified};
use crate::id::{Mint, QueueId};
use crate::jobs::{Entry, Flow, Jobs};
use crate::outcome::Evidence;
use crate::store::{
    AttemptRecord, BoxFuture, ClaimRequest, Claimed, Content, Draft, Filter, Incoming, Lane,
    LaneSummary, Lease, Listed, ListedRecipient, MessageInfo, Operation, Store, StoreError, Totals,
};
use crate::wakers::Wakers;

/// A queue in memory: for tests, for development, and for what may be lost.
///
/// Cloning it gives another handle on the same queue. What it holds is bounded in octets; beyond
/// that, [`StoreError::Full`].
#[derive(Clone, Debug)]
pub struct MemStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    wakers: Wakers,
    /// Octets of messages, those coming in included.
    used: AtomicU64,
    limit: u64,
}

#[derive(Debug)]
struct Table {
    jobs: Jobs<Box<Message>>,
    mint: Mint,
    closed: bool,
}

#[derive(Debug)]
struct Message {
    info: Arc<MessageInfo>,
    content: Arc<MemContent>,
    lanes: Vec<Lane>,
    last: Vec<Option<Evidence>>,
}

#[derive(Debug)]
struct MemContent {
    head: Bytes,
    body: Bytes,
}

struct MemIncoming {
    store: MemStore,
    id: QueueId,
    body: BytesMut,
    reserved: u64,
}

impl MemStore {
    /// What a store holds unless told otherwise.
    pub const DEFAULT_LIMIT: u64 = 256 * 1024 * 1024;

    /// A store for up to `limit` octets of messages.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Inner {
            table: Mutex::new(Table {
                jobs: Jobs::default(),
                mint: Mint::new(0),
                closed: false,
            }),
            wakers: Wakers::default(),
            used: AtomicU64::new(0),
            limit,
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_table(&self) -> Result<MutexGuard<'_, Table>, StoreError> {
        let table = self.table();
        if table.closed {
            return Err(StoreError::Closed);
        }
        Ok(table)
    }

    fn reserve(&self, octets: u64) -> Result<(), StoreError> {
        let fits = |used: u64| used.checked_add(octets).filter(|&sum| sum <= self.0.limit);
        self.0
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(drop)
            .map_err(|used| StoreError::Full {
                place: "memory".to_owned(),
                detail: format!("{used} of {} octets are used", self.0.limit),
            })
    }

    fn free(&self, octets: u64) {
        self.0.used.fetch_sub(octets, Ordering::Relaxed);
    }

    fn finished(&self, entry: Option<Entry<Box<Message>>>) {
        if let Some(entry) = entry {
            self.free(entry.size());
        }
    }

    /// Octets are reserved already.
    ///
    /// # Errors
    /// Where nobody waits for it.
    fn insert(
        table: &mut Table,
        now: Timestamp,
        id: QueueId,
        mut draft: Draft,
        body: Bytes,
    ) -> Result<(), StoreError> {
        draft.complete_lanes();
        let content = MemContent {
            head: draft.head,
            body,
        };
        let size = content.len();
        let flow = Flow::of(&draft.envelope, &draft.origin);
        let recipients = draft.envelope.recipients().len();
        let mut last = vec![None; recipients];
        let mut saved = None;
        let mut arrived = now;
        if let Some(resume) = draft.resumes {
            saved = Some(
                resume
                    .saved(now, size, flow, &draft.lanes)
                    .ok_or(StoreError::NobodyWaits)?,
            );
            arrived = resume.arrived;
            let resumed = resume.recipients.into_iter().map(|resumed| resumed.last);
            for (last, resumed) in last.iter_mut().zip(resumed) {
                *last = resumed;
            }
        }
        let message = Box::new(Message {
            info: Arc::new(MessageInfo {
                id,
                envelope: draft.envelope,
                origin: draft.origin,
                arrived,
                size,
            }),
            content: Arc::new(content),
            lanes: draft.lanes.clone(),
            last,
        });
        match saved {
            Some(saved) => table.jobs.load(id, message, saved),
            None => (table.jobs).insert(id, message, size, now, flow, &draft.lanes),
        }
        Ok(())
    }

    fn claim_now(
        &self,
        now: Timestamp,
        request: &ClaimRequest,
    ) -> Result<Vec<Claimed>, StoreError> {
        let mut table = self.open_table()?;
        let tickets = table.jobs.claim(now, request);
        let mut claimed = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            let Some(entry) = table.jobs.get(ticket.lease.id) else {
                continue;
            };
            let lanes = entry.place.lanes.clone();
            let message = Arc::clone(&entry.place.info);
            let content: Arc<dyn Content> = Arc::<MemContent>::clone(&entry.place.content);
            let Some(recipients) = table.jobs.cover(&ticket.lease, &lanes) else {
                continue;
            };
            claimed.push(Claimed {
                lease: ticket.lease,
                message,
                recipients,
                attempts: ticket.attempts,
                warned: ticket.warned,
                content,
            });
        }
        Ok(claimed)
    }

    fn record_now(
        &self,
        now: Timestamp,
        lease: &Lease,
        mut record: AttemptRecord,
    ) -> Result<(), StoreError> {
        let mut table = self.open_table()?;
        let settlement = table.jobs.settlement(now, lease, &record)?;
        let octets = record.notices.iter().map(notice_size).sum();
        if let Err(error) = self.reserve(octets) {
            table.jobs.unpin(lease, now + RECORD_AGAIN);
            return Err(error);
        }
        for notice in std::mem::take(&mut record.notices) {
            let id = table.mint.next(now);
            Self::insert(&mut table, now, id, notice.draft, notice.body)?;
        }
        if let Some(message) = table.jobs.place_mut(lease.id) {
            for change in &record.changes {
                if message.lanes.get(change.recipient) == Some(&lease.lane)
                    && let Some(last) = message.last.get_mut(change.recipient)
                {
                    *last = Some(change.outcome.evidence().clone());
                }
            }
        }
        let entry = table.jobs.settle(lease, &settlement, &record);
        drop(table);
        self.finished(entry);
        self.0.wakers.wake();
        Ok(())
    }

    fn operate_now(
        &self,
        now: Timestamp,
        operation: Operation,
        filter: &Filter,
    ) -> Result<u64, StoreError> {
        let mut table = self.open_table()?;
        let ids: Vec<_> = table
            .jobs
            .after(None)
            .filter(|(_, entry)| filter.is_all() || filter.matches(&listed(&table.jobs, entry)))
            .map(|(id, _)| id)
            .collect();
        let mut done = 0;
        for id in ids {
            if operation == Operation::Remove {
                let entry = table.jobs.remove(id);
                done += u64::from(entry.is_some());
                self.finished(entry);
            } else {
                done += u64::from(table.jobs.operate(now, operation, id));
            }
        }
        drop(table);
        self.0.wakers.wake();
        Ok(done)
    }
}

/// How long a lease lasts after its record could not be written, so that it can be tried again.
const RECORD_AGAIN: Duration = Duration::from_secs(300);

impl Default for MemStore {
    fn default() -> Self {
        Self::new(Self::DEFAULT_LIMIT)
    }
}

fn notice_size(notice: &crate::store::Notice) -> u64 {
    octets(notice.draft.head.len()) + octets(notice.body.len())
}

fn octets(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn listed(jobs: &Jobs<Box<Message>>, entry: &Entry<Box<Message>>) -> Listed {
    let message = &entry.place;
    let info = &message.info;
    let recipients = info.envelope.recipients().iter().zip(&message.lanes);
    let recipients =
        recipients
            .zip(&message.last)
            .enumerate()
            .map(|(place, ((recipient, lane), last))| {
                ListedRecipient::new(jobs, info.id, entry, place, &recipient.address, lane, last)
            });
    Listed {
        id: info.id,
        envelope: info.envelope.clone(),
        origin: info.origin.clone(),
        arrived: info.arrived,
        size: info.size,
        held: entry.held(),
        recipients: recipients.collect(),
    }
}

impl Store for MemStore {
    fn begin(&self, now: Timestamp) -> Result<Box<dyn Incoming>, StoreError> {
        let id = self.open_table()?.mint.next(now);
        self.reserve(1)?;
        Ok(Box::new(MemIncoming {
            store: self.clone(),
            id,
            body: BytesMut::new(),
            reserved: 1,
        }))
    }

    fn claim<'a>(
        &'a self,
        now: Timestamp,
        request: &'a ClaimRequest,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        Box::pin(ready(self.claim_now(now, request)))
    }

    fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.table().jobs.next_due(now)
    }

    fn on_due(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.0.wakers.add(wake);
    }

    fn record<'a>(
        &'a self,
        now: Timestamp,
        lease: &'a Lease,
        record: AttemptRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(ready(self.record_now(now, lease, record)))
    }

    fn renew<'a>(
        &'a self,
        now: Timestamp,
        lease: &'a Lease,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let renewed = self
            .open_table()
            .and_then(|mut table| table.jobs.renew(now, lease, lasts));
        Box::pin(ready(renewed))
    }

    fn park(&self, lane: &Lane, until: Timestamp) {
        self.table().jobs.park(lane, until);
    }

    fn limit(&self, lane: &Lane, at_once: Option<usize>) {
        let more = self.table().jobs.limit(lane, at_once);
        if more {
            self.0.wakers.wake();
        }
    }

    fn hasten(&self, lane: &Lane, now: Timestamp, max: usize) -> usize {
        let hastened = self.table().jobs.hasten(lane, now, max);
        if hastened > 0 {
            self.0.wakers.wake();
        }
        hastened
    }

    fn operate<'a>(
        &'a self,
        now: Timestamp,
        operation: Operation,
        filter: &'a Filter,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(ready(self.operate_now(now, operation, filter)))
    }

    fn page<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<QueueId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        let table = self.table();
        let page = table
            .jobs
            .after(after)
            .map(|(_, entry)| listed(&table.jobs, entry))
            .filter(|message| filter.matches(message))
            .take(max)
            .scan(0, |recipients, message| {
                let room = *recipients < Listed::RECIPIENTS_MAX;
                *recipients += message.recipients.len();
                room.then_some(message)
            })
            .collect();
        Box::pin(ready(Ok(page)))
    }

    fn content(&self, id: QueueId) -> BoxFuture<'_, Result<Arc<dyn Content>, StoreError>> {
        let table = self.table();
        let content = table.jobs.get(id).map(|entry| {
            let content: Arc<dyn Content> = Arc::<MemContent>::clone(&entry.place.content);
            content
        });
        Box::pin(ready(content.ok_or(StoreError::NotFound(id))))
    }

    fn lanes(&self) -> Vec<LaneSummary> {
        self.table().jobs.lanes()
    }

    fn totals(&self) -> Totals {
        self.table().jobs.totals()
    }

    fn health(&self) -> Health {
        let used = self.0.used.load(Ordering::Relaxed);
        Health {
            free: Some(self.0.limit.saturating_sub(used)),
            live: used,
            ..Health::default()
        }
    }

    /// Memory is what it is.
    fn verify(&self) -> BoxFuture<'_, Result<Verified, StoreError>> {
        let totals = self.table().jobs.totals();
        Box::pin(ready(Ok(Verified {
            messages: totals.messages,
            octets: totals.bytes,
            ..Verified::default()
        })))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.table().closed = true;
        Box::pin(ready(Ok(())))
    }
}

impl Incoming for MemIncoming {
    fn id(&self) -> QueueId {
        self.id
    }

    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        let octets = octets(chunk.len());
        let reserved = self.store.reserve(octets);
        if reserved.is_ok() {
            self.reserved += octets;
            self.body.extend_from_slice(&chunk);
        }
        Box::pin(ready(reserved))
    }

    fn commit(
        mut self: Box<Self>,
        now: Timestamp,
        draft: Draft,
    ) -> BoxFuture<'static, Result<QueueId, StoreError>> {
        let head = octets(draft.head.len());
        let committed = self.store.clone().open_table().and_then(|mut table| {
            self.store.reserve(head)?;
            self.reserved += head;
            let body = std::mem::take(&mut self.body).freeze();
            let size = head + octets(body.len());
            MemStore::insert(&mut table, now, self.id, draft, body)?;
            self.reserved -= size; // the table has it now
            Ok(self.id)
        });
        if committed.is_ok() {
            self.store.0.wakers.wake();
        }
        Box::pin(ready(committed))
    }
}

impl Drop for MemIncoming {
    fn drop(&mut self) {
        self.store.free(self.reserved);
    }
}

impl Content for MemContent {
    fn len(&self) -> u64 {
        octets(self.head.len()) + octets(self.body.len())
    }

    fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(ready(Ok(crate::store::piece(
            &self.head, &self.body, offset, max,
        ))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{self, START, accept, claim, deliver};

    #[tokio::test]
    async fn fulfils_the_contract() {
        contract::all(async || MemStore::default()).await;
    }

    #[tokio::test]
    async fn bounded() {
        let store = MemStore::new(1000);
        let first = accept(&store, START, &["bob@b.example"], &[b'x'; 900]).await;
        let mut incoming = store.begin(START).unwrap();
        let full = incoming.write(Bytes::from(vec![0; 200])).await;
        assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
        drop(incoming);
        let claimed = claim(&store, START).await.remove(0);
        assert_eq!(claimed.lease.id, first);
        deliver(&store, START, &claimed).await;
        assert_eq!(store.0.used.load(Ordering::Relaxed), 0);
        accept(&store, START, &["bob@b.example"], &[b'x'; 900]).await;
    }
}
