//! A queue in memory that shows what is recorded in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_queue::{
    AttemptRecord, BoxFuture, ClaimRequest, Claimed, Content, Filter, Health, Incoming, Lane,
    LaneSummary, Lease, Listed, MemStore, Operation, Outcome, QueueId, Store, StoreError, Totals,
    Verified,
};
use tokio::sync::watch;

/// Octets that it holds, at most.
const SIZE: u64 = 1 << 30;

/// What was recorded of each message, in order: a recipient's place, and what came of it.
pub(crate) type Outcomes = HashMap<QueueId, Vec<(usize, Outcome)>>;

/// The queue.
#[derive(Clone)]
pub(crate) struct Watched {
    inner: MemStore,
    outcomes: Arc<Mutex<Outcomes>>,
    grown: watch::Sender<usize>,
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self {
            inner: MemStore::new(SIZE),
            outcomes: Arc::default(),
            grown: watch::Sender::new(0),
        }
    }

    /// What has been recorded.
    pub(crate) fn outcomes(&self) -> Outcomes {
        self.outcomes.lock().unwrap().clone()
    }

    /// Waits until what has been recorded is as wanted; says whether it ever was.
    pub(crate) async fn until(&self, patience: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let mut grown = self.grown.subscribe();
        let waiting = grown.wait_for(|_| done(self));
        tokio::time::timeout(patience, waiting).await.is_ok()
    }
}

impl Store for Watched {
    fn begin(&self, now: Timestamp) -> Result<Box<dyn Incoming>, StoreError> {
        self.inner.begin(now)
    }

    fn claim<'a>(
        &'a self,
        now: Timestamp,
        request: &'a ClaimRequest,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        self.inner.claim(now, request)
    }

    fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.inner.next_due(now)
    }

    fn on_due(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.inner.on_due(wake);
    }

    fn record<'a>(
        &'a self,
        now: Timestamp,
        lease: &'a Lease,
        record: AttemptRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let changes = record.changes.clone();
            self.inner.record(now, lease, record).await?;
            let mut all = self.outcomes.lock().unwrap();
            let of_message = all.entry(lease.id).or_default();
            of_message.extend(changes.into_iter().map(|c| (c.recipient, c.outcome)));
            drop(all);
            self.grown.send_modify(|count| *count += 1);
            Ok(())
        })
    }

    fn renew<'a>(
        &'a self,
        now: Timestamp,
        lease: &'a Lease,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.renew(now, lease, lasts)
    }

    fn park(&self, lane: &Lane, until: Timestamp) {
        self.inner.park(lane, until);
    }

    fn limit(&self, lane: &Lane, at_once: Option<usize>) {
        self.inner.limit(lane, at_once);
    }

    fn hasten(&self, lane: &Lane, now: Timestamp, max: usize) -> usize {
        self.inner.hasten(lane, now, max)
    }

    fn operate<'a>(
        &'a self,
        now: Timestamp,
        operation: Operation,
        filter: &'a Filter,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        self.inner.operate(now, operation, filter)
    }

    fn page<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<QueueId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        self.inner.page(filter, after, max)
    }

    fn content(&self, id: QueueId) -> BoxFuture<'_, Result<Arc<dyn Content>, StoreError>> {
        self.inner.content(id)
    }

    fn lanes(&self) -> Vec<LaneSummary> {
        self.inner.lanes()
    }

    fn totals(&self) -> Totals {
        self.inner.totals()
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn verify(&self) -> BoxFuture<'_, Result<Verified, StoreError>> {
        self.inner.verify()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.close()
    }
}
