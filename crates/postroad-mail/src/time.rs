use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment in wall-clock time, in milliseconds since the Unix epoch, UTC.
///
/// Pure crates take it as an argument; only the process reads a clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest moment there is; what is due then is never due.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment that lies `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long before `self` the moment `earlier` was; zero where it was not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        let millis = u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let t = Timestamp::from_millis(5);
        assert_eq!(t + Duration::from_millis(3), Timestamp::from_millis(8));
        assert_eq!(t + Duration::MAX, Timestamp::MAX);
        assert_eq!(t.since(Timestamp::from_millis(9)), Duration::ZERO);
    }
}
