use std::time::Duration;

use postroad_mail::Timestamp;

/// When a deferred message is tried again, and when it is given up
/// (RFC 5321 section 4.5.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    delays: Vec<Duration>,
    expire: Duration,
    warn_after: Option<Duration>,
}

/// Why a schedule is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// No delay is named.
    #[error("at least one delay is needed")]
    Empty,
    /// A delay under a second would be a busy loop.
    #[error("a delay must be at least 1s")]
    TooShort,
    /// Mail would expire before it has been tried twice.
    #[error("the expiry must be longer than the first delay")]
    Expiry,
}

/// What to do after an attempt that delivered nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again at that moment.
    Retry(Timestamp),
    /// Give up.
    Expired,
}

impl RetrySchedule {
    /// A schedule: the delays before the second, third, … attempt, the last one repeating; how
    /// long after its arrival a message is given up; when its sender is told of the delay.
    ///
    /// # Errors
    /// Where it would be a busy loop, or would never try twice.
    pub fn new(
        delays: Vec<Duration>,
        expire: Duration,
        warn_after: Option<Duration>,
    ) -> Result<Self, InvalidSchedule> {
        let first = *delays.first().ok_or(InvalidSchedule::Empty)?;
        if delays.iter().any(|d| *d < Duration::from_secs(1)) {
            return Err(InvalidSchedule::TooShort);
        }
        if expire <= first {
            return Err(InvalidSchedule::Expiry);
        }
        Ok(Self {
            delays,
            expire,
            warn_after,
        })
    }

    /// What follows the `attempts`-th attempt (counted from 1), which ended at `now`. `spread`
    /// (0 to 255) lengthens the delay by up to an eighth, so that what failed together does not
    /// come back together.
    #[must_use]
    pub fn next(&self, arrived: Timestamp, attempts: u32, now: Timestamp, spread: u8) -> Next {
        let expires = arrived + self.expire;
        if now >= expires {
            return Next::Expired;
        }
        let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let delay = self
            .delays
            .get(index)
            .or(self.delays.last())
            .copied()
            .unwrap_or(self.expire);
        let spread = delay / 8 * u32::from(spread) / 255;
        // The last attempt is made at the very end of a message's time.
        Next::Retry((now + delay + spread).min(expires))
    }

    /// Whether the sender is to be told now that the message is late.
    #[must_use]
    pub fn is_late(&self, arrived: Timestamp, now: Timestamp) -> bool {
        self.warn_after.is_some_and(|after| now >= arrived + after)
    }

    /// When the message will be given up.
    #[must_use]
    pub fn expires(&self, arrived: Timestamp) -> Timestamp {
        arrived + self.expire
    }
}

impl Default for RetrySchedule {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            delays: [2, 5, 15, 30, 60, 120, 240].map(minutes).to_vec(),
            expire: minutes(5 * 24 * 60),
            warn_after: Some(minutes(240)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_days_of_deferral_in_a_moment() {
        let schedule = RetrySchedule::default();
        let arrived = Timestamp::from_millis(1_000_000);
        let (mut now, mut attempts) = (arrived, 0);
        loop {
            attempts += 1;
            match schedule.next(arrived, attempts, now, 0) {
                Next::Retry(at) => now = at,
                Next::Expired => break,
            }
        }
        assert_eq!(now, arrived + Duration::from_secs(5 * 24 * 3600));
        assert_eq!(attempts, 37);
    }

    #[test]
    fn refused() {
        let s = Duration::from_secs;
        assert_eq!(
            RetrySchedule::new(vec![], s(10), None),
            Err(InvalidSchedule::Empty)
        );
        assert_eq!(
            RetrySchedule::new(vec![s(0)], s(10), None),
            Err(InvalidSchedule::TooShort)
        );
        assert_eq!(
            RetrySchedule::new(vec![s(10)], s(10), None),
            Err(InvalidSchedule::Expiry)
        );
    }

    proptest::proptest! {
        #[test]
        fn time_goes_forward_and_ends(delays in proptest::collection::vec(1_u64..100_000, 1..8), spread: u8) {
            let expire = Duration::from_secs(500_000);
            let delays = delays.into_iter().map(Duration::from_secs).collect();
            let schedule = RetrySchedule::new(delays, expire, None).unwrap();
            let arrived = Timestamp::from_millis(7);
            let mut now = arrived;
            let mut attempts = 1;
            while let Next::Retry(at) = schedule.next(arrived, attempts, now, spread) {
                proptest::prop_assert!(at > now && at <= schedule.expires(arrived));
                now = at;
                attempts += 1;
            }
            proptest::prop_assert_eq!(now, schedule.expires(arrived));
        }
    }
}
