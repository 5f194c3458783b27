//! What has happened to messages, kept for a while after they have left: for `postroad trace`.

use std::fmt;

use postroad_mail::{Origin, Timestamp};
use serde::{Deserialize, Serialize};

use crate::id::QueueId;
use crate::outcome::Outcome;
use crate::store::{BoxFuture, StoreError};

/// One thing that has happened to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// To which.
    pub id: QueueId,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happens to messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum Happening {
    /// It is in the queue: its 250 may leave.
    Accepted(Accepted),
    /// It has been tried, for some of its recipients.
    Attempt(Attempt),
    /// A notice about it is in the queue.
    Notice {
        /// `failed`, `delayed`, `relayed`, `delivered`, `expanded`.
        kind: String,
        /// The recipients it is about.
        about: String,
        /// Who gets it.
        to: String,
    },
    /// An operator has done something to it: `hold`, `release`, `retry`, `remove`.
    Operator {
        /// What.
        operation: String,
    },
    /// No recipient of it waits any more.
    Left,
}

/// How a message came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// When its first command (MAIL) came.
    pub began: Timestamp,
    /// By which service, from whom.
    pub origin: Origin,
    /// The reverse-path.
    pub from: String,
    /// The recipients, in order; the first few hundred of them.
    pub recipients: Vec<String>,
    /// How many recipients there are.
    pub recipients_count: usize,
    /// Octets.
    pub size: u64,
    /// The Message-ID header field, without angle brackets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Addresses that were aliases, and what became of them: `list@example.org -> a@b, c@d`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expansions: Vec<String>,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u32,
    /// In which lane.
    pub lane: String,
    /// When it began.
    pub began: Timestamp,
    /// What was done on the way, in order: the route, hosts called, TLS, what failed. Bounded.
    pub steps: Vec<Step>,
    /// What came of it for each recipient; the first few hundred of them.
    pub outcomes: Vec<RecipientOutcome>,
    /// When the recipients that still wait are due again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due: Option<Timestamp>,
}

/// A step on the way of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When it was done.
    pub at: Timestamp,
    /// With whom, as `host[address]:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
    /// What, for people; peers' text in it is escaped.
    pub what: String,
}

/// What came of an attempt for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientOutcome {
    /// The address.
    pub recipient: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Its time was up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
}

/// Which message's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The message of that name.
    Id(QueueId),
    /// Messages with that Message-ID (without angle brackets); there may be several.
    MessageId(String),
}

/// Keeps what has happened. Recording never waits for a disk, and what it cannot keep up with it
/// drops, and says so: mail goes first.
pub trait History: Send + Sync + fmt::Debug + 'static {
    /// Writes down what has happened.
    fn record(&self, event: Event);

    /// What is known of a message, in order of time, at most `max` events of the youngest.
    ///
    /// # Errors
    /// Where the history cannot be read.
    fn find<'a>(
        &'a self,
        wanted: &'a Wanted,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Event>, StoreError>>;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHistory;

impl History for NoHistory {
    fn record(&self, _event: Event) {}

    fn find<'a>(
        &'a self,
        _wanted: &'a Wanted,
        _max: usize,
    ) -> BoxFuture<'a, Result<Vec<Event>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}
