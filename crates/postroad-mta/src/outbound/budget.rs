//! What one attempt may cost.

use std::time::{Duration, Instant};

use postroad_net::client::ConnectError;

/// Once so many connections have failed in one attempt, each host that is left gets one call and
/// no more: a domain whose many addresses are all dead must not hold a place for long, and the one
/// host that lives must be found.
const FAILED_MAX: u32 = 5;
/// Of those, how many may be to one host while others are left to try.
const FAILED_PER_HOST: u32 = 3;
/// After this no further host is called: hosts that answer, but too slowly, one after the other.
const TIME_MAX: Duration = Duration::from_secs(300);
/// A hop that took longer to fail than this, and is not dead, is left alone for a while, so that a
/// thousand messages do not each wait as long. Dead ones are remembered as such.
const SLOW: Duration = Duration::from_secs(5);

/// What one attempt may still cost, over all its hosts.
#[derive(Debug)]
pub(crate) struct Budget {
    started: Instant,
    failed: u32,
    connected: bool,
    /// A host failed that is not dead, and so would be called again by the next message.
    failed_alive: bool,
}

impl Budget {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            started: now,
            failed: 0,
            connected: false,
            failed_alive: false,
        }
    }

    pub(crate) const fn connected(&mut self) {
        self.connected = true;
    }

    /// A call has failed. A family that this host does not have costs nothing.
    pub(crate) const fn failed(&mut self, error: &ConnectError, is_dead: bool) {
        let costs_nothing = matches!(
            error,
            ConnectError::Connect {
                unreachable: true,
                ..
            }
        );
        if !costs_nothing {
            self.failed += 1;
            self.failed_alive |= !is_dead;
        }
    }

    /// Whether no further host may be called.
    pub(crate) fn is_spent(&self, now: Instant) -> bool {
        now.duration_since(self.started) >= TIME_MAX
    }

    /// Whether another address of a host to which `failed` connections failed may be called.
    pub(crate) const fn allows_address(&self, failed: u32, is_last_host: bool) -> bool {
        failed == 0 || self.failed < FAILED_MAX && (is_last_host || failed < FAILED_PER_HOST)
    }

    /// Whether the hop should be left alone for a while.
    pub(crate) fn is_costly(&self, now: Instant) -> bool {
        let slow = now.duration_since(self.started) > SLOW;
        let fails = !self.connected && self.failed_alive && (slow || self.failed >= FAILED_MAX);
        fails || self.connected && self.is_spent(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_net::client::{PeerAddress, TlsFault};
    use postroad_net::clock;

    #[test]
    fn connections_and_time_are_bounded() {
        let start = clock::instant();
        let address = PeerAddress::Tcp("192.0.2.1:25".parse().unwrap());
        let tls = ConnectError::Tls {
            address: address.clone(),
            fault: TlsFault::Handshake,
            detail: "x".to_owned(),
        };
        let connect = |unreachable| ConnectError::Connect {
            address: address.clone(),
            detail: "x".to_owned(),
            unreachable,
        };
        let late = start + Duration::from_secs(300);
        let mut budget = Budget::new(start);
        for nth in 0..5 {
            budget.failed(&connect(true), false);
            assert!(budget.allows_address(0, false) && budget.allows_address(2, false));
            assert!(
                !budget.allows_address(3, false) && budget.allows_address(3, true),
                "{nth}"
            );
            budget.failed(&connect(false), true);
        }
        // Only the first call of each host.
        assert!(budget.allows_address(0, false) && !budget.allows_address(1, true));
        // Dead hosts are remembered as such, however long they took.
        assert!(!budget.is_spent(start) && !budget.is_costly(late));

        // Hosts that live, and fail slowly.
        let mut budget = Budget::new(start);
        budget.failed(&tls, false);
        assert!(!budget.is_costly(start) && budget.is_costly(start + Duration::from_secs(6)));

        // A host that talks, and never comes to an end.
        let mut budget = Budget::new(start);
        budget.connected();
        assert!(!budget.is_costly(start + Duration::from_secs(299)));
        assert!(budget.is_spent(late) && budget.is_costly(late));
    }
}
