//! The load generator: sessions that send numbered messages, in one thread.
//!
//! One thread with an event loop, as `smtp-source` has it, is the cheapest: the sessions wait for
//! the server nearly all the time, and a thread for each would pay a switch for every wait.

mod client;
mod message;
mod reply;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

pub(crate) use client::{Client, Credentials, Opening};
pub(crate) use message::{FIELD, Messages, domain};

use crate::clock;

/// Errors after which a load is given up.
const ERRORS_MAX: u64 = 1000;

/// Errors whose texts are kept.
const TEXTS_MAX: usize = 3;

/// How long a session waits after an error, so that a dead server does not keep it spinning.
const PAUSE: Duration = Duration::from_millis(20);

/// What is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Where to.
    pub(crate) target: SocketAddr,
    /// What is said before the first message of a connection.
    pub(crate) opening: Opening,
    /// Connections at the same time.
    pub(crate) sessions: usize,
    /// The number of the first message.
    pub(crate) first: u64,
    /// How many messages.
    pub(crate) messages: u64,
    /// How many of them over one connection.
    pub(crate) per_connection: u64,
    /// Octets of each.
    pub(crate) size: usize,
    /// So many destinations take turns; 0: all of it is for one.
    pub(crate) destinations: u64,
    /// How long all of it may take.
    pub(crate) patience: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    /// Messages with a 250 to the end of data.
    pub(crate) acknowledged: u64,
    /// Errors: refused messages, broken connections.
    pub(crate) errors: u64,
    /// The texts of the first of them.
    pub(crate) texts: Vec<String>,
    /// How long each final reply took, in order of length.
    pub(crate) replies: Vec<Duration>,
    /// From the first connection to the last 250.
    pub(crate) took: Duration,
}

impl Load {
    /// Sends all of it.
    ///
    /// # Errors
    /// Where there are too many errors, or it takes too long.
    pub(crate) fn run(&self) -> anyhow::Result<Sent> {
        runtime()?.block_on(async {
            tokio::time::timeout(self.patience, self.send())
                .await
                .with_context(|| format!("the load was not done after {:?}", self.patience))?
        })
    }

    async fn send(&self) -> anyhow::Result<Sent> {
        let shared = Arc::new(Shared {
            next: AtomicU64::new(self.first),
            end: self.first + self.messages,
            errors: AtomicU64::new(0),
            messages: Messages::of(self.size).to(self.destinations),
        });
        let started = clock::now();
        let mut sessions = JoinSet::new();
        for _ in 0..self.sessions {
            sessions.spawn(session(self.clone(), Arc::clone(&shared)));
        }
        let mut all = Sent::default();
        while let Some(sent) = sessions.join_next().await {
            all.add(sent?);
        }
        all.took = started.elapsed();
        all.replies.sort_unstable();
        if all.errors >= ERRORS_MAX {
            bail!("{} errors: {}", all.errors, all.texts.join("; "));
        }
        Ok(all)
    }
}

impl Sent {
    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.errors += other.errors;
        self.texts.extend(other.texts);
        self.texts.truncate(TEXTS_MAX);
        self.replies.extend(other.replies);
    }
}

/// A runtime of one thread: the one that calls.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making a runtime")
}

/// What the sessions of a load have in common.
#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    end: u64,
    errors: AtomicU64,
    messages: Messages,
}

impl Shared {
    fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.end).then_some(number)
    }
}

/// Sends until all numbers are taken.
async fn session(load: Load, shared: Arc<Shared>) -> Sent {
    let mut sent = Sent::default();
    while let Some(number) = shared.take() {
        let Err(error) = connection(&load, &shared, number, &mut sent).await else {
            continue;
        };
        sent.errors += 1;
        if sent.texts.len() < TEXTS_MAX {
            sent.texts.push(format!("{error:#}"));
        }
        if shared.errors.fetch_add(1, Ordering::Relaxed) >= ERRORS_MAX {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    sent
}

/// Sends over one connection, this message first.
async fn connection(
    load: &Load,
    shared: &Shared,
    mut number: u64,
    sent: &mut Sent,
) -> anyhow::Result<()> {
    let mut client = Client::connect(load.target, &load.opening).await?;
    for left in (0..load.per_connection).rev() {
        let took = client.send(&shared.messages, number, left == 0).await?;
        sent.acknowledged += 1;
        sent.replies.push(took);
        if left == 0 {
            return Ok(());
        }
        match shared.take() {
            Some(next) => number = next,
            None => return client.quit().await,
        }
    }
    Ok(())
}
