use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Addresses whose errors are remembered, at most; beyond, those without connections are forgotten.
const REMEMBERED_MAX: usize = 65_536;
/// One error is forgiven in this time.
const FORGIVEN_EVERY: Duration = Duration::from_secs(6);

/// Bounds on connections, all inclusive.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Open at any time.
    pub connections: usize,
    /// Open at any time from one address, unless it is trusted.
    pub connections_per_address: usize,
    /// Errors of one address across its connections; one is forgiven every 6 s. At the limit its
    /// next connections are refused, unless it is trusted.
    pub errors_per_address: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 100,
            errors_per_address: 200,
        }
    }
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many in all.
    Connections,
    /// Too many from this address.
    PerAddress,
    /// Too many errors from this address.
    Errors,
}

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    limits: ConnectionLimits,
    open: usize,
    peers: HashMap<IpAddr, PeerCount>,
}

#[derive(Debug)]
struct PeerCount {
    open: usize,
    errors: u32,
    /// Until when errors have been forgiven.
    forgiven: Instant,
}

impl PeerCount {
    fn forgive(&mut self, now: Instant) {
        let passed =
            now.saturating_duration_since(self.forgiven).as_secs() / FORGIVEN_EVERY.as_secs();
        let times = u32::try_from(passed).unwrap_or(u32::MAX);
        if times > 0 {
            self.errors = self.errors.saturating_sub(times);
            self.forgiven = now;
        }
    }
}

impl Gate {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        Self(Mutex::new(Counts {
            limits,
            open: 0,
            peers: HashMap::new(),
        }))
    }

    pub(crate) fn set(&self, limits: ConnectionLimits) {
        self.lock().limits = limits;
    }

    pub(crate) fn open(&self) -> usize {
        self.lock().open
    }

    pub(crate) fn enter(
        self: &Arc<Self>,
        peer: IpAddr,
        trusted: bool,
        now: Instant,
    ) -> Result<Entry, Refusal> {
        let mut counts = self.lock();
        let limits = counts.limits;
        if counts.open >= limits.connections {
            return Err(Refusal::Connections);
        }
        if counts.peers.len() >= REMEMBERED_MAX {
            counts.peers.retain(|_, count| count.open > 0);
        }
        let count = counts.peers.entry(peer).or_insert(PeerCount {
            open: 0,
            errors: 0,
            forgiven: now,
        });
        count.forgive(now);
        if !trusted && count.errors >= limits.errors_per_address {
            return Err(Refusal::Errors);
        }
        if !trusted && count.open >= limits.connections_per_address {
            return Err(Refusal::PerAddress);
        }
        count.open += 1;
        counts.open += 1;
        Ok(Entry {
            gate: Arc::clone(self),
            peer,
            left: false,
        })
    }

    fn leave(&self, peer: IpAddr, errors: u32, now: Option<Instant>) {
        let mut counts = self.lock();
        counts.open = counts.open.saturating_sub(1);
        if let Some(count) = counts.peers.get_mut(&peer) {
            count.open = count.open.saturating_sub(1);
            if let Some(now) = now {
                count.forgive(now);
            }
            count.errors = count.errors.saturating_add(errors);
            if count.open == 0 && count.errors == 0 {
                counts.peers.remove(&peer);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    gate: Arc<Gate>,
    peer: IpAddr,
    left: bool,
}

impl Entry {
    pub(crate) fn leave(mut self, errors: u32, now: Instant) {
        self.left = true;
        self.gate.leave(self.peer, errors, Some(now));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.left {
            self.gate.leave(self.peer, 0, None);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do")]
mod tests {
    use super::*;

    #[test]
    fn counted_by_address_and_in_all() {
        let gate = Arc::new(Gate::new(ConnectionLimits {
            connections: 3,
            connections_per_address: 2,
            errors_per_address: 5,
        }));
        let now = Instant::now();
        let (a, b) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let one = gate.enter(a, false, now).unwrap();
        let _two = gate.enter(a, false, now).unwrap();
        assert_eq!(gate.enter(a, false, now).unwrap_err(), Refusal::PerAddress);
        let three = gate.enter(b, false, now).unwrap();
        assert_eq!(gate.enter(b, false, now).unwrap_err(), Refusal::Connections);
        drop(three);
        let three = gate.enter(a, true, now).unwrap();
        drop(three);
        one.leave(5, now);
        assert_eq!(gate.enter(a, false, now).unwrap_err(), Refusal::Errors);
        assert!(gate.enter(a, false, now + FORGIVEN_EVERY).is_ok());
        assert_eq!(gate.open(), 1);
    }
}
