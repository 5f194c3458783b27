//! A bounded set of connections.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

/// At most so many connections, open or being opened; those that nobody uses are kept.
pub(crate) struct Pool<C> {
    free: Semaphore,
    idle: Mutex<Vec<C>>,
}

/// The right to have one connection. What is not given back is closed: also where the lookup is
/// given up in the middle, as an answer would still be on its way.
pub(crate) struct Slot<'a, C> {
    pool: &'a Pool<C>,
    _permit: Option<SemaphorePermit<'a>>,
}

impl<C> Pool<C> {
    pub(crate) fn new(connections: usize) -> Self {
        Self {
            free: Semaphore::new(connections.max(1)),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Waits for a free place.
    pub(crate) async fn slot(&self) -> Slot<'_, C> {
        Slot {
            pool: self,
            // The semaphore is never closed.
            _permit: self.free.acquire().await.ok(),
        }
    }
}

impl<C> Slot<'_, C> {
    /// A connection that has been used before.
    pub(crate) fn idle(&self) -> Option<C> {
        let mut idle = self
            .pool
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        idle.pop()
    }

    /// Keeps a connection that is fit for more.
    pub(crate) fn give_back(self, connection: C) {
        let mut idle = self
            .pool
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        idle.push(connection);
    }
}

impl<C> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} free)", self.free.available_permits())
    }
}
