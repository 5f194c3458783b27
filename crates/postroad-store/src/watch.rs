//! What is counted for those who watch the queue.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use postroad_mail::Timestamp;
use postroad_queue::{Health, StoreError};

/// Counts, and what is wrong now.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) refused_full: AtomicU64,
    pub(crate) refused_error: AtomicU64,
    pub(crate) states_unwritten: AtomicU64,
    pub(crate) sync_failures: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compacted: AtomicU64,
    faults: Mutex<Faults>,
    said: Mutex<Said>,
}

/// When the log was last told of a failure that may come a thousand times a second.
#[derive(Debug, Default)]
struct Said {
    at: Option<Timestamp>,
    unsaid: u64,
}

/// What is wrong now, by what would show that it has ended.
#[derive(Debug, Default)]
struct Faults {
    commit: Option<(String, Timestamp)>,
    state: Option<(String, Timestamp)>,
    space: Option<(String, Timestamp)>,
}

/// What fails, or works again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Commit,
    State,
    Space,
}

impl Work {
    const fn name(self) -> &'static str {
        match self {
            Self::Commit => "new mail is not taken in",
            Self::State => "what comes of deliveries is not written down",
            Self::Space => "new mail is refused",
        }
    }
}

pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Watch {
    /// Something fails.
    pub(crate) fn fails(&self, work: Work, why: &str) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = faults.of(work);
        let since = fault.as_ref().map_or_else(now, |(_, since)| *since);
        *fault = Some((format!("{}: {why}", work.name()), since));
    }

    /// It works. Says so in the log, where it did not.
    pub(crate) fn works(&self, work: Work) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((fault, since)) = faults.of(work).take() {
            let seconds = now().since(since).as_secs();
            tracing::info!(was = fault, seconds, "the queue works again");
        }
    }

    /// Says it at most once a second; with how often it was not said.
    pub(crate) fn now_and_then(&self, say: impl FnOnce(u64)) {
        let unsaid = {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let now = now();
            if said
                .at
                .is_some_and(|at| now >= at && now.since(at).as_millis() < 1000)
            {
                said.unsaid += 1;
                return;
            }
            said.at = Some(now);
            std::mem::take(&mut said.unsaid)
        };
        say(unsaid);
    }

    pub(crate) fn health(&self) -> Health {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = [&faults.space, &faults.commit, &faults.state];
        let (fault, fault_since) = fault.into_iter().flatten().next().cloned().unzip();
        Health {
            fault,
            fault_since,
            refused_full: read(&self.refused_full),
            refused_error: read(&self.refused_error),
            states_unwritten: read(&self.states_unwritten),
            sync_failures: read(&self.sync_failures),
            damaged: read(&self.damaged),
            compactions: read(&self.compactions),
            compacted: read(&self.compacted),
            ..Health::default()
        }
    }
}

impl Faults {
    const fn of(&mut self, work: Work) -> &mut Option<(String, Timestamp)> {
        match work {
            Work::Commit => &mut self.commit,
            Work::State => &mut self.state,
            Work::Space => &mut self.space,
        }
    }
}

/// An error and what is behind it, in one line.
pub(crate) fn because(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The time of the system: the store's own threads have no caller to ask.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
