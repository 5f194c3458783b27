use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad_mail::{Address, Envelope, Origin, Timestamp};
use serde::{Deserialize, Serialize};

use crate::health::{Health, Verified};
use crate::id::QueueId;
use crate::jobs::{Entry, Jobs};
use crate::outcome::{Evidence, Outcome, RecipientState};
use crate::resume::Resume;

/// A boxed future, so that stores can be chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The key by which delivery is grouped, limited and made fair; by default the recipient's
/// domain in its canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lane(Arc<str>);

impl Lane {
    /// The lane of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No space, or below the low-water mark of free space: 452 4.3.1.
    #[error("the queue at {place} is full: {detail}")]
    Full {
        /// The queue.
        place: String,
        /// What is short.
        detail: String,
    },
    /// Reading or writing failed: 451 4.3.0.
    #[error("{action} {place}")]
    Io {
        /// What was tried, as in `writing`.
        action: &'static str,
        /// On what.
        place: String,
        /// What came of it.
        source: std::io::Error,
    },
    /// What was read is not what was written.
    #[error("{place} is damaged: {detail}")]
    Damaged {
        /// What.
        place: String,
        /// How.
        detail: Cow<'static, str>,
    },
    /// Another process has the queue open.
    #[error(
        "the queue at {place} is in use by another process ({holder}); stop it first, or talk to it over its admin socket"
    )]
    Locked {
        /// The queue.
        place: String,
        /// Who holds it, as far as is known.
        holder: String,
    },
    /// The queue was written by a version that this one does not know.
    #[error("the queue at {place} has format {found}; this version knows {known}")]
    Format {
        /// The queue.
        place: String,
        /// What is there.
        found: String,
        /// What we know.
        known: String,
    },
    /// Of the message that was to be taken over from another queue, every recipient is done with.
    #[error("no recipient of the message waits any more")]
    NobodyWaits,
    /// No message has that id.
    #[error("no message {0} is in the queue")]
    NotFound(QueueId),
    /// The lease has ended, or was another's: what was done under it does not count.
    #[error("the lease on {0} was lost")]
    LeaseLost(QueueId),
    /// The store has been closed.
    #[error("the queue is closed")]
    Closed,
}

/// What is committed together with the content.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who gets it.
    pub envelope: Envelope,
    /// How it came.
    pub origin: Origin,
    /// The complete header block, in its final form, with the empty line that ends it.
    pub head: Bytes,
    /// The lane of each recipient, in order.
    pub lanes: Vec<Lane>,
    /// Where it stands already, if it comes from another queue.
    pub resumes: Option<Resume>,
}

impl Draft {
    /// Gives a lane, its domain's, to each recipient that has none: for stores. A recipient
    /// without one would be forgotten.
    pub fn complete_lanes(&mut self) {
        let recipients = self.envelope.recipients();
        self.lanes.truncate(recipients.len());
        let without = recipients.iter().skip(self.lanes.len());
        let domains = without.map(|r| Lane::new(r.address.domain().ascii()));
        self.lanes.extend(domains.collect::<Vec<_>>());
    }
}

/// A message of the queue's own making (a DSN), committed together with the state that owes it.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Envelope, origin, head and lanes.
    pub draft: Draft,
    /// What follows the head.
    pub body: Bytes,
}

/// A message on its way in. Dropping it leaves nothing behind.
pub trait Incoming: Send {
    /// The name it will have, for its Received header.
    fn id(&self) -> QueueId;

    /// Takes a piece of what follows the header block. Slow where the disk is: that is the
    /// back-pressure.
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Makes the message durable; it survives a power loss once this has returned `Ok` (in
    /// stores that keep anything at all). After an error it may still turn up, never in part.
    ///
    /// A draft that [resumes](Draft::resumes) is from its first moment where it says: held, if it
    /// was held, so that no claim comes in between.
    ///
    /// # Errors
    /// [`StoreError::Full`] where there is no room (any longer), [`StoreError::Io`] where it
    /// cannot be written, [`StoreError::NobodyWaits`], [`StoreError::Closed`].
    fn commit(
        self: Box<Self>,
        now: Timestamp,
        draft: Draft,
    ) -> BoxFuture<'static, Result<QueueId, StoreError>>;
}

/// What is fixed about a message.
#[derive(Clone, Debug)]
pub struct MessageInfo {
    /// Its name.
    pub id: QueueId,
    /// Who gets it.
    pub envelope: Envelope,
    /// How it came.
    pub origin: Origin,
    /// When it was committed.
    pub arrived: Timestamp,
    /// Octets, header block and body.
    pub size: u64,
}

/// The octets of a message: its header block, then its body.
pub trait Content: Send + Sync + fmt::Debug {
    /// How many there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets from `offset` on, at most `max`, at least one unless `offset` is at the end.
    fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>>;
}

/// The right to work on the recipients of one message in one lane, until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The message.
    pub id: QueueId,
    /// The lane.
    pub lane: Lane,
    /// Differs with every claim.
    pub token: u64,
}

/// How much to claim.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Jobs, at most.
    pub max: usize,
    /// Jobs of one lane under lease at any time, at most.
    pub per_lane: usize,
    /// How long the leases last.
    pub lease: Duration,
}

/// Work: the recipients of one message in one lane.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The right to it.
    pub lease: Lease,
    /// The message.
    pub message: Arc<MessageInfo>,
    /// Which of its recipients still wait in this lane: places in the envelope's list.
    pub recipients: Vec<usize>,
    /// Attempts made before.
    pub attempts: u32,
    /// Whether the sender has been told of the delay.
    pub warned: bool,
    /// The message itself; in memory where it has only just come.
    pub content: Arc<dyn Content>,
}

/// One recipient's part of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the envelope's list.
    pub recipient: usize,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a claim.
#[derive(Clone, Debug, Default)]
pub struct AttemptRecord {
    /// For each recipient that was tried. Those of the claim that are not named stay as they are.
    pub changes: Vec<Change>,
    /// When the recipients that still wait are due again; now, where it is not given.
    pub next_due: Option<Timestamp>,
    /// Whether it counts as an attempt. (A claim given back untouched does not.)
    pub counts: bool,
    /// The sender is being told of the delay.
    pub warned: bool,
    /// Messages owed for this, committed with it: after a crash both are there, or neither.
    pub notices: Vec<Notice>,
}

/// What an operator can do to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Not to be tried until released.
    Hold,
    /// End a hold.
    Release,
    /// Due now.
    Retry,
    /// Gone, without a notice. What is under lease may still be delivered.
    Remove,
}

/// Which messages; an empty filter means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// These only, where any are named.
    pub ids: Vec<QueueId>,
    /// The reverse-path contains this (any case); `<>` means the null one.
    pub from: Option<String>,
    /// A recipient contains this (any case).
    pub to: Option<String>,
    /// A waiting recipient is in this lane.
    pub lane: Option<String>,
    /// A waiting recipient has an address in this domain (any case), whatever its lane.
    pub domain: Option<String>,
    /// Arrived before.
    pub arrived_before: Option<Timestamp>,
    /// Held (or not).
    pub held: Option<bool>,
    /// The reply to the last attempt for a recipient that waits contains this (any case).
    pub reason: Option<String>,
}

/// A message as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub id: QueueId,
    /// Who gets it, and who is told.
    pub envelope: Envelope,
    /// How it came.
    pub origin: Origin,
    /// When it came.
    pub arrived: Timestamp,
    /// Octets.
    pub size: u64,
    /// Whether it is held.
    pub held: bool,
    /// Each recipient's state, in order.
    pub recipients: Vec<ListedRecipient>,
}

impl Listed {
    /// Recipients of all messages of a page, about: no page takes more memory than that.
    pub const RECIPIENTS_MAX: usize = 10_000;
}

/// A recipient as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRecipient {
    /// The address.
    pub address: String,
    /// Its lane.
    pub lane: Lane,
    /// Where it stands.
    pub state: RecipientState,
    /// Attempts made.
    pub attempts: u32,
    /// When it is tried next; none while under lease, held or in a final state.
    pub due: Option<Timestamp>,
    /// Whether the sender has been told of the delay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warned: bool,
    /// What came of the last attempt.
    pub last: Option<Evidence>,
}

/// A lane at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSummary {
    /// Which.
    pub lane: Lane,
    /// Jobs not under lease.
    pub waiting: u64,
    /// Jobs under lease.
    pub in_flight: u64,
    /// Of those that wait and are not held, those that were tried before; notices never count as
    /// such.
    #[serde(default)]
    pub deferred: u64,
    /// The next due.
    pub next_due: Option<Timestamp>,
    /// Not before, where parked.
    pub parked_until: Option<Timestamp>,
    /// Jobs under lease at once, at most, where [`Store::limit`] says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How its last attempt went since the start; not known where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<LaneState>,
}

/// How the last attempt in a lane went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LaneState {
    /// A recipient was delivered to.
    Well,
    /// Nobody was, and all have to wait.
    Failed,
}

/// A store at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Messages with a recipient that waits.
    pub messages: u64,
    /// Of those, held.
    pub held: u64,
    /// Octets of those.
    pub bytes: u64,
    /// Jobs under lease.
    pub in_flight: u64,
}

/// Keeps promises: the queue.
///
/// A message is committed once, with a lane for each recipient. All recipients of one message in
/// one lane are a job; jobs are claimed under a lease, and what comes of that is recorded, until
/// no recipient waits any more: then the message is gone. Nothing in it is about SMTP: see
/// `examples/webhooks.rs` of `postroad-store` for another program's jobs.
///
/// What each call promises, also after a crash:
///
/// | call | once it has returned `Ok` | after `kill -9` | after a power loss |
/// |---|---|---|---|
/// | [`Incoming::commit`] | the message will be claimed | it is there | it is there |
/// | … that fails, or is cut off | nothing is promised | it may be there, whole | likewise |
/// | [`Incoming`] dropped | nothing of it is left | likewise | likewise |
/// | [`Store::claim`] | nobody else has the job before the lease ends | the job is due | the job is due |
/// | [`Store::record`] | the outcome holds, the lease is over | it holds | it holds, but for that of the last second: then the job is due as before, and may be done twice |
/// | … with notices | those are queued, and the outcome holds | both, or neither | both, or neither |
/// | [`Store::renew`], [`Store::park`], [`Store::limit`] | it holds | forgotten | forgotten |
/// | [`Store::hasten`] | the jobs are due | it may be forgotten | it may be forgotten |
/// | [`Store::operate`] | it holds | it holds | it holds, unless a sync has failed, which [`Store::health`] says |
/// | [`Store::close`] | all of the above is on disk | | |
///
/// And at all times:
///
/// - [`Store::claim`] never hands a job to two callers before its lease ends; a lease that ends
///   without a record makes the job due again.
/// - Nobody's job waits for how many jobs others have: in a lane senders take turns, and mail that
///   was never tried has three turns of four; lanes in trouble, or never tried, have a quarter
///   while others have work. [`Store::claim`] says it in full.
/// - [`Store::record`] under a lost lease is an error, and changes nothing.
/// - A recipient in a final state is never claimed again, but for the last second before a power
///   loss (a duplicate delivery, never a loss).
/// - Where no state can be written (a full disk), records hold until the process ends, so that the
///   queue drains; [`Store::health`] says so.
/// - A message that is found damaged is never given out as whole: reading it is an error.
///
/// The second and third columns are of stores that keep anything at all ([`crate::MemStore`] does
/// not), and the last of those that sync: a store may be told not to, and then says so. The suite
/// in [`crate::contract`] tests what can be told without a crash, for every store; each store that
/// survives crashes tests the rest for itself.
pub trait Store: Send + Sync + 'static {
    /// A message begins to come in. Refuses at once where there is no room.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Closed`].
    fn begin(&self, now: Timestamp) -> Result<Box<dyn Incoming>, StoreError>;

    /// Takes what is due at `now`, a few of each lane in turn. It costs no more where millions
    /// wait, or where most lanes are dead. Whoever sends much, or to dead destinations, keeps
    /// nobody else waiting for long:
    ///
    /// - Within a lane the senders (see [`Flow`](crate::jobs::Flow)) take turns, a job each.
    /// - Within a lane mail that was never tried, and notices, go before mail that was deferred;
    ///   of four jobs one is of the latter while there are both.
    /// - While there is work in lanes whose last attempt went well, those whose last attempt
    ///   failed and those that were never tried have together one turn of four, and are not given
    ///   more than brings them to a quarter of what is under lease once the request is met (or one
    ///   job, where that is less).
    /// - Of one sender and one class, jobs come in order of due time, those of equal time in order
    ///   of arrival.
    ///
    /// # Errors
    /// [`StoreError::Closed`]. A message that cannot be read is left out, and put off.
    fn claim<'a>(
        &'a self,
        now: Timestamp,
        request: &'a ClaimRequest,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>>;

    /// The earliest moment at which [`Store::claim`] might find more than now: the next due job,
    /// end of a parking, or end of a lease. `None`: not before a commit.
    fn next_due(&self, now: Timestamp) -> Option<Timestamp>;

    /// Calls `wake` (cheap and non-blocking, from any thread, at the latest before the call that
    /// did it returns) whenever a job has become due by other ways than the passing of time: a
    /// commit, a record, a retry, jobs made due, a lease given back.
    fn on_due(&self, wake: Arc<dyn Fn() + Send + Sync>);

    /// Writes down what came of a claim and ends its lease.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; where notices cannot be kept, [`StoreError::Full`] or
    /// [`StoreError::Io`]: then nothing has changed, the lease goes on for five minutes, and the
    /// record may be tried again. [`StoreError::Closed`].
    fn record<'a>(
        &'a self,
        now: Timestamp,
        lease: &'a Lease,
        record: AttemptRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Makes a lease last until `now + lasts`.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::Closed`].
    fn renew<'a>(
        &'a self,
        now: Timestamp,
        lease: &'a Lease,
        lasts: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Claims nothing of a lane until then (a dead host, a rate limit). Forgotten at a restart.
    fn park(&self, lane: &Lane, until: Timestamp);

    /// At most so many jobs of a lane under lease at the same time, from now on; `None`: as the
    /// [`ClaimRequest`] says. Forgotten at a restart, and may be once the lane has no jobs.
    fn limit(&self, lane: &Lane, at_once: Option<usize>);

    /// Makes jobs of a lane due at `now` that are due later, at most `max`, in order of due time;
    /// says how many. Whoever waits for a host that was dead need not wait any longer. Jobs that
    /// are held or under lease stay as they are, and a parked lane stays parked. Costs a logarithm
    /// for each job, however many wait; may be forgotten at a restart.
    fn hasten(&self, lane: &Lane, now: Timestamp, max: usize) -> usize;

    /// Does something to all messages that match; says to how many.
    ///
    /// # Errors
    /// Where it cannot be written down: it may have been done to some. [`StoreError::Closed`].
    fn operate<'a>(
        &'a self,
        now: Timestamp,
        operation: Operation,
        filter: &'a Filter,
    ) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// Messages that match, by id, behind `after`, at most `max`: the queue page by page, whatever
    /// comes and goes meanwhile. A page also ends with the message that brings it to
    /// [`Listed::RECIPIENTS_MAX`] recipients; only an empty one says that there are no more. One that cannot be read is left out, and told of in the log.
    ///
    /// # Errors
    /// Where nothing can be read.
    fn page<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<QueueId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>>;

    /// The octets of a message.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`], [`StoreError::Io`].
    fn content(&self, id: QueueId) -> BoxFuture<'_, Result<Arc<dyn Content>, StoreError>>;

    /// All lanes with jobs, in order of name.
    fn lanes(&self) -> Vec<LaneSummary>;

    /// The store at a glance.
    fn totals(&self) -> Totals;

    /// How it does: space, faults, what it does besides. Cheap; asked for by every scrape of the
    /// metrics.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Reads all that is kept, and says what is not what was written. It takes as long as that
    /// takes; mail goes on meanwhile.
    ///
    /// # Errors
    /// Where it cannot be read at all. Damage is no error, but a finding.
    fn verify(&self) -> BoxFuture<'_, Result<Verified, StoreError>>;

    /// Finishes what is being written and closes; everything but listings is refused afterwards.
    ///
    /// # Errors
    /// Where some state is not on disk.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Octets of a message that is in memory as its head and its body, as [`Content::read`] wants
/// them: for stores.
#[must_use]
pub fn piece(head: &Bytes, body: &Bytes, offset: u64, max: usize) -> Bytes {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let (part, from) = match offset.checked_sub(head.len()) {
        None => (head, offset),
        Some(from) => (body, from.min(body.len())),
    };
    let to = from.saturating_add(max).min(part.len());
    part.slice(from..to)
}

impl ListedRecipient {
    /// A recipient as a table of jobs knows it: for stores.
    #[must_use]
    pub fn new<P>(
        jobs: &Jobs<P>,
        id: QueueId,
        entry: &Entry<P>,
        place: usize,
        address: &Address,
        lane: &Lane,
        last: &Option<Evidence>,
    ) -> Self {
        let state = entry.state(place);
        let job = jobs.job(id, lane);
        Self {
            address: address.to_string(),
            lane: lane.clone(),
            state,
            // Where a lane is done with a message, its count is gone; at least one it was.
            attempts: job
                .map_or(0, |job| job.attempts)
                .max(u32::from(state.is_final())),
            due: job.filter(|_| !state.is_final()).and_then(|job| job.due),
            warned: job.is_some_and(|job| job.warned),
            last: last.clone(),
        }
    }
}
