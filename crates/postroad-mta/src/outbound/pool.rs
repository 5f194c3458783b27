//! Connections: how many are open, and which are kept for a moment for the next message to the
//! same hop.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postroad_mail::Protocol;
use postroad_net::client::{Connection, PeerAddress};
use postroad_net::clock;
use postroad_routing::RouteCredentials;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::security::TlsKey;

/// Idle connections to one hop, at most.
const PER_HOP: usize = 10;
/// Idle connections, at most.
const TOTAL: usize = 500;

/// What must be the same for a connection to serve: never one made under weaker terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) address: PeerAddress,
    pub(crate) protocol: Protocol,
    pub(crate) implicit_tls: bool,
    pub(crate) tls: TlsKey,
    pub(crate) source: Option<IpAddr>,
    pub(crate) helo: String,
    pub(crate) login: Option<Arc<RouteCredentials>>,
}

/// How long a connection is of use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    /// How long it is kept while idle; zero: not at all.
    pub(crate) idle: Duration,
    /// Messages over it, at most.
    pub(crate) messages: u32,
    /// How old it may become.
    pub(crate) lifetime: Duration,
}

/// A connection, with its place among those that may be open.
#[derive(Debug)]
pub(crate) struct Pooled {
    pub(crate) connection: Connection,
    /// Messages that it has carried.
    pub(crate) messages: u32,
    opened: Instant,
    _place: Place,
}

/// The right to have a connection open.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pooled {
    pub(crate) fn new(connection: Connection, place: Place, now: Instant) -> Self {
        Self {
            connection,
            messages: 0,
            opened: now,
            _place: place,
        }
    }

    async fn quit(self) {
        self.connection.quit().await;
    }
}

#[derive(Debug, Default)]
struct Idle {
    by_key: HashMap<Key, Vec<(Until, Pooled)>>,
    /// Whose time is over first.
    by_time: BTreeMap<Until, Key>,
    last: u64,
}

/// When a connection is given up, and its number, since several may have the same moment.
type Until = (Instant, u64);

/// The connections.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    open: Arc<Semaphore>,
    /// Attempts that wait for a place.
    waiting: AtomicUsize,
}

impl Idle {
    fn take(&mut self, key: &Key) -> Option<(Until, Pooled)> {
        let kept = self.by_key.get_mut(key)?;
        let taken = kept.pop();
        if kept.is_empty() {
            self.by_key.remove(key);
        }
        if let Some((until, _)) = &taken {
            self.by_time.remove(until);
        }
        taken
    }

    fn put(&mut self, key: Key, pooled: Pooled, until: Instant) {
        self.last += 1;
        let until = (until, self.last);
        self.by_time.insert(until, key.clone());
        self.by_key.entry(key).or_default().push((until, pooled));
    }

    fn has_room(&self, key: &Key) -> bool {
        self.by_time.len() < TOTAL && self.by_key.get(key).map_or(0, Vec::len) < PER_HOP
    }

    /// The one whose time is over first, where that is before `now`.
    fn first(&mut self, now: Option<Instant>) -> Option<Pooled> {
        let entry = self.by_time.first_entry()?;
        if now.is_some_and(|now| entry.key().0 > now) {
            return None;
        }
        let (until, key) = entry.remove_entry();
        let kept = self.by_key.get_mut(&key)?;
        let at = kept.iter().position(|(of, _)| *of == until)?;
        let (_, pooled) = kept.remove(at);
        if kept.is_empty() {
            self.by_key.remove(&key);
        }
        Some(pooled)
    }
}

impl Pool {
    /// For so many open connections.
    pub(crate) fn new(open: usize) -> Self {
        Self {
            idle: Mutex::default(),
            open: Arc::new(Semaphore::new(open.clamp(1, Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
        }
    }

    /// A connection to that hop that still lives.
    pub(crate) async fn take(&self, key: &Key) -> Option<Pooled> {
        loop {
            let ((until, _), mut pooled) = self.lock().take(key)?;
            if clock::instant() < until && pooled.connection.is_alive().await {
                return Some(pooled);
            }
        }
    }

    /// A place for a connection to be opened. There is one for each attempt: it is waited for only
    /// as long as it takes to close others.
    pub(crate) async fn place(&self) -> Place {
        let try_place = || Arc::clone(&self.open).try_acquire_owned().ok();
        if let Some(permit) = try_place() {
            return Place {
                _permit: Some(permit),
            };
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waits = Waits(&self.waiting);
        // Somebody waits: there is no time for QUIT.
        drop(self.lock().first(None));
        // The semaphore is never closed; were it, connections would not be counted.
        let permit = Arc::clone(&self.open).acquire_owned().await.ok();
        Place { _permit: permit }
    }

    /// Keeps a connection, or says goodbye to it.
    pub(crate) async fn give(&self, key: Key, pooled: Pooled, keeping: &Keeping) {
        if !pooled.connection.is_reusable() {
            return;
        }
        let now = clock::instant();
        let until = (now + keeping.idle).min(pooled.opened + keeping.lifetime);
        if pooled.messages < keeping.messages && until > now {
            let mut idle = self.lock();
            // Under the lock: who waits from now on finds what is kept.
            let is_wanted = self.waiting.load(Ordering::SeqCst) > 0;
            if !is_wanted && idle.has_room(&key) {
                idle.put(key, pooled, until);
                return;
            }
        }
        pooled.quit().await;
    }

    /// Ends when connections have been idle for too long and been closed; never, where there are none.
    pub(crate) async fn expire(&self) {
        let first = self.lock().by_time.first_key_value().map(|(k, _)| k.0);
        let Some(first) = first else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(first.into()).await;
        let now = clock::instant();
        while let Some(old) = self.expired(now) {
            // QUIT is politeness: nobody waits for its answer.
            tokio::spawn(old.quit());
        }
    }

    fn expired(&self, now: Instant) -> Option<Pooled> {
        self.lock().first(Some(now))
    }

    pub(crate) async fn close(&self) {
        let idle = std::mem::take(&mut *self.lock());
        let all = idle.by_key.into_values().flatten();
        let quits = all.map(|(_, pooled)| pooled.quit());
        let _ = tokio::time::timeout(
            Duration::from_secs(2),
            futures_util::future::join_all(quits),
        )
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counted as waiting for as long as it lives.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
