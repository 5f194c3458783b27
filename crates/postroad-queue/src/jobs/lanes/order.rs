//! The jobs of one lane that may be claimed: new mail before old, the flows in turn, and within
//! a flow in order of due time.

use std::collections::BTreeSet;

use postroad_mail::Timestamp;
use smallvec::SmallVec;

use crate::id::QueueId;
use crate::jobs::flow::Flow;

/// Of so many jobs taken from a lane one is of those that were tried before, while there are both
/// such jobs and new ones: neither starves.
pub(in crate::jobs) const DEFERRED_EVERY: u8 = 4;

/// Where a job stands in its lane: its class, its flow, and when it is due; they compare in that
/// order. In one word, since it is kept for every job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::jobs) struct Spot(u64);

const FLOW_BITS: u32 = 48;
/// Of the due time; the year is 10889.
const NEVER: u64 = (1 << FLOW_BITS) - 1;
const FRESH: u16 = 0;
const DEFERRED: u16 = 1;

impl Spot {
    /// Of a job that was tried so often.
    pub(in crate::jobs) fn new(flow: Flow, attempts: u32, due: Timestamp) -> Self {
        let deferred = attempts > 0 && flow != Flow::NOTICES;
        let class = if deferred { DEFERRED } else { FRESH };
        let group = u64::from(class) << 8 | u64::from(flow.to_bits());
        Self(group << FLOW_BITS | due.as_millis().min(NEVER))
    }

    /// When it is due.
    fn due(self) -> Timestamp {
        match self.0 & NEVER {
            NEVER => Timestamp::MAX,
            millis => Timestamp::from_millis(millis),
        }
    }

    /// Class and flow.
    fn group(self) -> u16 {
        u16::try_from(self.0 >> FLOW_BITS).unwrap_or(u16::MAX)
    }

    /// The first there can be of a group.
    fn first(group: u16) -> Self {
        Self(u64::from(group) << FLOW_BITS)
    }
}

/// The jobs of one lane that are not under lease and not held.
#[derive(Debug, Default)]
pub(super) struct Order {
    jobs: BTreeSet<(Spot, QueueId)>,
    /// The first of each group: there are at most 512, however many jobs.
    heads: SmallVec<[Spot; 2]>,
    deferred: u64,
    /// Which group of each class had the last turn.
    last: [u16; 2],
    turns: u8,
}

impl Order {
    pub(super) fn insert(&mut self, spot: Spot, id: QueueId) {
        if !self.jobs.insert((spot, id)) {
            return;
        }
        self.deferred += u64::from(is_deferred(spot));
        match self.head(spot.group()) {
            Ok(at) => {
                if let Some(head) = self.heads.get_mut(at) {
                    *head = spot.min(*head);
                }
            }
            Err(at) => self.heads.insert(at, spot),
        }
    }

    pub(super) fn remove(&mut self, spot: Spot, id: QueueId) {
        if !self.jobs.remove(&(spot, id)) {
            return;
        }
        self.deferred = self.deferred.saturating_sub(u64::from(is_deferred(spot)));
        let Ok(at) = self.head(spot.group()) else {
            return;
        };
        let next = self.jobs.range((spot, FIRST_ID)..).next();
        let next = next.map(|(next, _)| *next);
        match self.heads.get_mut(at) {
            Some(head) if *head == spot => match next {
                Some(next) if next.group() == spot.group() => *head = next,
                _ => {
                    self.heads.remove(at);
                }
            },
            _ => {}
        }
    }

    /// Takes the job whose turn it is of those that are due.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<QueueId> {
        let turn = (self.turns + 1) % DEFERRED_EVERY;
        let classes = if turn == 0 {
            [DEFERRED, FRESH]
        } else {
            [FRESH, DEFERRED]
        };
        let head = classes
            .into_iter()
            .find_map(|class| self.next(class, now))?;
        self.turns = turn;
        if let Some(last) = self.last.get_mut(usize::from(head.group() >> 8)) {
            *last = head.group();
        }
        let &(spot, id) = self.jobs.range((head, FIRST_ID)..).next()?;
        self.remove(spot, id);
        Some(id)
    }

    /// Those that are due after `now`, at most so many, the earliest first. It looks at no more
    /// than `max` jobs of each group.
    pub(super) fn later(&self, now: Timestamp, max: usize) -> Vec<(Timestamp, QueueId)> {
        let mut later = Vec::new();
        for head in &self.heads {
            let first = Spot::first(head.group());
            let (due, end) = (Spot(first.0 | now.as_millis().min(NEVER)), first.0 | NEVER);
            let of_group = self.jobs.range((due, LAST_ID)..=(Spot(end), LAST_ID));
            later.extend(of_group.take(max).map(|&(spot, id)| (spot.due(), id)));
        }
        later.sort_unstable();
        later.truncate(max);
        later
    }

    /// The earliest.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.heads.iter().map(|head| head.due()).min()
    }

    /// How many were tried before.
    pub(super) const fn deferred(&self) -> u64 {
        self.deferred
    }

    /// Takes no more memory than it needs.
    pub(super) fn shrink(&mut self) {
        if let Some(last) = self.jobs.pop_last() {
            self.jobs.append(&mut BTreeSet::from([last]));
        }
        self.heads.shrink_to_fit();
    }

    /// The first job of the next flow of a class that has one due.
    fn next(&self, class: u16, now: Timestamp) -> Option<Spot> {
        let start = |group| self.heads.partition_point(|head| head.group() < group);
        let all = self.heads.get(start(class << 8)..start((class + 1) << 8))?;
        let last = self.last.get(usize::from(class))?;
        let behind = all.partition_point(|head| head.group() <= *last);
        let (before, after) = all.split_at_checked(behind)?;
        let mut turns = after.iter().chain(before);
        turns.find(|head| head.due() <= now).copied()
    }

    fn head(&self, group: u16) -> Result<usize, usize> {
        self.heads.binary_search_by_key(&group, |head| head.group())
    }
}

const FIRST_ID: QueueId = QueueId::from_bytes([0; 16]);
const LAST_ID: QueueId = QueueId::from_bytes([u8::MAX; 16]);

fn is_deferred(spot: Spot) -> bool {
    spot >= Spot::first(DEFERRED << 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn id(n: u8) -> QueueId {
        QueueId::from_bytes([n; 16])
    }

    fn spot(flow: u8, attempts: u32, due: u64) -> Spot {
        Spot::new(Flow::from_bits(flow), attempts, at(due))
    }

    #[test]
    fn packed_and_unpacked() {
        for due in [0, 1, 1_800_000_000_000, u64::MAX] {
            assert_eq!(spot(255, 1, due).due(), at(due));
        }
        assert!(spot(9, 0, u64::MAX) < spot(3, 1, 0), "new before old");
        assert!(spot(0, 9, 50) < spot(1, 0, 1), "notices are never old");
        assert_eq!(size_of::<(Spot, QueueId)>(), 24, "kept for every job");
    }

    /// New ones first, but for every fourth turn; flows in turn; within one by due time.
    #[test]
    fn turns() {
        let mut order = Order::default();
        for (n, (flow, attempts, due)) in [
            (1, 0, 5),
            (1, 0, 3),
            (1, 0, 4),
            (2, 0, 9),
            (3, 2, 1),
            (3, 2, 2),
            (4, 1, 7),
            (1, 0, 99),
            (0, 7, 8),
        ]
        .into_iter()
        .enumerate()
        {
            order.insert(spot(flow, attempts, due), id(u8::try_from(n).unwrap()));
        }
        assert_eq!((order.next_due(), order.deferred()), (Some(at(1)), 3));
        let taken: Vec<_> = std::iter::from_fn(|| order.take(at(10))).collect();
        let want = [1, 3, 8, 4, 2, 0, 6, 5].map(id);
        assert_eq!(taken, want);
        assert_eq!(order.next_due(), Some(at(99)));
        assert_eq!(order.deferred(), 0);
    }

    #[test]
    fn those_of_later_the_earliest_first() {
        let mut order = Order::default();
        for (n, (flow, attempts, due)) in [(1, 1, 5), (1, 1, 9), (2, 0, 7), (3, 1, 8), (3, 1, 4)]
            .into_iter()
            .enumerate()
        {
            order.insert(spot(flow, attempts, due), id(u8::try_from(n).unwrap()));
        }
        let later = |now, max| -> Vec<_> {
            let later = order.later(at(now), max).into_iter();
            later.map(|(due, _)| due.as_millis()).collect()
        };
        assert_eq!(later(4, 9), [5, 7, 8, 9]);
        assert_eq!(later(5, 2), [7, 8]);
        assert_eq!(later(0, 1), [4]);
        assert!(later(9, 9).is_empty() && later(0, 0).is_empty());
    }

    proptest! {
        /// However it is filled and emptied, the first of each group is known, and all that is due
        /// comes out once.
        #[test]
        fn heads_are_right(steps in prop::collection::vec((0..4_u8, 0..2_u32, 0..20_u64, any::<bool>()), 0..80)) {
            let mut order = Order::default();
            let mut all = BTreeSet::new();
            for (n, (flow, attempts, due, into)) in steps.into_iter().enumerate() {
                let spot = spot(flow, attempts, due);
                if into {
                    let id = id(u8::try_from(n).unwrap());
                    order.insert(spot, id);
                    all.insert((spot, id));
                } else if let Some(&(spot, id)) = all.range((spot, FIRST_ID)..).next() {
                    order.remove(spot, id);
                    all.remove(&(spot, id));
                }
                let mut heads: Vec<Spot> = all.iter().map(|&(spot, _)| spot).collect();
                heads.dedup_by_key(|spot| spot.group());
                prop_assert_eq!(order.heads.as_slice(), heads.as_slice());
                let deferred = all.iter().filter(|(spot, _)| is_deferred(*spot)).count();
                prop_assert_eq!(order.deferred(), deferred as u64);
            }
            let due: BTreeSet<_> = all.iter().filter(|(s, _)| s.due() <= at(10)).map(|&(_, id)| id).collect();
            let taken: Vec<_> = std::iter::from_fn(|| order.take(at(10))).collect();
            prop_assert_eq!(taken.len(), due.len());
            prop_assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), due);
        }
    }
}
