//! So many messages, or connections, in a time: over all destinations of the routes that share a
//! limit's name.
//!
//! A rate of 100 in a minute lets a hundred go at once where there were none for a minute, and
//! then one every 600 ms. Who comes too early is told when to come again, each a moment of its
//! own, so that a thousand lanes behind one limit do not all come back for the same token.

use std::time::Duration;

use postroad_mail::Timestamp;
use postroad_routing::Rate;

use super::recent::Recent;

/// Limits that are remembered. One that is forgotten starts anew.
const RATES_MAX: usize = 4096;
/// After which time without use one is forgotten.
const AGE: Duration = Duration::from_secs(24 * 3600);
/// Nobody is sent away for longer.
const AWAY_MAX: Duration = Duration::from_secs(600);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Counted {
    Messages,
    Connections,
}

impl Counted {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Connections => "connections",
        }
    }
}

/// The counts of all limits.
#[derive(Debug)]
pub(crate) struct Rates(Recent<(String, Counted), Bucket>);

/// When the bucket would be full again if nothing more were taken (the generic cell rate
/// algorithm), in microseconds, as of a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: u64,
    /// The moment up to which tokens are promised to those who were sent away.
    promised: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self(Recent::new(RATES_MAX, AGE, |_| false))
    }
}

impl Rates {
    /// Takes one, or says when to come again: later than `now`.
    pub(crate) fn take(
        &mut self,
        name: &str,
        counted: Counted,
        rate: Rate,
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        let key = (name.to_owned(), counted);
        self.0.touch_or(key, now, Bucket::default).take(rate, now)
    }

    /// Takes one, where there is one: for who has been told already when to come again.
    pub(crate) fn take_if_any(
        &mut self,
        name: &str,
        counted: Counted,
        rate: Rate,
        now: Timestamp,
    ) -> bool {
        let key = (name.to_owned(), counted);
        let bucket = self.0.touch_or(key, now, Bucket::default);
        bucket.take_if_any(rate, micros_of(now)).is_ok()
    }

    /// Gives one back that was not used.
    pub(crate) fn give_back(&mut self, name: &str, counted: Counted, rate: Rate) {
        if let Some(bucket) = self.0.touch(&(name.to_owned(), counted)) {
            bucket.full_at = bucket.full_at.saturating_sub(interval(rate));
        }
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Timestamp) -> Result<(), Timestamp> {
        let now_micros = micros_of(now);
        let Err(next) = self.take_if_any(rate, now_micros) else {
            return Ok(());
        };
        let longest = now_micros.saturating_add(micros(AWAY_MAX));
        let turn = next
            .max(self.promised.saturating_add(interval(rate)))
            .min(longest);
        self.promised = turn;
        let again = Timestamp::from_millis(turn.div_ceil(1000));
        Err(again.max(now + Duration::from_millis(1)))
    }

    /// Takes one, or says when there is the next; in microseconds.
    fn take_if_any(&mut self, rate: Rate, now: u64) -> Result<(), u64> {
        let (interval, whole) = (interval(rate), micros(rate.per));
        // A clock that was set back, or a rate that was changed, must not close the tap for long.
        self.full_at = self.full_at.min(now.saturating_add(whole));
        let next = self
            .full_at
            .saturating_add(interval)
            .saturating_sub(whole.max(interval));
        if next > now {
            return Err(next);
        }
        self.full_at = self.full_at.max(now).saturating_add(interval);
        Ok(())
    }
}

fn micros_of(now: Timestamp) -> u64 {
    now.as_millis().saturating_mul(1000)
}

fn interval(rate: Rate) -> u64 {
    micros(rate.per) / u64::from(rate.count.max(1))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_SECOND: Rate = Rate {
        count: 10,
        per: Duration::from_secs(1),
    };

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    #[test]
    fn as_many_as_allowed_and_no_more() {
        let mut rates = Rates::default();
        let mut take = |millis| rates.take("x", Counted::Messages, PER_SECOND, at(millis));
        for n in 0..10 {
            assert_eq!(take(0), Ok(()), "{n}");
        }
        // Who is sent away gets a moment of its own.
        assert_eq!(take(0), Err(at(100)));
        assert_eq!(take(0), Err(at(200)));
        assert_eq!(take(99), Err(at(300)));
        for n in 1..20 {
            assert_eq!(take(n * 100), Ok(()), "{n}");
            assert!(take(n * 100).is_err(), "{n}");
        }
        // After a pause as many as at first.
        let taken = (0..20).filter(|_| take(10_000).is_ok()).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn by_name_and_kind_and_given_back() {
        let mut rates = Rates::default();
        let one = Rate {
            count: 1,
            per: Duration::from_secs(60),
        };
        for (name, counted) in [
            ("a", Counted::Messages),
            ("b", Counted::Messages),
            ("a", Counted::Connections),
        ] {
            assert_eq!(rates.take(name, counted, one, at(0)), Ok(()));
            assert_eq!(rates.take(name, counted, one, at(0)), Err(at(60_000)));
        }
        rates.give_back("a", Counted::Messages, one);
        assert_eq!(rates.take("a", Counted::Messages, one, at(0)), Ok(()));
        assert!(rates.take("b", Counted::Messages, one, at(59_999)).is_err());
        assert_eq!(rates.take("b", Counted::Messages, one, at(60_000)), Ok(()));
    }

    #[test]
    fn whatever_the_clock_does_nobody_waits_for_ever() {
        let mut rates = Rates::default();
        for _ in 0..10 {
            let _ = rates.take("x", Counted::Messages, PER_SECOND, at(3_600_000));
        }
        // An hour back.
        let again = rates.take("x", Counted::Messages, PER_SECOND, at(0));
        assert!(again.unwrap_err() <= at(0) + AWAY_MAX);
        // A hundred thousand who come at once are not sent away for days.
        let mut last = Ok(());
        for _ in 0..100_000 {
            last = rates.take("x", Counted::Messages, PER_SECOND, at(0));
        }
        assert_eq!(last, Err(at(0) + AWAY_MAX));
        // No time at all is no limit.
        let none = Rate {
            count: 0,
            per: Duration::ZERO,
        };
        for _ in 0..100 {
            assert_eq!(rates.take("y", Counted::Messages, none, at(0)), Ok(()));
        }
    }

    proptest::proptest! {
        #[test]
        fn never_more_than_two_bucketfuls_in_any_time(steps in proptest::collection::vec(0_u64..500, 1..200)) {
            let mut rates = Rates::default();
            let mut now = 0;
            let mut taken = Vec::new();
            for step in steps {
                now += step;
                match rates.take("x", Counted::Messages, PER_SECOND, at(now)) {
                    Ok(()) => taken.push(now),
                    Err(again) => proptest::prop_assert!(again > at(now)),
                }
            }
            for from in &taken {
                let within = taken.iter().filter(|t| (*from..from + 1000).contains(*t)).count();
                proptest::prop_assert!(within <= 20, "{within}");
            }
        }
    }
}
