//! Whose turn it is among the lanes.

use std::collections::BTreeSet;

use crate::jobs::lanes::LaneNumber;

/// The share of lanes in doubt, those whose last attempt failed and those that were never tried:
/// while lanes whose last attempt went well have work, one turn of so many, and that part of all
/// that is under lease. So ten thousand dead destinations leave a live one three quarters, be they
/// known to be dead or not.
pub(in crate::jobs) const DOUBTFUL_SHARE: u32 = 4;

/// What is known of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::jobs) enum Standing {
    /// Nothing.
    #[default]
    Unproven,
    /// Its last attempt went well.
    Proven,
    /// Its last attempt failed.
    Troubled,
}

/// The lanes whose turn has come, each in one ring once, and how much is under lease.
#[derive(Debug, Default)]
pub(super) struct Rings {
    proven: Ring,
    unproven: Ring,
    troubled: Ring,
    last: u64,
    turns: u32,
    doubtful_turns: u32,
    in_flight: u64,
    doubtful_in_flight: u64,
}

type Ring = BTreeSet<(u64, LaneNumber)>;

impl Rings {
    /// A lane comes to the end of a ring; gives its place there.
    pub(super) fn push(&mut self, standing: Standing, number: LaneNumber) -> u64 {
        self.last += 1;
        let place = self.last;
        self.ring(standing).insert((place, number));
        place
    }

    /// A lane leaves its place in a ring.
    pub(super) fn remove(&mut self, standing: Standing, place: u64, number: LaneNumber) {
        self.ring(standing).remove(&(place, number));
    }

    /// Whether no lane has a turn.
    pub(super) fn is_empty(&self) -> bool {
        self.proven.is_empty() && self.unproven.is_empty() && self.troubled.is_empty()
    }

    /// So many jobs of a lane have come under lease.
    pub(super) fn began(&mut self, standing: Standing, jobs: u64) {
        self.in_flight += jobs;
        if standing != Standing::Proven {
            self.doubtful_in_flight += jobs;
        }
    }

    /// So many leases of a lane have ended.
    pub(super) fn ended(&mut self, standing: Standing, jobs: u64) {
        self.in_flight = self.in_flight.saturating_sub(jobs);
        if standing != Standing::Proven {
            self.doubtful_in_flight = self.doubtful_in_flight.saturating_sub(jobs);
        }
    }

    /// The lane that has the next turn, out of its ring, and how many jobs it may take at most of
    /// the `room` that is left.
    pub(super) fn next(&mut self, room: u64) -> Option<(LaneNumber, u64)> {
        if self.proven.is_empty() {
            return Some((self.next_doubtful()?, room));
        }
        let share = (self.in_flight + room) / u64::from(DOUBTFUL_SHARE);
        let share = share.max(1).saturating_sub(self.doubtful_in_flight);
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(DOUBTFUL_SHARE)
            && share > 0
            && let Some(number) = self.next_doubtful()
        {
            return Some((number, share.min(room)));
        }
        Some((self.proven.pop_first()?.1, room))
    }

    /// Of those in doubt, one in so many is known to be in trouble.
    fn next_doubtful(&mut self) -> Option<LaneNumber> {
        self.doubtful_turns = self.doubtful_turns.wrapping_add(1);
        let (first, second) = if self.doubtful_turns.is_multiple_of(DOUBTFUL_SHARE) {
            (&mut self.troubled, &mut self.unproven)
        } else {
            (&mut self.unproven, &mut self.troubled)
        };
        let next = first.pop_first().or_else(|| second.pop_first());
        next.map(|(_, number)| number)
    }

    const fn ring(&mut self, standing: Standing) -> &mut Ring {
        match standing {
            Standing::Unproven => &mut self.unproven,
            Standing::Proven => &mut self.proven,
            Standing::Troubled => &mut self.troubled,
        }
    }
}
