//! Who gets the places for attempts, of which there are `concurrency`.
//!
//! A destination that does well may use them all; those that nothing is known of, that are slow,
//! or whose last attempt failed, leave some free. So ten thousand dead destinations, each waited
//! for for thirty seconds, never hold up the mail to one that lives.

use std::time::Duration;

use postroad_mail::Timestamp;

/// One place of so many is not open to destinations that are not known to do well, …
const KEPT_FROM_UNPROVEN: usize = 8;
/// … and one of so many not to those in trouble.
const KEPT_FROM_TROUBLED: usize = 2;
/// Who is sent away comes back no sooner than after this …
const AWAY: Duration = Duration::from_secs(1);
/// … and no two at the same moment, …
const APART: Duration = Duration::from_millis(2);
/// … but no later than after this.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// What is to be expected of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// The last attempt succeeded, not long ago, and did not take long.
    Well,
    /// Nothing is known, or it is slow.
    Unproven,
    /// The last attempt failed.
    Troubled,
}

/// The places that are not open to all.
#[derive(Debug)]
pub(crate) struct Slots {
    unproven_max: usize,
    troubled_max: usize,
    unproven: usize,
    troubled: usize,
    /// When the last one who was sent away comes back.
    turn: Timestamp,
}

impl Slots {
    pub(crate) fn new(concurrency: usize) -> Self {
        let without = |one_of: usize| (concurrency - concurrency / one_of).max(1);
        Self {
            unproven_max: without(KEPT_FROM_UNPROVEN),
            troubled_max: without(KEPT_FROM_TROUBLED),
            unproven: 0,
            troubled: 0,
            turn: Timestamp::default(),
        }
    }

    /// Takes a place, or says when to come again.
    pub(crate) fn take(&mut self, standing: Standing, now: Timestamp) -> Result<(), Timestamp> {
        let taken = self.unproven + self.troubled;
        let has_place = match standing {
            Standing::Well => return Ok(()),
            Standing::Unproven => taken < self.unproven_max,
            Standing::Troubled => taken < self.unproven_max && self.troubled < self.troubled_max,
        };
        if !has_place {
            let turn = self.turn.max(now + AWAY) + APART;
            self.turn = turn.min(now + AWAY_MAX);
            return Err(self.turn);
        }
        match standing {
            Standing::Troubled => self.troubled += 1,
            Standing::Unproven | Standing::Well => self.unproven += 1,
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub(crate) fn give(&mut self, standing: Standing) {
        match standing {
            Standing::Well => {}
            Standing::Unproven => self.unproven = self.unproven.saturating_sub(1),
            Standing::Troubled => self.troubled = self.troubled.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    #[test]
    fn some_places_are_kept_for_those_that_do_well() {
        let mut slots = Slots::new(16);
        let mut fill = |standing| {
            (0..16)
                .filter(|_| slots.take(standing, at(0)).is_ok())
                .count()
        };
        assert_eq!(fill(Standing::Troubled), 8);
        assert_eq!(fill(Standing::Unproven), 6);
        assert_eq!(fill(Standing::Well), 16);
        slots.give(Standing::Troubled);
        assert!(slots.take(Standing::Unproven, at(0)).is_ok());
        assert!(slots.take(Standing::Troubled, at(0)).is_err());
    }

    #[test]
    fn a_single_place_is_open_to_all_in_turn() {
        for standing in [Standing::Troubled, Standing::Unproven] {
            let mut slots = Slots::new(1);
            assert!(slots.take(standing, at(0)).is_ok());
            assert!(slots.take(standing, at(0)).is_err());
            slots.give(standing);
            assert!(slots.take(standing, at(0)).is_ok());
        }
    }

    #[test]
    fn who_is_sent_away_comes_back_in_turn() {
        let mut slots = Slots::new(1);
        assert!(slots.take(Standing::Unproven, at(0)).is_ok());
        let mut again = |millis| slots.take(Standing::Unproven, at(millis)).unwrap_err();
        assert_eq!(again(0), at(1002));
        assert_eq!(again(0), at(1004));
        assert_eq!(again(5000), at(6002));
        let mut last = at(0);
        for _ in 0..100_000 {
            last = again(6000);
        }
        assert_eq!(last, at(66_000));
    }
}
