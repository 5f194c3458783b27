//! Connections kept open for a moment, for the next message to the same hop.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postroad_net::client::Connection;
use postroad_net::clock;
use postroad_routing::TlsMode;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(5);
/// Idle connections to one hop, at most.
const PER_HOP: usize = 10;
/// Idle connections, at most.
const TOTAL: usize = 500;
/// Messages over one connection, at most.
pub(crate) const MESSAGES_MAX: u32 = 100;

/// What must be the same for a connection to serve: never one made under weaker terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) address: SocketAddr,
    pub(crate) name: String,
    pub(crate) implicit_tls: bool,
    pub(crate) tls: TlsMode,
    pub(crate) source: Option<IpAddr>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    messages: u32,
    since: Instant,
}

/// Idle connections.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<HashMap<Key, Vec<Idle>>>);

impl Pool {
    /// A connection to that hop that still lives, with the number of messages it has carried.
    pub(crate) async fn take(&self, key: &Key) -> Option<(Connection, u32)> {
        loop {
            let mut idle = self.lock().get_mut(key).and_then(Vec::pop)?;
            if clock::instant().duration_since(idle.since) < IDLE
                && idle.connection.is_alive().await
            {
                return Some((idle.connection, idle.messages));
            }
        }
    }

    /// Keeps a connection, or says goodbye to it.
    pub(crate) async fn give(&self, key: Key, connection: Connection, messages: u32) {
        if !connection.is_reusable() {
            return;
        }
        if messages < MESSAGES_MAX {
            let mut all = self.lock();
            let total: usize = all.values().map(Vec::len).sum();
            let kept = all.entry(key).or_default();
            if total < TOTAL && kept.len() < PER_HOP {
                kept.push(Idle {
                    connection,
                    messages,
                    since: clock::instant(),
                });
                return;
            }
        }
        connection.quit().await;
    }

    /// Ends when connections have been idle for too long and been closed; never, where there are none.
    pub(crate) async fn expire(&self) {
        let oldest = self.lock().values().flatten().map(|idle| idle.since).min();
        let Some(oldest) = oldest else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until((oldest + IDLE).into()).await;
        let now = clock::instant();
        let mut old = Vec::new();
        {
            let mut all = self.lock();
            for kept in all.values_mut() {
                old.extend(kept.extract_if(.., |idle| now.duration_since(idle.since) >= IDLE));
            }
            all.retain(|_, kept| !kept.is_empty());
        }
        goodbye(old);
    }

    pub(crate) async fn close(&self) {
        let all: Vec<_> = self.lock().drain().flat_map(|(_, kept)| kept).collect();
        let quits = all.into_iter().map(|idle| idle.connection.quit());
        let _ = tokio::time::timeout(
            Duration::from_secs(2),
            futures_util::future::join_all(quits),
        )
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Idle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// QUIT is politeness: nobody waits for its answer.
fn goodbye(idle: Vec<Idle>) {
    for idle in idle {
        tokio::spawn(idle.connection.quit());
    }
}
