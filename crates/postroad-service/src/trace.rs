//! What has happened to a message, for `postroad trace`.

use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_net::clock;
use postroad_queue::history::{Event, History, Wanted};
use postroad_queue::{Filter, Listed, QueueId, Store, StoreError};
use serde::{Deserialize, Serialize};

/// Events of a trace, at most: the youngest.
pub const EVENTS_MAX: usize = 10_000;
/// Messages of one Message-ID that are looked for in the queue, at most.
const MESSAGES_MAX: usize = 100;

/// What is known of a message, or of several with one Message-ID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// What has happened, in order of time.
    pub events: Vec<Event>,
    /// Where those stand that are still in the queue.
    pub queued: Vec<Listed>,
    /// For how long it is kept what has happened, in seconds; 0: not at all.
    pub kept_seconds: u64,
    /// When it was asked.
    pub asked: Timestamp,
}

/// A request for it: exactly one of both.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceRequest {
    /// The message of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<QueueId>,
    /// Messages with this Message-ID, without angle brackets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

/// Neither a queue id nor a Message-ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a queue id, as `postroad queue list` shows them, nor a Message-ID, as in <20261124124901.5f3a@example.org>"
)]
pub struct NotAnId(String);

/// What a person has written: a queue id, or a Message-ID.
///
/// # Errors
/// Where it is neither.
pub fn wanted(text: &str) -> Result<Wanted, NotAnId> {
    let text = text.trim();
    if let Ok(id) = text.parse() {
        return Ok(Wanted::Id(id));
    }
    let bare = text
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'));
    match bare {
        Some(id) if !id.is_empty() => Ok(Wanted::MessageId(id.to_owned())),
        None if text.contains('@') => Ok(Wanted::MessageId(text.to_owned())),
        _ => Err(NotAnId(text.to_owned())),
    }
}

impl TraceRequest {
    pub(crate) fn of(wanted: &Wanted) -> Self {
        match wanted {
            Wanted::Id(id) => Self {
                id: Some(*id),
                message_id: None,
            },
            Wanted::MessageId(id) => Self {
                id: None,
                message_id: Some(id.clone()),
            },
        }
    }

    pub(crate) fn wanted(self) -> Option<Wanted> {
        match (self.id, self.message_id) {
            (Some(id), None) => Some(Wanted::Id(id)),
            (None, Some(id)) => Some(Wanted::MessageId(id)),
            _ => None,
        }
    }
}

/// Looks for it in the history and in the queue.
pub(crate) async fn find(
    store: &dyn Store,
    history: &dyn History,
    kept: Duration,
    wanted: &Wanted,
) -> Result<Trace, StoreError> {
    let events = history.find(wanted, EVENTS_MAX).await?;
    let mut ids: Vec<QueueId> = match wanted {
        Wanted::Id(id) => vec![*id],
        Wanted::MessageId(_) => events.iter().map(|event| event.id).collect(),
    };
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(MESSAGES_MAX);
    let mut queued = Vec::new();
    if !ids.is_empty() {
        let filter = Filter {
            ids,
            ..Filter::default()
        };
        queued = store.page(&filter, None, MESSAGES_MAX).await?;
    }
    Ok(Trace {
        events,
        queued,
        kept_seconds: kept.as_secs(),
        asked: clock::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted() {
        let id = "01jdk7e2m8qv3tw5xyz9abcdef";
        assert_eq!(wanted(id), Ok(Wanted::Id(id.parse().unwrap())));
        for text in ["<x@y>", "x@y", " <x@y> "] {
            assert_eq!(wanted(text), Ok(Wanted::MessageId("x@y".to_owned())));
        }
        assert_eq!(wanted("<x>"), Ok(Wanted::MessageId("x".to_owned())));
        for bad in ["", "x", "<>", "01jdk"] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }
}
