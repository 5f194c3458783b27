//! What is remembered of lanes that have no jobs.

use std::collections::{BTreeMap, HashMap};

use crate::jobs::lanes::rings::Standing;
use crate::store::Lane;

/// Lanes without jobs of which it is remembered how their last attempt went, and what limit was
/// set; the oldest is forgotten first.
const KNOWN_MAX: usize = 10_000;

/// What is remembered of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) standing: Standing,
    pub(super) limit: Option<u64>,
}

/// Lanes that were forgotten, but for that.
#[derive(Debug, Default)]
pub(super) struct Known {
    lanes: HashMap<Lane, (u64, Memory)>,
    by_age: BTreeMap<u64, Lane>,
    last: u64,
}

impl Known {
    /// A lane has no jobs any more.
    pub(super) fn put(&mut self, lane: Lane, memory: Memory) {
        self.take(&lane);
        if memory == Memory::default() {
            return;
        }
        if self.lanes.len() >= KNOWN_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.lanes.remove(&oldest);
        }
        self.last += 1;
        self.by_age.insert(self.last, lane.clone());
        self.lanes.insert(lane, (self.last, memory));
    }

    /// A lane has jobs again.
    pub(super) fn take(&mut self, lane: &Lane) -> Memory {
        let Some((age, memory)) = self.lanes.remove(lane) else {
            return Memory::default();
        };
        self.by_age.remove(&age);
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_the_oldest_goes() {
        let mut known = Known::default();
        let memory = Memory {
            standing: Standing::Proven,
            limit: None,
        };
        let lane = |n: usize| Lane::new(&format!("lane{n}"));
        for n in 0..KNOWN_MAX + 5 {
            known.put(lane(n), memory);
            known.put(lane(3), memory);
        }
        known.put(lane(9_999_999), Memory::default());
        assert_eq!(known.lanes.len(), KNOWN_MAX);
        assert_eq!(known.by_age.len(), KNOWN_MAX);
        assert_eq!(known.take(&lane(0)), Memory::default());
        assert_eq!(known.take(&lane(3)), memory);
        assert_eq!(known.take(&lane(3)), Memory::default());
        assert_eq!(known.take(&lane(KNOWN_MAX)), memory);
    }
}
