//! Where it is kept what has happened to messages.

use std::sync::Arc;
use std::time::Duration;

use postroad_net::clock;
use postroad_queue::history::{Event, Happening, History, NoHistory};
use postroad_queue::{Filter, Operation, QueueId, Store, StoreError};
use postroad_store::{FileHistory, HistoryOptions};

use crate::admin::PAGE_PART;
use crate::config::{Config, StoreKind};
use crate::service::ServiceError;

/// Where it is, in the queue's directory.
const DIRECTORY: &str = "history";
/// Messages of one order that are written down, at most.
const ORDERED_MAX: usize = 100_000;

/// Opens the history of a configuration: in the queue's directory, or nowhere.
pub(crate) async fn open(config: &Config) -> Result<Arc<dyn History>, ServiceError> {
    if config.queue.store == StoreKind::Memory || config.log.history.0.is_zero() {
        return Ok(Arc::new(NoHistory));
    }
    let directory = config.queue.path.join(DIRECTORY);
    let options = HistoryOptions {
        keep: config.log.history.0,
        size_max: config.log.history_size.0,
    };
    let opening = tokio::task::spawn_blocking(move || FileHistory::open(directory, options));
    let history = opening.await.map_err(|_| ServiceError::Ended)??;
    Ok(Arc::new(history))
}

/// For how long it is kept; zero: not at all.
pub(crate) fn kept(config: &Config) -> Duration {
    match config.queue.store {
        StoreKind::Memory => Duration::ZERO,
        StoreKind::Local | StoreKind::Postgres => config.log.history.0,
    }
}

/// Does something to messages, and writes that down with each, where history is `kept`.
pub(crate) async fn operate(
    store: &dyn Store,
    history: &dyn History,
    kept: Duration,
    operation: Operation,
    filter: &Filter,
) -> Result<u64, StoreError> {
    if kept.is_zero() {
        return store.operate(clock::now(), operation, filter).await;
    }
    // Which they are is known before only: some are gone behind it.
    let ids = matching(store, filter).await?;
    let now = clock::now();
    let messages = store.operate(now, operation, filter).await?;
    let word = match operation {
        Operation::Hold => "hold",
        Operation::Release => "release",
        Operation::Retry => "retry",
        Operation::Remove => "remove",
    };
    for id in ids {
        history.record(Event {
            id,
            at: now,
            what: Happening::Operator {
                operation: word.to_owned(),
            },
        });
    }
    Ok(messages)
}

async fn matching(store: &dyn Store, filter: &Filter) -> Result<Vec<QueueId>, StoreError> {
    let mut ids = Vec::new();
    while ids.len() < ORDERED_MAX {
        let page = store.page(filter, ids.last().copied(), PAGE_PART).await?;
        if page.is_empty() {
            break;
        }
        ids.extend(page.iter().map(|message| message.id));
    }
    Ok(ids)
}
