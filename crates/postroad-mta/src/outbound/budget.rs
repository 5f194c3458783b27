use std::time::{Duration, Instant};

/// Once so many connections have failed in one attempt, each host that is left gets one call and
/// no more: a domain whose many addresses are all dead must not hold a place for long, and the one
/// host that lives must be found.
const FAILED_MAX: u32 = 5;
/// Of those, how many may be to one host while others are left to try.
const FAILED_PER_HOST: u32 = 3;
/// After this no further host is called: hosts that answer, but too slowly, one after the other.
const TIME_MAX: Duration = Duration::from_secs(300);
/// A hop that took longer to fail than this is left alone for a while, so that a thousand
/// messages do not each wait as long.
const SLOW: Duration = Duration::from_secs(5);

/// What one attempt may still cost, over all its hosts.
#[derive(Debug)]
pub(crate) struct Budget {
    started: Instant,
    failed: u32,
    connected: bool,
}

impl Budget {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            started: now,
            failed: 0,
            connected: false,
        }
    }

    pub(crate) const fn connected(&mut self) {
        self.connected = true;
    }

    pub(crate) const fn failed(&mut self) {
        self.failed += 1;
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
        (!self.connected && (slow || self.failed >= FAILED_MAX)) || self.is_spent(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_net::clock;

    #[test]
    fn connections_and_time_are_bounded() {
        let start = clock::instant();
        let mut budget = Budget::new(start);
        assert!(!budget.is_spent(start) && !budget.is_costly(start));
        assert!(budget.is_costly(start + Duration::from_secs(6)));
        for nth in 0..5 {
            assert!(budget.allows_address(0, false) && budget.allows_address(2, false));
            assert!(
                !budget.allows_address(3, false) && budget.allows_address(3, true),
                "{nth}"
            );
            budget.failed();
        }
        // Only the first call of each host.
        assert!(budget.allows_address(0, false) && !budget.allows_address(1, true));
        assert!(!budget.is_spent(start) && budget.is_costly(start));

        // A host that talks, and never comes to an end.
        let mut budget = Budget::new(start);
        budget.connected();
        assert!(!budget.is_costly(start + Duration::from_secs(299)));
        let late = start + Duration::from_secs(300);
        assert!(budget.is_spent(late) && budget.is_costly(late));
    }
}
